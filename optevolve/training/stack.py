"""R models of one shape as one vectorised program: their losses and gradients by a single forward and backward pass.

The parameters of all models lie in one buffer of shape (R, n), a model to a row. The forward pass of one model is vectorised by
`torch.vmap`; the backward pass is autograd's own on the sum of the losses, whose gradient falls apart into that of each model.
(`torch.func.grad` inside of `vmap` gives the same at twice the cost: every operation of the backward pass then goes through it too.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from optevolve.tasks import Batch, Task
from optevolve.training.echo import Echo
from optevolve.training.engine import Engine
from optevolve.training.graph import Captured
from optevolve.training.masks import MaskedDropout, Masks

__all__ = ["Stack", "UnstackableError"]

# What torch says when a program cannot be vectorised: random numbers, .item(), branches on values, operations without a batching rule.
_VMAP_SAYS = re.compile(r"vmap|functorch|batching rule|data-dependent|torch\.func|BatchedTensor", re.IGNORECASE)


class UnstackableError(Exception):
    """Runs cannot be trained together; the message says why. They can be trained one at a time."""


class Stack:
    """Models trained together.

    Args:
        task: what is trained.
        models: one per seed, freshly initialised, in training mode, alike but for their numbers; the first is taken over.
        generators: of the dropout of each seed.
        seeds: the number of the seed of each model of the stack, shape (R,), in [0, len(models)).
        engine: how the steps are computed; layers are not fused.
    Raises:
        UnstackableError: if the models have what a vectorised pass would leave out.
    """

    def __init__(
        self, task: Task, models: Sequence[nn.Module], generators: Sequence[torch.Generator], seeds: Sequence[int], engine: Engine
    ) -> None:
        model = models[0]
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if len({(p.dtype, p.device) for p in trainable.values()}) > 1:
            raise UnstackableError("parameters of several types")
        if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in trainable.values()):
            raise UnstackableError("hooks on the gradients of single parameters")
        self.engine = engine
        self.generators = list(generators)
        self.seeds = list(seeds)
        self.names = list(trainable)
        self.shapes = [p.shape for p in trainable.values()]
        self.sizes = [p.numel() for p in trainable.values()]
        with torch.no_grad():
            rows = [torch.cat([dict(m.named_parameters())[name].reshape(-1) for name in self.names]) for m in models]
            others = [_others(m) for m in models]
            self.parameters = torch.stack(rows)[self.seeds]
            self.buffers = {name: torch.stack([other[name] for other in others])[self.seeds] for name in others[0]}
        self.grad = torch.empty_like(self.parameters)
        self.masks = Masks()
        MaskedDropout.replace_in(model, self.masks)
        self.model = model
        self._both = _LossAndScore(task, model, engine)
        self._batch_type: type[Batch] = Batch
        self._recorded: list[torch.Size] | None = None
        self._proven = False
        self._captured: Captured | None = None
        self._lay_out()

    def __len__(self) -> int:
        return len(self.parameters)

    def live_seeds(self) -> list[int]:
        """Numbers of the seeds that some model still has, in order."""
        return sorted(set(self.seeds))

    def rows(self) -> list[list[Tensor]]:
        """The parameters of each model, views of the buffer in the models' order."""
        return [[piece[row] for piece in self.split(self.parameters)] for row in range(len(self))]

    def split(self, flat: Tensor) -> list[Tensor]:
        """Views of a buffer of shape (R, n): one per parameter, of shape (R, *its shape)."""
        return [piece.view(len(flat), *shape) for piece, shape in zip(torch.split(flat, self.sizes, dim=1), self.shapes, strict=True)]

    def backward(self, batches: dict[int, Batch]) -> tuple[Tensor, Tensor]:
        """One pass over a batch: the loss and score of each model, shape (R,) both; gradients go to `grad`, shape (R, n).

        Args:
            batches: of each live seed.
        Raises:
            UnstackableError: if the task's loss cannot be vectorised, or batches are not of one shape.
        """
        live = self.live_seeds()
        self._record(batches[live[0]])
        values = self._by_model([tuple(batches[seed]) for seed in live])
        masks = self._by_model([self.masks.draw(self.generators[seed]) for seed in live])
        if not (self.engine.graph and self._proven):  # the first pass shows whether it can be vectorised, and is not recorded
            return self._pass(values, masks)
        if self._captured is None:
            self._captured = Captured(
                lambda inputs: self._pass(inputs[: len(values)], inputs[len(values) :]), [*values, *masks], list(self.buffers.values())
            )
        losses, scores = self._captured([*values, *masks])
        return losses, scores

    def _pass(self, values: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of all models."""
        dim = None if len(self.live_seeds()) == 1 else 0
        program = torch.vmap(self._one, in_dims=(0, 0, dim, dim), randomness="error")
        try:
            losses, scores = program(dict(zip(self.names, self._leaves, strict=True)), self.buffers, values, masks)
        except RuntimeError as error:
            # The same pass has just run for one model alone. What vmap does not say is a fault, and no reason to go another way.
            if self._proven or not _VMAP_SAYS.search(str(error)):
                raise
            raise UnstackableError(str(error).splitlines()[0]) from error
        grads = torch.autograd.grad(losses.sum(), self._leaves, allow_unused=True)
        for name, grad in zip(self.names, grads, strict=True):
            if grad is None:
                raise UnstackableError(f"parameter {name} without a gradient")
        self._proven = True
        torch.cat([grad.reshape(len(self), -1) for grad in grads], dim=1, out=self.grad)
        return losses.detach(), scores.detach()

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all models but these."""
        index = torch.tensor(rows, device=self.parameters.device)
        self.seeds = [self.seeds[row] for row in rows]
        self.parameters = self.parameters.index_select(0, index)
        self.buffers = {name: buffer.index_select(0, index) for name, buffer in self.buffers.items()}
        self.grad = torch.empty_like(self.parameters)
        self._lay_out()

    def finite(self) -> list[bool]:
        """Of each model, whether all its parameters are."""
        found: list[bool] = self.parameters.isfinite().all(dim=1).tolist()
        return found

    def one(self, row: int) -> nn.Module:
        """A model of the stack by itself, to be evaluated before the next is asked for."""
        with torch.no_grad():
            state = dict(self.model.named_parameters()) | dict(self.model.named_buffers())
            for name, piece in zip(self.names, self.split(self.parameters), strict=True):
                state[name].copy_(piece[row])
            for name, buffer in self.buffers.items():
                state[name].copy_(buffer[row])
        return self.model

    def _lay_out(self) -> None:
        self._captured = None
        self._leaves = [piece.detach().requires_grad_() for piece in self.split(self.parameters)]
        self._index = torch.tensor([self.live_seeds().index(seed) for seed in self.seeds], device=self.parameters.device)

    def _record(self, batch: Batch) -> None:
        """Runs one model alone on a batch of a new shape, to learn its masks; what the task itself raises, it raises here."""
        if not all(isinstance(value, Tensor) for value in batch):
            raise UnstackableError(f"batches of other things than tensors ({type(batch).__name__})")
        shapes = [value.shape for value in batch]
        if shapes == self._recorded:
            return
        self._recorded, self._batch_type = shapes, type(batch)
        self._captured = None
        self.masks.record()
        with torch.no_grad():
            state = {name: piece[0] for name, piece in zip(self.names, self.split(self.parameters), strict=True)}
            state |= {name: buffer[0].clone() for name, buffer in self.buffers.items()}
            before = torch.get_rng_state()
            functional_call(self._both, {f"model.{name}": value for name, value in state.items()}, (batch,))
            torch.set_rng_state(before)

    def _by_model(self, per_seed: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Tensors of each live seed as those of each model, shape (R, …); of a single seed as they are, shared by all models."""
        if len(per_seed) == 1:
            return list(per_seed[0])
        together = []
        for values in zip(*per_seed, strict=True):
            if len({value.shape for value in values}) > 1:
                raise UnstackableError(f"batches of several shapes ({', '.join(str(tuple(value.shape)) for value in values)})")
            together.append(torch.stack(values).index_select(0, self._index))
        return together

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], values: list[Tensor], masks: list[Tensor]) -> Any:
        self.masks.feed(masks)
        state = {f"model.{name}": value for name, value in (parameters | buffers).items()}
        return functional_call(self._both, state, (self._batch_type(*values),))


class _LossAndScore(nn.Module):
    """What a step wants to know of a model, in one module, so that `functional_call` can change the model's tensors around both."""

    def __init__(self, task: Task, model: nn.Module, engine: Engine) -> None:
        super().__init__()
        self.task = task
        self.model = model
        self.engine = engine
        self.__dict__["echo"] = Echo(model)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        echo: Echo = self.__dict__["echo"]
        with echo.listening(), self.engine.autocast():
            loss = self.task.loss(self.model, batch)
        with torch.no_grad(), echo.answering(), self.engine.autocast():
            score = self.task.score(self.model, batch)
        return loss, score


def _others(model: nn.Module) -> dict[str, Tensor]:
    """Buffers and frozen parameters."""
    frozen = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    return frozen | dict(model.named_buffers())
