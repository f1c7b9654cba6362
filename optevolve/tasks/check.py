"""Whether a task keeps the protocol, asked before a search starts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from optevolve.errors import OptevolveError, TaskError
from optevolve.records import Split
from optevolve.tasks.base import Batch, Task

__all__ = ["TaskCheck", "check_task"]

T = TypeVar("T")


@dataclass(frozen=True)
class TaskCheck:
    """What the check measured on the untrained model.

    Attributes:
        parameters: how many numbers there are to train.
        loss: on a training batch.
        score: on a validation batch.
    """

    parameters: int
    loss: float
    score: float


def check_task(task: Task) -> TaskCheck:
    """Looks at the task's attributes, and tries model, batches, loss, gradient and score once each.

    Raises:
        TaskError: if floors are no two numbers, the model has no parameters, a split has no batches (also at a second pass), the loss or a
            score is no finite scalar, the loss has no gradient, or one of the task's methods raises; says what was expected and what was
            found.
    """
    _attributes(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _call(task, "model()", task.model)
        if not isinstance(model, nn.Module):
            raise _broken(task, "model() must return a torch.nn.Module", f"found {type(model).__name__}")
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trainable:
            raise _broken(task, "model() must have parameters to train", "found none with requires_grad")
        model.train()
        for _ in range(2):  # the second pass finds batches that come from one exhausted iterator
            batch = _first(task, Split.TRAIN)
        loss = _call(task, "loss(model, batch)", lambda: task.loss(model, batch))
        measured_loss = _scalar(task, "loss(model, batch)", loss)
        if not loss.requires_grad:
            raise _broken(task, "loss(model, batch) must depend on the model's parameters", "found a loss without gradient")
        _call(task, "loss(model, batch).backward()", loss.backward)
        if all(parameter.grad is None for parameter in trainable):
            raise _broken(task, "loss(model, batch) must depend on the model's parameters", "found no gradient for any of them")
        scores = {}
        with torch.no_grad():
            scores[Split.TRAIN] = _score(task, model, batch)
            model.eval()
            for split in (Split.VALID, Split.TEST):
                scores[split] = _score(task, model, _first(task, split))
    for split, score in scores.items():
        if task.scores_accuracy and not 0 <= score <= 1:
            raise _broken(task, "score(model, batch) must be from 0 to 1 where scores_accuracy is True", f"found {score:.4g} on {split}")
    return TaskCheck(sum(parameter.numel() for parameter in trainable), measured_loss, scores[Split.VALID])


def _attributes(task: Task) -> None:
    floors: object = _call(task, "floors", lambda: task.floors)
    if floors is not None and not (
        isinstance(floors, tuple | list) and len(floors) == 2 and all(isinstance(floor, int | float) for floor in floors)
    ):
        raise _broken(task, "floors must be None or two numbers, for trials and full runs", f"found {floors!r}")
    for name in ("has_examples", "scores_accuracy"):
        value: object = _call(task, name, partial(getattr, task, name))
        if not isinstance(value, bool):
            raise _broken(task, f"{name} must be True or False", f"found {value!r}")


def _first(task: Task, split: Split) -> Batch:
    batch: Batch | None = _call(task, f"batches({split}, seed)", lambda: next(iter(task.batches(split, 0)), None))
    if batch is None:
        raise _broken(task, f"batches({split}, seed) must yield at least one batch at every call", "found none")
    return batch


def _score(task: Task, model: nn.Module, batch: Batch) -> float:
    return _scalar(task, "score(model, batch)", _call(task, "score(model, batch)", lambda: task.score(model, batch)))


def _scalar(task: Task, what: str, value: object) -> float:
    if not isinstance(value, Tensor) or value.dim() != 0:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise _broken(task, f"{what} must return a scalar tensor", f"found {found}; take the mean over the batch")
    if not value.dtype.is_floating_point:
        raise _broken(task, f"{what} must return a floating-point scalar", f"found {value.dtype}")
    number = value.item()
    if not math.isfinite(number):
        raise _broken(task, f"{what} must be finite for the untrained model", f"found {number}")
    return float(number)


def _call(task: Task, what: str, method: Callable[[], T]) -> T:
    try:
        return method()
    except OptevolveError:
        raise
    except Exception as error:  # the method is the user's: it may raise anything, and the cause stays attached
        raise _broken(task, f"{what} must return", f"it raised {type(error).__name__}: {error}") from error


def _broken(task: Task, expected: str, found: str) -> TaskError:
    return TaskError(f"Task {type(task).__name__} breaks the task protocol: {expected}; {found}.")
