"""Steps in processes that compile nothing: without `torch._dynamo`, whose import takes as long as that of the rest of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from inspect import unwrap
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

__all__ = ["add_param_group", "eager"]

_DYNAMO = "torch._dynamo"


def eager(step: Callable[..., Any]) -> Callable[..., Any]:
    """A step that torch has wrapped to choose its mode of gradients; where nothing was compiled, without what it does for compilers."""
    plain = unwrap(step)

    @wraps(step)
    def stepped(self: Optimizer, *args: Any, **options: Any) -> Any:
        if _DYNAMO in sys.modules:
            return step(self, *args, **options)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return plain(self, *args, **options)

    return stepped


def add_param_group(optimizer: Optimizer, group: dict[str, Any]) -> None:
    """As `torch.optim.Optimizer.add_param_group`, which torch keeps from being compiled; where nothing was compiled, as it is."""
    add = Optimizer.add_param_group
    (add if _DYNAMO in sys.modules else unwrap(add))(optimizer, group)
