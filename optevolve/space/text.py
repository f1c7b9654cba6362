"""The native notation: `parse(text)` and its inverse, `str(rule)`. A small Pratt parser; nothing is ever evaluated.

    rule        = ["-"] [("plain" | "momentum" | "nesterov") ":"] expression
    expression  = infix + - * / ** (Python's precedences), unary -, calls, names, numbers, brackets

`parse(str(rule)) == rule` for every rule whose numbers are finite.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from functools import cache, lru_cache

from optevolve.errors import ParseError
from optevolve.space.expression import NUMBER, Node
from optevolve.space.operands import OPERANDS
from optevolve.space.operators import LEAVES, OPERATORS, Operator
from optevolve.space.rule import KINDS, UpdateRule

__all__ = ["MAX_DEPTH", "MAX_LENGTH", "format_expression", "format_number", "format_rule", "parse", "parse_expression", "short_name"]

MAX_LENGTH = 10_000
MAX_DEPTH = 100

# Possessive, so that a text of nothing but spaces takes linear time.
_RULE_HEAD = re.compile(r"\s*+(?P<sign>-?)\s*+(?P<kind>[A-Za-z_]\w*+)\s*+:", re.ASCII)
_UNARY_POWER = 30
_ATOM = 100

_Token = tuple[str, str, int]  # kind, text, 0-based position


def parse(text: str, *, max_length: int = MAX_LENGTH, max_depth: int = MAX_DEPTH) -> UpdateRule:
    """The update rule that a text in native notation stands for.

    Args:
        text: such as `nesterov: bessel_i1e(bessel_i1e(a13 * a2 * g))`; no kind means plain, a leading `-kind:` a negative sign.
        max_length: longest text accepted, in characters.
        max_depth: deepest nesting accepted.
    Raises:
        ParseError: with the column, what was expected and the nearest known name.
    """
    _check_length(text, max_length)
    head = _RULE_HEAD.match(text)
    if head is None:
        return UpdateRule(_Parser(text, 0, max_depth).parse())
    kind = head["kind"]
    if kind not in KINDS:
        raise _unknown("kind", kind, text, head.start("kind"), KINDS, f"Expected one of {', '.join(KINDS)}.")
    return UpdateRule(_Parser(text, head.end(), max_depth).parse(), kind, -1 if head["sign"] else 1)


def parse_expression(text: str, *, holes: tuple[str, ...] = (), max_length: int = MAX_LENGTH, max_depth: int = MAX_DEPTH) -> Node:
    """The expression that a text in native notation stands for; arguments and errors as in `parse`.

    Args:
        holes: further names to accept, as leaves that `Node.substitute` fills: a template such as `clip(x, y)` has the holes x and y.
    """
    _check_length(text, max_length)
    return _Parser(text, 0, max_depth, holes).parse()


def _check_length(text: str, max_length: int) -> None:
    if len(text) > max_length:
        raise ParseError(
            f"Expected at most {max_length} characters, got {len(text)}. Shorten the text or raise max_length.", max_length + 1
        )


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _unknown(
    what: str, name: str, text: str, position: int, known: Sequence[str], remedy: str = "`optevolve show --names` lists what there is."
) -> ParseError:
    import difflib  # most texts are right

    close = difflib.get_close_matches(name[:40], known, 1) or difflib.get_close_matches(name[:40].lower(), known, 1)
    hint = f"Did you mean {close[0]!r}?" if close else remedy
    return ParseError(f"Unknown {what} {_quote(name)} in {_quote(text)} at column {position + 1}. {hint}", position + 1)


def _known_names() -> list[str]:
    return sorted({*OPERATORS, *LEAVES, *(name.partition("(")[0] for name in OPERANDS if name[0].isalpha())})


@lru_cache(maxsize=1)
def _symbols(names: tuple[str, ...]) -> tuple[re.Pattern[str], dict[str, Operator]]:
    """A token, and what is written between two arguments: of the rows by the given names, so that a row added later is known."""
    infix = {row.infix[0]: row for row in map(OPERATORS.__getitem__, names) if row.infix and row.arity == 2}
    symbols = "|".join(re.escape(symbol) for symbol in sorted((*infix, "-", "(", ")", ","), key=len, reverse=True))
    number = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
    return re.compile(rf"\s*(?:(?P<number>{number})|(?P<name>[A-Za-z_]\w*)|(?P<symbol>{symbols}))", re.ASCII), infix


class _Parser:
    """One pass over one text; see the module's grammar."""

    def __init__(self, text: str, start: int, max_depth: int, holes: tuple[str, ...] = ()) -> None:
        self.text = text
        self.holes = holes
        self.max_depth = max_depth
        self.token, self.infix = _symbols(tuple(OPERATORS))
        self.tokens = self._tokenize(start)
        self.index = 0
        self.nesting = 0

    def _tokenize(self, start: int) -> list[_Token]:
        tokens: list[_Token] = []
        position, text = start, self.text
        match = self.token.match
        while found := match(text, position):
            kind = found.lastgroup
            assert kind is not None  # one of the three groups always matches
            tokens.append((kind, found[kind], found.start(kind)))
            position = found.end()
        rest = text[position:].lstrip()
        if rest:
            column = len(text) - len(rest)
            raise self._error(f"Unexpected character {rest[0]!r}", column, "Expected a number, a name, an operator or a bracket.")
        tokens.append(("end", "", len(text)))
        return tokens

    def _error(self, what: str, position: int, remedy: str) -> ParseError:
        return ParseError(f"{what} in {_quote(self.text)} at column {position + 1}. {remedy}", position + 1)

    def parse(self) -> Node:
        try:
            node = self._expression(0)
        except RecursionError:
            raise self._error("Nested too deep for Python", 0, f"Set max_depth lower than {self.max_depth}.") from None
        kind, text, position = self.tokens[self.index]
        if kind != "end":
            raise self._error(f"Unexpected {_quote(text)}", position, "Expected an operator or the end of the text.")
        if node.depth > self.max_depth:
            raise self._too_deep(node.depth)
        return node

    def _too_deep(self, depth: int) -> ParseError:
        return self._error(f"Nested {depth} deep", 0, f"Expected at most {self.max_depth}: simplify the text or raise max_depth.")

    def _expression(self, power: int) -> Node:
        self.nesting += 1
        if self.nesting > self.max_depth:
            raise self._error(
                f"Nested more than {self.max_depth} deep", self.tokens[self.index][2], "Simplify the text or raise max_depth."
            )
        left = self._prefix()
        while True:
            kind, text, _ = self.tokens[self.index]
            row = self.infix.get(text) if kind == "symbol" else None
            if row is None or row.infix is None or row.infix[1] <= power:
                self.nesting -= 1
                return left
            self.index += 1
            # ** binds to the right, and its exponent may carry a sign: 2 ** -1
            right = self._expression(_UNARY_POWER - 1 if row.name == "power" else row.infix[1])
            left = Node(row.name, (left, right))
            if left.depth > self.max_depth:
                raise self._too_deep(left.depth)

    def _prefix(self) -> Node:
        kind, text, position = self.tokens[self.index]
        self.index += 1
        if kind == "number":
            return self._number(text, position, 1.0)
        if kind == "name":
            if self.tokens[self.index][1] == "(":
                return self._call(text, position)
            return self._name(text, position)
        if text == "-":
            following = self.tokens[self.index]
            if following[0] == "number" and self.tokens[self.index + 1][1] != "**":
                self.index += 1
                return self._number(following[1], following[2], -1.0)
            return Node("neg", (self._expression(_UNARY_POWER - 1),))
        if text == "(":
            node = self._expression(0)
            self._expect(")")
            return node
        found = repr(text) if text else "end"
        raise self._error(f"Unexpected {found}", position, "Expected a number, a name, '-' or '('.")

    def _expect(self, symbol: str) -> None:
        kind, text, position = self.tokens[self.index]
        if text != symbol or kind != "symbol":
            found = _quote(text) if text else "the end"
            raise self._error(f"Expected {symbol!r}, got {found}", position, "Close or complete the bracket before it.")
        self.index += 1

    def _number(self, text: str, position: int, sign: float) -> Node:
        value = float(text)
        if value == float("inf"):
            raise self._error(f"Number {_quote(text)[1:-1]} is too large", position, "Expected a finite number.")
        return Node(NUMBER, (), (sign * value,))

    def _name(self, name: str, position: int) -> Node:
        if name in LEAVES or name in self.holes:
            return Node(name)
        node = _named(name)
        if node is not None:
            return node
        if name in OPERATORS:
            raise self._error(f"{name!r} is an operator without arguments", position, f"Write {_signature(OPERATORS[name])}.")
        if options := _options(name):
            raise self._error(f"{name!r} needs to be told of what", position, f"Write one of {', '.join(options)}.")
        raise _unknown("name", name, self.text, position, _known_names())

    def _call(self, name: str, position: int) -> Node:
        self.index += 1
        row = OPERATORS.get(name)
        if row is None:
            return self._macro(name, position)
        args: list[Node] = []
        spans: list[tuple[int, int]] = []
        if self.tokens[self.index][1] != ")":
            while True:
                start = self.tokens[self.index][2]
                args.append(self._expression(0))
                spans.append((start, self.tokens[self.index][2]))
                if self.tokens[self.index][1] != ",":
                    break
                self.index += 1
        self._expect(")")
        given = len(args) - row.arity
        required = sum(p.default is None for p in row.params)
        if not required <= given <= len(row.params):
            raise self._error(f"{name!r} got {len(args)} arguments", position, f"Write {_signature(row)}.")
        values = []
        for i, parameter in enumerate(row.params):
            value = args[row.arity + i].value if i < given else parameter.default
            if value is None or not parameter.low <= value < parameter.high:
                start, end = spans[row.arity + i]
                raise self._error(
                    f"Parameter {parameter.name} of {name!r} is {_quote(self.text[start:end].strip())}",
                    start,
                    f"Expected a number from {parameter.low:g} to below {parameter.high:g}.",
                )
            values.append(value)
        return Node(name, tuple(args[: row.arity]), tuple(values))

    def _macro(self, name: str, position: int) -> Node:
        """`qhm(v)` and the like: a short name that looks like a call."""
        kind, text, _ = self.tokens[self.index]
        node = _named(f"{name}({text})") if kind == "name" else None
        if node is not None:
            self.index += 1
            self._expect(")")
            return node
        if options := _options(name):
            raise self._error(f"Unknown argument of {name!r}", position, f"Write one of {', '.join(options)}.")
        raise _unknown("operator", name, self.text, position, [known for known in _known_names() if known in OPERATORS or _options(known)])


def _options(name: str) -> list[str]:
    """The short names that look like calls of `name`."""
    return [operand for operand in OPERANDS if operand.startswith(name + "(")]


def _signature(row: Operator) -> str:
    if row.infix:
        return f"x {row.infix[0]} y" if row.arity == 2 else f"{row.infix[0]}x"
    return f"{row.name}({', '.join([*'xyz'[: row.arity], *(p.name for p in row.params)])})"


@cache
def _named(name: str) -> Node | None:
    """The expression behind the name of an operand; None if there is none by that name."""
    row = OPERANDS.get(name)
    if row is None or row.expression == row.name:
        return None
    return parse_expression(row.expression)


@lru_cache(maxsize=1)
def _short_names() -> dict[Node, str]:
    """Every expression that an operand names, to its name."""
    return {node: name for name in OPERANDS if (node := _named(name)) is not None}


def short_name(node: Node) -> str | None:
    """The name under which the printer writes an expression; None if it has none."""
    return _short_names().get(node)


def format_number(value: float) -> str:
    """A short text that reads back as the same number."""
    plain = repr(value).removesuffix(".0")
    if 1e-2 <= abs(value) < 1e6 or value == 0:
        return plain
    scientific = f"{Decimal(repr(value)).normalize():e}".replace("e+", "e")
    return scientific if len(scientific) <= len(plain) else plain


def format_rule(rule: UpdateRule) -> str:
    """The rule in native notation; see `parse`."""
    text = format_expression(rule.expression)
    if rule.kind == "plain" and rule.sign == 1:
        return text
    return f"{'-' if rule.sign < 0 else ''}{rule.kind}: {text}"


def format_expression(node: Node) -> str:
    """The expression in native notation, with operands by their short names."""
    return _format(node, _short_names())[0]


def _format(node: Node, short: dict[Node, str]) -> tuple[str, int]:
    """Text and binding power of its outermost operator."""
    if node.name == NUMBER:
        text = format_number(node.params[0])
        return text, _UNARY_POWER if text[0] == "-" else _ATOM
    if not node.args:
        return node.name, _ATOM
    if node in short:
        return short[node], _ATOM
    row = OPERATORS[node.name]
    if row.infix is None:
        inner = [_format(arg, short)[0] for arg in node.args]
        # A parameter with a default is written all the same: a number that matters should be seen.
        inner += [format_number(value) for value in node.params]
        return f"{row.name}({', '.join(inner)})", _ATOM
    symbol, power = row.infix
    if row.arity == 1:
        # -(3) is the negation of a number, -3 is a negative number
        need = _ATOM + 1 if node.args[0].name == NUMBER else _UNARY_POWER
        return symbol + _bracket(node.args[0], need, short), power
    left_need, right_need = (power + 1, _UNARY_POWER) if row.name == "power" else (power, power + 1)
    left, right = node.args
    return f"{_bracket(left, left_need, short)} {symbol} {_bracket(right, right_need, short)}", power


def _bracket(node: Node, need: int, short: dict[Node, str]) -> str:
    text, power = _format(node, short)
    return text if power >= need else f"({text})"
