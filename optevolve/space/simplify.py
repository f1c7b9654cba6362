"""`simplify(rule)`: the shortest form known that does bit for bit the same. The rows are in `optevolve.space.rewrites`.

Beside the rows: constants are computed (functions of the step alone are evaluated in float64 in either form, so this too is exact) where
that does not lengthen the text, and operands of commutative operators take one order. Random subexpressions keep the order of their first
appearance, by which their random numbers are told apart, and two of them never become one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, lru_cache
from typing import overload

import numpy as np

from optevolve.space.decays import depends_on_time, is_time_only, values_of
from optevolve.space.expression import NUMBER, Node
from optevolve.space.operators import LEAVES, OPERATORS
from optevolve.space.ranges import nan_carriers, nan_sources, range_of
from optevolve.space.rewrites import EVEN, ODD, REWRITES, Rewrite
from optevolve.space.rule import UpdateRule
from optevolve.space.text import format_expression, format_number, parse_expression, short_name

__all__ = ["CONDITIONS", "canonical", "random_nodes", "simplify"]

HOLES = ("x", "y", "z")
Bindings = dict[str, Node]


@overload
def simplify(rule: UpdateRule) -> UpdateRule: ...
@overload
def simplify(rule: Node) -> Node: ...
def simplify(rule: UpdateRule | Node) -> UpdateRule | Node:
    """A rule (or expression) that does exactly the same, with nothing in it that carries nothing.

    The result is no longer than the argument in native notation, and simplifying it again returns it. A rule's sign and its equation share
    a minus so that the text is shortest.
    """
    if isinstance(rule, Node):
        return min((_displayed(canonical(rule)), rule), key=lambda node: len(format_expression(node)))
    halves = sorted([(rule.sign, rule.expression), (-rule.sign, Node("neg", (rule.expression,)))], key=lambda half: -half[0])
    candidates = [replace(rule, expression=_displayed(canonical(expression)), sign=sign) for sign, expression in halves]
    return min([*candidates, rule], key=lambda candidate: len(str(candidate)))


@lru_cache(maxsize=16384)
def canonical(expression: Node, keep_draws: bool = True) -> Node:
    """The expression with every rewrite applied and every minus moved outwards: one form for many spellings, if not the shortest to read.

    Args:
        expression: any expression.
        keep_draws: whether random subexpressions keep the order of their first appearance, so that each draws the same numbers.
    """
    while (rewritten := _rewritten(expression, keep_draws)) != expression:  # one rewrite may prove what allows another
        expression = rewritten
    return expression


def _rewritten(expression: Node, keep_draws: bool) -> Node:
    expression = _without_constant_decays(expression)
    draws = random_nodes(expression)
    signed_zeros = any(map(_tells_zeros_apart, expression.walk()))
    if len(draws) < 2:
        return _Rewriting(signed_zeros, frozenset()).normal(expression)
    tagged = {node: Node(node.name, node.args, (*node.params, float(i))) for i, node in enumerate(draws)}
    rewritten = _Rewriting(signed_zeros, frozenset()).normal(_replaced(expression, tagged))
    tags = [int(node.params[-1]) for node in random_nodes(rewritten)]
    plain = _untagged(rewritten)
    if len(random_nodes(plain)) == len(draws) and (tags == sorted(tags) or not keep_draws):
        return plain
    # Two of them met, or changed places: leave them and what joins them as they are.
    return _Rewriting(signed_zeros, frozenset(draws)).normal(expression)


def _without_constant_decays(node: Node) -> Node:
    """With a number for each function of the step that never changes, such as `a1 + a2`: as a whole, for it is rounded as a whole."""
    if is_time_only(node):
        value = _constant(node)
        return node if value is None or len(format_number(value)) > len(format_expression(node)) else Node(NUMBER, (), (value,))
    args = tuple(map(_without_constant_decays, node.args))
    return node if args == node.args else Node(node.name, args, node.params)


_POLYNOMIAL = frozenset(["add", "sub", "mul", "neg", "identity"])
_LENGTHS = (1, 2, 7, 100, 1001)


@lru_cache(maxsize=16384)
def _constant(node: Node) -> float | None:
    """The short number that a function of the step rounds to in float32 at every step of every run; None if it is not known to.

    Polynomials of base decays alone: what is flat in some runs is flat in all, as `min(a1, 1e-4)` is not.
    """
    if not node.args or not depends_on_time(node) or any(part.args and part.name not in _POLYNOMIAL for part in node.walk()):
        return None
    values = np.concatenate([values_of(node, length) for length in _LENGTHS])
    value = float(f"{values[0]:.9g}")
    rounded = values.astype(np.float32)
    alike = bool(np.all(rounded == np.float32(value))) and bool(np.all(np.abs(values - value) <= 1e-12 * abs(value)))
    return value if alike and not np.any(np.signbit(values) != np.signbit(value)) else None


def random_nodes(expression: Node) -> list[Node]:
    """The distinct subexpressions that draw random numbers, in the order in which they are computed."""
    return list(dict.fromkeys(node for node in expression.walk() if _is_random(node)))


def _is_random(node: Node) -> bool:
    if node.args:
        return bool(OPERATORS[node.name].random)
    return node.name != NUMBER and bool(LEAVES[node.name].random)


def _replaced(node: Node, replacements: dict[Node, Node]) -> Node:
    args = tuple(_replaced(arg, replacements) for arg in node.args)
    params = replacements[node].params if node in replacements else node.params
    return Node(node.name, args, params)


def _untagged(node: Node) -> Node:
    params = node.params[:-1] if _is_random(node) else node.params
    return Node(node.name, tuple(map(_untagged, node.args)), params)


def _tells_zeros_apart(node: Node) -> bool:
    """Whether the node's value may depend on the sign of a zero, beyond the sign of a zero of its own."""
    if node.name == "truediv":
        divisor = range_of(node.args[1])
        return divisor.low <= 0 <= divisor.high and node.args[1].name not in ("abs", "sqrt", "exp", "sigmoid")
    if node.name == "power":
        exponent = node.args[1].value
        return exponent is None or exponent < 0
    return False


class _Rewriting:
    """One simplification.

    Args:
        signed_zeros: whether the sign of a zero matters.
        opaque: random subexpressions to leave as they are, together with all that joins two of them.
    """

    def __init__(self, signed_zeros: bool, opaque: frozenset[Node]) -> None:
        self.signed_zeros = signed_zeros
        self.opaque = opaque
        self.known: dict[Node, Node] = {}

    def normal(self, node: Node) -> Node:
        """The normal form of a node."""
        known = self.known.get(node)
        if known is None:
            known = self.known[node] = self._normal(node)
        return known

    def _normal(self, node: Node) -> Node:
        if not node.args or node in self.opaque:
            return node
        args = tuple(map(self.normal, node.args))
        new = node if args == node.args else Node(node.name, args, node.params)
        if self.opaque and len(random_nodes(node)) > 1:
            return new
        step = self._step(new)
        return new if step is None else self.normal(step)

    def _step(self, node: Node) -> Node | None:
        """The node after one rewrite of its root; None if none applies."""
        folded = _folded(node)
        if folded is not None:
            return folded
        first = node.args[0]
        if node.name in EVEN and first.name in ("neg", "abs"):
            return Node(node.name, first.args, node.params)
        if node.name in ODD and first.name == "neg" and not self.signed_zeros:
            return Node("neg", (Node(node.name, first.args, node.params),))
        for row, pattern, result in _rows().get(node.name, ()):
            if row.zero and self.signed_zeros:
                continue
            for bindings in _matches(pattern, node, {}):
                if not row.where or CONDITIONS[row.where](bindings):
                    return result.substitute(bindings)
        return self._ordered(node)

    def _ordered(self, node: Node) -> Node | None:
        """The node with its two arguments in canonical order; None if they are."""
        if not OPERATORS[node.name].commutative or (self.signed_zeros and node.name in _LAST_NUMBERS):
            return None
        x, y = node.args
        if _place(node.name, x) <= _place(node.name, y):
            return None
        return Node(node.name, (y, x), node.params)


def _folded(node: Node) -> Node | None:
    """The number that the node always is; None if it is none, or if the number is longer to write."""
    if not is_time_only(node):
        return None
    if depends_on_time(node):
        bounds = range_of(node)
        value = bounds.low if bounds.low == bounds.high and not bounds.nan and (bounds.low or not bounds.minus_zero) else math.nan
    else:
        value = float(values_of(node, 1)[0])
    if not math.isfinite(value) or len(format_number(value)) > len(format_expression(node)):
        return None
    return Node(NUMBER, (), (value,))


_LAST_NUMBERS = ("max", "min")
_TINY = 0.1


def _place(operator: str, node: Node) -> tuple[object, ...]:
    """Sort key of an operand: `2 * g`, `a1 * g`, `1 + x ** 2`, `sqrt(s) + 1e-8`, `max(g, 0)`; then the smaller first."""
    value = node.value
    if value is not None:
        place = 3 if operator in _LAST_NUMBERS or (operator == "add" and abs(value) < _TINY) else 0
    else:
        place = 1 if is_time_only(node) else 2
    return place, node.size, _key(node)


@lru_cache(maxsize=65536)
def _key(node: Node) -> tuple[object, ...]:
    return len(node.name), node.name, node.params, tuple(map(_key, node.args))  # a6 before a10


@cache
def _rows() -> dict[str, list[tuple[Rewrite, Node, Node]]]:
    """The rewrites by the operator at the root of their patterns."""
    rows: dict[str, list[tuple[Rewrite, Node, Node]]] = {}
    for row in REWRITES:
        pattern, result = (parse_expression(text, holes=HOLES) for text in (row.pattern, row.result))
        rows.setdefault(pattern.name, []).append((row, pattern, result))
    return rows


def _matches(pattern: Node, node: Node, bindings: Bindings) -> Iterator[Bindings]:
    """Every way to fill the pattern's holes so that it becomes the node."""
    if pattern.name in HOLES:
        bound = bindings.get(pattern.name)
        if bound is None:
            yield {**bindings, pattern.name: node}
        elif bound == node:
            yield bindings
        return
    if pattern.name != node.name or pattern.params != node.params:
        return
    if not pattern.args:
        if pattern == node:
            yield bindings
        return
    if len(pattern.args) == 1:
        yield from _matches(pattern.args[0], node.args[0], bindings)
        return
    orders = [node.args, node.args[::-1]] if OPERATORS[node.name].commutative else [node.args]
    for x, y in orders:
        for partly in _matches(pattern.args[0], x, bindings):
            yield from _matches(pattern.args[1], y, partly)


def _displayed(node: Node) -> Node:
    """The same value with a product's minus at its first factor, where it needs no brackets: `-2 * g`, `-x * y`."""
    args = tuple(map(_displayed, node.args))
    if node.name == "neg" and args[0].name in ("mul", "truediv"):
        first, second = args[0].args
        minus = Node(NUMBER, (), (-first.params[0],)) if first.name == NUMBER else _displayed(Node("neg", (first,)))
        return Node(args[0].name, (minus, second))
    return node if args == node.args else Node(node.name, args, node.params)


def _vanishes(x: Node, y: Node) -> bool:
    """Whether y is finite, or NaN only where x is NaN too."""
    return range_of(y).finite and not random_nodes(y) and nan_sources(y) <= nan_carriers(x)


def _bounded_time(node: Node) -> bool:
    return is_time_only(node) and not range_of(node).nan


def _negative(node: Node) -> bool:
    return node.value is not None and node.value < 0


#: What a rewrite's `where` may ask of the holes.
CONDITIONS: dict[str, Callable[[Bindings], bool]] = {
    "tensor x": lambda b: not is_time_only(b["x"]),
    "tensor y": lambda b: not is_time_only(b["y"]),
    "long tensor x": lambda b: b["x"].size > 1 and not is_time_only(b["x"]),
    "y a negative number": lambda b: _negative(b["y"]),
    "x not negative": lambda b: range_of(b["x"]).low >= 0,
    "x a finite time function": lambda b: is_time_only(b["x"]) and range_of(b["x"]).finite,
    "x never below the time function y": lambda b: _bounded_time(b["y"]) and range_of(b["x"]).low >= range_of(b["y"]).high,
    "x never above the time function y": lambda b: _bounded_time(b["y"]) and range_of(b["x"]).high <= range_of(b["y"]).low,
    "x within the time function y": lambda b: (
        _bounded_time(b["y"]) and max(-range_of(b["x"]).low, range_of(b["x"]).high) <= max(range_of(b["y"]).low, -range_of(b["y"]).high)
    ),
    "y vanishes beside x": lambda b: _vanishes(b["x"], b["y"]),
    "no name for x - y": lambda b: short_name(Node("sub", (b["x"], b["y"]))) is None,
}
