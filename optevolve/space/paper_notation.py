"""The authors' notation: `parse_paper(text)` and its inverse, `to_paper(rule)`, such as `Nest ~ bessel_i1e([(a13)*(a2)][g])`.

    rule = [["-"] ("None" | "Mom" | "Nest") "~"] expression

Every spelling is a template in a row of the tables (`Operator.paper`, `decay_paper`, `paper_forms`, `Operand.paper`); an expression is
whatever template fits, the one with most fixed tokens first. A template that begins with a hole, `{x}/(1+|{x}|)`, applies to all that
stands left of it. A decay, the first bracket of `[decay][x]`, has spellings of its own. Beyond what the authors print, numbers and base
decays are read anywhere, and a `-` before the kind marks a negative sign, on which they are silent.

Odd spellings of theirs, kept: `1/(1+exp(-x)` lacks a bracket; `((1-0.99)*g^2+0.99*lam hat)` means 0.01 g^3 + 0.99 l_hat; `1/(1+|1|)`
could be softsign(1) and is read as deriv_soft(1), which is the same number.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from optevolve.errors import ExportError, ParseError
from optevolve.space.decays import is_time_only
from optevolve.space.expression import NUMBER, Node
from optevolve.space.operands import OPERANDS
from optevolve.space.operators import LEAVES, OPERATORS, Operator
from optevolve.space.rule import UpdateRule
from optevolve.space.text import MAX_DEPTH, MAX_LENGTH, format_number, parse_expression

__all__ = ["PAPER_KINDS", "parse_paper", "parse_paper_decay", "to_paper", "to_paper_decay"]

#: The authors' word for each kind.
PAPER_KINDS = {"plain": "None", "momentum": "Mom", "nesterov": "Nest"}

_TOKEN = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[A-Za-z_]\w*|\S)", re.ASCII)
_HOLE = re.compile(r"\{(\w+)\}")
_DECAY = "decay"
_HOLES = ("x", "y", _DECAY)


@dataclass(frozen=True)
class _Piece:
    """A fixed token of a template, or a hole: for an expression (x, y), a decay, or a parameter of the operator."""

    text: str
    hole: bool = False
    parameter: int = -1


@dataclass(frozen=True)
class _Spelling:
    """A template and what it stands for: a tree whose leaves `x`, `y` and `decay` are its holes."""

    text: str
    pieces: tuple[_Piece, ...]
    tree: Node
    row: Operator | None

    @property
    def fixed(self) -> int:
        return sum(not piece.hole for piece in self.pieces)

    @property
    def holes(self) -> int:
        return len(self.pieces) - self.fixed


def _tokens(text: str) -> list[tuple[str, int]]:
    # without spaces at the end, where every one of them would be searched from for a token in vain
    return [(found[1], found.start(1)) for found in _TOKEN.finditer(text.rstrip(" \t\n\r\f\v"))]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _spelling(text: str, tree: Node, row: Operator | None = None) -> _Spelling:
    names = [p.name for p in row.params] if row else []
    pieces: list[_Piece] = []
    for i, part in enumerate(_HOLE.split(text)):
        if i % 2:
            pieces.append(_Piece(part, True, names.index(part) if part in names else -1))
        else:
            pieces += [_Piece(token) for token, _ in _tokens(part)]
    return _Spelling(text, tuple(pieces), tree, row)


def _row_spellings(row: Operator, in_decay: bool) -> Iterator[_Spelling]:
    text = (row.decay_paper if in_decay else "") or row.paper
    for native, spelled in row.paper_forms:
        if not (in_decay and "{decay}" in spelled):
            yield _spelling(spelled, parse_expression(native, holes=_HOLES))
    if text:
        yield _spelling(text, Node(row.name, tuple(Node(name) for name in "xy"[: row.arity]), (0.0,) * len(row.params)), row)


@dataclass(frozen=True)
class _Grammar:
    """Spellings: those that begin with a hole, the others by their first token, and all by the operator at the root, for writing."""

    after: list[_Spelling]
    by_token: dict[str, list[_Spelling]]
    by_root: dict[str, list[_Spelling]]
    words: frozenset[str]


@lru_cache(maxsize=8)
def _grammar(in_decay: bool, names: tuple[str, ...]) -> _Grammar:
    """The grammar of the rows by the given names, so that a row added later is known."""
    spellings = [spelling for name in names for spelling in _row_spellings(OPERATORS[name], in_decay)]
    if not in_decay:
        spellings += [_spelling(row.paper, parse_expression(row.expression)) for row in OPERANDS.values() if row.paper]
    spellings += [_spelling(leaf.name, Node(leaf.name)) for leaf in LEAVES.values() if not leaf.tensor]
    by_token: dict[str, list[_Spelling]] = defaultdict(list)
    by_root: dict[str, list[_Spelling]] = defaultdict(list)
    after: list[_Spelling] = []
    for spelling in sorted(spellings, key=lambda s: -s.fixed):
        first = spelling.pieces[0]
        (after if first.hole else by_token[first.text]).append(spelling)
    for spelling in sorted(spellings, key=lambda s: (-s.tree.size, s.holes)):
        by_root[spelling.tree.name].append(spelling)
    words = {piece.text for s in spellings for piece in s.pieces if not piece.hole and len(piece.text) > 1}
    return _Grammar(after, dict(by_token), dict(by_root), frozenset(words))


def _current(in_decay: bool) -> _Grammar:
    return _grammar(in_decay, tuple(OPERATORS))


def parse_paper(text: str, *, max_length: int = MAX_LENGTH, max_depth: int = MAX_DEPTH) -> UpdateRule:
    """The update rule that a text in the authors' notation stands for.

    Args:
        text: such as `None ~ (v hat)*(sig([(a3)^2][s hat]))`; no kind means plain.
        max_length: longest text accepted, in characters.
        max_depth: deepest nesting accepted.
    Raises:
        ParseError: with the column and what was expected.
    """
    reader = _Reader(text, max_length, max_depth)
    kind, sign = reader.head()
    return UpdateRule(reader.whole(False), kind, sign)


def parse_paper_decay(text: str, *, max_length: int = MAX_LENGTH, max_depth: int = MAX_DEPTH) -> Node:
    """The decay that a text such as `(a12) / (sqrt(1+(a2)^2))` stands for; arguments and errors as in `parse_paper`."""
    return _Reader(text, max_length, max_depth).whole(True)


class _Reader:
    """Recursive descent over the templates, each position read once: results are kept by (position, whether in a decay)."""

    def __init__(self, text: str, max_length: int, max_depth: int) -> None:
        if len(text) > max_length:
            raise ParseError(
                f"Expected at most {max_length} characters, got {len(text)}. Shorten the text or raise max_length.", max_length + 1
            )
        self.text = text
        self.max_depth = max_depth
        self.tokens = [*_tokens(text), ("", len(text.rstrip()))]
        self.start = 0
        self.nesting = 0
        self.known: dict[tuple[int, bool], tuple[Node, int] | None] = {}
        self.furthest = 0
        self.expected: set[str] = set()
        self.grammars = (_current(False), _current(True))

    def head(self) -> tuple[str, int]:
        words = [token for token, _ in self.tokens[:3]]
        negative = words[0] == "-"
        word, tilde = (*words[negative : negative + 2], "", "")[:2]
        if tilde != "~":
            return "plain", 1
        kind = next((kind for kind, paper in PAPER_KINDS.items() if paper == word), None)
        if kind is None:
            raise self._error(f"Unknown kind {_short(word)!r}", int(negative), f"Expected one of {', '.join(PAPER_KINDS.values())}.")
        self.start = self.furthest = 2 + negative
        return kind, -1 if negative else 1

    def whole(self, in_decay: bool) -> Node:
        try:
            result = self._expression(self.start, in_decay)
        except RecursionError:
            raise self._error("Nested too deep for Python", 0, f"Set max_depth lower than {self.max_depth}.") from None
        if result is not None and result[1] == len(self.tokens) - 1:
            if result[0].depth > self.max_depth:
                raise self._error(f"Nested {result[0].depth} deep", 0, f"Expected at most {self.max_depth}.")
            return result[0]
        if result is not None and result[1] >= self.furthest:
            self._miss(result[1], "the end")
        found = self.tokens[self.furthest][0]
        words = sorted(self.expected)
        names = self.grammars[0].words | self.grammars[1].words
        close = difflib.get_close_matches(found[:40], names, 1) if found.isidentifier() and found not in names else []
        remedy = f"Did you mean {close[0]!r}?" if close else f"Expected one of: {', '.join(words[:12])}{', …' if len(words) > 12 else ''}."
        raise self._error(f"Unexpected {_short(found)!r}" if found else "Unexpected end", self.furthest, remedy)

    def _error(self, what: str, index: int, remedy: str) -> ParseError:
        column = self.tokens[index][1] + 1
        return ParseError(f"{what} in {_short(self.text)!r} at column {column}. {remedy}", column)

    def _miss(self, index: int, expected: str) -> None:
        """Remember what would have fitted furthest into the text: that is where the mistake is."""
        if index > self.furthest:
            self.furthest, self.expected = index, set()
        if index == self.furthest:
            self.expected.add(expected)

    def _expression(self, index: int, in_decay: bool) -> tuple[Node, int] | None:
        key = (index, in_decay)
        if key in self.known:
            return self.known[key]
        self.nesting += 1
        if self.nesting > self.max_depth:
            raise self._error(f"Nested more than {self.max_depth} deep", index, "Simplify the text or raise max_depth.")
        result = self._first(index, in_decay)
        while result is not None:
            longer = self._any(self.grammars[in_decay].after, result[1], in_decay, result[0])
            if longer is None:
                break
            result = longer
        self.nesting -= 1
        self.known[key] = result
        return result

    def _first(self, index: int, in_decay: bool) -> tuple[Node, int] | None:
        token = self.tokens[index][0]
        result = self._any(self.grammars[in_decay].by_token.get(token, ()), index, in_decay)
        if result is None:
            result = self._number(index)
        if result is None:
            self._miss(index, "a decay" if in_decay else "an expression")
        return result

    def _number(self, index: int) -> tuple[Node, int] | None:
        negative = self.tokens[index][0] == "-"
        token = self.tokens[index + negative][0] if index + negative < len(self.tokens) else ""
        if not (token[:1].isdecimal() or token[:1] == ".") or token == ".":  # `⑶` is a digit of Unicode and no decimal
            return None
        try:
            value = float(token)
        except ValueError:
            raise self._error(f"Number {_short(token)} is none", index, "Expected a decimal number such as 0.1 or 1e-3.") from None
        if value == float("inf"):
            raise self._error(f"Number {_short(token)} is too large", index, "Expected a finite number.")
        return Node(NUMBER, (), (-value if negative else value,)), index + negative + 1

    def _any(self, spellings: list[_Spelling] | tuple[()], index: int, in_decay: bool, left: Node | None = None) -> tuple[Node, int] | None:
        for spelling in spellings:
            result = self._fit(spelling, index, in_decay, left)
            if result is not None:
                return result
        return None

    def _fit(self, spelling: _Spelling, index: int, in_decay: bool, left: Node | None) -> tuple[Node, int] | None:
        """The template at a position, or None; `left` fills the hole that it begins with."""
        holes: dict[str, Node] = {}
        params = list(spelling.tree.params)
        pieces = spelling.pieces
        if left is not None:
            holes[pieces[0].text] = left
            pieces = pieces[1:]
        for piece in pieces:
            if not piece.hole:
                if self.tokens[index][0] != piece.text:
                    self._miss(index, repr(piece.text))
                    return None
                index += 1
                continue
            result = self._number(index) if piece.parameter >= 0 else self._expression(index, in_decay or piece.text == _DECAY)
            if result is None:
                return None
            node, end = result
            if piece.parameter >= 0:
                params[piece.parameter] = self._parameter(spelling, piece, node, index)
            elif holes.setdefault(piece.text, node) != node:
                self._miss(index, "the same expression as before it")
                return None
            index = end
        if spelling.row is not None and spelling.row.params:
            return Node(spelling.tree.name, tuple(holes[arg.name] for arg in spelling.tree.args), tuple(params)), index
        return spelling.tree.substitute(holes) if holes else spelling.tree, index

    def _parameter(self, spelling: _Spelling, piece: _Piece, node: Node, index: int) -> float:
        assert spelling.row is not None  # only rows have parameters
        parameter = spelling.row.params[piece.parameter]
        value = node.params[0]
        if not parameter.low <= value < parameter.high:
            raise self._error(
                f"Parameter {parameter.name} of {spelling.row.name!r} is {format_number(value)}",
                index,
                f"Expected a number from {parameter.low:g} to below {parameter.high:g}.",
            )
        return value


def to_paper(rule: UpdateRule) -> str:
    """The rule in the authors' notation; `parse_paper` reads it back as the same rule.

    Raises:
        ExportError: if their notation has no spelling for something in the rule.
    """
    text = f"{'-' if rule.sign < 0 else ''}{PAPER_KINDS[rule.kind]} ~ {_Writer().write(rule.expression, False)}"
    return _checked(text, parse_paper(text, max_length=len(text)).expression, rule.expression)


def to_paper_decay(node: Node) -> str:
    """A decay in the authors' notation; errors as `to_paper`."""
    text = _Writer().write(node, True)
    return _checked(text, parse_paper_decay(text, max_length=len(text)), node)


def _checked(text: str, back: Node, node: Node) -> str:
    if back != node:
        raise ExportError(
            f"Expected an expression that the paper's notation tells from its like, got {node!r}: {text!r} reads as {back!r}. "
            "Use the native notation."
        )
    return text


class _Writer:
    """Trees to text: at each node the largest template that fits."""

    def write(self, node: Node, in_decay: bool) -> str:
        for spelling in _current(in_decay).by_root.get(node.name, ()):
            holes: dict[str, Node] = {}
            if _matches(spelling, spelling.tree, node, holes):
                return self._fill(spelling, node, holes, in_decay)
        if node.name == NUMBER:
            return format_number(node.params[0])
        row = OPERATORS.get(node.name)
        what = f"the operator {row.name!r} ({row.summary})" if row else f"{node.name!r}"
        raise ExportError(f"Expected a rule in the paper's vocabulary, got {what}, which it cannot spell. Use the native notation.")

    def _fill(self, spelling: _Spelling, node: Node, holes: dict[str, Node], in_decay: bool) -> str:
        def fill(match: re.Match[str]) -> str:
            name = match[1]
            if name in holes:
                return self.write(holes[name], in_decay or name == _DECAY)
            assert spelling.row is not None  # what is no hole for an expression is a parameter
            return format_number(node.params[[p.name for p in spelling.row.params].index(name)])

        text = _HOLE.sub(fill, spelling.text)
        if len(text) > MAX_LENGTH:  # x/(1+|x|) doubles at every level
            raise ExportError(f"Expected at most {MAX_LENGTH} characters in the paper's notation, got more. Use the native notation.")
        return text


def _matches(spelling: _Spelling, tree: Node, node: Node, holes: dict[str, Node]) -> bool:
    """Whether the tree with holes is the node for some filling of the holes, which are put into `holes`."""
    if not tree.args and tree.name in _HOLES:
        return (tree.name != _DECAY or _is_pure_decay(node)) and holes.setdefault(tree.name, node) == node
    free = tree is spelling.tree and spelling.row is not None  # an operator's own spelling takes any parameters
    return (
        tree.name == node.name
        and len(tree.args) == len(node.args)
        and (free or tree.params == node.params)
        and all(_matches(spelling, t, n, holes) for t, n in zip(tree.args, node.args, strict=True))
    )


@lru_cache(maxsize=65536)
def _is_pure_decay(node: Node) -> bool:
    """Whether the authors could have drawn it as a decay: base decays under operators that they spell, without numbers of its own."""
    if not is_time_only(node):
        return False
    if not node.args:
        return node.name != NUMBER
    for spelling in _current(True).by_root.get(node.name, ()):
        holes: dict[str, Node] = {}
        if _matches(spelling, spelling.tree, node, holes):
            return all(map(_is_pure_decay, holes.values()))
    return False
