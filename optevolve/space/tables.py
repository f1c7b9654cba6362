"""The tables of docs/search-space.md, from the rows: `python -m optevolve.space.tables docs/search-space.md` writes them into the page.

A table stands in the page between `<!-- table NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from optevolve.space.grammar import arity_of, paper_grammar, template
from optevolve.space.operands import OPERANDS
from optevolve.space.operators import BASE_DECAYS, LEAVES, OPERATORS, Operator
from optevolve.space.paper_notation import PAPER_KINDS, to_paper, to_paper_decay
from optevolve.space.rule import UpdateRule
from optevolve.space.show import step_lines

__all__ = ["TABLES", "fill_page", "main", "signature"]

_BLOCK = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _code(text: str) -> str:
    """A cell of code. A bar would end the cell, and between backticks it cannot be escaped for every renderer."""
    if "|" in text:
        return f"<code>{_plain(escape(text, quote=False))}</code>"
    return f"`{text}`" if text else ""


def _plain(text: str) -> str:
    return text.replace("|", "&#124;")


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _operands() -> str:
    return _table(
        ("native", "stands for", "the paper's", "what it is"),
        ((_code(row.name), _code(row.expression), _code(row.paper), row.summary) for row in OPERANDS.values() if row.sampled),
    )


def _short_names() -> str:
    return _table(
        ("native", "stands for", "what it is"),
        ((_code(row.name), _code(row.expression), row.summary) for row in OPERANDS.values() if not row.sampled),
    )


def _row_of(form: str) -> Operator:
    return OPERATORS[template(form).name]


def _drawn(arity: int) -> str:
    """The templates of that arity that the paper's grammar draws in update equations or in decays."""
    grammar = paper_grammar()
    updates, decays = grammar.operators(arity), grammar.decay_operators(arity)
    rows = []
    for form in dict.fromkeys([*updates, *decays]):
        spellings = dict.fromkeys(_paper(form, in_update) for in_update in (True, False) if form in (updates if in_update else decays))
        where = (("yes" if form in forms else "") for forms in (updates, decays))
        rows.append((_code(form), _code(_value(form)), " or ".join(map(_code, spellings)), *where, _summary(form)))
    return _table(("native", "value", "the paper's", "in updates", "in decays", "what it does"), rows)


def _is_plain_call(form: str) -> bool:
    return all(not arg.args for arg in template(form).args) and arity_of(form) == _row_of(form).arity


def _value(form: str) -> str:
    row = _row_of(form)
    if not _is_plain_call(form) or row.infix:
        return form
    return _bound(_definition(row), form)


def _definition(row: Operator) -> str:
    if not row.state:
        return row.formula
    formula = re.sub(r"\bcorrection\b", f"({row.correction})", row.formula)
    if formula == "new":
        return f"new = {row.state}"
    return f"{formula} with new = {row.state}" if "new" in formula else f"{formula} with old = {row.state} a step ago"


def _bound(text: str, form: str) -> str:
    """With the parameters of the form for their names."""
    for parameter, value in zip(_row_of(form).params, template(form).params, strict=True):
        text = re.sub(rf"\b{parameter.name}\b", f"{value:g}", text)
    return text


def _summary(form: str) -> str:
    return _plain(_bound(_row_of(form).summary, form)) if _is_plain_call(form) else ""


def _paper(form: str, in_update: bool) -> str:
    """The authors' spelling, with v hat and g (a1 and a2 in decays) for x and y, then put back."""
    leaves = {"x": template("v_hat"), "y": template("g")} if in_update else {"x": template("a1"), "y": template("a2")}
    node = template(form).substitute(leaves)
    text = to_paper(UpdateRule(node)).removeprefix("None ~ ") if in_update else to_paper_decay(node)
    for letter, spelled in zip("xy", ("v hat", "g") if in_update else ("a1", "a2"), strict=True):
        text = re.sub(rf"\b{spelled}\b", letter, text)
    return text


def _further() -> str:
    grammar = paper_grammar()
    forms = (*grammar.unary, *grammar.binary, *grammar.decay_unary, *grammar.decay_binary)
    drawn = {_row_of(form).name for form in forms if _is_plain_call(form)}
    return _table(
        ("native", "value", "what it does"),
        ((_code(signature(row)), _code(_definition(row)), _plain(row.summary)) for row in OPERATORS.values() if row.name not in drawn),
    )


def signature(row: Operator) -> str:
    """How an operator is written, such as `dropout(x, rate)` or `x + y`."""
    if row.infix:
        return f"x {row.infix[0]} y" if row.arity == 2 else f"{row.infix[0]}x"
    return f"{row.name}({', '.join([*'xy'[: row.arity], *(p.name for p in row.params)])})"


def _base_decays() -> str:
    return _table(
        ("name", "value", "course"),
        ((_code(name), _code(LEAVES[name].formula.replace("3.141592653589793", "π")), LEAVES[name].summary) for name in BASE_DECAYS),
    )


def _leaves() -> str:
    return _table(
        ("name", "what it is"),
        ((_code(leaf.name), leaf.summary) for leaf in LEAVES.values() if leaf.name not in BASE_DECAYS),
    )


def _kinds() -> str:
    steps = {kind: "; ".join(_code(line.replace("g", "u")) for line in step_lines(UpdateRule(template("g"), kind))) for kind in PAPER_KINDS}
    return _table(
        ("kind", "the paper's", "one step, with u the equation's value, α the learning rate, μ the momentum"),
        ((_code(kind), _code(PAPER_KINDS[kind]), lines) for kind, lines in steps.items()),
    )


def _probabilities() -> str:
    grammar = paper_grammar()
    return _table(
        ("choice", "probability"),
        (
            ("a hidden node is unary", f"{grammar.p_hidden_unary}"),
            ("the root is unary", f"{grammar.p_root_unary}"),
            ("a unary operator is the identity (the others share the rest)", f"{grammar.p_identity}"),
            ("an input that may be either is an operand", f"{grammar.p_operand}"),
            ("an edge carries a decay", f"{grammar.p_decay}"),
            ("the edge under a unary root carries a decay", f"{grammar.p_root_decay}"),
            ("a node of a decay is unary", f"{grammar.p_decay_unary}"),
            ("a decay's root surely names its hidden node", f"{grammar.p_decay_hidden}"),
        ),
    )


#: Every table by its name in the page.
TABLES: dict[str, Callable[[], str]] = {
    "kinds": _kinds,
    "leaves": _leaves,
    "operands": _operands,
    "short-names": _short_names,
    "unary": lambda: _drawn(1),
    "binary": lambda: _drawn(2),
    "further": _further,
    "base-decays": _base_decays,
    "probabilities": _probabilities,
}


def fill_page(page: str) -> str:
    """The page with every table as the rows have it now.

    Raises:
        ValueError: if the page names a table that there is not.
    """

    def fill(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise ValueError(f"Expected one of the tables {', '.join(TABLES)}, got {match[2]!r}.")
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    return _BLOCK.sub(fill, page)


def main(paths: list[str]) -> None:
    """Write the tables into the pages."""
    for path in map(Path, paths):
        path.write_text(fill_page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
