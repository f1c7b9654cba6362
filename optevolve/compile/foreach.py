"""Lists of tensors that calculate like one tensor, through torch's foreach kernels where there are any. Needs only torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Many"]


def _arithmetic(name: str) -> Callable[[Many, Any], Many]:
    """An operator: numbers and lists through torch's foreach kernel, a tensor is shared by all."""

    def apply(x: Many, y: Any) -> Many:
        if isinstance(y, Tensor):
            return _each(getattr(torch, name), x, y)
        kernel = getattr(torch, f"_foreach_{name}")
        return Many(kernel(x.tensors, y.tensors if isinstance(y, Many) else y))

    return apply


class Many:
    """Tensors of any shapes; torch functions and arithmetic act on each, numbers and one-element tensors are shared by all.

    Args:
        tensors: at least one.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    @classmethod  # export if functions
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Many:
        kernel = getattr(torch, f"_foreach_{function.__name__}", None)
        if kernel is not None and len(args) == 1 and not kwargs:
            return cls(kernel(args[0].tensors))
        return _each(function, *args, **(kwargs or {}))

    __add__ = __radd__ = _arithmetic("add")  # export if add
    __sub__ = _arithmetic("sub")
    __mul__ = __rmul__ = _arithmetic("mul")
    __truediv__ = _arithmetic("div")  # export if div

    def __rsub__(self, other: Any) -> Many:  # export if sub
        return _each(lambda x: other - x, self)

    def __rtruediv__(self, other: Any) -> Many:  # export if div
        return _each(lambda x: other / x, self)

    def __neg__(self) -> Many:
        return Many(torch._foreach_neg(self.tensors))

    def __ge__(self, other: Any) -> Many:  # export if ge
        return _each(torch.ge, self, other)


def _each(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Many:
    """The function on every tensor by itself."""
    count = next(len(arg.tensors) for arg in (*args, *kwargs.values()) if isinstance(arg, Many))

    def at(arg: Any, i: int) -> Any:
        return arg.tensors[i] if isinstance(arg, Many) else arg

    return Many([function(*(at(arg, i) for arg in args), **{key: at(arg, i) for key, arg in kwargs.items()}) for i in range(count)])
