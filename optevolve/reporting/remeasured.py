"""What became of the best rules of a search when they were measured again under fresh seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from optevolve.algorithms.standing import Score, merits
from optevolve.records import Measurement

__all__ = ["Remeasured", "remeasured"]


@dataclass(frozen=True)
class Remeasured:
    """A rule in the last round of elimination that it completed.

    Attributes:
        round: number of the round, from 1.
        fitness: mean over the round's seeds; nothing measured in the search is in it.
        merit: what the round compares by, higher is better: the fitness, or minus the mean rank.
        seeds: how many.
        stage: the round's name in the store.
    """

    round: int
    fitness: float
    merit: float
    seeds: int
    stage: str


def remeasured(measurements: Iterable[Measurement], over_tasks: str = "score") -> dict[str, Remeasured]:
    """By rule; rules that completed no round under all seeds measured so far are left out.

    Args:
        measurements: of a study, in any stage.
        over_tasks: as of `optevolve.algorithms.standing.merits`.
    """
    rounds: dict[int, dict[str, list[Score | None]]] = defaultdict(lambda: defaultdict(list))
    for m in measurements:
        if m.stage.startswith("eliminate/"):
            rounds[int(m.stage.rpartition("/")[2])][m.job.rule].append(Score.of(m.outcome))
    found: dict[str, Remeasured] = {}
    for number, rules in sorted(rounds.items()):
        found |= _of_round(number, rules, over_tasks)
    return found


def _of_round(number: int, rules: Mapping[str, list[Score | None]], over_tasks: str) -> dict[str, Remeasured]:
    whole = {rule: [s for s in scores if s is not None] for rule, scores in rules.items() if None not in scores}
    merit: dict[str, list[float]] = {rule: [] for rule in whole}
    for place in range(max((len(scores) for scores in whole.values()), default=0)):
        seen = [rule for rule in whole if place < len(whole[rule])]
        for rule, value in zip(seen, merits([whole[rule][place] for rule in seen], over_tasks), strict=True):
            merit[rule].append(value)
    return {
        rule: Remeasured(number, fmean(s.fitness for s in scores), fmean(merit[rule]), len(scores), f"eliminate/{number}")
        for rule, scores in whole.items()
    }
