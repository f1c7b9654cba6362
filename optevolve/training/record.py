"""What is written down of one run, and when it ends: its curve, its divergence, its floor. Knows numbers alone, no models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from optevolve.records import Status, TrainingCurve

__all__ = ["LOOK_STEPS", "Floor", "Record", "Score"]

LOOK_STEPS = 10  # steps between looks at the losses


class Floor(NamedTuple):
    """What a run must reach in an epoch: one of the two.

    Attributes:
        score: the training score that is enough.
        loss: the training loss below which the run goes on all the same; -inf where the score alone decides.
    """

    score: float
    loss: float = -math.inf

    def missed_by(self, score: float, loss: float) -> str:
        """How an epoch's training score and loss fall short; empty if they do not."""
        if not score < self.score or loss < self.loss:
            return ""
        short = f"training score {score:.4g} below {self.score:.4g}"
        return short if self.loss == -math.inf else f"{short}, and training loss {loss:.4g} not below {self.loss:.4g}"


class Score(NamedTuple):
    """What a pass over a split gave.

    Attributes:
        mean: of the batches' scores, weighted by size.
        margin: half the width of the 95 % interval of the mean, over what other examples would have given; NaN where it cannot
            be had.
    """

    mean: float
    margin: float


_NO_SCORE = Score(math.nan, math.nan)


@dataclass
class Record:
    """One run in the making.

    Attributes:
        total: steps of the run.
        epoch_steps: steps between points of the curve; the last step is a point too.
        floor, floor_epoch: the run is stopped after epoch `floor_epoch` (from 1) if that epoch falls short of `floor`, a training score, or
            a `Floor`.
        max_loss_ratio: the run is diverged once a loss exceeds this multiple of the first loss plus one.
        status: COMPLETED unless the run ended early, for the `reason`.
    """

    total: int
    epoch_steps: int
    floor: Floor | float | None = None
    floor_epoch: int = 1
    max_loss_ratio: float = 1e4
    status: Status = Status.COMPLETED
    reason: str = ""
    _points: list[tuple[int, float, float, float, float]] = field(default_factory=list)
    _fresh: list[tuple[float, float]] = field(default_factory=list)  # (loss, score) of the steps since the last point
    _count: int = 0  # steps looked at
    _limit: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the run ended early."""
        return self.status is not Status.COMPLETED

    def ends_epoch(self, step: int) -> bool:
        """Whether a point of the curve follows this step (from 1)."""
        return step % self.epoch_steps == 0 or step == self.total

    def wants_look(self, step: int) -> bool:
        """Whether the losses since the last look are to be read after this step (from 1)."""
        return self.ends_epoch(step) or step % LOOK_STEPS == 0

    def look(self, values: Sequence[tuple[float, float]]) -> str:
        """Takes the (loss, score) of the steps since the last look; says what is wrong with one of them, or nothing."""
        first = self._count
        self._count += len(values)
        self._fresh += values
        for step, (loss, score) in enumerate(values, start=first):
            if not math.isfinite(loss):
                return f"loss {loss} at step {step}"
            if not math.isfinite(score):
                return f"score {score} at step {step}"
            if self._limit is None:
                self._limit = self.max_loss_ratio * (abs(loss) + 1)
            if loss > self._limit:
                return f"loss {loss:.3g} at step {step}, above {self._limit:.3g}"
        return ""

    def unsound(self, score: Score | None, finite: bool) -> str:
        """What the last update spoilt, which no training loss has seen yet: the score, or a parameter."""
        if score is not None and not math.isfinite(score.mean):
            return f"validation score {score.mean} after step {self._count - 1}"
        if not finite:
            return f"a parameter not finite after step {self._count - 1}"
        return ""

    def diverge(self, step: int, trouble: str) -> None:
        """Ends the run after this step (from 1)."""
        self._add(step, _NO_SCORE)
        self.status, self.reason = Status.DIVERGED, trouble

    def add_point(self, step: int, score: Score | None) -> None:
        """Adds a point of the curve, and ends the run if it is below the floor."""
        loss, training_score = self._add(step, _NO_SCORE if score is None else score)
        if self.floor is None or len(self._points) != self.floor_epoch:
            return
        floor = self.floor if isinstance(self.floor, Floor) else Floor(self.floor)
        if missed := floor.missed_by(training_score, loss):
            self.status, self.reason = Status.STOPPED, f"{missed} after epoch {self.floor_epoch}"

    def _add(self, step: int, score: Score) -> tuple[float, float]:
        loss, training_score = (float(mean) if math.isfinite(mean) else math.nan for mean in np.mean(self._fresh, axis=0))
        self._fresh.clear()
        self._points.append((step, loss, training_score, *score))
        return loss, training_score

    def curve(self, learning_rate: float, seed: int, purpose: str, seconds: float) -> TrainingCurve:
        """The run as measured."""
        steps, losses, training_scores, scores, margins = zip(*self._points, strict=True)
        return TrainingCurve(
            learning_rate=learning_rate, seed=seed, steps=steps, train_loss=losses, train_score=training_scores, score=scores,
            status=self.status, reason=self.reason, purpose=purpose, seconds=seconds, margin=margins,
        )  # fmt: skip
