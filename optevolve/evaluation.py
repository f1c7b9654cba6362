"""The final evaluation: survivors beside baselines, tuned alike, on test data that no earlier stage has seen. Source: method section 6.

For every task, each contestant gets one "tune" measurement, which chooses its learning rate and weight decay with the training and
validation splits: the protocol's trials, then a full run judged on validation, so that a contestant that cannot finish a run fails here.
Then, with these fixed, it gets `seeds` "evaluate" measurements: full runs judged on the test split. The budget is the same for all,
and nothing else is tuned. Seed k is the same for every contestant, so that differences are paired. Source of equal tuning and of judging at
the end of training: arXiv 2509.02046.

With a protocol whose judge is "best", a test score is the maximum over the epochs of a run, as in the paper, and so slightly chosen on the
test split, for all alike; the default, "last", is not.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from optevolve.config import Protocol
from optevolve.eliminate import Contestant, check_names, seed_for
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status

__all__ = ["Comparison", "EvaluationSource", "compare"]

_TUNE, _EVALUATE = 61, 62  # streams of the run's seed


class EvaluationSource:
    """Asks for the measurements of the final evaluation; a source for `optevolve.run.driver.drive`.

    Jobs are "tune/TASK/NAME" of stage "tune" and "evaluate/TASK/NAME/seed-K" of stage "evaluate". A contestant whose tuning did not
    complete is not evaluated on that task. Drive it without `same`: baselines that behave alike are still measured each.

    Args:
        contestants: survivors and baselines.
        tasks: task specs.
        protocol: the trials and the full runs.
        protocols: by task, those of tasks that have their own.
        seeds: full runs per contestant and task, at least 1.
        seed: the run's seed. More seeds later are added to those that were there.

    Attributes:
        done: whether all has been told.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        tasks: Sequence[str],
        protocol: Protocol,
        *,
        seeds: int,
        seed: int,
        protocols: Mapping[str, Protocol] | None = None,
    ) -> None:
        check_names(contestants)
        own = protocols or {}
        self._seeds = [seed_for(seed, _EVALUATE, number) for number in range(seeds)]
        tuning = seed_for(seed, _TUNE)
        pairs = [(task, contestant) for task in dict.fromkeys(tasks) for contestant in contestants]
        self._tuning = {job.id: job for job in (Job(f"tune/{t}/{c.name}", c.rule, t, own.get(t, protocol), tuning) for t, c in pairs)}
        self._names = dict(zip(self._tuning, (contestant.name for _, contestant in pairs), strict=True))
        self._jobs: deque[tuple[str, Job]] = deque(("tune", job) for job in self._tuning.values())
        self._awaited: set[str] = set()

    def tunings(self, names: Collection[str]) -> set[str]:
        """Ids of the tunings of contestants, on all tasks."""
        return {job_id for job_id, name in self._names.items() if name in names}

    @property
    def done(self) -> bool:
        """Whether all has been asked and told."""
        return not self._jobs and not self._awaited

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        """The next measurement; None while tunings are awaited, and in the end."""
        if not self._jobs:
            return None
        stage, job = self._jobs.popleft()
        self._awaited.add(job.id)
        return stage, job, None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        """Takes an outcome; a tuning that completed makes its evaluations known."""
        self._awaited.remove(job_id)
        tuned = self._tuning.get(job_id)
        if tuned is None or outcome.status is not Status.COMPLETED:
            return
        if outcome.learning_rate is None:
            raise ValueError(f"the completed tuning {job_id!r} chose no learning rate")
        place = job_id.removeprefix("tune/")
        # A protocol's only weight decay goes without saying: jobs of studies from before there were several stay what they are.
        decay = outcome.weight_decay if len(tuned.protocol.weight_decays) > 1 else None
        for number, seed in enumerate(self._seeds):
            name, rate = f"evaluate/{place}/seed-{number}", outcome.learning_rate
            job = Job(name, tuned.rule, tuned.task, tuned.protocol, seed, Split.TEST, rate, decay)
            self._jobs.append(("evaluate", job))


@dataclass(frozen=True)
class Comparison:
    """A contestant on a task, beside the reference.

    None stands where there is no such number: no interval or test with fewer than two scores, none of the reference against itself.

    Attributes:
        name: of the contestant.
        rule: the update rule in native notation.
        task: task spec.
        learning_rate: the tuned peak learning rate.
        scores: on the test split, one per completed seed, in the order of `seeds`.
        mean: of the scores.
        interval: 95 % confidence interval of the mean over seeds (Student's t).
        difference: mean of the paired differences to the reference, over the seeds that both completed; positive if better than it.
        difference_interval: 95 % confidence interval of that (Student's t).
        p_value: of the two-sided paired t-test against the reference, not corrected for the number of contestants; None where all
            differences are equal, for then the test has nothing to judge them by.
        status: COMPLETED if every seed did, else how the first that did not ended.
        reason: what did not complete and why; empty if all did.
        seeds: numbers of the completed seeds.
        weight_decay: the tuned weight decay; None where no learning rate was found either.
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


@dataclass
class _Entry:
    """What was measured of a contestant on a task."""

    tuning: Measurement | None = None
    runs: dict[int, Measurement] | None = None

    @property
    def scores(self) -> dict[int, float]:
        found = {number: run.outcome.fitness for number, run in sorted((self.runs or {}).items())}
        return {number: fitness for number, fitness in found.items() if fitness is not None}


def compare(measurements: Iterable[Measurement], reference: str = "adam") -> list[Comparison]:
    """Every contestant of the final evaluation on every task, best mean first; tasks in the order met, those without a score last.

    Args:
        measurements: of a study; those of other stages are passed over.
        reference: name of the contestant that the others are tested against.
    """
    tasks: dict[str, dict[str, _Entry]] = {}
    for m in measurements:
        if m.stage == "tune":
            name = m.job.id.rsplit("/", 1)[1]
            tasks.setdefault(m.job.task, {}).setdefault(name, _Entry()).tuning = m
        elif m.stage == "evaluate":
            _, name, number = m.job.id.rsplit("/", 2)
            entry = tasks.setdefault(m.job.task, {}).setdefault(name, _Entry())
            entry.runs = (entry.runs or {}) | {int(number.removeprefix("seed-")): m}
    compared = []
    for entries in tasks.values():
        against = entries[reference].scores if reference in entries else {}
        rows = [_comparison(name, entry, None if name == reference else against) for name, entry in entries.items()]
        compared += sorted(rows, key=lambda row: (row.mean is None, -(row.mean or 0.0)))
    return compared


def _comparison(name: str, entry: _Entry, against: dict[int, float] | None) -> Comparison:
    runs = entry.runs or {}
    any_measured = next(iter(runs.values()), entry.tuning)
    assert any_measured is not None
    scores = entry.scores
    values = list(scores.values())
    gaps = [scores[number] - against[number] for number in scores if number in against] if against else []
    status, reason = _ending(entry)
    rate = any_measured.job.learning_rate if runs else any_measured.outcome.learning_rate
    return Comparison(
        name=name,
        rule=any_measured.job.rule,
        task=any_measured.job.task,
        learning_rate=rate,
        scores=tuple(values),
        mean=_mean(values),
        interval=_interval(values),
        difference=_mean(gaps),
        difference_interval=_interval(gaps),
        p_value=_p_value(gaps),
        status=status,
        reason=reason,
        seeds=tuple(scores),
        weight_decay=None if rate is None else any_measured.outcome.weight_decay,
    )


def _ending(entry: _Entry) -> tuple[Status, str]:
    if not entry.runs:
        assert entry.tuning is not None
        outcome = entry.tuning.outcome
        if outcome.status is Status.COMPLETED:
            return Status.COMPLETED, "tuned, not evaluated yet"
        return outcome.status, f"tuning: {outcome.reason or outcome.status.value}"
    ended = [run.outcome for _, run in sorted(entry.runs.items()) if run.outcome.status is not Status.COMPLETED]
    if not ended:
        return Status.COMPLETED, ""
    return ended[0].status, f"{len(ended)} of {len(entry.runs)} seeds did not complete: {ended[0].reason or ended[0].status.value}"


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % confidence interval of a mean; None with fewer than two finite values."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return middle - half, middle + half


def _p_value(gaps: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test; None with fewer than two finite differences, or if they are equal up to rounding."""
    if len(gaps) < 2 or not np.isfinite(gaps).all():
        return None
    if np.ptp(gaps) <= 1e-12 * max(1.0, float(np.max(np.abs(gaps)))):
        return None
    return float(stats.ttest_1samp(gaps, 0.0).pvalue)
