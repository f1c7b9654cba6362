"""How large a config may be: far beyond any that a person writes, and small enough to be checked in a blink, whoever wrote it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from optevolve.errors import ConfigError

__all__ = ["read_text", "require_bounds", "require_text_bounds"]

CHARACTERS = 250_000  # of a file
LEAVES = 20_000  # values in all
DEPTH = 24  # tables and lists within each other, and parts of a dotted key
KEY = 500  # characters of one key

_PART = r"""(?:[\w-]+|"[^"\n]*"|'[^'\n]*')"""
_DEEP_KEY = re.compile(rf"(?<![\w-])(?:{_PART}[ \t]*\.[ \t]*){{{DEPTH}}}")
_REMEDY = "A config is of a few hundred values; 'optevolve config' prints a whole one."


def read_text(path: str | Path) -> str:
    """The text of a file, of one that is too long as much as shows that it is.

    Raises:
        OSError, ValueError: if it cannot be read, or is not UTF-8.
    """
    with Path(path).open(encoding="utf-8") as file:
        return file.read(CHARACTERS + 1)


def require_text_bounds(text: str, source: str) -> None:
    """Refuses text that would take long to read.

    Raises:
        ConfigError: if it is too long, or has dotted keys of too many parts.
    """
    if len(text) > CHARACTERS:
        raise ConfigError(f"{source}: expected at most {CHARACTERS:,} characters, got more. {_REMEDY}")
    if (found := _DEEP_KEY.search(text)) is not None:
        raise ConfigError(f"{source}: expected keys of at most {DEPTH} dotted parts, got {found[0][:60]!r}…. {_REMEDY}")


def require_bounds(table: Any, source: str) -> None:
    """Refuses a table that is too deep or too large, or holds what is no text; walks it without recursion.

    Raises:
        ConfigError: if it is.
    """
    leaves = 0
    waiting = [(table, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEPTH:
            raise ConfigError(f"{source}: expected tables and lists at most {DEPTH} deep, got deeper ones. {_REMEDY}")
        if isinstance(value, dict):
            if (key := next((key for key in value if len(str(key)) > KEY), None)) is not None:
                raise ConfigError(f"{source}: expected keys of at most {KEY} characters, got {str(key)[:60]!r}….")
            _require_unicode(value, source)
            items = list(value.values())
        elif isinstance(value, list | tuple):
            items = list(value)
        else:
            _require_unicode([value], source)
            leaves += 1
            continue
        if leaves + len(items) > LEAVES:
            raise ConfigError(f"{source}: expected at most {LEAVES:,} values, got more. {_REMEDY}")
        leaves += not items
        waiting += [(item, depth + 1) for item in items]
    if leaves > LEAVES:
        raise ConfigError(f"{source}: expected at most {LEAVES:,} values, got {leaves:,}. {_REMEDY}")


def _require_unicode(values: Iterable[Any], source: str) -> None:
    for value in values:
        try:
            str(value).encode()
        except UnicodeEncodeError as error:  # half of a pair of code units, as a file name that is no UTF-8 leaves it
            raise ConfigError(f"{source}: expected text in Unicode, got {str(value)[:60]!r}. Spell it anew.") from error
