"""Text that others wrote, made safe for the file that it goes into; and files that appear whole or not at all.

Names of tasks, rules and runs come from stores and command lines. In a docstring or a comment they must stay what they are: words.
"""

from __future__ import annotations

import ast
import builtins
import keyword
from collections.abc import Sequence
from pathlib import Path

from optevolve.errors import ExportError
from optevolve.files import require_folder, write_whole
from optevolve.printable import clipped, shielded

__all__ = ["checked_name", "comment", "docstring", "free_name", "names_in", "one_line", "write_python", "write_text"]

_LONGEST = 140


def one_line(text: str) -> str:
    """The text with every character that is not printed, or ends a line, spelled as its escape."""
    return shielded(text, kept="")


def docstring(lines: Sequence[str]) -> str:
    """A docstring in Python that reads as these lines, whatever is in them, with a mark for linters if one is long."""
    safe = "\n".join(map(one_line, lines)).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""{safe}\n"""' + ("  # noqa: E501" if max(map(len, safe.splitlines()), default=0) > _LONGEST else "")


def comment(lines: Sequence[str], mark: str) -> str:
    """The lines as comments that start with a mark, empty ones left out."""
    return "".join(f"{mark} {one_line(line)}\n" for line in lines if line)


def checked_name(name: str) -> str:
    """The name of a class or function, as it may stand in a file.

    Raises:
        ExportError: if it is no identifier, or one that Python keeps to itself.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise ExportError(f"Expected an identifier in plain letters as the class's name, got {clipped(name, 80)!r}. Give another name.")
    return name


def names_in(*sources: str) -> frozenset[str]:
    """Every name that these Python texts define, import, assign or take as an argument, and those that Python defines."""
    names = set(dir(builtins))
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add(asname or name.split(".")[0])
            case ast.ExceptHandler(name=str(name)):
                names.add(name)
    return frozenset(names)


def free_name(name: str, taken: frozenset[str], made: bool) -> str:
    """The name, if it is an identifier that a file has no other use for; a name that was made from the file's may change to become one.

    Args:
        name: of a class or function.
        taken: what else has a name in the file.
        made: whether nobody asked for this name.
    Raises:
        ExportError: if somebody did, and it is taken or no identifier.
    """
    if made and (name in taken or keyword.iskeyword(name)):
        name = f"evolved_{name}" if name.islower() else f"Evolved{name}"
    checked_name(name)
    if name in taken:
        raise ExportError(f"Expected a name that the file has no other use for, got {clipped(name, 80)!r}. Give another name.")
    return name


def write_python(path: Path, text: str) -> None:
    """Writes a Python file as `write_text` does, if it is one.

    Raises:
        ExportError: if the text cannot be parsed, which is a mistake of this package, or the file cannot be written.
    """
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ExportError(f"Expected Python for {path}, got: {error}. What was there is kept; please report the rule.") from error
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Writes a text as `optevolve.files.write_whole` does, into a folder that is there.

    Raises:
        OptevolveError: if it cannot be written.
    """
    try:
        require_folder(path)
        write_whole(path, text)
    except (OSError, ValueError) as error:  # the latter where there is no name at all, or one with NUL or a lone surrogate
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"Expected to write a file {str(path)!r}, got: {reason}. Choose a path that can be written.") from error
