"""What marks and absent names take out of a text, and what they leave."""

import pytest

from optevolve.compile.tailor import briefly, short_signatures, tailor

TEXT = '''
class A:
    @first  # export never
    @second
    def step(self, draws):
        """Steps.

        Args:
            draws: random ones.
        """
        if self.draws:  # export inline if draws
            return draws
        return 1

    @third
    def other(self):  # export if draws
        return 2
'''


@pytest.mark.parametrize("draws", [True, False])
def test_a_mark_on_a_decorator_takes_that_alone_and_one_on_a_definition_takes_all(draws: bool) -> None:
    text = tailor(TEXT, frozenset({"draws"} if draws else ()), frozenset() if draws else frozenset({"draws"}))
    assert "@first" not in text
    assert "@second\n    def step(self" in text
    assert ("def other" in text) == ("@third" in text) == draws
    assert ("return draws" in text) == draws
    assert "# export" not in text


def test_docstrings_keep_their_first_paragraph() -> None:
    assert '"""Steps."""\n        if' in briefly(TEXT)
    assert "Args" not in briefly(TEXT)


def test_signatures_take_one_line_where_they_fit() -> None:
    assert short_signatures("def f(\n    a,\n    b=1,\n) -> int:\n    return a\n") == "def f(a, b=1) -> int:\n    return a\n"
    long = ", ".join(f"argument_{i}: int" for i in range(7))
    spread = "def f(\n" + "".join(f"    {argument},\n" for argument in long.split(", ")) + ") -> dict[str, int]:\n    return 1\n"
    assert short_signatures(spread) == f"def f(\n    {long}\n) -> dict[str, int]:\n    return 1\n"
    longer = spread.replace("argument", "a_very_long_argument")
    assert short_signatures(longer) == longer
