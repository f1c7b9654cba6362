"""Tasks that go wrong in every way, for workers to import: `poison_task:Line@how=WORD`, and candidates that make a sound task go wrong."""

import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from optevolve.records import Split
from optevolve.tasks import Batch, Task

# Seen before a search starts, by `check_task` or when the task is made.
BROKEN = (
    *("init", "floors", "floors text", "has_examples", "model", "model none", "model no module", "model no parameters"),
    *("batches", "batches none", "batches midway", "batches empty", "batches no tensors"),
    *("loss", "loss not scalar", "loss number", "loss nan", "loss detached", "loss backward", "loss interrupt"),
    *("score", "score not scalar", "score nan", "score text"),
)
DEADLY = ("loss os._exit", "score segfault", "batches sys.exit", "loss memory")  # for a worker


class _Fails(torch.autograd.Function):
    """Goes well forward and not back."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        raise ZeroDivisionError("on the way back")


@dataclass(frozen=True)
class Line(Task):
    """A line through points; `how` is the method that goes wrong, and how it does."""

    has_examples: ClassVar[bool] = True

    how: str = ""

    def __post_init__(self) -> None:
        if self.how == "init":
            raise ZeroDivisionError("while it is made")

    @property
    def floors(self) -> Any:
        if self.how == "floors":
            raise ZeroDivisionError("floors")
        return "high" if self.how == "floors text" else None

    def __getattribute__(self, name: str) -> Any:
        if name == "has_examples" and object.__getattribute__(self, "how") == "has_examples":
            raise ZeroDivisionError("has_examples")
        return object.__getattribute__(self, name)

    def model(self) -> nn.Module:
        match self.how:
            case "model":
                raise ZeroDivisionError("model")
            case "model none":
                return None  # type: ignore[return-value]
            case "model no module":
                return 3  # type: ignore[return-value]
            case "model no parameters":
                return nn.ReLU()
        return nn.Linear(2, 1)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        if self.how == "batches":
            raise ZeroDivisionError("batches")
        return None if self.how == "batches none" else self._batches(seed)  # type: ignore[return-value]

    def _batches(self, seed: int) -> Iterator[Batch]:
        match self.how:
            case "batches empty":
                return
            case "batches midway":
                raise ZeroDivisionError("in the middle of a pass")
            case "batches no tensors":
                yield Batch("x", "y")  # type: ignore[arg-type]
            case "batches sys.exit":
                sys.exit("enough")
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            x = torch.randn(8, 2, generator=generator)
            yield Batch(x, x.sum(1, keepdim=True))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = mse_loss(model(batch.x), batch.y)
        match self.how:
            case "loss":
                raise ZeroDivisionError("loss")
            case "loss interrupt":
                raise KeyboardInterrupt
            case "loss not scalar":
                return (model(batch.x) - batch.y).square()
            case "loss number":
                return 0.5  # type: ignore[return-value]
            case "loss nan":
                return loss * float("nan")
            case "loss detached":
                return loss.detach()
            case "loss backward":
                return _Fails.apply(loss)  # type: ignore[no-any-return]
            case "loss os._exit":
                os._exit(2)
            case "loss memory":
                return loss + torch.empty(25_000_000_000).sum()
        return loss

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        match self.how:
            case "score":
                raise ZeroDivisionError("score")
            case "score not scalar":
                return (model(batch.x) - batch.y).square()
            case "score nan":
                return torch.tensor(float("nan"))
            case "score text":
                return "high"  # type: ignore[return-value]
            case "score segfault":
                ctypes.string_at(0)
        return -mse_loss(model(batch.x), batch.y)


@dataclass(frozen=True)
class Touchy(Line):
    """A sound task until a candidate throws the weights far out; then `where` raises."""

    where: str = "loss"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        self._mind("loss", model)
        return super().loss(model, batch)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        self._mind("score", model)
        return super().score(model, batch)

    def _mind(self, where: str, model: nn.Module) -> None:
        if where == self.where and float(model(torch.ones(1, 2)).detach().abs().max()) > 30:
            raise ArithmeticError(f"too far out for {where}")
