"""The protocol `fast`: learning rates raced by successive halving on compressed schedules, weight decays, then a longer full run.

Where the paper's trials are the first steps of a long warm-up, each run here has the whole schedule and all decays, compressed into its
length. Runs on small images, or on a share of a batch, get further at the same cost. The race is judged by training scores, or at the end
of each run by one half of the validation split, with some slack for the larger of nearly equal rates; the fitness, with an interval, is
that of the full run at its end, on validation data that no choice has seen, or the mean over several. Sources: successive halving,
Jamieson and Talwalkar, arXiv 1502.07943; why to judge at the end, arXiv 2509.02046.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from optevolve.config import Protocol
from optevolve.records import Status, TrainingCurve

__all__ = ["Point", "Race", "by_training", "full_seed", "judged", "neighbours", "run_seed", "rung_seeds", "rung_steps"]

Point: TypeAlias = tuple[float, float]  # learning rate, weight decay
Runs: TypeAlias = Callable[[Sequence[tuple[Point, int]], int], Iterable[TrainingCurve]]

_DECADE = 10.0
_WIDEST = (1e-8, 1e4)  # learning rates beyond which the grid is not widened
_MOST_ADDED = 3  # decades, so that a candidate's cost has a bound
_TRIAL, _FULL = 71, 72  # streams of the job's seed


@dataclass
class Race:
    """Finds the learning rate and the weight decay of one rule.

    Attributes:
        protocol: grids, lengths and numbers of seeds. With several weight decays, the first is that of the race; the others are tried at
            the best learning rate, before the finer pass around that.
        seed: of the job; the runs' seeds follow from it, the same for every rule, so that rules are compared on paired seeds.
        train: runs of one length: (learning rate and weight decay, seed) of each, steps → their curves of one point, in order, whose
            scores, if runs are judged by these, are of the half that choices may see.
        untrained: what a run of the last rung scores that learns nothing; gains are counted from there where the protocol has a
            `rate_slack`.
        scores: by learning rate and weight decay the scores of the runs of the latest rung, -inf for a run that diverged.
        best: of the points that the winner was chosen from, all of one weight decay, the one with the best mean score; with slack the
            winner may be another.
    """

    protocol: Protocol
    seed: int
    train: Runs
    untrained: float = 0.0
    scores: dict[Point, list[float]] = field(default_factory=dict)
    best: Point | None = None

    @property
    def best_score(self) -> float:
        """Mean score of the best; -inf before there is one."""
        return -math.inf if self.best is None else self._mean(self.best)

    def winner(self) -> Point | None:
        """Learning rate and weight decay with the best mean score, or with the largest rate that is as good but for the protocol's slack.

        None if every run of the first rung diverged.
        """
        protocol = self.protocol
        first, *others = dict.fromkeys(protocol.weight_decays)
        points = [(rate, first) for rate in sorted(dict.fromkeys(protocol.learning_rates))]
        steps, entered = protocol.trial_steps, len(points)
        self._rung(points, steps, 0)
        points = self._widened(points, steps)
        if self._mean(self._best(points)) == -math.inf:
            return None
        for rung in range(1, protocol.rungs):
            keep = max(1, math.ceil(entered / protocol.halving**rung))
            points = sorted(sorted(points, key=self._order)[:keep])
            steps = rung_steps(protocol, rung)
            self._rung(points, steps, rung)
        best = self._best(points)
        last = points
        decays = [(best[0], decay) for decay in others]
        self._rung(decays, steps, protocol.rungs - 1)
        best = self._best([best, *decays])
        finer = [(rate, best[1]) for rate in neighbours(best[0])]
        self._rung(finer, steps, protocol.rungs - 1)
        return self._chosen([point for point in dict.fromkeys([*last, best, *finer]) if point[1] == best[1]])

    def _rung(self, points: Sequence[Point], steps: int, rung: int) -> None:
        asked = [(point, seed) for point in points for seed in rung_seeds(self.protocol, self.seed, rung)]
        if not asked:
            return
        self.scores.update({point: [] for point in points})
        for (point, _), curve in zip(asked, self.train(asked, steps), strict=True):
            self.scores[point].append(-math.inf if curve.status is Status.DIVERGED else judged(self.protocol, curve))

    def _widened(self, points: list[Point], steps: int) -> list[Point]:
        """The grid with decades added for as long as the best lies on its edge."""
        given = len(points)
        while 1 < len(points) < given + _MOST_ADDED:
            best = self._best(points)
            rate, decay = best
            further = rate / _DECADE if best == points[0] else rate * _DECADE if best == points[-1] else 0.0
            if not _WIDEST[0] <= further <= _WIDEST[1] or self._mean(best) == -math.inf:
                break
            self._rung([(further, decay)], steps, 0)
            points = sorted([*points, (further, decay)])
        return points

    def _chosen(self, points: Sequence[Point]) -> Point:
        """Of points of one weight decay the best, or with slack one nearly as good: see `Protocol.rate_slack`."""
        self.best = self._best(points)
        slack = self.protocol.rate_slack
        if not slack or not 0 < self._gain(self.best) < math.inf:
            return self.best
        given = [point for point in points if any(math.isclose(point[0], rate) for rate in self.protocol.learning_rates)]
        enough = max(map(self._gain, given), default=-math.inf)
        if enough * (1 + slack) < self._gain(self.best):
            return self.best
        return max(point for point in given if self._gain(point) >= (1 - slack) * enough)

    def _gain(self, point: Point) -> float:
        return self._mean(point) - self.untrained

    def _mean(self, point: Point) -> float:
        return float(np.mean(self.scores[point]))

    def _order(self, point: Point) -> tuple[float, Point]:
        return -self._mean(point), point

    def _best(self, points: Sequence[Point]) -> Point:
        """Of equals the smallest."""
        return min(points, key=self._order)


def by_training(protocol: Protocol) -> bool:
    """Whether runs of a race are judged by their training scores."""
    return protocol.trial_judge == "training" and len(set(protocol.weight_decays)) == 1 and protocol.trial_steps > 1


def judged(protocol: Protocol, curve: TrainingCurve) -> float:
    """The score of a run of a race that completed."""
    return (curve.train_score if by_training(protocol) else curve.score)[-1]


def rung_steps(protocol: Protocol, rung: int) -> int:
    """Length of the runs of a rung, from 0: twice that of the one before, but not for that longer than the full run."""
    return protocol.trial_steps if rung == 0 else min(protocol.trial_steps * 2**rung, protocol.full_steps)


def rung_seeds(protocol: Protocol, seed: int, rung: int) -> list[int]:
    """Seeds of the runs of a rung, the same for every learning rate and every rule."""
    return [run_seed(seed, _TRIAL, rung, number) for number in range(protocol.trial_seeds)]


def neighbours(learning_rate: float) -> tuple[float, float]:
    """The learning rates half a decade below and above."""
    return learning_rate / math.sqrt(_DECADE), learning_rate * math.sqrt(_DECADE)


def run_seed(seed: int, *place: int) -> int:
    """Seed of a run that follows from the job's and from its place in the protocol, never from the rule."""
    return int(np.random.SeedSequence([seed % 2**64, *place]).generate_state(1)[0])


def full_seed(seed: int, number: int) -> int:
    """Seed of a full run."""
    return run_seed(seed, _FULL, number)
