"""Formulas of the operator table as numpy functions, compiled once per row.

The formulas are the package's own text, never a user's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from optevolve.space.operators import EPS, LEAVES, Operator
from optevolve.space.reductions import reductions

__all__ = ["TIME_NAMES", "Function", "compile_formula", "leaf_function", "operator_function", "primitives"]

TIME_NAMES = ("t", "T", "r", "c", "b")

Function = Callable[..., Any]


_NUMPY: dict[str, Any] = {
    "abs": np.abs, "exp": np.exp, "log": np.log, "sqrt": np.sqrt, "sign": np.sign, "tanh": np.tanh, "arctan": np.arctan,
    "arcsinh": np.arcsinh, "maximum": np.maximum, "minimum": np.minimum, "power": np.power, "where": np.where, "cos": np.cos,
    "EPS": EPS,
}  # fmt: skip


@cache
def primitives() -> dict[str, Any]:
    """Every primitive but the reductions. scipy.special takes longer to import than all of the space: only running a rule does."""
    from scipy import special

    return _NUMPY | {"erf": special.erf, "erfc": special.erfc, "bessel_i1e": special.i1e, "sigmoid": special.expit}


def compile_formula(formula: str, arguments: tuple[str, ...], ndim: int = 1) -> Function:
    """A formula of the tables as a function of the given arguments, for parameter tensors of `ndim` axes."""
    function: Function = eval(f"lambda {', '.join(arguments)}: {formula}", primitives() | reductions(ndim))  # noqa: S307 (rows of the tables alone)
    return function


@cache
def operator_function(row: Operator) -> Function:
    """The row's formula as a function of (x, [y], parameters…, [old, new], [correction], [draw])."""
    names = (*"xy"[: row.arity], *(p.name for p in row.params))
    names += ("old", "new") if row.state else ()
    names += ("correction",) if row.correction else ()
    names += ("draw",) if row.random else ()
    return compile_formula(row.formula, names)


@cache
def leaf_function(name: str) -> Function:
    """A base decay's formula as a function of `TIME_NAMES`."""
    return compile_formula(LEAVES[name].formula, TIME_NAMES)
