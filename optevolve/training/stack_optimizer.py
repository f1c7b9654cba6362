"""One optimizer step on every model of a stack, each with its own learning rate, momentum, weight decay and random draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from optevolve.compile.contract import RuleOptimizer
from optevolve.compile.draws import draw, stream_key
from optevolve.compile.flat import lay_flat
from optevolve.compile.reduce import Reduce
from optevolve.training.runs import Run
from optevolve.training.stack import Stack

__all__ = ["StackOptimizer", "optimizer_of"]

_Values: TypeAlias = npt.NDArray[np.float64]


class StackOptimizer(ABC):
    """Steps the models of a stack by the gradients in it.

    Attributes:
        stack: the models.
        rates, momenta: of each step and model, shape (steps, R).
    """

    def __init__(self, stack: Stack, rates: _Values, momenta: _Values) -> None:
        self.stack = stack
        self.rates = rates
        self.momenta = momenta

    @abstractmethod
    def step(self, t: int) -> None:
        """Step t, from 0; every step once and in order."""

    @abstractmethod
    def keep(self, rows: Sequence[int]) -> None:
        """Drops what belongs to other models, after the stack has dropped them."""


def optimizer_of(runs: Sequence[Run], stack: Stack) -> StackOptimizer:
    """The optimizer of a stack whose models are trained by these runs: vectorised for a rule, one per model for whatever else there is."""
    rates, momenta = (np.stack([np.asarray(values, dtype=np.float64) for values in columns], axis=1) for columns in (
        [run.learning_rates for run in runs], [run.momenta for run in runs],
    ))  # fmt: skip
    parameters = [[nn.Parameter(view) for view in row] for row in stack.rows()]
    optimizers = [run.optimizer(own) for run, own in zip(runs, parameters, strict=True)]
    rules = [optimizer for optimizer in optimizers if isinstance(optimizer, RuleOptimizer)]
    if len(rules) == len(runs) and _are_one(rules, stack):
        return _StackedRule(stack, rates, momenta, rules)
    return _OneEach(stack, rates, momenta, optimizers)


def _are_one(optimizers: Sequence[RuleOptimizer], stack: Stack) -> bool:
    """Whether all follow one rule and differ in numbers alone."""
    if stack.parameters.dtype not in (torch.float32, torch.float64):
        return False
    first = optimizers[0]
    shared = ("total_steps", "maximize", "capturable", "differentiable")
    wanted = [first.defaults[key] for key in shared]
    return not any(wanted[2:]) and all(
        type(other) is type(first)
        and len(other.param_groups) == 1
        and [other.param_groups[0][key] for key in shared] == wanted
        and len(other.param_groups[0]["params"]) == len(stack.names)
        for other in optimizers
    )


class _StackedRule(StackOptimizer):
    """A rule's own `advance` on all models at once: on the whole buffer if it works element by element, else on each parameter's stack."""

    def __init__(self, stack: Stack, rates: _Values, momenta: _Values, optimizers: Sequence[RuleOptimizer]) -> None:
        super().__init__(stack, rates, momenta)
        groups = [optimizer.param_groups[0] for optimizer in optimizers]
        self.rule = type(optimizers[0])
        self.maximize = bool(groups[0]["maximize"])
        self.seeds = [int(group["seed"]) for group in groups]
        t = torch.arange(len(rates), dtype=torch.float64)
        columns = [column.tolist() for column in self.rule.numbers(t, groups[0]["total_steps"])]
        self.numbers: list[tuple[float, ...]] = list(zip(*columns, strict=True)) if columns else [()] * len(rates)
        keeps = 1 - rates * np.array([group["weight_decay"] for group in groups])
        # On the device once, so that a step copies no numbers there: shape (3, steps, R).
        self.table = torch.from_numpy(np.stack([rates, keeps, momenta])).to(stack.parameters)
        self.states = [torch.zeros_like(stack.parameters) for _ in self.rule.STATES]

    def step(self, t: int) -> None:
        stack = self.stack
        w, g = stack.parameters, -stack.grad if self.maximize else stack.grad
        numbers = self.numbers[t]
        lr, keep, momentum = self.table[:, t]
        with torch.no_grad():
            random = self._draws(t)
            if self.rule.ELEMENTWISE:
                w_next, *states_next = self.rule.advance(
                    w, g, *self.states, *numbers, *random, lr=lr[:, None], keep=keep[:, None], momentum=momentum[:, None], reduce=Reduce()
                )
            else:

                def one(w: Tensor, g: Tensor, states: Any, random: Any, lr: Tensor, keep: Tensor, momentum: Tensor) -> tuple[Tensor, ...]:
                    """A parameter of one model."""
                    after: tuple[Tensor, ...] = self.rule.advance(
                        w, g, *states, *numbers, *random, lr=lr, keep=keep, momentum=momentum, reduce=Reduce()
                    )
                    return after

                whole = torch.vmap(one)
                pieces = zip(*(stack.split(flat) for flat in (w, g, *self.states, *random)), strict=True)
                after = []
                for own_w, own_g, *rest in pieces:
                    states, drawn = rest[: len(self.states)], rest[len(self.states) :]
                    after.append([x.reshape(len(stack), -1) for x in whole(own_w, own_g, states, drawn, lr, keep, momentum)])
                w_next, *states_next = (torch.cat(columns, dim=1) for columns in zip(*after, strict=True))
            if not self.rates[t].all():  # with a learning rate of 0 no parameter moves, whatever the rule gives
                w_next = torch.where(lr[:, None] == 0, w, w_next)
            w.copy_(w_next)
            for state, state_next in zip(self.states, states_next, strict=True):
                state.copy_(state_next)

    def _draws(self, t: int) -> list[Tensor]:
        """The rule's random tensors, shape (R, n): each model's are those of its own seed."""
        like, draws = self.stack.parameters[0], []
        for stream, primitive in enumerate(self.rule.DRAWS):
            keys = torch.tensor([[int(stream_key(seed, t, stream))] for seed in self.seeds], dtype=torch.int64, device=like.device)
            draws.append(draw(primitive, keys, like))
        return draws

    def keep(self, rows: Sequence[int]) -> None:
        index = torch.tensor(rows, device=self.table.device)
        self.rates, self.momenta = self.rates[:, rows], self.momenta[:, rows]
        self.table = self.table.index_select(2, index)
        self.states = [state.index_select(0, index) for state in self.states]
        self.seeds = [self.seeds[row] for row in rows]


class _OneEach(StackOptimizer):
    """An optimizer per model, on views of the buffer."""

    def __init__(self, stack: Stack, rates: _Values, momenta: _Values, optimizers: Sequence[Optimizer]) -> None:
        super().__init__(stack, rates, momenta)
        self.optimizers = list(optimizers)
        for optimizer in self.optimizers:
            if isinstance(optimizer, RuleOptimizer):
                lay_flat(optimizer, False)  # it would lay the parameters elsewhere

    def step(self, t: int) -> None:
        grads = self.stack.split(self.stack.grad)
        for row, optimizer in enumerate(self.optimizers):
            own = [p for group in optimizer.param_groups for p in group["params"]]
            for p, grad in zip(own, grads, strict=True):
                p.grad = grad[row]
            for group in optimizer.param_groups:
                group["lr"] = float(self.rates[t, row])
                if "momentum" in group:
                    group["momentum"] = float(self.momenta[t, row])
            optimizer.step()

    def keep(self, rows: Sequence[int]) -> None:
        self.rates, self.momenta = self.rates[:, rows], self.momenta[:, rows]
        self.optimizers = [self.optimizers[row] for row in rows]
        for optimizer, views in zip(self.optimizers, self.stack.rows(), strict=True):
            own = [p for group in optimizer.param_groups for p in group["params"]]
            for p, view in zip(own, views, strict=True):
                p.data = view
