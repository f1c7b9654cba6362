"""The one training loop: a task, an optimizer, and the learning rate and momentum of every step → TrainingCurve.

Everything random follows from the seed, and the caller's random state is left alone. Losses and scores stay tensors between looks, for
reading them at every step would make an accelerator wait; ten steps is the longest that a diverged run goes unnoticed.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optevolve.errors import TaskError
from optevolve.records import Split, TrainingCurve
from optevolve.tasks import Batch, Task
from optevolve.training.engine import PLAIN, Engine
from optevolve.training.halves import Part
from optevolve.training.objective import Objective, only_calls
from optevolve.training.record import LOOK_STEPS, Floor, Record
from optevolve.training.scoring import evaluate

__all__ = ["LOOK_STEPS", "OptimizerFactory", "denormals_flushed", "passes", "train"]

OptimizerFactory: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]


def train(
    task: Task,
    optimizer: OptimizerFactory,
    learning_rates: Sequence[float] | npt.NDArray[np.float64],
    momenta: Sequence[float] | npt.NDArray[np.float64],
    *,
    seed: int,
    epoch_steps: int,
    split: Split | None = Split.VALID,
    floor: Floor | float | None = None,
    floor_epoch: int = 1,
    max_loss_ratio: float = 1e4,
    learning_rate: float | None = None,
    purpose: str = "full",
    engine: Engine = PLAIN,
    part: Part = "all",
) -> TrainingCurve:
    """Trains a fresh model once and measures it every epoch.

    Args:
        task: what is trained.
        optimizer: makes the optimizer from the model's trainable parameters.
        learning_rates: of each step, shape (steps,), at least one; put into every parameter group before the step.
        momenta: of each step, shape (steps,); put into the groups that have a momentum.
        seed: of initialisation, batch order, augmentation, dropout, and of what the optimizer draws from torch's global generator.
        epoch_steps: steps between points of the curve; the last step is a point too.
        split: where the score of each point is measured; None to leave it out, as in trials.
        floor, floor_epoch: the run is stopped after epoch `floor_epoch` (from 1) if that epoch's training score is below `floor`; see
            `optevolve.training.Floor` for a floor of score and loss.
        max_loss_ratio: the run is diverged once a loss exceeds this multiple of the first loss plus one.
        learning_rate: what the curve reports as its peak; the largest of `learning_rates` if not given.
        purpose: what the curve reports as its purpose.
        engine: how the steps are computed.
        part: of `split`: all of it, or the half for choices or the one for the judgement, or both halves.
    Returns:
        The curve; its status is DIVERGED if a loss, a score or a parameter became non-finite or a loss exploded, at most ten steps after it
        did, and STOPPED below the floor. A diverged run's last point is the step at which that was seen, its score NaN.
    Raises:
        TaskError: if the task has no training batches.
    """
    started = time.perf_counter()
    record = Record(len(learning_rates), epoch_steps, floor, floor_epoch, max_loss_ratio)
    with engine.forked_rng(), denormals_flushed():
        torch.manual_seed(seed)
        model = engine.prepare(task.model().train(), only_calls(task))
        steps = _Steps(task, model, optimizer, seed, engine)
        for step, (rate, momentum) in enumerate(zip(map(float, learning_rates), map(float, momenta), strict=True), start=1):
            steps.take(rate, momentum)
            if not record.wants_look(step):
                continue
            trouble = record.look(steps.read())
            score = None
            if record.ends_epoch(step) and not trouble:
                score = None if split is None else evaluate(task, model, split, engine, part)
                trouble = record.unsound(score, steps.finite())
            if trouble:
                record.diverge(step, trouble)
            elif record.ends_epoch(step):
                record.add_point(step, score)
            if record.ended:
                break
    peak = float(max(learning_rates)) if learning_rate is None else learning_rate
    return record.curve(peak, seed, purpose, time.perf_counter() - started)


class _Steps:
    """The running training: takes steps and remembers what they gave since it was last read."""

    def __init__(self, task: Task, model: nn.Module, optimizer: OptimizerFactory, seed: int, engine: Engine) -> None:
        self.task = task
        self.engine = engine
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(self.parameters)
        self.batches = passes(task, seed)
        self.objective = Objective(task, model, engine)
        self.fresh: list[Tensor] = []  # losses and scores in turns, of the steps since the last read

    def take(self, learning_rate: float, momentum: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
            if "momentum" in group:
                group["momentum"] = momentum
        batch = self.engine.place(next(self.batches))
        for parameter in self.parameters:  # what zero_grad does, without its profiling, which small models notice
            parameter.grad = None
        found = self.objective(batch)
        self.optimizer.step()
        self.fresh += found

    def read(self) -> list[tuple[float, float]]:
        """Loss and score of each step since the last read."""
        read = torch.hstack(self.fresh).view(-1, 2).tolist()
        self.fresh.clear()
        return [(loss, score) for loss, score in read]

    def finite(self) -> bool:
        return bool(torch.stack([parameter.detach().isfinite().all() for parameter in self.parameters]).all())


def passes(task: Task, seed: int) -> Iterator[Batch]:
    """The training batches of a run without end, pass after pass, each pass with a seed of its own."""
    number = 0
    while True:
        empty = True
        for batch in task.batches(Split.TRAIN, int(np.random.SeedSequence([seed, number]).generate_state(1)[0])):
            empty = False
            yield batch
        if empty:
            raise TaskError(
                f"Task {type(task).__name__} gave no training batches. Its batches(train, seed) must yield at least one per pass."
            )
        number += 1


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Numbers below the normal range count as zero: diverging and vanishing runs make many, and they are a hundred times slower."""
    already = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
