"""Whether a task keeps the protocol, asked before a search starts, so that what would end every candidate is told in one sentence."""

import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from optevolve.compile import build
from optevolve.errors import OptevolveError, TaskError
from optevolve.library import ZOO
from optevolve.records import Split
from optevolve.tasks.base import Batch, Task

__all__ = ["TaskCheck", "check_task"]

T = TypeVar("T")

SECONDS = 5.0  # for all passes before a search
THOROUGH = 60.0  # for each pass, on request
_MOST = 10_000  # batches beyond which a split to be scored is endless
_GENTLE = 1e-4  # a learning rate at which a sound task does not diverge
_MOMENTS, _NORM = "adam", "muon"  # rules with states, and with norms of whole tensors


@dataclass(frozen=True)
class TaskCheck:
    """What the check measured on the untrained model.

    Attributes:
        parameters: how many numbers there are to train.
        loss: on a training batch.
        score: on a validation batch.
        notes: what is no mistake but worth knowing, a sentence each.
    """

    parameters: int
    loss: float
    score: float
    notes: tuple[str, ...] = ()


def check_task(task: Task, *, thorough: bool = False) -> TaskCheck:
    """Trains a model of the task for a pass with Adam and for two steps with Muon, scores one on the other splits, and looks at all of it.

    Args:
        task: what to try.
        thorough: whole passes of up to a minute each, and whether two calls give the same; else five seconds in all.
    Raises:
        TaskError: for what would end every candidate, or make its numbers mean nothing: says what was expected, what was found, and what
            to do.
    """
    _attributes(task)
    with torch.random.fork_rng(devices=[]):
        return _Check(task, thorough).run()


class _Check:
    """The check of one task, in order."""

    def __init__(self, task: Task, thorough: bool) -> None:
        self.task, self.thorough = task, thorough
        self.notes: list[str] = []

    def run(self) -> TaskCheck:
        first, second = self.model(), self.model()
        self.compare(first, second)
        before = copy.deepcopy(second.state_dict())
        for split in Split:
            self.repeat(split)
        loss = self.train(first)
        if not _same(before, second.state_dict()):
            raise _broken(self.task, "model() must build a fresh model at every call", "training one model changed another one", _FRESH)
        scores = {split: self.score(second, split, before) for split in (Split.VALID, Split.TEST)}
        if self.thorough:
            self.repeat_loss()
        self.steps_by_norm(second)
        return TaskCheck(sum(p.numel() for p in _trainable(first)), loss, scores[Split.VALID], tuple(self.notes))

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        model: object = _call(self.task, "model()", self.task.model)
        if not isinstance(model, nn.Module):
            raise _broken(self.task, "model() must return a torch.nn.Module", f"found {type(model).__name__}")
        for name, parameter in model.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                remedy = "Name the sizes, or call the model once within model()."
                raise _broken(self.task, "model() must make every parameter", f"{name!r} is lazy and has no shape yet", remedy)
        if not _trainable(model):
            raise _broken(self.task, "model() must have parameters to train", "found none with requires_grad")
        return model

    def compare(self, first: nn.Module, second: nn.Module) -> None:
        """Two calls under one seed give models that are equal and have nothing in common."""
        places = {parameter.data_ptr(): name for name, parameter in first.named_parameters() if parameter.requires_grad}
        for name, parameter in second.named_parameters():
            if parameter.requires_grad and parameter.numel() and parameter.data_ptr() in places:
                raise _broken(
                    self.task, "model() must build a fresh model at every call", f"two calls share the parameter {name!r}", _FRESH
                )
        if self.thorough and not _same(first.state_dict(), second.state_dict()):
            remedy = "Draw them from torch's global generator alone, which is seeded for every run."
            raise _broken(self.task, "model() must be the same under the same seed", "two calls gave different parameters", remedy)

    def repeat(self, split: Split) -> None:
        """Two calls give the same batches; before a search, both give one at least."""
        what = f"batches({split}, seed)"
        calls = [_call(self.task, what, lambda: iter(self.task.batches(split, 0))) for _ in range(2)]
        missing = object()
        clock, number = time.monotonic(), 0
        while True:
            pair = [_call(self.task, what, partial(next, call, missing)) for call in calls]
            if not number and any(batch is missing for batch in pair):
                raise _broken(self.task, f"{what} must yield at least one batch at every call", "found none")
            if not self.thorough or all(batch is missing for batch in pair):
                return
            number += 1
            if any(batch is missing for batch in pair) or not _same(pair[0], pair[1]):
                longer = any(batch is missing for batch in pair)
                found = f"one had {number - 1} batches, the other more" if longer else f"batch {number} differs"
                remedy = "Draw what is random in it from a generator with that seed."
                raise _broken(self.task, f"{what} must give the same batches at every call with the same seed", found, remedy)
            if time.monotonic() - clock > THOROUGH:
                return

    def train(self, model: nn.Module) -> float:
        """Takes a pass of training steps; the loss of the first batch."""
        model.train()
        optimizer = _optimizer(model, _MOMENTS)
        untouched = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        first = math.nan
        for number, batch in self.passed(Split.TRAIN):
            place = f"batch {number} of {Split.TRAIN}"
            as_given = [value.clone() for value in _numbers(batch)] if number <= 2 else None
            loss = self.step(model, optimizer, _MOMENTS, batch, number)
            first = loss if number == 1 else first
            untouched -= {name for name, parameter in model.named_parameters() if parameter.grad is not None}
            with torch.no_grad():
                self.scored(model, batch, Split.TRAIN, number)
            if as_given is not None and not _same(as_given, batch):
                remedy = "Work on a copy: the same tensors may come again in the next pass."
                raise _broken(self.task, "loss and score must leave the batch as it is", f"{place} was changed", remedy)
        if untouched:
            names = ", ".join(sorted(untouched)[:3]) + (", …" if len(untouched) > 3 else "")
            self.notes.append(f"No training batch gave a gradient to {len(untouched)} of the parameters: {names}.")
        return first

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer, rule: str, batch: Batch, number: int) -> float:
        """One training step with all that may be wrong with it; its loss."""
        task, place = self.task, f"batch {number} of {Split.TRAIN}"
        where = place + (", which has one example" if _size(batch) == 1 else "")
        last = "Leave out the last, incomplete batch." if _size(batch) == 1 else ""
        loss = _call(task, "loss(model, batch)", lambda: task.loss(model, batch), where, last)
        value = self.finite("loss(model, batch)", loss, number, model, batch)
        if not loss.requires_grad:
            raise _broken(task, "loss(model, batch) must depend on the model's parameters", "found a loss without gradient")
        for parameter in model.parameters():  # zero_grad() would import torch's compiler
            parameter.grad = None
        _call(task, "loss(model, batch).backward()", loss.backward, where)
        self.gradients(model, place)
        _call(task, f"a step of {rule}", optimizer.step, where)
        return value

    def finite(self, what: str, value: object, number: int, model: nn.Module, batch: Batch) -> float:
        found = _scalar(self.task, what, value)
        if math.isfinite(found):
            return found
        if number == 1:
            raise _broken(self.task, f"{what} must be finite for the untrained model", f"found {found}", _SOME)
        torch.manual_seed(0)
        fresh = self.task.model().train()
        with torch.no_grad():
            untrained = self.task.loss(fresh, batch).item()
        if math.isfinite(untrained):
            found_ = f"found {found} on batch {number} after as many steps of {_MOMENTS} at learning rate {_GENTLE:g}"
            raise _broken(self.task, f"{what} must stay finite", found_, "Scale inputs and loss to about one.")
        found_ = f"found {found} on batch {number} of {Split.TRAIN}, also for the untrained model"
        raise _broken(self.task, f"{what} must be finite", found_, _SOME)

    def gradients(self, model: nn.Module, place: str) -> None:
        found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
        if not found:
            raise _broken(self.task, "loss(model, batch) must depend on the model's parameters", "found no gradient for any of them")
        for name, gradient in found.items():
            if gradient.layout != torch.strided:
                remedy = "Leave out sparse=True."
                raise _broken(self.task, "gradients must be dense", f"that of {name!r} is sparse ({gradient.layout})", remedy)
            if not bool(gradient.isfinite().all()):
                remedy = "Look for a root or a logarithm of zero in the loss."
                raise _broken(self.task, "gradients must be finite", f"that of {name!r} is not, on {place}", remedy)

    def repeat_loss(self) -> None:
        """Two calls on the first batch give one loss: equal models, and one seed of torch's generator, which the training loop seeds."""
        found = []
        for _ in range(2):
            model = self.model().train()
            _, batch = next(self.passed(Split.TRAIN))
            torch.manual_seed(1)
            loss = _call(self.task, "loss(model, batch)", partial(self.task.loss, model, batch))
            found.append(_scalar(self.task, "loss(model, batch)", loss))
        if not math.isclose(*found, rel_tol=1e-4, abs_tol=1e-7):
            remedy = (
                "Draw what is random in it from torch's global generator alone, which is seeded for every run, and keep nothing of a call."
            )
            found_ = f"two calls gave {found[0]:.6g} and {found[1]:.6g} on the first batch of {Split.TRAIN}"
            raise _broken(self.task, "loss(model, batch) must be the same for equal models under the same seed", found_, remedy)

    def unchanged(self, model: nn.Module, before: Mapping[str, Any], split: Split) -> None:
        """The model's weights are as they were; on request its buffers too, but for counters."""
        weights = {name for name, _ in model.named_parameters()}
        for name, value in model.state_dict().items():
            looked_at = name in before and (name in weights or self.thorough)
            if looked_at and isinstance(value, Tensor) and value.is_floating_point() and not _same(value, before[name]):
                remedy = "Work on a copy, under torch.no_grad(), and leave model.training as it is."
                raise _broken(self.task, "score(model, batch) must leave the model as it is", f"on {split} it changed {name!r}", remedy)

    def score(self, model: nn.Module, split: Split, before: Mapping[str, Any]) -> float:
        """Scores the model, whose state is `before`, on a pass over a split; the score of the first batch."""
        model.eval()
        first = math.nan
        with torch.no_grad():
            for number, batch in self.passed(split):
                score = self.scored(model, batch, split, number)
                if number == 1:
                    first = score
                    self.unchanged(model, before, split)
                    again = self.scored(model, batch, split, number) if self.thorough else score
                    if not math.isclose(again, score, rel_tol=1e-4, abs_tol=1e-7):
                        remedy = "Draw what it needs from a generator of its own with a fixed seed, and let dropout follow model.training."
                        found = f"two calls gave {score:.6g} and {again:.6g} on the first batch of {split}"
                        raise _broken(self.task, "score(model, batch) must be the same at every call in evaluation", found, remedy)
        self.unchanged(model, before, split)
        return first

    def scored(self, model: nn.Module, batch: Batch, split: Split, number: int) -> float:
        what, place = "score(model, batch)", f"batch {number} of {split}"
        score = _scalar(self.task, what, _call(self.task, what, lambda: self.task.score(model, batch), place))
        if not math.isfinite(score):
            state = "for the untrained model" if number == 1 else f"on {place}"
            remedy = _SOME if split is not Split.TRAIN else "Look for a division by zero or a logarithm of zero in the score."
            raise _broken(self.task, f"{what} must be finite {state}", f"found {score}", remedy)
        if self.task.scores_accuracy and not 0 <= score <= 1:
            raise _broken(self.task, f"{what} must be from 0 to 1 where scores_accuracy is True", f"found {score:.4g} on {split}")
        return score

    def steps_by_norm(self, model: nn.Module) -> None:
        """Two steps of a rule that takes norms of whole tensors."""
        model.train()
        optimizer = _optimizer(model, _NORM)
        for number, batch in itertools.islice(self.passed(Split.TRAIN), 2):
            self.step(model, optimizer, _NORM, batch, number)

    def passed(self, split: Split) -> Iterator[tuple[int, Batch]]:
        """Batches of a pass with their numbers from 1, for as long as the check may take."""
        what = f"batches({split}, seed)"
        batches = _call(self.task, what, lambda: iter(self.task.batches(split, 0)))
        clock, limit = time.monotonic(), THOROUGH if self.thorough else SECONDS / len(Split)
        for number in itertools.count(1):
            batch: Batch | None = _call(self.task, what, lambda: next(batches, None))
            if batch is None:
                if number == 1:
                    raise _broken(self.task, f"{what} must yield at least one batch at every call", "found none")
                return
            yield number, batch
            if time.monotonic() - clock > limit:
                if split is not Split.TRAIN and number > _MOST:
                    remedy = "A split is scored as a whole: let it end."
                    raise _broken(self.task, f"{what} must end", f"it had not after {number:,} batches and {limit:.0f} s", remedy)
                self.notes.append(f"Looked at {number:,} batches of {split} in {limit:.0f} s; the pass had not ended.")
                return


_SOME = "Mend the data; where only some batches are so, train TASK+finite:0.2, which passes over up to a fifth of the batches."
_FRESH = "Make its layers within model(), and keep none of them elsewhere."


def _attributes(task: Task) -> None:
    floors: object = _call(task, "floors", lambda: task.floors)
    if floors is not None and not (
        isinstance(floors, tuple | list) and len(floors) == 2 and all(isinstance(floor, int | float) for floor in floors)
    ):
        raise _broken(task, "floors must be None or two numbers, for trials and full runs", f"found {floors!r}")
    steps: object = _call(task, "floors_from", lambda: task.floors_from)
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise _broken(task, "floors_from must be a whole number of steps", f"found {steps!r}")
    for name in ("has_examples", "scores_accuracy"):
        value: object = _call(task, name, partial(getattr, task, name))
        if not isinstance(value, bool):
            raise _broken(task, f"{name} must be True or False", f"found {value!r}")


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _optimizer(model: nn.Module, rule: str) -> torch.optim.Optimizer:
    return build(ZOO[rule].rule, _trainable(model), lr=_GENTLE, total_steps=_MOST)


def _size(batch: object) -> int:
    """Examples of a batch; 0 where it does not tell."""
    x = getattr(batch, "x", None)
    return len(x) if isinstance(x, Tensor) and x.dim() else 0


def _numbers(value: object) -> list[Tensor]:
    """The tensors, arrays and numbers in a value and in the containers in it; what is something else is left out."""
    if isinstance(value, Tensor):
        return [value.detach() if value.layout == torch.strided else value.detach().to_dense()]
    if isinstance(value, np.ndarray | int | float):
        return [torch.as_tensor(value)] if not isinstance(value, np.ndarray) or value.dtype.kind in "biuf" else []
    parts: list[Any] = list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list | tuple) else []
    own = getattr(value, "__dict__", {}) if isinstance(value, Batch) or is_dataclass(value) else {}
    return [number for part in (*parts, *own.values()) for number in _numbers(part)]


def _same(a: object, b: object) -> bool:
    """Whether two values hold the same numbers; NaN is the same as NaN."""
    ours, theirs = _numbers(a), _numbers(b)
    return len(ours) == len(theirs) and all(
        one.shape == other.shape and one.dtype == other.dtype and bool(((one == other) | (one.isnan() & other.isnan())).all())
        for one, other in zip(ours, theirs, strict=True)
    )


def _scalar(task: Task, what: str, value: object) -> float:
    expected = f"{what} must return a floating-point scalar tensor"
    if isinstance(value, bool | int | float | np.number):
        raise _broken(task, expected, f"found {type(value).__name__}", "Leave out .item(), or return torch.tensor(float(value)).")
    if not isinstance(value, Tensor):
        raise _broken(task, expected, f"found {type(value).__name__}", "Return a tensor of one number.")
    if value.dim() != 0:
        raise _broken(task, expected, f"found a tensor of shape {tuple(value.shape)}", "Take the mean over the batch.")
    if not value.dtype.is_floating_point:
        raise _broken(task, expected, f"found {value.dtype}", "Append .float().")
    return float(value.item())


def _call(task: Task, what: str, method: Callable[[], T], place: str = "", remedy: str = "") -> T:
    try:
        return method()
    except OptevolveError:
        raise
    except Exception as error:  # the method is the user's: it may raise anything, and the cause stays attached
        on = f" (on {place})" if place else ""
        raise _broken(task, f"{what} must return", f"it raised {type(error).__name__}: {error}{on}", remedy) from error


def _broken(task: Task, expected: str, found: str, remedy: str = "") -> TaskError:
    return TaskError(f"Task {type(task).__name__} breaks the task protocol: {expected}; {found}." + (f" {remedy}" if remedy else ""))
