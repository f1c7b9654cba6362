"""Rows of the report's tables, from measurements: plain data, no drawing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from optevolve.algorithms.standing import Score, merits
from optevolve.config import RunConfig
from optevolve.records import Measurement, Proposal, Status
from optevolve.reporting.remeasured import remeasured

if TYPE_CHECKING:
    from optevolve.evaluation import Comparison

__all__ = ["Cause", "StageCost", "by_task", "config_rows", "deaths", "fitness_of", "is_search", "leaderboard", "stage_costs"]

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
_INTEGRITY = "refused at the integrity check"
_CAUSES = {
    Status.REJECTED: "rejected before training",
    Status.STOPPED: "stopped early",
    Status.DIVERGED: "diverged",
    Status.FAILED: "failed",
}


def is_search(measurement: Measurement) -> bool:
    """Whether a measurement belongs to the search itself, rather than to elimination or the final evaluation."""
    return measurement.proposal is not None and measurement.stage == measurement.proposal.stage


def fitness_of(measurement: Measurement) -> float | None:
    """The fitness of a completed measurement, None for every other."""
    outcome = measurement.outcome
    return outcome.fitness if outcome.status is Status.COMPLETED else None


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


def leaderboard(measurements: Iterable[Measurement], n: int | None = None, over_tasks: str = "score") -> list[dict[str, Any]]:
    """The best rules of the search, best first.

    The best of many noisy numbers is too high. So rules that were measured again, by the elimination or in its place, come first, those
    that came furthest before the others and by their fresh fitness alone; then the others by the search's.

    A rule measured in several stages is listed once, with its last completed measurement; rules that behaved the same as one measured
    before are listed with that one alone. Rules without a fitness come last, in the order measured.

    Args:
        measurements: of a study, in any stage; only rules of the search get rows.
        n: how many rows at most; None for all.
        over_tasks: how rules measured on several tasks compare within a stage, see `optevolve.algorithms.standing.merits`.
    Returns:
        JSON-ready rows with `rank` (from 1), `rule`, `fitness` (in the search; None unless completed), `remeasured` (mean fitness under
        fresh seeds; None where there is none) and `remeasured_in` (the stage), `status`, `learning_rate`, `weight_decay`, `id`, `stage`,
        `parent`, `seconds` (wall clock of the measurement) and `reason`.
    """
    measurements = list(measurements)
    again, found = remeasured(measurements, over_tasks), _first_of_each(measurements)
    merit: dict[str, float] = {}
    for initial in (False, True):
        scores = {m.job.id: score for m in found if (m.stage == "initial") == initial and (score := Score.of(m.outcome)) is not None}
        merit |= zip(scores, merits(list(scores.values()), over_tasks), strict=True)

    def standing(m: Measurement) -> tuple[int, float, bool, bool, float]:
        fresh, fitness = again.get(m.job.rule), fitness_of(m)
        first = (0, 0.0) if fresh is None else (-fresh.round, -fresh.merit)
        # A fitness that is not a number orders with nothing; it stands below every number. The initial population is measured on an easier
        # task than the evolution, so its fitnesses stand below those of the evolution.
        unknown = fitness is None or fitness != fitness
        return (*first, True, False, 0.0) if unknown else (*first, False, m.stage == "initial", -merit[m.job.id])

    best = sorted(found, key=standing)[:n]
    return [
        {
            "rank": rank,
            "rule": m.job.rule,
            "fitness": fitness_of(m),
            "remeasured": again[m.job.rule].fitness if m.job.rule in again else None,
            "remeasured_in": again[m.job.rule].stage if m.job.rule in again else "",
            "status": m.outcome.status.value,
            "learning_rate": m.outcome.learning_rate,
            "weight_decay": m.outcome.weight_decay,
            "id": m.job.id,
            "stage": m.stage,
            "parent": m.proposal.parent if m.proposal else "",
            "seconds": m.outcome.seconds,
            "reason": m.outcome.reason,
        }
        for rank, m in enumerate(best, start=1)
    ]


@dataclass(frozen=True)
class StageCost:
    """What one stage cost.

    Attributes:
        stage: the stage's name, or "total".
        asked: measurements asked for.
        measured: of these, measured; the others took over the outcome of a rule that behaves the same.
        completed: of the measured, those that completed.
        steps: training steps of the measured.
        seconds: seconds of the measured, summed over workers.
        devices: what they were computed on, such as "cpu" or "cpu, cuda"; empty where nothing was trained.
    """

    stage: str
    asked: int
    measured: int
    completed: int
    steps: int
    seconds: float
    devices: str

    @property
    def reused(self) -> int:
        """Measurements that were not needed, because a rule behaved the same as one already measured."""
        return self.asked - self.measured


def _cost(stage: str, measurements: Sequence[Measurement]) -> StageCost:
    own = [m for m in measurements if not m.same_as]
    return StageCost(
        stage=stage,
        asked=len(measurements),
        measured=len(own),
        completed=sum(m.outcome.status is Status.COMPLETED for m in own),
        steps=sum(m.outcome.steps for m in own),
        seconds=sum(m.outcome.seconds for m in own),
        devices=", ".join(sorted({m.outcome.device for m in own} - {""})),
    )


def stage_costs(measurements: Sequence[Measurement]) -> list[StageCost]:
    """Cost of each stage in the order in which they began, and their total last; empty where nothing was measured."""
    stages: dict[str, list[Measurement]] = {}
    for m in measurements:
        stages.setdefault(m.stage, []).append(m)
    if not stages:
        return []
    return [*(_cost(stage, of) for stage, of in stages.items()), _cost("total", measurements)]


@dataclass(frozen=True)
class Cause:
    """One way in which candidates died.

    Attributes:
        what: the cause in words, such as "stopped early".
        reason: the reasons given, with their numbers blanked out so that alike ones fall together.
        count: how many died of it.
        example_rule: the first of them.
        example_reason: its reason, word for word.
    """

    what: str
    reason: str
    count: int
    example_rule: str
    example_reason: str


def _proposals(measurements: Iterable[Measurement]) -> list[Proposal]:
    return list({m.proposal.id: m.proposal for m in measurements if m.proposal is not None}.values())


def deaths(measurements: Sequence[Measurement], limit: int = 20) -> list[Cause]:
    """Where candidates died and why, the commonest first within each cause, and the causes in the order of the method.

    Counts rules drawn and refused before training (`Proposal.rejected`) and measurements of every stage that did not complete; outcomes
    taken over from a rule that behaves the same are not counted again.

    Args:
        measurements: of a study.
        limit: at most so many rows per cause; the rest are added up in one row.
    """
    found: list[tuple[str, str, str]] = [(_INTEGRITY, rule, reason) for p in _proposals(measurements) for rule, reason in p.rejected]
    found += [
        (_CAUSES[m.outcome.status], m.job.rule, m.outcome.reason) for m in measurements if not m.same_as and m.outcome.status in _CAUSES
    ]
    counts: Counter[tuple[str, str]] = Counter()
    examples: dict[tuple[str, str], tuple[str, str]] = {}
    for what, rule, reason in found:
        key = (what, _NUMBER.sub("…", reason).strip() or "no reason given")
        counts[key] += 1
        examples.setdefault(key, (rule, reason))
    rows: list[Cause] = []
    for what in (_INTEGRITY, *_CAUSES.values()):
        alike = [(key, count) for key, count in counts.most_common() if key[0] == what]
        rows += [Cause(what, key[1], count, *examples[key]) for key, count in alike[:limit]]
        if len(alike) > limit:
            rest = sum(count for _, count in alike[limit:])
            rows.append(Cause(what, f"{len(alike) - limit} rarer reasons", rest, *examples[alike[limit][0]]))
    return rows


def by_task(comparisons: Iterable[Comparison]) -> dict[str, list[Comparison]]:
    """Comparisons of each task, those with the best mean first and those without any score last."""
    tasks: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        tasks.setdefault(comparison.task, []).append(comparison)

    def standing(c: Comparison) -> tuple[bool, float]:
        missing = c.mean is None or c.mean != c.mean
        return missing, 0.0 if c.mean is None or missing else -c.mean

    return {task: sorted(rows, key=standing) for task, rows in tasks.items()}


def config_rows(config: RunConfig) -> list[tuple[str, str, bool]]:
    """Every value of a config as (dotted key, value as text, whether it differs from the default)."""

    def flatten(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from flatten(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, tuple | list) and value and isinstance(value[0], dict):
            for index, inner in enumerate(value):
                yield from flatten(f"{prefix}[{index}]", inner)
        elif isinstance(value, tuple | list):
            yield prefix, ", ".join(map(str, value))
        else:
            yield prefix, str(value)

    defaults = dict(flatten("", asdict(RunConfig())))
    return [(key, text, defaults.get(key) != text) for key, text in flatten("", asdict(config))]
