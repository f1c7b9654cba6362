"""The fused step on accelerators: a rule's `advance` through torch.compile, one kernel of dynamic length. Needs only torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from optevolve.compile.draws import draw
from optevolve.compile.reduce import Reduce
from optevolve.compile.work import LOW_PRECISION

__all__ = ["compiled_step"]


@cache
def compiled_step(advance: Callable[..., Any], draws: tuple[str, ...], maximize: bool, backend: str = "inductor") -> Callable[..., None]:
    """A function of (weights, gradient, states, numbers, keys) that does one step of one parameter in place.

    Its numbers (lr, keep, momentum and the rule's own) and keys are tensors of one dimension, so that no step compiles anew.

    Args:
        advance: the rule's.
        draws: primitives of its random tensors.
        maximize: whether the gradient is negated.
        backend: of torch.compile.
    """

    def step(p: Tensor, g: Tensor, states: list[Tensor], numbers: Tensor, keys: Tensor) -> None:
        lr, keep, momentum, *rest = numbers.unbind()
        w = p
        if p.dtype in LOW_PRECISION:
            w, g = p.float(), g.float()
        if maximize:
            g = -g
        random = [draw(primitive, key, w) for primitive, key in zip(draws, keys.unbind(), strict=True)]
        w_next, *states_next = advance(w, g, *states, *rest, *random, lr=lr, keep=keep, momentum=momentum, reduce=Reduce())
        p.copy_(w_next)
        for state, state_next in zip(states, states_next, strict=True):
            state.copy_(state_next)

    # torch.compile counts recompilations by code object, so each rule gets its own.
    own = FunctionType(step.__code__.replace(), step.__globals__, f"step_of_{advance.__qualname__}", None, step.__closure__)
    compiled: Callable[..., None] = torch.compile(own, fullgraph=True, dynamic=True, backend=backend)
    return compiled
