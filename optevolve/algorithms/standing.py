"""How rules that were measured alike compare: by fitness, or by mean rank over several tasks among those that are compared.

A rank says nothing of a rule alone: it is a function of the outcomes told of the whole group, and so the same after a restart.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from optevolve.records import Outcome, Status

__all__ = ["Score", "mean_ranks", "merits"]


class Score(NamedTuple):
    """What a completed outcome says of a rule.

    Attributes:
        fitness: as of `Outcome`.
        tasks: scores on each of several tasks, shape (tasks,); empty with one.
        interval: 95 % interval of the fitness, where the protocol gives one.
    """

    fitness: float
    tasks: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> Score | None:
        """The score of an outcome; None unless it completed."""
        if outcome.status is not Status.COMPLETED or outcome.fitness is None:
            return None
        return cls(outcome.fitness, outcome.task_scores, outcome.interval)


def merits(scores: Sequence[Score], over_tasks: str = "score") -> list[float]:
    """A number for each, higher is better.

    Args:
        scores: of those to be compared, measured on the same tasks.
        over_tasks: "score": the fitness; "rank": minus the mean rank over the tasks among those given; -1 is the best on every task. With
            one task, and where not all were measured on the same number of them, the fitness is ranked.
    """
    if over_tasks == "score":
        return [score.fitness for score in scores]
    whole = len({len(score.tasks) for score in scores}) == 1 and bool(scores[0].tasks)
    return [-rank for rank in mean_ranks([score.tasks if whole else (score.fitness,) for score in scores])]


def mean_ranks(table: Sequence[Sequence[float]]) -> list[float]:
    """Mean over the tasks of each one's rank: 1 for the highest score on a task; equal scores share the mean of their ranks.

    Args:
        table: scores, shape (rules, tasks).
    """
    if not table:
        return []
    columns = [_ranks(column) for column in zip(*table, strict=True)]
    return [sum(ranks) / len(ranks) for ranks in zip(*columns, strict=True)]


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    return [len(values) - (bisect_left(ordered, value) + bisect_right(ordered, value) - 1) / 2 for value in values]
