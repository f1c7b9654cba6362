"""What values an expression can take, whatever the gradients and weights: what a simplification may rely on.

An interval is sound for every input without NaN, infinities included; where an operator's own range is unknown it is everything. Bounds
of functions that round are widened a little, so that float32 and float64 both keep them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from optevolve.space.expression import NUMBER, Node
from optevolve.space.operators import LEAVES, OPERATORS

__all__ = ["Range", "nan_carriers", "nan_sources", "range_of"]

INF = math.inf
_SLACK = 1e-6


class Range(NamedTuple):
    """All values lie in [low, high].

    Attributes:
        low, high: bounds; may be infinite.
        nan: whether NaN can arise from inputs that have none.
        minus_zero: whether -0.0 can occur.
    """

    low: float = -INF
    high: float = INF
    nan: bool = True
    minus_zero: bool = True

    @property
    def finite(self) -> bool:
        """Whether every value is finite, given inputs without NaN."""
        return not self.nan and self.low > -INF and self.high < INF


ANYTHING = Range()


@lru_cache(maxsize=65536)
def range_of(node: Node) -> Range:
    """The range of an expression's values."""
    if node.name == NUMBER:
        value = node.params[0]
        high, low = _upper(value, 0.0), -_upper(-value, 0.0)
        return Range(low, high, False, low <= 0 and math.copysign(1, value) < 0)
    if not node.args:
        leaf = LEAVES.get(node.name)
        if leaf is None or leaf.tensor:
            return Range(-INF, INF, False, True)
        return _DECAYS.get(node.name, ANYTHING)
    rule = _RANGES.get(node.name)
    if rule is None:
        return ANYTHING
    result = rule(*map(range_of, node.args))
    return ANYTHING if math.isnan(result.low) or math.isnan(result.high) else result


def nan_sources(node: Node) -> frozenset[Node]:
    """The leaves and stateful nodes whose NaN could make this expression NaN, beside what `Range.nan` tells."""
    if not node.args:
        return frozenset([node]) if node.name != NUMBER and LEAVES[node.name].tensor else frozenset()
    row = OPERATORS[node.name]
    if row.state or row.random or not row.elementwise:
        return frozenset([node])
    return frozenset().union(*map(nan_sources, node.args))


def nan_carriers(node: Node) -> frozenset[Node]:
    """The nodes in this expression whose NaN surely makes the same element of it NaN."""
    here = frozenset([node])
    if not node.args or node.name in ("power", "pow"):  # NaN ** 0 is 1
        return here
    row = OPERATORS[node.name]
    if row.random or node.name not in _RANGES:
        return here
    return here.union(*map(nan_carriers, node.args))


def _upper(bound: float, slack: float = _SLACK) -> float:
    """An upper bound of what float32 makes of values up to this one: rounded, overflown or underflown."""
    if bound >= 1e37:
        return INF
    if -1e-37 < bound < 0:
        return 0.0
    return bound + slack * abs(bound) if bound > 1e-37 or bound <= 0 else 1e-37


def _wide(low: float, high: float, nan: bool, minus_zero: bool = True) -> Range:
    """A range of results that were rounded."""
    return Range(-_upper(-low), _upper(high), nan, minus_zero)


def _add(x: Range, y: Range) -> Range:
    nan = x.nan or y.nan or (x.low == -INF and y.high == INF) or (x.high == INF and y.low == -INF)
    low = -INF if -INF in (x.low, y.low) else x.low + y.low
    high = INF if INF in (x.high, y.high) else x.high + y.high
    return _wide(low, high, nan, x.minus_zero and y.minus_zero)


def _neg(x: Range) -> Range:
    return Range(-x.high, -x.low, x.nan, True)


def _mul(x: Range, y: Range) -> Range:
    corners = [a * b if a and b else 0.0 for a in (x.low, x.high) for b in (y.low, y.high)]
    infinite = not (math.isfinite(x.low) and math.isfinite(x.high) and math.isfinite(y.low) and math.isfinite(y.high))
    zero = x.low <= 0 <= x.high or y.low <= 0 <= y.high
    return _wide(min(corners), max(corners), x.nan or y.nan or (infinite and zero))


def _abs(x: Range) -> Range:
    high = max(abs(x.low), abs(x.high))
    low = 0.0 if x.low <= 0 <= x.high else min(abs(x.low), abs(x.high))
    return Range(low, high, x.nan, False)


def _rising(function: Callable[[float], float], most: float) -> Callable[[Range], Range]:
    """A rising odd function whose values stay within [-most, most], rounded or not."""

    def rule(x: Range) -> Range:
        low, high, *rest = _wide(function(x.low), function(x.high), x.nan)
        return Range(max(low, -most), min(high, most), *rest)

    return rule


def _power(x: Range, y: Range) -> Range:
    """Known for squares alone, which are products."""
    return _mul(_abs(x), _abs(x))._replace(minus_zero=False, nan=x.nan) if y.low == y.high == 2 else ANYTHING


def _average(x: Range) -> Range:
    """A moving average from 0 keeps the sign of what it averages."""
    return Range(0.0 if x.low >= 0 else -INF, 0.0 if x.high <= 0 else INF, True, True)


def _sqrt(x: Range) -> Range:
    inner = _abs(x)
    return _wide(math.sqrt(inner.low), math.sqrt(inner.high), x.nan, False)


def _exp(x: Range) -> Range:
    """e^x underflows to 0 and overflows to infinity."""
    return _wide(math.exp(x.low) if -80 < x.low < 80 else 0.0, math.exp(x.high) if x.high < 80 else INF, x.nan, False)


def _sign(x: Range) -> Range:
    return Range(float((x.low > 0) - (x.low < 0)), float((x.high > 0) - (x.high < 0)), x.nan, True)


def _max(x: Range, y: Range) -> Range:
    return Range(max(x.low, y.low), max(x.high, y.high), x.nan or y.nan, x.minus_zero or y.minus_zero)


def _min(x: Range, y: Range) -> Range:
    return Range(min(x.low, y.low), min(x.high, y.high), x.nan or y.nan, x.minus_zero or y.minus_zero)


def _clip(x: Range, y: Range) -> Range:
    least, most, *_ = _abs(y)
    low = max(x.low, -most) if x.low <= 0 else min(x.low, least)
    high = min(x.high, most) if x.high >= 0 else max(x.high, -least)
    return Range(low, high, x.nan or y.nan, True)


def _softsign(x: Range) -> Range:
    infinite = not (math.isfinite(x.low) and math.isfinite(x.high))
    return Range(-1.0 if x.low < 0 else 0.0, 1.0 if x.high > 0 else 0.0, x.nan or infinite, True)


def _within(low: float, high: float, minus_zero: bool = True) -> Callable[[Range], Range]:
    return lambda x: Range(low, high, x.nan, minus_zero)


_ZERO = Range(0.0, 0.0, False, False)
_RANGES: dict[str, Callable[..., Range]] = {
    "identity": lambda x: x,
    "neg": _neg,
    "add": _add,
    "sub": lambda x, y: _add(x, _neg(y)),
    "mul": _mul,
    "power": _power,
    "ema": _average,
    "moment": _average,
    "max": _max,
    "min": _min,
    "clip": _clip,
    "abs": _abs,
    "relu": lambda x: _max(x, _ZERO._replace(minus_zero=True)),
    "sign": _sign,
    "sqrt": _sqrt,
    "exp": _exp,
    "pow": lambda x, y: Range(0.0, INF, x.nan or y.nan, False),
    "sigmoid": _within(0.0, 1.0, False),
    "deriv_soft": _within(0.0, 1.0, False),
    "deriv_sig": _within(0.0, 0.26, False),
    "deriv_tanh": _within(0.0, 1.0, False),
    "tanh": _rising(math.tanh, 1.0),
    "erf": _rising(math.erf, 1.0),
    "erfc": lambda x: _wide(math.erfc(x.high), math.erfc(x.low), x.nan, False),
    "arctan": _rising(math.atan, 1.5708),
    "bessel_i1e": _within(-0.22, 0.22),
    "softsign": _softsign,
    "running_max": lambda x: Range(max(x.low, 0.0), max(x.high, 0.0), x.nan, True),
}

_UNIT = Range(0.0, 1.0, False, False)
_DECAYS: dict[str, Range] = {
    **{f"a{i}": _UNIT for i in range(1, 11)},
    "a11": Range(0.0099, 1.0, False, False),
    "a12": Range(0.0, 0.9901, False, False),
    "a13": Range(0.0, 0.951, False, False),
    "a14": Range(-0.001, 0.951, False, True),
    "b": Range(0.0, 0.951, False, False),
}
