"""Who leads a run: the only ranking, by which the table of the best, the exported file and the report name the same rule.

First stand the rules that the final evaluation chooses from, by their validation scores under fresh seeds (`optevolve.final`); then those
that were measured again, the ones that came furthest in the elimination first and by their fresh fitness alone, for the best of many noisy
numbers is too high; then the others by the search's fitness. A run that goes on is ranked by what is known so far.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from optevolve.algorithms.standing import Score, merits
from optevolve.contestants import TUNE, is_evolved, place_of
from optevolve.final import Choice, choices
from optevolve.records import Measurement, Status

__all__ = ["Standing", "basis", "fitness_of", "is_search", "leaderboard", "ranking"]


@dataclass(frozen=True)
class Standing:
    """A rule of a search and what is known of it.

    Attributes:
        rank: from 1.
        name: the contestant's, "evolved-03"; empty for a rule that has not left the search.
        rule: in native notation.
        fitness: in the search; None unless its measurement completed.
        remeasured: mean fitness under fresh seeds in the elimination; None where there is none.
        remeasured_in: the stage of that.
        choice: mean validation score of the final evaluation, tuned and under fresh seeds; None where there is none.
        choice_seeds: how many; 0 where it is that of the tuning.
        choice_lost: how many of these runs were lost, and so count as the worst score.
        ranked_by: "choice", "elimination", "search", or empty without any fitness.
        status: how the search's measurement ended.
        learning_rate, weight_decay: tuned by the final evaluation, else chosen by the search.
        id, stage, parent: of the search's measurement.
        seconds: wall clock of that.
        reason: why it did not complete.
        edge: whether that learning rate lies at an end of the grid that was tried, so that others may be better.
        decay_edge: whether that weight decay is the largest that was tried.
    """

    rank: int
    name: str
    rule: str
    fitness: float | None
    remeasured: float | None
    remeasured_in: str
    choice: float | None
    choice_seeds: int
    choice_lost: int
    ranked_by: str
    status: str
    learning_rate: float | None
    weight_decay: float
    id: str
    stage: str
    parent: str
    seconds: float
    reason: str
    edge: bool = False
    decay_edge: bool = False


@dataclass(frozen=True)
class _Again:
    """A rule in the last round of elimination that it completed: the round, from 1, mean fitness and what the round compares by."""

    round: int
    fitness: float
    merit: float


def is_search(measurement: Measurement) -> bool:
    """Whether a measurement belongs to the search itself, rather than to elimination or the final evaluation."""
    return measurement.proposal is not None and measurement.stage == measurement.proposal.stage


def fitness_of(measurement: Measurement) -> float | None:
    """The fitness of a completed measurement, None for every other."""
    outcome = measurement.outcome
    return outcome.fitness if outcome.status is Status.COMPLETED else None


def leaderboard(measurements: Iterable[Measurement], n: int | None = None, over_tasks: str = "score") -> list[dict[str, Any]]:
    """The ranking as JSON-ready rows with the fields of `Standing`; arguments as there."""
    return [asdict(row) for row in ranking(measurements, n, over_tasks)]


def ranking(measurements: Iterable[Measurement], n: int | None = None, over_tasks: str = "score") -> list[Standing]:
    """The best rules of a run, best first.

    A rule measured in several stages of the search is listed once, with its last completed measurement; rules that behaved the same as one
    measured before are listed with that one alone. Rules without a fitness come last, in the order measured.

    Args:
        measurements: of a study, in any stage; only rules of the search get rows.
        n: how many rows at most; None for all.
        over_tasks: how rules measured on several tasks compare within a stage, see `optevolve.algorithms.standing.merits`.
    """
    measurements = list(measurements)
    again, found = _measured_again(measurements, over_tasks), _first_of_each(measurements)
    names, chosen = _names(measurements), _chosen(measurements)
    merit: dict[str, float] = {}
    for initial in (False, True):
        scores = {m.job.id: score for m in found if (m.stage == "initial") == initial and (score := Score.of(m.outcome)) is not None}
        merit |= zip(scores, merits(list(scores.values()), over_tasks), strict=True)
    places = {rule: place for place, rule in enumerate(chosen)}

    def standing(m: Measurement) -> tuple[int, int, float, bool, bool, float]:
        fresh, fitness = again.get(m.job.rule), fitness_of(m)
        first = (places.get(m.job.rule, len(places)), *((0, 0.0) if fresh is None else (-fresh.round, -fresh.merit)))
        # A fitness that is not a number orders with nothing; it stands below every number. The initial population is measured on an easier
        # task than the evolution, so its fitnesses stand below those of the evolution.
        unknown = fitness is None or fitness != fitness
        return (*first, True, False, 0.0) if unknown else (*first, False, m.stage == "initial", -merit[m.job.id])

    best = sorted(found, key=standing)[:n]
    return [_row(rank, m, names.get(m.job.rule, ""), again.get(m.job.rule), chosen.get(m.job.rule)) for rank, m in enumerate(best, start=1)]


def basis(rows: Iterable[Standing], finished: bool) -> str:
    """What a ranking rests on, in a sentence for those who read it; empty where nothing has a fitness."""
    first = next(iter(rows), None)
    if first is None or not first.ranked_by:
        return ""
    if first.ranked_by == "choice":
        fresh = f"under {first.choice_seeds} fresh seed{'s' * (first.choice_seeds != 1)}" if first.choice_seeds else "of their tuning"
        said = f"First the rules of the final evaluation, by their mean validation score {fresh}; the test split has no say."
    elif first.ranked_by == "elimination":
        said = "Ranked by fitness measured again under fresh seeds."
    else:
        said = "Ranked by the search's own fitness, which is too high for the best of many; nothing is measured again yet."
    return said if finished else f"{said} The run is not finished: this is what is known so far."


def _row(rank: int, m: Measurement, name: str, again: _Again | None, choice: Choice | None) -> Standing:
    rate, decay = (choice.learning_rate, choice.weight_decay) if choice else (m.outcome.learning_rate, m.outcome.weight_decay)
    fitness = fitness_of(m)
    return Standing(
        rank=rank,
        name=name,
        rule=m.job.rule,
        fitness=fitness,
        remeasured=again.fitness if again else None,
        remeasured_in=f"eliminate/{again.round}" if again else "",
        choice=choice.score if choice else None,
        choice_seeds=choice.seeds if choice else 0,
        choice_lost=choice.lost if choice else 0,
        ranked_by="choice" if choice else "elimination" if again else "search" if fitness is not None else "",
        status=m.outcome.status.value,
        learning_rate=rate,
        weight_decay=decay,
        id=m.job.id,
        stage=m.stage,
        parent=m.proposal.parent if m.proposal else "",
        seconds=m.outcome.seconds,
        reason=m.outcome.reason,
        edge=choice.edge if choice else m.job.protocol.ends_at(rate),
        decay_edge=choice.decay_edge if choice else m.job.weight_decay is None and m.job.protocol.tops_decays(decay),
    )


def _first_of_each(measurements: Iterable[Measurement]) -> list[Measurement]:
    """The search's measurements without repeats: a rule once, as measured last, and nothing that took over the outcome of another."""
    found = [m for m in measurements if is_search(m)]
    ids = {m.job.id for m in found}
    last: dict[str, Measurement] = {}
    for m in found:
        if m.same_as in ids:
            continue
        earlier = last.get(m.job.rule)
        # A rule that completed in one stage and failed in a later one is still listed by what it reached.
        if earlier is None or fitness_of(m) is not None or fitness_of(earlier) is None:
            last[m.job.rule] = m
    return list(last.values())


def _names(measurements: Iterable[Measurement]) -> dict[str, str]:
    """By rule, the contestants that the search gave."""
    found = {}
    for m in measurements:
        if (m.stage == TUNE or m.stage.startswith("eliminate/")) and is_evolved(name := place_of(m).name):
            found[m.job.rule] = name
    return found


def _chosen(measurements: Iterable[Measurement]) -> dict[str, Choice]:
    """By rule, what the final evaluation chooses by, best first."""
    measurements = [m for m in measurements if m.proposal is None]
    names = {name: rule for rule, name in _names(measurements).items()}
    return {names[name]: choice for name, choice in choices(measurements).items() if name in names}


def _measured_again(measurements: Iterable[Measurement], over_tasks: str) -> dict[str, _Again]:
    """By rule; rules that completed no round under all seeds measured so far are left out."""
    rounds: dict[int, dict[str, list[Score | None]]] = defaultdict(lambda: defaultdict(list))
    for m in measurements:
        if m.stage.startswith("eliminate/"):
            rounds[int(m.stage.rpartition("/")[2])][m.job.rule].append(Score.of(m.outcome))
    found: dict[str, _Again] = {}
    for number, rules in sorted(rounds.items()):
        found |= _of_round(number, rules, over_tasks)
    return found


def _of_round(number: int, rules: Mapping[str, list[Score | None]], over_tasks: str) -> dict[str, _Again]:
    whole = {rule: [s for s in scores if s is not None] for rule, scores in rules.items() if None not in scores}
    merit: dict[str, list[float]] = {rule: [] for rule in whole}
    for place in range(max((len(scores) for scores in whole.values()), default=0)):
        seen = [rule for rule in whole if place < len(whole[rule])]
        for rule, value in zip(seen, merits([whole[rule][place] for rule in seen], over_tasks), strict=True):
            merit[rule].append(value)
    return {rule: _Again(number, fmean(s.fitness for s in scores), fmean(merit[rule])) for rule, scores in whole.items()}
