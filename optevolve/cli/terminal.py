"""Printing: tables for people, JSON for programs, one line for an error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from optevolve.printable import clipped, shielded, without_passwords

__all__ = ["console", "error_line", "notice", "print_json", "print_table", "say"]

# Wide enough for every rule, so that nothing is cut or wrapped in a file or a pipe.
_PLAIN_WIDTH = 100_000
# Characters of one message or cell, more than a rule may have: what a task raises, or a stranger's store holds, may be megabytes.
_MOST = 12_000


def console(*, stderr: bool = False) -> Console:
    """The console on standard output or standard error as it is now."""
    found = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not found.is_terminal:
        found = Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=_PLAIN_WIDTH)
    return found


def say(text: str = "", *, style: str = "") -> None:
    """One line on standard output."""
    console().print(Text(_shown(text), style=style), soft_wrap=True)


def error_line(text: str) -> None:
    """One message on standard error."""
    sys.stderr.write(f"Error: {_shown(text)}\n")


def notice(text: str) -> None:
    """One line on standard error that is no error."""
    sys.stderr.write(f"{_shown(text)}\n")


def print_json(value: Any) -> None:
    """A value as strict JSON on standard output; numbers that JSON does not know become null."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    text = json.dumps(_finite(value), indent=2, ensure_ascii=not unicode)
    if shielded(text) != text:
        text = json.dumps(_finite(value), indent=2)
    sys.stdout.write(text + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """A table on standard output.

    Args:
        columns: headings; the last column may be wide and is folded on a terminal.
        rows: cells, shown as text; numbers with four digits after the point, small and large ones with four in all.
        right: headings of columns aligned to the right.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        last = column == columns[-1]
        table.add_column(column, justify="right" if column in right else "left", no_wrap=not last, overflow="fold" if last else "ellipsis")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if not isinstance(value, float):
        return _shown(str(value))
    return f"{value:.4f}" if value == 0 or 0.01 <= abs(value) < 1e6 else f"{value:.4g}"


def _shown(text: str) -> str:
    return shielded(without_passwords(clipped(text, _MOST)))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
