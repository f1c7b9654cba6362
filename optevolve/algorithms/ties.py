"""Which children of a particle cannot be told apart: intervals from paired seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from optevolve.algorithms.standing import Score, merits
from optevolve.statistics import t_quantile

__all__ = ["Scores", "by_rank", "leading", "seed_number", "tied"]


@dataclass
class Scores:
    """What a child scored.

    Attributes:
        values: fitness under the first seed, then under each other one; of `by_rank`, minus the mean rank.
        interval: 95 % interval of the first fitness, where the protocol gives one.
        tasks: scores on several tasks under each seed, shape (seeds, tasks).
    """

    values: list[float]
    interval: tuple[float, float] | None = None
    tasks: list[tuple[float, ...]] = field(default_factory=list)

    @classmethod
    def first(cls, score: Score) -> Scores:
        """Of one seed."""
        return cls([score.fitness], score.interval, [score.tasks])

    def add(self, score: Score) -> None:
        """Takes what another seed gave."""
        self.values.append(score.fitness)
        self.tasks.append(score.tasks)

    @property
    def overall(self) -> Score:
        """Means over the seeds."""
        return Score(self.mean, tuple(sum(column) / len(column) for column in zip(*self.tasks, strict=True)))

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return sum(self.values) / len(self.values)


def leading(scores: Mapping[int, Scores]) -> dict[int, Scores]:
    """Those with most seeds: the others have dropped out."""
    most = max((len(score.values) for score in scores.values()), default=0)
    return {child: score for child, score in scores.items() if len(score.values) == most}


def by_rank(scores: Mapping[int, Scores]) -> dict[int, Scores]:
    """Those with most seeds, with minus the mean rank over the tasks among them under each seed in place of the fitness."""
    running = leading(scores)
    seeds = max((len(score.values) for score in running.values()), default=0)
    ranked = [merits([Score(s.values[k], s.tasks[k]) for s in running.values()], "rank") for k in range(seeds)]
    return {
        child: Scores([merit[place] for merit in ranked], score.interval, score.tasks)
        for place, (child, score) in enumerate(running.items())
    }  # fmt: skip


def tied(scores: Mapping[int, Scores]) -> set[int]:
    """The best child and those that may be as good; empty if the best stands alone.

    With one seed each, the intervals that the protocol gives decide: those that overlap are tied, and one without an interval is tied with
    everything; a fitness clearly below the best one's is then no tie, whatever decides which is best. With more, the 95 % interval of the
    mean paired difference to the best decides (Student's t): it holds 0 or it does not.
    A child that dropped out of an earlier tie, and so has fewer seeds than the best, has lost.
    """
    running = leading(scores)
    if len(running) < 2:
        return set()
    best = max(running, key=lambda child: (running[child].mean, -child))
    rivals = {child for child, score in running.items() if child != best and _as_good(running[best], score)}
    return rivals | {best} if rivals else set()


def _as_good(best: Scores, other: Scores) -> bool:
    number = len(best.values)
    if number == 1:
        if best.interval is None or other.interval is None:
            return True
        return other.interval[1] >= best.interval[0]
    gaps = [a - b for a, b in zip(best.values, other.values, strict=True)]
    mean = sum(gaps) / number
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / (number - 1))
    return mean <= t_quantile(number - 1) * deviation / math.sqrt(number)


def seed_number(proposal_id: str) -> int:
    """Which seed a proposal is measured under: 0 the run's own, 1, 2, … those that settle ties."""
    _, found, number = proposal_id.rpartition("/seed-")
    return int(number) if found else 0
