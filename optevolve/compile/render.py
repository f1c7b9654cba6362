"""Formulas of the operator table as readable torch source text.

A `Term` is a piece of text with what is known of its value: a number, a number per step, or a tensor. Numbers are folded in double
precision as in the numpy reference (`1 - beta` with beta 0.9 is 0.1), and torch functions that want tensors are given what they take.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from optevolve.space.functions import primitives
from optevolve.space.lower import SPELLINGS
from optevolve.space.operators import EPS
from optevolve.space.reductions import REDUCTIONS

__all__ = ["NUMBER", "SCALAR", "TENSOR", "Term", "number_term", "render"]

NUMBER, SCALAR, TENSOR = range(3)

# Python's precedences, as far as formulas go.
_COMPARE, _SUM, _PRODUCT, _NEGATION, _POWER, _ATOM = range(6)
_INFIX: dict[type, tuple[str, int]] = {
    ast.Add: ("+", _SUM), ast.Sub: ("-", _SUM), ast.Mult: ("*", _PRODUCT), ast.Div: ("/", _PRODUCT), ast.Mod: ("%", _PRODUCT),
    ast.Pow: ("**", _POWER), ast.GtE: (">=", _COMPARE),
}  # fmt: skip
_SIMPLE = re.compile(r"-?[\w.]+")
_TORCH = {**SPELLINGS["torch"], "bessel_i1e": "bessel_i1e"}


@dataclass(frozen=True)
class Term:
    """Source text and what it stands for.

    Attributes:
        text: an expression.
        level: NUMBER (known now), SCALAR (a number at every step) or TENSOR.
        value: of a NUMBER.
        strength: precedence of the outermost operator.
    """

    text: str
    level: int
    value: float = 0.0
    strength: int = _ATOM

    def within(self, strength: int) -> str:
        """The text, bracketed unless it binds at least as strongly."""
        return self.text if self.strength >= strength else f"({self.text})"


def number_term(value: float) -> Term:
    """A number as text that reads back as the same float."""
    if math.isfinite(value):
        text = repr(float(value))
    else:
        text = "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
    return Term(text, NUMBER, value, _NEGATION if text[0] == "-" else _ATOM)


_LARGEST = float(np.finfo(np.float32).max)


@cache
def _tree(formula: str) -> ast.expr:
    return ast.parse(formula, mode="eval").body


def render(formula: str, bindings: Mapping[str, Term], hoist: Callable[[Term], Term] | None = None) -> Term:
    """The formula's term.

    Args:
        formula: text over primitives and the keys of bindings.
        bindings: variable to term.
        hoist: gives a name to a SCALAR that is to be computed outside the tensor code; None: leave it where it is.
    """
    return _Renderer(bindings, hoist).term(_tree(formula))


class _Renderer:
    def __init__(self, bindings: Mapping[str, Term], hoist: Callable[[Term], Term] | None) -> None:
        self.bindings = bindings
        self.hoist = hoist

    def term(self, node: ast.expr) -> Term:
        if isinstance(node, ast.Constant):
            assert isinstance(node.value, int | float)
            return Term(repr(node.value), NUMBER, node.value)
        if isinstance(node, ast.Name):
            return self.bindings[node.id] if node.id in self.bindings else number_term(EPS)
        if isinstance(node, ast.UnaryOp):
            assert isinstance(node.op, ast.USub)
            return self._apply([node.operand], lambda x: f"-{x[0].within(_NEGATION)}", lambda x: -x, _NEGATION)
        if isinstance(node, ast.BinOp):
            return self._infix(type(node.op), node.left, node.right)
        if isinstance(node, ast.Compare):
            return self._infix(type(node.ops[0]), node.left, node.comparators[0])
        assert isinstance(node, ast.Call)
        assert isinstance(node.func, ast.Name)
        return self._call(node.func.id, node.args)

    def _infix(self, operator: type, left: ast.expr, right: ast.expr) -> Term:
        symbol, strength = _INFIX[operator]
        before, after = (strength + 1, strength) if operator is ast.Pow else (strength, strength + 1)

        def text(x: list[Term]) -> str:
            first, second = x[0].within(before), x[1].within(after)
            close = operator is ast.Pow and all(_SIMPLE.fullmatch(operand) for operand in (first, second))  # as formatters have it
            return f"{first}{symbol}{second}" if close else f"{first} {symbol} {second}"

        return self._apply([left, right], text, _EVALUATED[operator], strength)

    def _call(self, name: str, nodes: list[ast.expr]) -> Term:
        def text(x: list[Term]) -> str:
            if name in REDUCTIONS:
                return f"reduce.{name}({x[0].text})"
            if name in ("maximum", "minimum"):
                bound = next((i for i in (1, 0) if x[i].level != TENSOR and self._is_plain(x[i], x[1 - i])), None)
                if bound is not None:
                    return f"torch.clamp({x[1 - bound].text}, {'min' if name == 'maximum' else 'max'}={x[bound].text})"
                return f"torch.{name}({x[0].text}, {x[1].text})"
            return f"{_TORCH[name]}({', '.join(t.text for t in x)})"

        return self._apply(nodes, text, primitives().get(name, _unfolded), _ATOM)

    @staticmethod
    def _is_plain(bound: Term, other: Term) -> bool:
        """Whether the bound must be given to clamp: torch.maximum takes no Python numbers."""
        return bound.level == NUMBER or other.level == TENSOR

    def _apply(self, nodes: list[ast.expr], text: Callable[[list[Term]], str], evaluate: Callable[..., Any], strength: int) -> Term:
        terms = [self.term(node) for node in nodes]
        level = max(term.level for term in terms)
        if level == NUMBER:
            with np.errstate(all="ignore"):
                folded = number_term(float(evaluate(*(np.float64(term.value) for term in terms))))
            # `1 - 0.9` says more than 0.09999999999999998, and Python folds it to the same.
            keep = strength in (_SUM, _PRODUCT) and all(term.strength == _ATOM and math.isfinite(term.value) for term in terms)
            return Term(text(terms), NUMBER, folded.value, strength) if keep and math.isfinite(folded.value) else folded
        if level == TENSOR:
            terms = [_in_float32(term) for term in terms]
        if level == TENSOR and self.hoist:
            terms = [self.hoist(term) if term.level == SCALAR else term for term in terms]
        return Term(text(terms), level, 0.0, strength)


def _in_float32(term: Term) -> Term:
    """A number as it meets a tensor: beyond float32 it is infinite, and spelled so, for some of torch's functions refuse it otherwise."""
    beyond = term.level == NUMBER and math.isfinite(term.value) and abs(term.value) > _LARGEST
    return number_term(math.copysign(math.inf, term.value)) if beyond else term


def _unfolded(*_: Any) -> float:
    raise TypeError("Expected a tensor to reduce: the program spreads numbers out.")


_EVALUATED: dict[type, Callable[..., Any]] = {
    ast.Add: lambda x, y: x + y, ast.Sub: lambda x, y: x - y, ast.Mult: lambda x, y: x * y, ast.Div: lambda x, y: x / y,
    ast.Mod: lambda x, y: x % y, ast.Pow: lambda x, y: x**y, ast.GtE: lambda x, y: x >= y,
}  # fmt: skip
