"""Rules as sympy expressions, for algebra: derivatives, limits, plots, simplification by hand.

The formulas of the tables' rows are evaluated with sympy's functions in place of an array library's, so a row added is known here too.
Operators that keep a state, draw random numbers or look at the whole tensor have no value at one point: they become undefined functions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from optevolve.space.expression import NUMBER, Node
from optevolve.space.functions import TIME_NAMES
from optevolve.space.operators import EPS, LEAVES, OPERATORS
from optevolve.space.rule import UpdateRule

__all__ = ["symbols", "to_sympy"]

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-?\d+)?")
_PI = "3.141592653589793"


def to_sympy(rule: UpdateRule | Node) -> Any:
    """The update, its sign included, as a sympy expression over `symbols()`; an expression or decay likewise.

    Numbers are exact: 0.3 is 3/10. `ema`, `moment`, `delta`, `running_max`, `dropout`, `clip_norm` and their like are undefined functions
    of their argument and parameters.
    """
    if isinstance(rule, UpdateRule):
        return rule.sign * _convert(rule.expression)
    return _convert(rule)


@cache
def symbols() -> dict[str, Any]:
    """g, w and noise (real), the step t (from 0) and the run's length T, by name."""
    import sympy

    return {
        "t": sympy.Symbol("t", integer=True, nonnegative=True),
        "T": sympy.Symbol("T", integer=True, positive=True),
        **{leaf.name: sympy.Symbol(leaf.name, real=True) for leaf in LEAVES.values() if leaf.tensor},
    }


@cache
def _names() -> dict[str, Any]:
    """What sympy calls the primitives."""
    import sympy

    return {
        "abs": sympy.Abs, "exp": sympy.exp, "log": sympy.log, "sqrt": sympy.sqrt, "sign": sympy.sign, "tanh": sympy.tanh,
        "arctan": sympy.atan, "arcsinh": sympy.asinh, "erf": sympy.erf, "erfc": sympy.erfc, "power": sympy.Pow, "cos": sympy.cos,
        "maximum": sympy.Max, "minimum": sympy.Min, "pi": sympy.pi, "Rational": sympy.Rational, "EPS": sympy.Rational(repr(EPS)),
        "bessel_i1e": lambda x: sympy.exp(-sympy.Abs(x)) * sympy.besseli(1, x), "sigmoid": lambda x: 1 / (1 + sympy.exp(-x)),
        "where": lambda condition, x, y: sympy.Piecewise((x, condition), (y, True)),
    }  # fmt: skip


def _exact(match: re.Match[str]) -> str:
    return "pi" if match[0] == _PI else f"Rational('{match[0]}')"


@cache
def _function(formula: str, arguments: tuple[str, ...]) -> Callable[..., Any]:
    text = f"lambda {', '.join(arguments)}: {_NUMBER.sub(_exact, formula)}"
    function: Callable[..., Any] = eval(text, dict(_names()))  # noqa: S307 (rows of the tables alone)
    return function


def _convert(node: Node) -> Any:
    import sympy

    if node.name == NUMBER:
        return sympy.Rational(repr(node.params[0]))
    if not node.args:
        return symbols()[node.name] if LEAVES[node.name].tensor else _decay(node.name)
    row = OPERATORS[node.name]
    args = [_convert(arg) for arg in node.args]
    numbers = [sympy.Rational(repr(value)) for value in node.params]
    if not row.pointwise_in_time:
        return sympy.Function(row.name, real=True)(*args, *numbers)
    return _function(row.formula, (*"xy"[: row.arity], *(p.name for p in row.params)))(*args, *numbers)


def _decay(name: str) -> Any:
    """A base decay as a function of t and T."""
    import sympy

    t, length = symbols()["t"], symbols()["T"]
    values = (t, length, t / length, sympy.Mod(2 * t, length) / length, sympy.Rational("0.95") * (1 - (t + 1) / length))
    return _function(LEAVES[name].formula, TIME_NAMES)(*values)
