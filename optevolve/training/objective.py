"""What a step learns from a batch: loss, gradients and score, by the task's own methods or, where these are plain classification, fused.

Cross-entropy, its way back and the accuracy are a dozen calls of torch, which a small model notices; fused they are one C++ loop over the
logits, compiled once and kept on disk, from which the backward pass of the model starts. A model that is a chain of fused layers is then
walked forth and back without autograd, which would cost a small one a tenth of its step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from optevolve.compile.kernel import library
from optevolve.tasks import Batch, Task
from optevolve.tasks.classification import Classification
from optevolve.training.chain import back_through, links_of, run_through
from optevolve.training.echo import Echo
from optevolve.training.elements import ELEMENTS, integers
from optevolve.training.engine import Engine

__all__ = ["Objective", "only_calls"]

_TEXT = (
    ELEMENTS
    + r"""
// Mean cross-entropy and accuracy of `shape`: examples, classes; `dx` is the gradient by the logits `x`. Of equal logits the first is the
// answer, and NaN is the largest, as torch has it. False, and nothing written, if a label is no class.
extern "C" bool classify(const i64* shape, const float* x, const i64* labels, float* dx, float* loss_and_accuracy) {
  const i64 examples = shape[0], classes = shape[1];
  for (i64 n = 0; n < examples; n++)
    if (labels[n] < 0 || labels[n] >= classes) return false;
  double loss = 0;
  i64 right = 0;
  for (i64 n = 0; n < examples; n++) {
    const float* row = x + n * classes;
    i64 answer = 0;
    for (i64 k = 1; k < classes && row[answer] == row[answer]; k++)
      if (row[k] > row[answer] || row[k] != row[k]) answer = k;
    right += answer == labels[n];
    for (i64 k = 0; k < classes; k++) dx[n * classes + k] = row[k] - row[answer];
    loss -= dx[n * classes + labels[n]];
  }
  along(examples * classes, [&](auto lanes, i64 j) { lanes.put(dx + j, exponential(lanes.get(dx + j))); });
  for (i64 n = 0; n < examples; n++) {
    float* row = dx + n * classes;
    double total = 0;
    for (i64 k = 0; k < classes; k++) total += row[k];
    loss += std::log(total);
    const float share = float(1 / (total * double(examples)));
    for (i64 k = 0; k < classes; k++) row[k] *= share;
    row[labels[n]] -= 1 / float(examples);
  }
  loss_and_accuracy[0] = float(loss / double(examples));
  loss_and_accuracy[1] = float(right) / float(examples);
  return true;
}
"""
)


@cache
def _kernel() -> Callable[..., bool] | None:
    loaded = library(_TEXT, "classify")
    if loaded is None:
        return None
    kernel = loaded.classify
    kernel.argtypes = [ctypes.c_void_p] * 5
    kernel.restype = ctypes.c_bool
    return kernel


def only_calls(task: Task) -> bool:
    """Whether loss and score are known to do nothing with the model but call it: they are this package's, in every wrapper and inside."""
    inner: object = task
    while isinstance(inner, Task):
        methods = (type(inner).loss, type(inner).score)
        if {"loss", "score"} & vars(inner).keys() or not all(method.__module__.startswith("optevolve.") for method in methods):
            return False
        inner = getattr(inner, "task", None)
    return True


def _classifies(task: Task) -> bool:
    """Whether loss and score are those of `Classification`, which do nothing with the model but call it."""
    inherited = type(task).loss is Classification.loss and type(task).score is Classification.score
    return inherited and not {"loss", "score"} & vars(task).keys()


class _Stands(nn.Module):
    """In a model's place, for the loss and score of `Classification` alone: it gives the logits that are there already."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _: Tensor) -> Tensor:
        return self.logits


class Objective:
    """Takes batches of one training; the parameters' gradients must be None before each.

    Args:
        task: what is trained.
        model: as the engine has prepared it, in training mode.
        engine: how it is computed.
    """

    def __init__(self, task: Task, model: nn.Module, engine: Engine) -> None:
        self.task = task
        self.model = model
        self.engine = engine
        self.kernel = _kernel() if engine.fused and engine.device == "cpu" and _classifies(task) else None
        self.links = None if self.kernel is None else links_of(model)
        self.echo = None if self.kernel else Echo(model)

    def __call__(self, batch: Batch) -> tuple[Tensor, ...]:
        """Leaves the gradients of the batch's loss with the parameters.

        Returns:
            The loss and the training score: two scalars, or both in one tensor of shape (2,).
        """
        if self.echo is None:
            return self._classify(batch)
        with self.echo.listening(), self.engine.autocast():
            loss = self.task.loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad(), self.echo.answering(), self.engine.autocast():
            score = self.task.score(self.model, batch)
        return loss.detach(), score

    def _classify(self, batch: Batch) -> tuple[Tensor, ...]:
        """The same where the loss is cross-entropy and the score accuracy."""
        with self.engine.autocast():  # which decides what a layer takes, too
            links = self.links if self.links and all(link.takes(batch.x) for link in self.links) else None
            if links is None:
                logits = self.model(batch.x)
            else:
                with torch.no_grad():
                    logits, way = run_through(links, batch.x)
        slope, found = self._judge(logits.detach(), batch)
        if links is None:
            logits.backward(slope)
            return found
        with torch.no_grad():
            _, gradients = back_through(way, slope, needs_input=False)
        for parameter, gradient in zip((p for link in links for p in link.learned()), gradients, strict=True):
            parameter.grad = gradient
        return found

    def _judge(self, logits: Tensor, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Gradient by the logits, and what `__call__` returns; torch's where the kernel does not know what to do."""
        assert self.kernel is not None
        labels = batch.y
        fits = logits.dtype is torch.float32 and logits.dim() == 2 and logits.numel() > 0
        if fits and labels.dtype is torch.int64 and labels.shape == logits.shape[:1]:
            x, y = logits.contiguous(), labels.contiguous()
            slope, both = torch.empty_like(x), torch.empty(2)
            if self.kernel(integers(*x.shape), x.data_ptr(), y.data_ptr(), slope.data_ptr(), both.data_ptr()):
                return slope, (both,)
        model = _Stands(logits.requires_grad_())
        with self.engine.autocast():
            loss = self.task.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        assert logits.grad is not None
        with torch.no_grad():
            return logits.grad, (loss.detach(), self.task.score(model, batch))
