"""Text reaches every terminal: spelled readably where its encoding lacks a character, and with nothing that it would obey."""

import pytest

from optevolve.printable import fitting, shielded, without_passwords


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8", None])
def test_every_text_fits_every_encoding(encoding: str | None) -> None:
    text = "α → w ← x² · ½ … │ ▁█ 漢 é µ \udcff"
    found = fitting(text, encoding)
    found.encode(encoding or "utf-8")  # as a stream does it, strictly
    if encoding == "ascii":
        assert found == "alpha -> w <- x^2 * 1/2 ... | .# ? e mu ?"
    if encoding in ("utf-8", None):
        assert found == text.replace("\udcff", "?")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("a\rb\x08c\x9b31m", "a\\x0db\\x08c\\x9b31m"),
        ("\u202eabc", "\\u202eabc"),
        ("two\nlines\tand α", "two\nlines\tand α"),
    ],
)
def test_control_characters_are_shown_and_not_obeyed(text: str, shown: str) -> None:
    assert shielded(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://me:a/b@c@host/d, see", "postgresql+psycopg://me:***@host/d, see"),
        ("no run in postgresql:/me:word@host/d there", "no run in postgresql:/me:***@host/d there"),  # as a path it lost a slash
        ("https://host/d?x=1&password=word&y=2", "https://host/d?x=1&password=***&y=2"),
        ("postgresql://host:5432/d: a@b", "postgresql://host:5432/d: a@b"),
        ("C:/tasks.py:Mine@width=3", "C:/tasks.py:Mine@width=3"),
    ],
)
def test_passwords_of_urls_are_not_shown(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
