"""What the final evaluation says: the rule that is handed over, and a table of every task with differences, intervals and corrected tests.

The rule is the evolved one with the best mean on the validation split, over fresh seeds; scores on the test split have no part in that. A
run that was lost, because it diverged, was stopped, broke or gave a score that is not finite, counts as the worst: the lowest score that
any contestant reached on that task and split, or that of the untrained model where that is lower still. So it stays in every mean and every
paired difference, and intervals stay finite.

Tests against the reference, and that of the rule that is handed over against the best of the baselines, are corrected by Holm's procedure
in two families: what was settled before the test split was opened, which is the rule's one or two tests; and all others of the task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

from optevolve.contestants import CHOOSE, EVALUATE, TUNE, UNTRAINED, is_evolved, place_of
from optevolve.records import Measurement, Outcome, Split, Status
from optevolve.statistics import holm, mean_interval, paired_p

__all__ = ["REFERENCE", "Choice", "Comparison", "Paired", "best_baseline", "choices", "compare", "is_lost", "lost_text"]

REFERENCE = "adamw"  # the baseline that every rule is tested against


@dataclass(frozen=True)
class Paired:
    """A contestant against another, seed by seed.

    Attributes:
        name: of the other.
        difference: mean of the paired differences; positive if better than it.
        interval: 95 % confidence interval of that (Student's t); None with fewer than two seeds.
        p_value: of the two-sided paired t-test; None with fewer than two seeds, and where all differences are equal.
        p_corrected: the same corrected for the number of tests (Holm).
        seeds: how many both were measured under.
    """

    name: str
    difference: float
    interval: tuple[float, float] | None
    p_value: float | None
    p_corrected: float | None
    seeds: int


@dataclass(frozen=True)
class Comparison:
    """A contestant on a task, beside the reference.

    None stands where there is no such number: no interval or test with fewer than two scores, none of the reference against itself.

    Attributes:
        name: of the contestant.
        rule: the update rule in native notation.
        task: task spec.
        learning_rate: the tuned peak learning rate.
        scores: on the test split, one per seed measured, in the order of `seeds`; of a lost run, the worst score.
        mean: of the scores.
        interval: 95 % confidence interval of the mean over seeds (Student's t).
        difference: mean of the paired differences to the reference, over the seeds that both were measured under; positive if better.
        difference_interval: 95 % confidence interval of that (Student's t).
        p_value: of the two-sided paired t-test against the reference, as it is; None where all differences are equal, for then the test
            has nothing to judge them by.
        status: COMPLETED if every seed did, else how the first that did not ended.
        reason: what did not complete and why; empty if all did.
        seeds: numbers of the seeds measured.
        weight_decay: the tuned weight decay; None where no learning rate was found either.
        p_corrected: the p-value corrected for the number of tests on the task (Holm); that is the one to judge by.
        lost: numbers of the seeds whose run was lost, and so counts as the worst.
        role: in a run "chosen" (the rule that it hands over), "survivor" or "baseline"; empty in a comparison of given rules.
        reference: name of the contestant that the difference is to; empty for that one itself.
        validation: mean score on the validation split, by which the rule and the best of the baselines are chosen; None unless measured.
        best: the rule that is handed over against the best of the baselines, where that is not the reference; None for all others.
        edge: whether the learning rate lies at an end of the grid that was tried, so that others may be better.
        decay_edge: whether the weight decay is the largest that was tried.
    """

    name: str
    rule: str
    task: str
    learning_rate: float | None
    scores: tuple[float, ...]
    mean: float | None
    interval: tuple[float, float] | None
    difference: float | None
    difference_interval: tuple[float, float] | None
    p_value: float | None
    status: Status
    reason: str
    seeds: tuple[int, ...] = ()
    weight_decay: float | None = None
    p_corrected: float | None = None
    lost: tuple[int, ...] = ()
    role: str = ""
    reference: str = ""
    validation: float | None = None
    best: Paired | None = None
    edge: bool = False
    decay_edge: bool = False


@dataclass(frozen=True)
class Choice:
    """What a contestant scored on the validation split, and was chosen or passed over by.

    Attributes:
        score: mean over the seeds; a lost run counts as the worst.
        seeds: how many; 0 where the score is that of the tuning's own full run, in a run that makes no choice under fresh seeds.
        lost: how many of them were lost.
        learning_rate, weight_decay: tuned, and fixed since.
        edge: whether that learning rate lies at an end of the grid that was tried.
        decay_edge: whether that weight decay is the largest that was tried.
    """

    score: float
    seeds: int
    lost: int
    learning_rate: float | None
    weight_decay: float
    edge: bool = False
    decay_edge: bool = False


@dataclass
class _Entry:
    """What was measured of a contestant on a task."""

    tuning: Measurement | None = None
    choice: dict[int, Measurement] = field(default_factory=dict)
    runs: dict[int, Measurement] = field(default_factory=dict)


_Table = dict[str, dict[str, _Entry]]  # by task and name
_Levels = dict[tuple[str, Split], float]


def is_lost(outcome: Outcome) -> bool:
    """Whether a run counts as the worst."""
    return outcome.status is not Status.COMPLETED or outcome.fitness is None or not math.isfinite(outcome.fitness)


def choices(measurements: Iterable[Measurement]) -> dict[str, Choice]:
    """By name, every contestant that was tuned on the run's own task and has a score on its validation split; survivors best first."""
    table, levels = _read(measurements)
    for task, entries in table.items():  # the run's own task comes first
        found = _choices(entries, levels.get((task, Split.VALID)))
        return dict(sorted(found.items(), key=lambda pair: -pair[1].score))
    return {}


def compare(measurements: Iterable[Measurement], reference: str | None = None) -> list[Comparison]:
    """Every contestant of the final evaluation on every task, best mean first; tasks in the order met, those without a score last.

    Args:
        measurements: of a study; those of other stages are passed over.
        reference: name of the contestant that the others are tested against, in a comparison of given rules. None for a run: AdamW, or the
            best of its baselines where it has no AdamW; contestants then have roles.
    """
    table, levels = _read(measurements)
    is_run = reference is None
    compared: list[Comparison] = []
    chosen = ""
    for place, (task, entries) in enumerate(table.items()):
        validation = _choices(entries, levels.get((task, Split.VALID)))
        best = best_baseline({n: choice.score for n, choice in validation.items() if not is_evolved(n)})
        if place == 0:
            chosen = max((n for n in validation if is_evolved(n)), key=lambda n: validation[n].score, default="")
        against = reference if reference is not None else REFERENCE if REFERENCE in entries else best
        scores = _counted({name: entry.runs for name, entry in entries.items()}, levels.get((task, Split.TEST)))
        rows = {}
        for name, entry in entries.items():
            row = _comparison(name, entry, scores.get(name, {}), scores.get(against, {}), against)
            role = "chosen" if name == chosen else "survivor" if is_evolved(name) else "baseline"
            known = validation.get(name)
            rows[name] = replace(row, role=role if is_run else "", validation=known.score if known else None)
        if is_run and chosen in rows and best and best != against:
            rows[chosen] = replace(rows[chosen], best=_paired(best, scores.get(chosen, {}), scores.get(best, {})))
        corrected = _corrected(list(rows.values()))
        compared += sorted(corrected, key=lambda row: (row.mean is None, -(row.mean or 0.0)))
    return compared


def best_baseline(validation: Mapping[str, float]) -> str:
    """The name with the best score on the validation split, the reference first among equals; empty if there is none."""
    return max(validation, key=lambda name: (validation[name], name == REFERENCE, name), default="")


def lost_text(row: Comparison) -> str:
    """Such as "2 of 5 diverged"; empty where no run was lost."""
    if not row.lost:
        return ""
    how = "did not complete" if row.status is Status.COMPLETED else row.status.value
    return f"{len(row.lost)} of {len({*row.seeds, *row.lost})} {how}"


def _read(measurements: Iterable[Measurement]) -> tuple[_Table, _Levels]:
    table: _Table = {}
    levels: _Levels = {}
    for m in measurements:
        if m.stage == UNTRAINED:
            if not is_lost(m.outcome) and m.outcome.fitness is not None:
                levels[m.job.task, m.job.split] = m.outcome.fitness
        elif m.stage in (TUNE, CHOOSE, EVALUATE):
            name, number = place_of(m)
            entry = table.setdefault(m.job.task, {}).setdefault(name, _Entry())
            if m.stage == TUNE:
                entry.tuning = m
            else:
                (entry.choice if m.stage == CHOOSE else entry.runs)[number] = m
    # Nobody is chosen among without being tuned; a store that says so was changed by another hand.
    known = {task: {name: entry for name, entry in found.items() if entry.tuning or entry.runs} for task, found in table.items()}
    return {task: found for task, found in known.items() if found}, levels


def _choices(entries: Mapping[str, _Entry], level: float | None) -> dict[str, Choice]:
    """Means over fresh seeds, or, where the run makes no such choice, the validation scores of the tunings."""
    tuned = {name: entry.tuning for name, entry in entries.items() if entry.tuning and entry.tuning.outcome.learning_rate is not None}

    def choice(name: str, score: float, seeds: int, lost: int) -> Choice:
        rate = tuned[name].outcome.learning_rate
        edges = tuned[name].job.protocol.ends_at(rate), _tops_decays(tuned[name])
        return Choice(score, seeds, lost, rate, tuned[name].outcome.weight_decay, *edges)

    scores = _counted({name: entry.choice for name, entry in entries.items()}, level)
    if any(scores.values()):
        return {
            name: choice(name, fmean(scores[name].values()), len(scores[name]), len(_lost(entries[name].choice)))
            for name in tuned
            if scores[name]
        }
    if not any(entry.runs for entry in entries.values()):  # while tuning goes on, a score of one says nothing of the others
        return {}
    ends = {name: m.outcome for name, m in tuned.items()}
    return {name: choice(name, end.fitness, 0, 0) for name, end in ends.items() if end.fitness is not None and not is_lost(end)}


def _lost(runs: Mapping[int, Measurement]) -> tuple[int, ...]:
    return tuple(number for number, run in sorted(runs.items()) if is_lost(run.outcome))


def _counted(runs: Mapping[str, Mapping[int, Measurement]], level: float | None) -> dict[str, dict[int, float]]:
    """Scores of every contestant by seed, lost runs as the worst; empty for all where nothing says what the worst is."""
    finite = [m.outcome.fitness for own in runs.values() for m in own.values() if m.outcome.fitness is not None and not is_lost(m.outcome)]
    worst = min([*finite, *([] if level is None else [level])], default=None)
    if worst is None:
        return {name: {} for name in runs}
    return {
        name: {number: worst if is_lost(m.outcome) or m.outcome.fitness is None else m.outcome.fitness for number, m in sorted(own.items())}
        for name, own in runs.items()
    }


def _comparison(name: str, entry: _Entry, scores: Mapping[int, float], against: Mapping[int, float], reference: str) -> Comparison:
    measured = next(iter(entry.runs.values()), entry.tuning)
    assert measured is not None
    values = list(scores.values())
    rate = measured.job.learning_rate if entry.runs else measured.outcome.learning_rate
    paired = None if name == reference else _paired(reference, scores, against)
    status, reason = _ending(entry)
    return Comparison(
        name=name,
        rule=measured.job.rule,
        task=measured.job.task,
        learning_rate=rate,
        scores=tuple(values),
        mean=fmean(values) if values else None,
        interval=mean_interval(values),
        difference=paired.difference if paired else None,
        difference_interval=paired.interval if paired else None,
        p_value=paired.p_value if paired else None,
        status=status,
        reason=reason,
        seeds=tuple(scores),
        weight_decay=None if rate is None else _decay(entry, measured),
        lost=_lost(entry.runs),
        reference="" if name == reference else reference,
        edge=measured.job.protocol.ends_at(rate),
        decay_edge=entry.tuning is not None and _tops_decays(entry.tuning),
    )


def _tops_decays(tuning: Measurement) -> bool:
    """Whether of several weight decays the largest was chosen."""
    return tuning.job.weight_decay is None and tuning.job.protocol.tops_decays(tuning.outcome.weight_decay)


def _decay(entry: _Entry, measured: Measurement) -> float:
    """The tuned weight decay; a run that broke may not say it."""
    return entry.tuning.outcome.weight_decay if entry.tuning is not None else measured.outcome.weight_decay


def _paired(name: str, scores: Mapping[int, float], against: Mapping[int, float]) -> Paired | None:
    gaps = [scores[number] - against[number] for number in scores if number in against]
    return Paired(name, fmean(gaps), mean_interval(gaps), paired_p(gaps), None, len(gaps)) if gaps else None


def _corrected(rows: list[Comparison]) -> list[Comparison]:
    """The rows of a task with their p-values corrected."""
    chosen = [row for row in rows if row.role == "chosen"]
    others = [row for row in rows if row.role != "chosen"]
    found = [replace(row, p_corrected=p) for row, p in zip(others, holm([row.p_value for row in others]), strict=True)]
    for row in chosen:
        first, second = holm([row.p_value, row.best.p_value if row.best else None])
        found.append(replace(row, p_corrected=first, best=replace(row.best, p_corrected=second) if row.best else None))
    return found


def _ending(entry: _Entry) -> tuple[Status, str]:
    if not entry.runs:
        assert entry.tuning is not None
        outcome = entry.tuning.outcome
        if outcome.status is Status.COMPLETED:
            return Status.COMPLETED, "tuned, not evaluated yet"
        return outcome.status, f"tuning: {outcome.reason or outcome.status.value}"
    ended = [entry.runs[number].outcome for number in _lost(entry.runs)]
    if not ended:
        return Status.COMPLETED, ""
    first = ended[0]
    why = first.reason or (f"its score is {first.fitness}" if first.status is Status.COMPLETED else first.status.value)
    return first.status, f"{len(ended)} of {len(entry.runs)} seeds did not complete and count as the worst score: {why}"
