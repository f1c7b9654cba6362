"""Adverse conditions over any task: wrappers that spoil its labels, its balance, its gradients, or change its batch size.

A wrapper is a task around a task. It touches training alone: VALID and TEST batches pass as they are. Whatever it does to examples it does
to the same examples in every pass, run and process, as if the data had come so; the numbers of `NumberedBatch` tell them apart, and where
a task gives none, their contents do (an augmented view then counts as another example). What it does to gradients it draws from torch's
global generator, which the training loop seeds.

Gradients are changed by hooks on the parameters of the model that `model()` returns: `loss.backward()` leaves changed gradients in
`.grad`, and the training loop knows nothing of it. Gradients taken in other ways (`torch.func.grad` over copies of the parameters) pass the
hooks by.
"""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from optevolve.errors import TaskError
from optevolve.records import Split
from optevolve.tasks.base import Batch, NumberedBatch, Task
from optevolve.tasks.examples import example_keys, mixed, numbers_of, picked, regrouped, uniform

__all__ = [
    "GradientNoise",
    "Imbalance",
    "LabelNoise",
    "Rebatched",
    "SparseGradients",
    "Wrapper",
    "around",
    "batch_option",
    "inside",
    "with_batch_size",
]


@dataclass(frozen=True)
class Wrapper(Task):
    """A task that passes everything on to another; subclasses change something.

    Attributes:
        task: the task inside.
        value: how strong the condition is; its range is the subclass's.
        keeps_floors: whether the inner task's floors still mean something; else a rule has to beat the untrained model.
    """

    keeps_floors: ClassVar[bool] = True
    name: ClassVar[str] = ""
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = float("inf")
    needs_examples: ClassVar[bool] = False

    task: Task
    value: float

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:  # refuses NaN too
            span = f"at least {self.low:g}" if self.high == float("inf") else f"from {self.low:g} to {self.high:g}"
            raise TaskError(f"Wrapper {self.name!r} takes a number {span}; found {self.value:g}.")
        if self.needs_examples and not self.task.has_examples:
            raise TaskError(f"Wrapper {self.name!r} needs a task with examples; {type(self.task).__name__} is a function without any.")
        # The class attributes of the inner task become attributes of this one: they belong to the instance here.
        for fact in ("summary", "budget", "data_source", "licence", "citation", "has_examples", "scores_accuracy", "floors_from"):
            object.__setattr__(self, fact, getattr(self.task, fact))
        object.__setattr__(self, "floors", self.task.floors if self.keeps_floors else None)

    def model(self) -> nn.Module:
        return self.task.model()

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return self.task.batches(split, seed) if split != Split.TRAIN else self.training_batches(seed)

    def training_batches(self, seed: int) -> Iterator[Batch]:
        """One training pass."""
        return self.task.batches(Split.TRAIN, seed)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.loss(model, batch)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.task.score(model, batch)

    def count_classes(self) -> int:
        return self._classes

    @cached_property
    def _classes(self) -> int:
        return self.task.count_classes()


@dataclass(frozen=True)
class LabelNoise(Wrapper):
    """A share `value` of the training targets is another class, drawn uniformly from the others; the same targets in every pass.

    Targets are class numbers, one per example or, as in language models, one per position. Training scores are those on the wrong targets.
    """

    name: ClassVar[str] = "label-noise"
    high: ClassVar[float] = 1.0
    keeps_floors: ClassVar[bool] = False
    needs_examples: ClassVar[bool] = True

    def training_batches(self, seed: int) -> Iterator[Batch]:
        for batch in self.task.batches(Split.TRAIN, seed):
            _require_class_numbers(self, batch.y)
            classes = self.count_classes()
            if classes < 2:
                raise TaskError(f"Wrapper {self.name!r} needs targets of two classes or more; {type(self.task).__name__} has {classes}.")
            keys = example_keys(batch)
            if keys.shape != batch.y.shape:  # one number for an example of several targets
                positions = np.arange(batch.y[0].numel(), dtype=np.uint64)
                keys = mixed(keys[:, None] + positions * np.uint64(0x9E3779B97F4A7C15)).reshape(batch.y.shape)
            shift = 1 + (uniform(keys, 1) * (classes - 1)).astype(np.int64)
            wrong = np.where(uniform(keys, 0) < self.value, shift, 0)
            moved = (batch.y + torch.from_numpy(wrong).to(batch.y)) % classes
            y = torch.where(batch.y < 0, batch.y, moved)  # a negative target is one to be ignored, by torch's custom
            yield NumberedBatch.of(batch.x, y, numbers_of(batch))


@dataclass(frozen=True)
class Imbalance(Wrapper):
    """Long-tailed training classes: the last has 1/`value` of the examples it had, the first all, geometrically between.

    Of each class the same examples are kept in every pass, and batches keep their size, so that a pass has fewer of them. The share kept of
    class k out of K is value^(−k/(K−1)), to within chance. Source: Cui et al., arXiv 1901.05555 (long-tailed CIFAR).
    """

    name: ClassVar[str] = "imbalance"
    low: ClassVar[float] = 1.0
    keeps_floors: ClassVar[bool] = False
    needs_examples: ClassVar[bool] = True

    def training_batches(self, seed: int) -> Iterator[Batch]:
        size, kept = 0, []
        share = self.value ** -(np.arange(self.count_classes()) / max(self.count_classes() - 1, 1))
        for batch in self.task.batches(Split.TRAIN, seed):
            _require_class_numbers(self, batch.y)
            if batch.y.dim() != 1:
                raise TaskError(f"Wrapper {self.name!r} needs one class per example; found targets of shape {tuple(batch.y.shape)}.")
            size = max(size, len(batch.y))
            chosen = torch.from_numpy(uniform(example_keys(batch), 2) < share[batch.y.cpu().numpy()]).to(batch.y.device)
            kept.append(picked(batch, chosen))
        yield from regrouped(iter(kept), size)


@dataclass(frozen=True)
class Rebatched(Wrapper):
    """Training batches of `value` examples, put together from those of a task that has no option `batch_size`."""

    name: ClassVar[str] = "batch"
    low: ClassVar[float] = 1.0
    needs_examples: ClassVar[bool] = True

    def training_batches(self, seed: int) -> Iterator[Batch]:
        yield from regrouped(self.task.batches(Split.TRAIN, seed), int(self.value))


@dataclass(frozen=True)
class _GradientWrapper(Wrapper):
    def model(self) -> nn.Module:
        model = self.task.model()
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self.spoil)  # type: ignore[no-untyped-call]
        return model

    @abstractmethod
    def spoil(self, gradient: Tensor) -> Tensor:
        """What a parameter's gradient becomes, a new tensor of the same shape."""


@dataclass(frozen=True)
class GradientNoise(_GradientWrapper):
    """Normal noise on every gradient, its deviation `value` times the root mean square of that parameter's gradient at that step.

    Relative, so that one value means the same on every task, layer and at every time of the training.
    """

    name: ClassVar[str] = "gradient-noise"

    def spoil(self, gradient: Tensor) -> Tensor:
        return gradient + self.value * gradient.square().mean().sqrt() * torch.randn_like(gradient)


@dataclass(frozen=True)
class SparseGradients(_GradientWrapper):
    """Every entry of every gradient is zero with probability `value`, drawn anew at each step; the others stay as they are."""

    name: ClassVar[str] = "sparse-gradients"
    high: ClassVar[float] = 1.0

    def spoil(self, gradient: Tensor) -> Tensor:
        # Not a product: a gradient that is not finite is either kept or gone.
        return torch.where(torch.rand_like(gradient) < self.value, torch.zeros_like(gradient), gradient)


def with_batch_size(task: Task, size: int) -> Task:
    """The task with training batches of `size` examples: by its option `batch_size`, inside any wrappers, or else regrouped.

    Raises:
        TaskError: if `size` is below 1, or the task is a function without examples.
    """
    inner = inside(task)
    if batch_option(inner) is None:
        return Rebatched(task, size)
    changed = replace(inner, batch_size=size)  # type: ignore[call-arg]  # a field of the subclass, as just seen
    return around(task, inner, changed)


def inside(task: Task) -> Task:
    """The task inside the wrappers that leave its batches as large as they are."""
    while isinstance(task, Wrapper) and not isinstance(task, Rebatched):
        task = task.task
    return task


def batch_option(task: Task) -> int | None:
    """The task's own option `batch_size`; None if it has none."""
    own = any(field.name == "batch_size" and field.init for field in fields(task))
    return int(task.batch_size or 0) if own else None  # type: ignore[attr-defined]  # a field of the subclass, as just seen


def around(task: Task, inner: Task, changed: Task) -> Task:
    """The task with `changed` in the place of `inner`."""
    return changed if task is inner or not isinstance(task, Wrapper) else replace(task, task=around(task.task, inner, changed))


def _require_class_numbers(wrapper: Wrapper, y: Tensor) -> None:
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise TaskError(f"Wrapper {wrapper.name!r} needs targets that are class numbers (integers); found {y.dtype}.")
