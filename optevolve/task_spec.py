"""Task specs as text: `NAME[@key=value,key=value][+wrapper:value…]`. Text, so that a job crosses processes and stores as it is.

Loads no torch: a config names tasks, and is read in a blink.
"""

import re
import types
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from optevolve.errors import TaskError

__all__ = ["Spec", "Value", "convert", "named", "nearest", "spec_of", "split_spec", "tidy"]

Value: TypeAlias = bool | int | float | str


class Spec(NamedTuple):
    """A spec taken apart.

    Attributes:
        name: a registered name, `module:Name` or `folder/file.py:Name`.
        options: as given, values still text.
        wrappers: (name, value) from the inside out.
    """

    name: str
    options: dict[str, Value]
    wrappers: list[tuple[str, str]]


_WRAPPER = r"\+(?=[a-z][a-z-]*:)"


def named(spec: str) -> tuple[str, set[str]]:
    """The name in a spec and those of its options, also of a spec that is malformed, about which `split_spec` is to complain."""
    head = re.split(_WRAPPER, spec.strip())[0]
    name, _, rest = head.partition("@")
    return name.partition("+")[0].strip(), {part.partition("=")[0].strip() for part in rest.split(",")} - {""}


def split_spec(spec: str) -> Spec:
    """Takes a spec apart. A "+" belongs to a number ("1e+2") or a path unless a wrapper's name and a colon follow it.

    Raises:
        TaskError: if it is malformed; says which part.
    """
    head, *parts = re.split(_WRAPPER, spec.strip())
    name, at, rest = head.partition("@")
    if "+" in name:
        raise TaskError(f"Malformed task spec {spec!r}: a wrapper takes a value, as in {name.split('+')[0]}+label-noise:0.2.")
    options: dict[str, Value] = {}
    for part in rest.split(",") if at else []:
        key, equals, value = part.partition("=")
        if not key.strip() or not equals:
            raise TaskError(f"Malformed task spec {spec!r}: expected NAME@key=value,key=value, found {part!r} where an option should be.")
        options[key.strip()] = value.strip()
    wrappers = [(wrapper, value.strip()) for wrapper, _, value in (part.partition(":") for part in parts)]
    return Spec(name.strip(), options, wrappers)


def tidy(spec: str) -> str:
    """The spec with the path of a file spelled in one way: "my.py:Moons" for "./my.py:Moons"."""
    return re.sub(r"^\s*([^@]*\.py)(?=:)", lambda found: Path(found[1]).as_posix(), spec)


def spec_of(name: str, options: Mapping[str, Value] | None = None) -> str:
    """The spec of a task with options, keys sorted, so that equal tasks have equal specs; wrappers stay in their order.

    Args:
        name: a name, or a spec whose options are kept unless `options` has the same key.
        options: options to add.
    Raises:
        TaskError: if a value cannot be written in a spec, because it contains a comma or what looks like a wrapper, or begins or ends with
            a space.
    """
    name, merged, wrappers = split_spec(tidy(name))
    merged.update(options or {})
    texts = {key: _text(value) for key, value in merged.items()}
    for key, text in texts.items():
        if "," in text or text != text.strip() or re.search(r"\+[a-z][a-z-]*:", text):
            raise TaskError(
                f"Option {key!r} of task {name!r} is {text!r}; a task spec takes values without commas, outer spaces and '+name:'."
            )
    listing = ",".join(f"{key}={texts[key]}" for key in sorted(texts))
    return name + ("@" if texts else "") + listing + "".join(f"+{wrapper}:{value}" for wrapper, value in wrappers)


def nearest(word: str, known: Iterable[str], what: str) -> str:
    """The end of an error message: the known word most like this one, and all of them."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    listing = f"{what}: {', '.join(names) or 'none'}."
    return f"Did you mean {close[0]!r}? {listing}" if close else listing


def convert(what: str, value: Value, hint: object) -> Any:
    """A value as the option's type; text is read, and nothing is rounded.

    Args:
        what: names the option in messages.
        value: text from a spec, or a scalar of a config.
        hint: the annotation of the option: bool, int, float, str, Path, a Literal, an Optional or union of these, a tuple or list of them
            (written with ":" between the items, for "," parts options). Of any other class a value must be an instance.
    Raises:
        TaskError: if it is no value of the type.
    """
    try:
        return _read(value, hint)
    except (ValueError, KeyError, OverflowError):
        raise TaskError(f"{what} is {_expected(hint)}; found {value!r}.") from None


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def _read(value: Value, hint: Any) -> Any:
    """The value by the hint; a ValueError, KeyError or OverflowError says that it is none."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _read(value, arguments[0])
    if origin in (Union, types.UnionType):
        return _first_fitting(value, sorted(arguments, key=_generality))
    if origin is Literal:
        return {str(choice).lower() if isinstance(choice, bool) else str(choice): choice for choice in arguments}[_text(value)]
    if origin in (tuple, list):
        return origin(_items(_text(value), arguments))
    if hint is bool:
        return value if isinstance(value, bool) else _WORDS[str(value).lower()]
    if hint in (int, float) and isinstance(value, bool):
        raise ValueError
    if hint is int:
        number = float(value) if isinstance(value, float) else int(value)
        if number != int(number):
            raise ValueError
        return int(number)
    if hint is type(None):
        return {"none": None}[_text(value).lower()]
    if hint in (float, str, Path):
        return hint(_text(value))
    if origin is not None or (isinstance(hint, type) and not isinstance(value, hint)):
        raise ValueError
    return value


def _generality(hint: object) -> int:
    """Where a hint stands in a union: what is narrow is tried before what takes any text."""
    narrow = [type(None), int, float, bool]  # 1 is a number before it is true
    return narrow.index(hint) if hint in narrow else len(narrow) + (hint in (str, object, Any))


def _first_fitting(value: Value, hints: Iterable[object]) -> Any:
    for hint in hints:
        try:
            return _read(value, hint)
        except (ValueError, KeyError, OverflowError):
            continue  # the next of the union
    raise ValueError


def _items(text: str, hints: tuple[Any, ...]) -> list[Any]:
    parts = [part.strip() for part in text.strip("()[] ").split(":")] if text.strip("()[] ") else []
    repeated = len(hints) == 1 or hints[-1:] == (...,)
    kinds = [hints[0]] * len(parts) if repeated else list(hints) or [str] * len(parts)
    if len(kinds) != len(parts):
        raise ValueError
    return [_read(part, kind) for part, kind in zip(parts, kinds, strict=True)]


def _text(value: Value) -> str:
    """A value as a spec writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _expected(hint: Any) -> str:
    """What is no value of a hint should have been, in words."""
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", type(None): "none"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _expected(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(part) for part in arguments)
    if origin in (tuple, list):
        parts = [arguments[0]] if arguments[1:] == (...,) else list(arguments) or [str]
        each = ", ".join(dict.fromkeys(_expected(part) for part in parts))
        many = f"{len(parts)} values" if origin is tuple and arguments[1:] != (...,) else "values"
        return f"{many} with ':' between them, each {each}"
    return plain.get(hint) or f"a {getattr(hint, '__name__', hint)}, which no text gives: set it in Python"
