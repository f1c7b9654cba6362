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
def compiled_step(
    advance: Callable[..., Any],
    given: tuple[str, ...],
    draws: tuple[str, ...],
    maximize: bool,
    backend: str = "inductor",
) -> Callable[..., None]:
    """A function of (weights, gradient, states, scalars, keys) that does one step of one parameter in place.

    The hyperparameters, whose names are given, and the rule's own numbers come as one tensor, so that no step compiles anew.
    """

    def step(p: Tensor, g: Tensor, states: list[Tensor], scalars: Tensor, keys: Tensor) -> None:
        values = scalars.unbind()
        hyper = dict(zip(given, values, strict=False))
        w, g = (p.float(), g.float()) if p.dtype in LOW_PRECISION else (p, g)
        g = -g if maximize else g
        random = [draw(primitive, key, w) for primitive, key in zip(draws, keys.unbind(), strict=True)]
        after = advance(w, g, *states, *values[len(given) :], *random, **hyper, reduce=Reduce())
        for tensor, value in zip([p, *states], after, strict=True):
            tensor.copy_(value)

    # torch.compile counts recompilations by code object, so each rule gets its own.
    own = FunctionType(step.__code__.replace(), step.__globals__, f"step_of_{advance.__qualname__}", None, step.__closure__)
    compiled: Callable[..., None] = torch.compile(own, fullgraph=True, dynamic=True, backend=backend)
    return compiled
