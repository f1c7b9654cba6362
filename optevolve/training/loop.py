"""The one training loop: a task, an optimizer, and the learning rate and momentum of every step → TrainingCurve.

Everything random follows from the seed, and the caller's random state is left alone. Losses and scores stay tensors between looks, for
reading them at every step would make an accelerator wait; ten steps is the longest that a diverged run goes unnoticed.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optevolve.errors import TaskError
from optevolve.records import Split, Status, TrainingCurve
from optevolve.tasks import Batch, Task
from optevolve.training.engine import PLAIN, Engine
from optevolve.training.halves import Part, part_of

__all__ = ["LOOK_STEPS", "OptimizerFactory", "evaluate", "train", "untrained_score"]

OptimizerFactory: TypeAlias = Callable[[list[nn.Parameter]], Optimizer]

LOOK_STEPS = 10  # steps between looks at the losses


def train(
    task: Task,
    optimizer: OptimizerFactory,
    learning_rates: Sequence[float] | npt.NDArray[np.float64],
    momenta: Sequence[float] | npt.NDArray[np.float64],
    *,
    seed: int,
    epoch_steps: int,
    split: Split | None = Split.VALID,
    floor: float | None = None,
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
        floor, floor_epoch: the run is stopped after epoch `floor_epoch` (from 1) if that epoch's training score is below `floor`.
        max_loss_ratio: the run is diverged once a loss exceeds this multiple of the first loss plus one.
        learning_rate: what the curve reports as its peak; the largest of `learning_rates` if not given.
        purpose: what the curve reports as its purpose.
        engine: how the steps are computed.
        part: of `split`: all of it, or the half for choices or the one for the judgement.
    Returns:
        The curve; its status is DIVERGED if a loss, a score or a parameter became non-finite or a loss exploded, at most ten steps after it
        did, and STOPPED below the floor. A diverged run's last point is the step at which that was seen, its score NaN.
    Raises:
        TaskError: if the task has no training batches.
    """
    started = time.perf_counter()
    curve = _Curve()
    with torch.random.fork_rng(devices=[]), _denormals_flushed():
        torch.manual_seed(seed)
        model = engine.prepare(task.model().train())
        steps = _Steps(task, model, optimizer, seed, max_loss_ratio, engine)
        for step, (rate, momentum) in enumerate(zip(map(float, learning_rates), map(float, momenta), strict=True), start=1):
            steps.take(rate, momentum)
            epoch_ends = step % epoch_steps == 0 or step == len(learning_rates)
            if epoch_ends or step % LOOK_STEPS == 0:
                trouble = steps.look()
                if epoch_ends and not trouble:
                    score = math.nan if split is None else evaluate(task, model, split, engine, part)
                    trouble = steps.unsound(score if split is not None else 0.0)
                if trouble:
                    curve.add(step, *steps.means(), math.nan)
                    curve.end(Status.DIVERGED, trouble)
                    break
                if epoch_ends:
                    loss, training_score = steps.means()
                    curve.add(step, loss, training_score, score)
                    if floor is not None and len(curve.steps) == floor_epoch and training_score < floor:
                        curve.end(Status.STOPPED, f"training score {training_score:.4g} below {floor:.4g} after epoch {floor_epoch}")
                        break
    return TrainingCurve(
        learning_rate=float(max(learning_rates)) if learning_rate is None else learning_rate,
        seed=seed,
        steps=tuple(curve.steps),
        train_loss=tuple(curve.train_loss),
        train_score=tuple(curve.train_score),
        score=tuple(curve.score),
        status=curve.status,
        reason=curve.reason,
        purpose=purpose,
        seconds=time.perf_counter() - started,
    )


def evaluate(task: Task, model: nn.Module, split: Split, engine: Engine = PLAIN, part: Part = "all") -> float:
    """The model's score over one pass of a split or a part of it, batches weighted by size, in evaluation mode, which is put back."""
    mode = model.training
    model.eval()
    scores: list[Tensor] = []
    sizes: list[int] = []
    with torch.no_grad(), engine.autocast():
        for batch in part_of(iter(task.batches(split, 0)), part):
            scores.append(task.score(model, batch))
            sizes.append(_size(batch))
    model.train(mode)
    if not scores:
        raise TaskError(f"Task {type(task).__name__} gave no {split} batches. Its batches({split}, seed) must yield at least one.")
    return float(np.average(torch.stack(scores).tolist(), weights=sizes))


def untrained_score(task: Task, seed: int) -> float:
    """Validation score of the model that a run with this seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return evaluate(task, task.model(), Split.VALID)


class _Steps:
    """The running training: takes steps and remembers what they gave since the last point of the curve."""

    def __init__(self, task: Task, model: nn.Module, optimizer: OptimizerFactory, seed: int, max_loss_ratio: float, engine: Engine) -> None:
        self.task = task
        self.engine = engine
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = optimizer(self.parameters)
        self.batches = _passes(task, seed)
        self.max_loss_ratio = max_loss_ratio
        self.echo = _Echo(model)
        self.count = 0
        self.limit: float | None = None
        self.fresh: list[tuple[Tensor, Tensor]] = []  # (loss, score) of the steps since the last look
        self.seen: list[tuple[float, float]] = []  # and of those looked at since the last point

    def take(self, learning_rate: float, momentum: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
            if "momentum" in group:
                group["momentum"] = momentum
        batch = next(self.batches)
        self.optimizer.zero_grad()
        with self.echo.listening(), self.engine.autocast():
            loss = self.task.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            score = self.task.score(self.echo, batch)
        self.echo.forget()
        self.optimizer.step()
        self.fresh.append((loss.detach(), score))
        self.count += 1

    def look(self) -> str:
        """Reads the losses and scores since the last look; says what is wrong with one of them, or nothing."""
        read = torch.stack([value for pair in self.fresh for value in pair]).view(-1, 2).tolist()
        first = self.count - len(self.fresh)
        self.fresh.clear()
        self.seen += [(loss, score) for loss, score in read]
        for step, (loss, score) in enumerate(read, start=first):
            if not math.isfinite(loss):
                return f"loss {loss} at step {step}"
            if not math.isfinite(score):
                return f"score {score} at step {step}"
            if self.limit is None:
                self.limit = self.max_loss_ratio * (abs(loss) + 1)
            if loss > self.limit:
                return f"loss {loss:.3g} at step {step}, above {self.limit:.3g}"
        return ""

    def unsound(self, score: float) -> str:
        """What the last update spoilt, which no training loss has seen yet."""
        if not math.isfinite(score):
            return f"validation score {score} after step {self.count - 1}"
        if not torch.stack([parameter.detach().isfinite().all() for parameter in self.parameters]).all():
            return f"a parameter not finite after step {self.count - 1}"
        return ""

    def means(self) -> tuple[float, float]:
        """Mean loss and score since the last point; NaN where not finite."""
        loss, score = np.mean(self.seen, axis=0)
        self.seen.clear()
        return (float(loss) if math.isfinite(loss) else math.nan), (float(score) if math.isfinite(score) else math.nan)


class _Echo(nn.Module):
    """Stands in for the model when a training batch is scored: answers with the output that the loss had for the same arguments.

    Without it every step would pay for a second forward pass, or every task would need a method that returns loss and score together.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not as a submodule: what this one lacks is looked up there
        self.heard: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    @contextmanager
    def listening(self) -> Iterator[None]:
        hook = self.__dict__["model"].register_forward_hook(self._hear, with_kwargs=True)
        try:
            yield
        finally:
            hook.remove()

    def _hear(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.heard.append((args, kwargs, output))

    def forget(self) -> None:
        self.heard.clear()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        for known_args, known_kwargs, output in self.heard:
            same = len(args) == len(known_args) and all(a is b for a, b in zip(args, known_args, strict=True))
            if same and kwargs.keys() == known_kwargs.keys() and all(kwargs[key] is known_kwargs[key] for key in kwargs):
                return output
        return self.__dict__["model"](*args, **kwargs)


class _Curve:
    """A TrainingCurve in the making."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.train_loss: list[float] = []
        self.train_score: list[float] = []
        self.score: list[float] = []
        self.status = Status.COMPLETED
        self.reason = ""

    def add(self, step: int, train_loss: float, train_score: float, score: float) -> None:
        self.steps.append(step)
        self.train_loss.append(train_loss)
        self.train_score.append(train_score)
        self.score.append(score)

    def end(self, status: Status, reason: str) -> None:
        self.status, self.reason = status, reason


def _passes(task: Task, seed: int) -> Iterator[Batch]:
    """Training batches without end, pass after pass, each pass with a seed of its own."""
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


def _size(batch: Batch) -> int:
    x = getattr(batch, "x", None)
    return len(x) if isinstance(x, Tensor) and x.dim() else 1


@contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Numbers below the normal range count as zero: diverging and vanishing runs make many, and they are a hundred times slower."""
    already = sys.float_info.min / 2 == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(already)
