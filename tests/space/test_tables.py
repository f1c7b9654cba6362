import re
from pathlib import Path

import pytest

from optevolve.space import OPERANDS, OPERATORS, Operator, register_operator
from optevolve.space.grammar import from_toml
from optevolve.space.operators import BASE_DECAYS
from optevolve.space.tables import TABLES, fill_page, main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "search-space.md"


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert fill_page(page) == page, "run: python -m optevolve.space.tables docs/search-space.md"


def test_every_table_is_on_the_page_and_every_row_in_a_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in TABLES if f"<!-- table {name} -->" not in page] == []
    for name, row in OPERATORS.items():
        call = f"`{name}(x" if not row.infix else (f"x {row.infix[0]} y`" if row.arity == 2 else f"`{row.infix[0]}x`")
        assert call in page, name
    for name in (*OPERANDS, *BASE_DECAYS):
        assert f"| `{name}` |" in page, name


@pytest.mark.parametrize("name", list(TABLES))
def test_every_row_of_a_table_has_as_many_cells_as_its_header(name: str) -> None:
    lines = TABLES[name]().splitlines()
    assert len(lines) > 2
    assert {line.count("|") for line in lines} == {lines[0].count("|")}


def test_a_new_row_appears_and_the_page_notices(tmp_path: Path) -> None:
    register_operator(Operator("cube_for_test", 1, "x * x * x", "{x}^3", "cube", paper="cube({x})", forms=("cube_for_test(x)",)))
    try:
        copy = tmp_path / "page.md"
        copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
        main([str(copy)])
        assert "| `cube_for_test(x)` | `x * x * x` | `cube(x)` | yes |  | cube |" in copy.read_text(encoding="utf-8")
    finally:
        del OPERATORS["cube_for_test"]


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="Expected one of the tables"):
        fill_page("<!-- table nope -->\n<!-- end -->")


def test_the_grammar_on_the_page_is_one() -> None:
    text = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert text
    assert "x * tanh(y)" in from_toml(text[1]).binary
