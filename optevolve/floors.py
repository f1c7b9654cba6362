"""What a rule must reach lest early stopping drop it: the protocol's floors, else the task's own, else what a rule that never moves has.

A rule that never moves is trained in the place of the candidate: the same model, the same batches, the same seed. What has a higher
training score than it in some epoch, or a lower training loss, learns, whatever the unit of the score: minus a loss, an accuracy over a
thousand classes that a short trial leaves where it was, a constant. So no such floor stops every sound rule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from optevolve.compile import build
from optevolve.config import Compute, Protocol
from optevolve.records import SEPARATOR, Job, Status, TrainingCurve
from optevolve.space import parse
from optevolve.tasks import Task, TaskCheck, load
from optevolve.training import Engine, Floor, train

__all__ = ["Bar", "floors_in_words", "floors_of_task", "floors_said", "has_floors", "still_curve", "surpasses"]

_ROUNDING = 1e-6  # of the loss: what two programs for the same numbers may differ by


@dataclass(frozen=True)
class Bar:
    """A floor.

    Attributes:
        score: the training score to reach; None for what `still` has.
        still: the curve of a rule that never moves, epochs as those of the runs that are compared with it; None: nothing is too little.
    """

    score: float | None = None
    still: TrainingCurve | None = None

    def at(self, epoch: int) -> Floor | None:
        """What a run must reach in an epoch (from 1); None if nothing is too little there."""
        if self.score is not None:
            return Floor(self.score)
        if self.still is None or self.still.status is Status.DIVERGED or epoch > len(self.still.steps):
            return None
        return Floor(float(np.nextafter(self.still.train_score[epoch - 1], math.inf)), _below(self.still.train_loss[epoch - 1]))

    def shortfall(self, best: TrainingCurve, trials: Sequence[TrainingCurve]) -> str:
        """Why trials are too weak, the best among them; empty if they are not."""
        tried = f"best trial score {max(best.train_score):.4g} of {len(trials)} learning rates (at {best.learning_rate:g})"
        if self.score is not None:
            return "" if max(best.train_score) >= self.score else f"{tried} below {self.score:.4g}"
        if self.still is None or any(surpasses(trial, self.still) for trial in trials):
            return ""
        return (
            f"{tried} not above {max(self.still.train_score):.4g}, and no training loss below {min(self.still.train_loss):.4g}: "
            "what a rule that never moves has on the same batches"
        )


def surpasses(curve: TrainingCurve, still: TrainingCurve) -> bool:
    """Whether a run has, in some epoch, a higher training score or a lower training loss than one that never moves."""
    if still.status is Status.DIVERGED:  # then whatever does not is better
        return curve.status is not Status.DIVERGED
    pairs = zip(curve.train_score, curve.train_loss, still.train_score, still.train_loss, strict=False)
    return any(score > still_score or loss < _below(still_loss) for score, loss, still_score, still_loss in pairs)


def floors_of_task(task: Task, protocol: Protocol) -> tuple[float, float] | None:
    """The task's own floors for trials and full runs, if it has any that are for trials as long as the protocol's."""
    return task.floors if protocol.trial_steps >= task.floors_from else None


def floors_in_words(task: Task | type[Task]) -> str:
    """What early stopping asks of a rule on the task where the protocol has no floors of its own."""
    relative = "a higher training score or a lower training loss than a rule that never moves has on the same batches"
    if task.floors is None:
        return relative
    own = f"a training score of {task.floors[0]:g} in trials and {task.floors[1]:g} in the full run"
    return own if not task.floors_from else f"{own}, or, where trials have fewer than {task.floors_from} steps, {relative}"


def has_floors(job: Job) -> bool:
    """Whether a rule has numbers to reach in a job: the protocol's, or those of one of its tasks."""
    protocol = job.protocol
    if protocol.kind == "fast":
        return protocol.floor is not None
    given = protocol.first_floor is not None or protocol.floor is not None
    return given or any(floors_of_task(load(spec), protocol) is not None for spec in job.task.split(SEPARATOR))


def floors_said(spec: str, protocol: Protocol, untrained: TaskCheck | None = None) -> str:
    """What early stopping asks of a rule on a task under a protocol, in words and with the numbers that are known.

    Args:
        spec: of the task.
        protocol: of the measurement.
        untrained: what the untrained model was seen to have.
    """
    own = None if protocol.kind == "fast" else floors_of_task(load(spec), protocol)
    first = protocol.floor if protocol.kind == "fast" else protocol.first_floor
    if first is not None or protocol.floor is not None:
        pair = [f"{floor:g}" for floor in dict.fromkeys((first, protocol.floor)) if floor is not None]
        return f"the protocol's, a training score of {' and then '.join(pair)}"
    if not protocol.early_stopping:
        return "none, since early stopping is off"
    if own is not None:
        return f"the task's own, a training score of {own[0]:g} in trials and {own[1]:g} in the full run"
    has = (
        ""
        if untrained is None
        else f" (untrained, the loss is {untrained.loss:.4g} in training, the score {untrained.score:.4g} on validation data)"
    )
    return f"a rule must beat one that never moves{has}"


def still_curve(task: Task, protocol: Protocol, seed: int, trial: bool, compute: Compute) -> TrainingCurve:
    """What a rule that never moves has in the epochs of a trial, or in those of a full run up to its floor."""
    steps, epoch_steps = protocol.trial_steps, protocol.trial_epoch_steps
    if not trial:
        steps, epoch_steps = min(protocol.full_steps, protocol.epoch_steps * protocol.floor_epoch), protocol.epoch_steps
    engine = Engine.of(protocol, compute)
    make = partial(build, parse("0 * w"), lr=1.0, total_steps=steps, seed=seed, flat=engine.flat)
    curve = train(
        task, make, np.ones(steps), np.zeros(steps), seed=seed, epoch_steps=epoch_steps, split=None,
        max_loss_ratio=protocol.max_loss_ratio, purpose="trial", engine=engine,
    )  # fmt: skip
    return replace(curve, seconds=0.0)


def _below(loss: float) -> float:
    return loss - _ROUNDING * abs(loss)
