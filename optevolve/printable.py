"""Text for terminals that do not know every character, and from sources that may hold what a terminal would obey."""

import codecs
import re
import sys
import unicodedata
from typing import Any

__all__ = ["HANDLER", "clipped", "fitting", "shielded", "tolerate", "without_passwords"]

HANDLER = "optevolve.readable"  # of encoding errors: a readable spelling in place of what an encoding lacks

_SPELLINGS = {
    "…": "...", "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "∞": "inf", "½": "1/2", "±": "+-", "≤": "<=",
    "≥": ">=", "≈": "~", "√": "sqrt", "ᵀ": "^T", "²": "^2", "³": "^3", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta",
    "ε": "eps", "η": "eta", "λ": "lambda", "μ": "mu", "π": "pi", "σ": "sigma", "Σ": "sum", "τ": "tau", "θ": "theta", "“": '"', "”": '"',
    "‘": "'", "’": "'", "•": "*", "✓": "ok", "✗": "x",
    **dict(zip("▁▂▃▄▅▆▇█", "._-=+*%#", strict=True)), **dict.fromkeys("─━╌╍╴╶╸╺", "-"), **dict.fromkeys("│┃╎╏", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┡┩", "+"),
}  # fmt: skip
# Control characters, those that format, such as marks that turn the direction of writing, lone surrogates, ends of lines and paragraphs.
_OBEYED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Of a URL, also of one that became a path and lost a slash, and of its query.
_PASSWORDS = (
    (re.compile(r"(?<=\w\w)(:/+[^\s:]*):\S*@"), r"\1:***@"),
    (re.compile(r"(?<=[?&])(\w*(?:password|passwd|pwd))=[^&\s]*"), r"\1=***"),
)


def _readable(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`, whose replacements every encoding of terminals has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_spelled(character) for character in error.object[error.start : error.end]), error.end


def _spelled(character: str) -> str:
    if (known := _SPELLINGS.get(character)) is not None:
        return known
    parts = unicodedata.normalize("NFKD", character)  # of the micro sign the Greek letter
    return "".join(_SPELLINGS.get(part, part) for part in parts).encode("ascii", "ignore").decode("ascii") or "?"


codecs.register_error(HANDLER, _readable)


def fitting(text: str, encoding: str | None) -> str:
    """The text as a stream of that encoding can write it."""
    name = encoding or "utf-8"
    return text.encode(name, HANDLER).decode(name)


def shielded(text: str, *, kept: str = "\n\t", long: bool = False) -> str:
    """The text with escape sequences and other characters that are obeyed, not shown, spelled as escapes: no terminal obeys them.

    Args:
        text: from a store, a task, a rule or a file.
        kept: which of these characters stay as they are.
        long: spell all of them with four digits or eight, as TOML and JSON do.
    """
    if text.isprintable():
        return text
    return "".join(_escape(ord(c), long) if c not in kept and unicodedata.category(c) in _OBEYED else c for c in text)


def _escape(point: int, long: bool) -> str:
    if point < 0x100 and not long:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def without_passwords(text: str) -> str:
    """The text with the passwords of its URLs as three asterisks."""
    for pattern, instead in _PASSWORDS:
        text = pattern.sub(instead, text)
    return text


def clipped(text: str, most: int) -> str:
    """The text, or its beginning and how long it was: at most `most` characters, of which there are some forty."""
    if len(text) <= most:
        return text
    note = f"… ({len(text):,} characters)"
    return text[: most - len(note)] + note


def tolerate(encoding: str | None = None) -> None:
    """Standard output and standard error of this process take any text, spelled readably where their encoding lacks a character.

    Args:
        encoding: of both from now on; None: their own.
    """
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=encoding, errors=HANDLER)
