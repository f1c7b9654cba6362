"""Lists of tensors that calculate like one tensor, through torch's foreach kernels where there are any. Needs only torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Many"]

_KERNELS: dict[str, str] = {
    "abs": "_foreach_abs", "exp": "_foreach_exp", "log": "_foreach_log", "sqrt": "_foreach_sqrt", "tanh": "_foreach_tanh",
    "erf": "_foreach_erf", "erfc": "_foreach_erfc", "sigmoid": "_foreach_sigmoid", "sign": "_foreach_sign",
}  # fmt: skip


class Many:
    """Tensors of any shapes; torch functions and arithmetic act on each, numbers and one-element tensors are shared by all.

    Args:
        tensors: at least one.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = list(tensors)

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Many:
        kernel = _KERNELS.get(function.__name__)
        if kernel is not None and len(args) == 1 and not kwargs:
            return cls(getattr(torch, kernel)(args[0].tensors))
        return _each(function, *args, **(kwargs or {}))

    def __add__(self, other: Any) -> Many:
        return _arithmetic("add", self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Many:
        return _arithmetic("sub", self, other)

    def __rsub__(self, other: Any) -> Many:
        return _each(lambda x: other - x, self)

    def __mul__(self, other: Any) -> Many:
        return _arithmetic("mul", self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Many:
        return _arithmetic("div", self, other)

    def __rtruediv__(self, other: Any) -> Many:
        return _each(lambda x: other / x, self)

    def __neg__(self) -> Many:
        return Many(torch._foreach_neg(self.tensors))

    def __ge__(self, other: Any) -> Many:
        return _each(torch.ge, self, other)


def _arithmetic(name: str, x: Many, y: Any) -> Many:
    if isinstance(y, Tensor):
        return _each(getattr(torch, name), x, y)
    kernel = getattr(torch, f"_foreach_{name}")
    return Many(kernel(x.tensors, y.tensors if isinstance(y, Many) else y))


def _each(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Many:
    """The function on every tensor by itself."""
    count = next(len(arg.tensors) for arg in (*args, *kwargs.values()) if isinstance(arg, Many))

    def at(arg: Any, i: int) -> Any:
        return arg.tensors[i] if isinstance(arg, Many) else arg

    return Many([function(*(at(arg, i) for arg in args), **{key: at(arg, i) for key, arg in kwargs.items()}) for i in range(count)])
