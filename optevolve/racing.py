"""The protocol `fast`: learning rates raced by successive halving on compressed schedules, then a few short full runs.

Where the paper's trials are the first steps of a long warm-up, each run here has the whole schedule and all decays, compressed into its
length. The race is judged at the end of each run on one half of the validation split; the fitness, with an interval, is the mean over seeds
of the full runs on the other half, which no choice has seen. Sources: successive halving, Jamieson and Talwalkar, arXiv 1502.07943; why to
judge at the end, arXiv 2509.02046.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from scipy import stats

from optevolve.config import Protocol
from optevolve.records import Status, TrainingCurve

__all__ = ["Race", "full_seed", "mean_interval", "run_seed"]

Run: TypeAlias = Callable[[float, int, int], TrainingCurve]

_DECADE = 10.0
_WIDEST = (1e-8, 1e4)  # learning rates beyond which the grid is not widened
_MOST_ADDED = 3  # decades, so that a candidate's cost has a bound
_TRIAL, _FULL = 71, 72  # streams of the job's seed


@dataclass
class Race:
    """Finds the learning rate of one rule.

    Attributes:
        protocol: grid, lengths and numbers of seeds.
        seed: of the job; the runs' seeds follow from it, the same for every rule, so that rules are compared on paired seeds.
        train: one run: learning rate, steps, seed → its curve, whose last score is of the half that choices may see.
        scores: by learning rate the scores of its runs of the latest rung, -inf for a run that diverged.
    """

    protocol: Protocol
    seed: int
    train: Run
    scores: dict[float, list[float]] = field(default_factory=dict)

    def winner(self) -> float | None:
        """The learning rate with the best mean score; None if every run of the first rung diverged."""
        protocol = self.protocol
        rates = sorted(dict.fromkeys(protocol.learning_rates))
        steps, entered = protocol.trial_steps, len(rates)
        self._rung(rates, steps, 0)
        rates = self._widened(rates, steps)
        if self._mean(self._best(rates)) == -math.inf:
            return None
        for rung in range(1, protocol.rungs):
            keep = max(1, math.ceil(entered / protocol.halving**rung))
            rates = sorted(sorted(rates, key=self._order)[:keep])
            steps = min(2 * steps, protocol.full_steps)
            self._rung(rates, steps, rung)
        best = self._best(rates)
        finer = [best / math.sqrt(_DECADE), best * math.sqrt(_DECADE)]
        self._rung(finer, steps, protocol.rungs - 1)
        return self._best([best, *finer])

    def _rung(self, rates: Sequence[float], steps: int, rung: int) -> None:
        for rate in rates:
            curves = [self.train(rate, steps, run_seed(self.seed, _TRIAL, rung, number)) for number in range(self.protocol.trial_seeds)]
            self.scores[rate] = [-math.inf if curve.status is Status.DIVERGED else curve.score[-1] for curve in curves]

    def _widened(self, rates: list[float], steps: int) -> list[float]:
        """The grid with decades added for as long as the best lies on its edge."""
        given = len(rates)
        while 1 < len(rates) < given + _MOST_ADDED:
            best = self._best(rates)
            further = best / _DECADE if best == rates[0] else best * _DECADE if best == rates[-1] else 0.0
            if not _WIDEST[0] <= further <= _WIDEST[1] or self._mean(best) == -math.inf:
                break
            self._rung([further], steps, 0)
            rates = sorted([*rates, further])
        return rates

    def _mean(self, rate: float) -> float:
        return float(np.mean(self.scores[rate]))

    def _order(self, rate: float) -> tuple[float, float]:
        return -self._mean(rate), rate

    def _best(self, rates: Sequence[float]) -> float:
        """Of equals the smallest."""
        return min(rates, key=self._order)


def run_seed(seed: int, *place: int) -> int:
    """Seed of a run that follows from the job's and from its place in the protocol, never from the rule."""
    return int(np.random.SeedSequence([seed % 2**64, *place]).generate_state(1)[0])


def full_seed(seed: int, number: int) -> int:
    """Seed of a full run."""
    return run_seed(seed, _FULL, number)


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of a mean (Student's t); None with fewer than two values."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return float(np.mean(values)) - half, float(np.mean(values)) + half
