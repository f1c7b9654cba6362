"""Rows of the report's tables, from measurements: plain data, no drawing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from optevolve.config import RunConfig
from optevolve.contestants import REFERENCE_STAGE
from optevolve.printable import clipped
from optevolve.records import Measurement, Proposal, Status
from optevolve.standing import fitness_of, is_search, leaderboard

if TYPE_CHECKING:
    from optevolve.final import Comparison

__all__ = ["Cause", "StageCost", "by_task", "config_rows", "deaths", "fitness_of", "is_search", "leaderboard"]
__all__ += ["reference_level", "reference_of", "stage_costs"]

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
_INTEGRITY = "refused at the integrity check"
_CAUSES = {
    Status.REJECTED: "rejected before training",
    Status.STOPPED: "stopped early",
    Status.DIVERGED: "diverged",
    Status.FAILED: "failed",
}


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
        key = (what, _NUMBER.sub("…", clipped(reason, 1000)).strip() or "no reason given")
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


def reference_of(rows: Iterable[Comparison]) -> str:
    """Whom the contestants on a task are tested against; empty where there is nobody."""
    return next((row.reference for row in rows if row.reference), "")


def reference_level(measurements: Iterable[Measurement]) -> float | None:
    """The fitness of AdamW, measured as the rules of the evolution are; None where it has none."""
    found = [fitness_of(m) for m in measurements if m.stage == REFERENCE_STAGE]
    return next((fitness for fitness in found if fitness is not None and math.isfinite(fitness)), None)


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
