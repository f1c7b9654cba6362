"""Learning-rate schedules hidden in rules: `schedule_of` takes the functions of the step that multiply the whole update out of it, as the
paper does to find its schedules L1–L9; `decay_factors` lists every function of the step in a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optevolve.space.decays import depends_on_time, is_time_only, values_of
from optevolve.space.expression import NUMBER, Node, number
from optevolve.space.rule import UpdateRule
from optevolve.space.text import format_expression

__all__ = ["decay_factors", "schedule_of"]

# Run lengths at which a factor must stay at or above 0 to count as non-negative.
_LENGTHS = (7, 100, 1000)


def schedule_of(rule: UpdateRule) -> tuple[Node, UpdateRule]:
    """A factor f of the step alone and a rest, with update(rule) = f · update(rest) at every step.

    Through products, quotients, negation and whatever else commutes with a positive factor it finds all that multiplies the whole update.
    For every kind of rule, f on the update is f on the learning rate.

    Returns:
        The factor, the number 1 if there is none; the rest, of the same kind and sign. A rule that is a function of the step alone is its
        own factor, with the rest 1.
    """
    above, below, rest = _split(rule.expression)
    return _quotient(above, below), replace(rule, expression=rest)


def decay_factors(rule: UpdateRule) -> dict[str, Node]:
    """The largest subexpressions that are functions of the step alone and depend on it, by their native text, in order of appearance."""
    found: dict[str, Node] = {}
    _collect(rule.expression, found)
    return found


def _collect(node: Node, found: dict[str, Node]) -> None:
    if is_time_only(node):
        if depends_on_time(node):
            found.setdefault(format_expression(node), node)
        return
    for arg in node.args:
        _collect(arg, found)


_Parts = tuple[list[Node], list[Node], Node]  # factors above and below the line, rest


def _split(node: Node) -> _Parts:
    if is_time_only(node) and depends_on_time(node):
        return *_fraction(node), number(1)
    rule = _RULES.get(node.name)
    return rule(node) if rule else ([], [], node)


def _fraction(node: Node) -> tuple[list[Node], list[Node]]:
    """Factors above and below the line of a function of the step."""
    if node.name == "mul":
        (a, b), (c, d) = map(_fraction, node.args)
        return a + c, b + d
    if node.name == "truediv":
        (a, b), (c, d) = map(_fraction, node.args)
        return a + d, b + c
    return ([], []) if node == number(1) else ([node], [])


def _quotient(above: list[Node], below: list[Node]) -> Node:
    top = _product(above)
    return Node("truediv", (top, _product(below))) if below else top


def _product(factors: list[Node]) -> Node:
    if not factors:
        return number(1)
    product = factors[0]
    for factor in factors[1:]:
        product = Node("mul", (product, factor))
    return product


def _rebuilt(node: Node, *args: Node) -> Node:
    return node if args == node.args else Node(node.name, args, node.params)


def _times(node: Node) -> _Parts:
    (a, b, x), (c, d, y) = map(_split, node.args)
    one = number(1)
    if (a or b) and x == one:
        return a + c, b + d, y
    if (c or d) and y == one:
        return a + c, b + d, x
    return a + c, b + d, _rebuilt(node, x, y)


def _over(node: Node) -> _Parts:
    (a, b, x), (c, d, y) = map(_split, node.args)
    if (c or d) and y == number(1):
        return a + d, b + c, x
    return a + d, b + c, _rebuilt(node, x, y)


def _guarded_over(node: Node) -> _Parts:
    """Of x / (y + 1e-7): a factor of y alone does not come out of the sum."""
    x, y = node.args
    a, b, rest = _split(x)
    if is_time_only(y) and depends_on_time(y):
        return [*a, Node("recip", (y,))], b, rest
    return a, b, _rebuilt(node, rest, y)


def _linear(node: Node) -> _Parts:
    a, b, rest = _split(node.args[0])
    return a, b, _rebuilt(node, rest)


def _through(change: Callable[[Node], Node]) -> Callable[[Node], _Parts]:
    """For op(f x) = change(f) op(x)."""

    def split(node: Node) -> _Parts:
        a, b, rest = _split(node.args[0])
        return list(map(change, a)), list(map(change, b)), _rebuilt(node, rest)

    return split


def _absolute(factor: Node) -> Node:
    return factor if _is_positive(factor) else Node("abs", (factor,))


def _positive(node: Node) -> _Parts:
    """For op(f x) = f op(x) where f >= 0, the other arguments being numbers equal to 0, as in min(x, 0)."""
    a, b, rest = _split(node.args[0])
    if not all(map(_is_positive, a + b)) or any(arg != number(0) for arg in node.args[1:]):
        return [], [], node
    return a, b, _rebuilt(node, rest, *node.args[1:])


def _shared(node: Node) -> _Parts:
    """For op(f x, f y) = f op(x, y): sums for any f, the others where f >= 0."""
    (a, b, x), (c, d, y) = map(_split, node.args)
    if (a, b) != (c, d) or not (node.name in ("add", "sub") or all(map(_is_positive, a + b))):
        return _positive(node) if node.name in ("min", "max") else ([], [], node)
    return a, b, _rebuilt(node, x, y)


def _power(node: Node) -> _Parts:
    base, exponent = node.args
    if exponent.name != NUMBER:
        return [], [], node
    a, b, rest = _split(base)
    if not exponent.params[0].is_integer() and not all(map(_is_positive, a + b)):
        return [], [], node
    return [Node("power", (f, exponent)) for f in a], [Node("power", (f, exponent)) for f in b], _rebuilt(node, rest, exponent)


_RULES: dict[str, Callable[[Node], _Parts]] = {
    "mul": _times,
    "truediv": _over,
    "div": _guarded_over,
    "neg": _linear,
    "identity": _linear,
    "dropout": _linear,
    "abs": _through(_absolute),
    "sqrt": _through(lambda factor: Node("sqrt", (factor,))),
    "relu": _positive,
    "add": _shared,
    "sub": _shared,
    "max": _shared,
    "min": _shared,
    "clip": _shared,
    "power": _power,
}


def _is_positive(node: Node) -> bool:
    return all(bool(np.all(values_of(node, length) >= 0)) for length in _LENGTHS)
