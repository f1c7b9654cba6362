"""Text for terminals that do not know every character, and from sources that may hold what a terminal would obey."""

import codecs
import re
import sys
import unicodedata
from typing import Any

__all__ = ["HANDLER", "fitting", "shielded", "tolerate"]

HANDLER = "optevolve.readable"  # of encoding errors: a readable spelling in place of what an encoding lacks

_SPELLINGS = {
    "…": "...", "→": "->", "←": "<-", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "∞": "inf", "½": "1/2", "±": "+-", "≤": "<=",
    "≥": ">=", "≈": "~", "√": "sqrt", "ᵀ": "^T", "²": "^2", "³": "^3", "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta",
    "ε": "eps", "η": "eta", "λ": "lambda", "μ": "mu", "π": "pi", "σ": "sigma", "Σ": "sum", "τ": "tau", "θ": "theta", "“": '"', "”": '"',
    "‘": "'", "’": "'", "•": "*", "✓": "ok", "✗": "x",
    **dict(zip("▁▂▃▄▅▆▇█", "._-=+*%#", strict=True)), **dict.fromkeys("─━╌╍╴╶╸╺", "-"), **dict.fromkeys("│┃╎╏", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╰╯┏┓┗┛┡┩", "+"),
}  # fmt: skip
# Control characters but for the ends of lines and tabs, and marks that turn the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _readable(error: UnicodeError) -> tuple[str, int]:
    """An error handler of `codecs`, whose replacements every encoding of terminals has."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_spelled(character) for character in error.object[error.start : error.end]), error.end


def _spelled(character: str) -> str:
    known = _SPELLINGS.get(character)
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii") if known is None else known
    return plain or "?"


codecs.register_error(HANDLER, _readable)


def fitting(text: str, encoding: str | None) -> str:
    """The text as a stream of that encoding can write it."""
    name = encoding or "utf-8"
    return text.encode(name, HANDLER).decode(name)


def shielded(text: str) -> str:
    """The text with escape sequences and other control characters made visible, so that no terminal obeys them."""
    return _OBEYED.sub(lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text)


def tolerate() -> None:
    """Standard output and standard error of this process take any text, spelled readably where their encoding lacks a character."""
    streams: tuple[Any, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=HANDLER)
