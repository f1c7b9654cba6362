"""Rules as LaTeX, from the `latex` templates of the tables' rows.

As in the paper, the guards against division by zero (1e-7) and the absolute values that a guarded function takes of its argument are shown
where their rows show them, and nowhere else.
"""

from __future__ import annotations

from functools import cache
from string import Formatter

from optevolve.space.expression import NUMBER, Node
from optevolve.space.operands import OPERANDS, Operand
from optevolve.space.operators import LEAVES, OPERATORS, Operator
from optevolve.space.rule import UpdateRule
from optevolve.space.text import format_number, parse_expression

__all__ = ["latex", "latex_expression", "operand_rows"]

# Binding powers, beside those of `Operator.infix`: what ends openly, as in \Delta x; a negation; what is a factor but no base of a power.
_SUM, _OPEN, _UNARY, _BARE, _ATOM = 10, 15, 30, 35, 100


def latex(rule: UpdateRule) -> str:
    """What one step does, in math mode without delimiters: alpha the learning rate, mu the momentum, m its buffer.

    Source: method section 2.
    """
    minus = "+" if rule.sign < 0 else "-"
    if rule.kind == "plain":
        text, power = _write(rule.expression)
        update = text if power > _SUM and text[0] != "-" else _bracket(text)
        return rf"w \leftarrow w {minus} \alpha \, {update}"
    last = "m" if rule.kind == "momentum" else rf"\mu m {minus} \alpha u"
    steps = (rf"u = {_write(rule.expression)[0]}", rf"m \leftarrow \mu m {minus} \alpha u", rf"w \leftarrow w + {last}")
    return r", \quad ".join(steps)


def latex_expression(node: Node) -> str:
    """An expression or decay in math mode without delimiters."""
    return _write(node)[0]


@cache
def operand_rows() -> dict[Node, Operand]:
    """Every operand's row by the expression that it stands for."""
    return {parse_expression(row.expression): row for row in OPERANDS.values()}


def _bracket(text: str) -> str:
    return rf"\left({text}\right)"


def _write(node: Node) -> tuple[str, int]:
    """LaTeX and binding power of its outermost operator."""
    if node.name == NUMBER:
        return _number(node.params[0])
    if not node.args:
        return LEAVES[node.name].latex, _ATOM
    row = OPERATORS[node.name]
    operand = operand_rows().get(node)
    if operand is not None:
        text = operand.latex
        return text, row.infix[1] if row.infix and not text.endswith(")") else _ATOM
    if row.latex == "{x}":  # draws its argument and nothing around it
        return _write(node.args[0])
    return _fill(row, node)


def _fill(row: Operator, node: Node) -> tuple[str, int]:
    args = dict(zip("xy", map(_write, node.args), strict=False))
    params = {p.name: format_number(value) for p, value in zip(row.params, node.params, strict=True)}
    template = _template(row.latex)
    holes = [hole for _, hole, _ in template if hole]
    if len(set(holes)) < len(holes) and max(len(text) for text, _ in args.values()) > _REPEATABLE:
        name = row.name.replace("_", r"\_")
        return rf"\operatorname{{{name}}}({', '.join(text for text, _ in args.values())})", _ATOM
    parts: list[str] = []
    for literal, hole, loose in template:
        parts.append(literal)
        if hole in args:
            text, power = args[hole]
            if loose and (power < _need(row, hole) or (text[0] == "-" and parts != [""])):
                text = _bracket(text)
            if row.name == "mul" and hole == "y" and text[0].isdigit():  # two numbers side by side would read as one
                parts[-1] = r" \cdot "
            parts.append(text)
        elif hole:
            parts.append(params[hole])
    text = "".join(parts)
    if any(loose for _, _, loose in template):
        return text, row.infix[1] if row.infix else _OPEN
    closed = text.endswith(")") or row.latex.startswith(r"\sqrt") or (row.latex.startswith(r"\left|") and text.endswith(r"\right|"))
    return text, _ATOM if closed else _BARE


def _need(row: Operator, hole: str) -> int:
    """Weakest binding that a hole takes without brackets: as in the native notation for infix operators, else an atom."""
    if row.infix is None:
        return _ATOM
    power = row.infix[1]
    if row.arity == 1:
        return power + 1
    return power + 1 if (hole == "y") != (row.name == "power") else power


@cache
def _template(text: str) -> tuple[tuple[str, str, bool], ...]:
    """(literal, hole after it, whether nothing around the hole sets it apart) for each piece of a template."""
    pieces = [("", "")]
    for literal, hole, _, _ in Formatter().parse(text):  # which splits at doubled braces too: pieces without a hole join the next
        before = pieces.pop()[0] if not pieces[-1][1] else ""
        pieces.append((before + literal, hole or ""))
    following = [literal for literal, _ in pieces[1:]] + [""]
    return tuple(
        (literal, hole, bool(hole) and not (literal.rstrip().endswith(_OPENING) and after.lstrip().startswith(_CLOSING)))
        for (literal, hole), after in zip(pieces, following, strict=True)
    )


#: A template such as x/(1+|x|) repeats its argument up to this length; nested, it would double at every level.
_REPEATABLE = 300
_OPENING = ("{", "(", "|", ",", r"\Vert")
_CLOSING = ("}", ")", ",", r"\right", r"\Vert")


def _number(value: float) -> tuple[str, int]:
    text = format_number(value)
    mantissa, _, exponent = text.partition("e")
    if exponent:
        text = f"10^{{{exponent}}}" if mantissa == "1" else rf"{mantissa} \cdot 10^{{{exponent}}}"
        return text, 20 if value >= 0 else _UNARY
    return text, _ATOM if value >= 0 else _UNARY
