"""Task specs as text: `NAME[@key=value,key=value][+wrapper:value…]`. Text, so that a job crosses processes and stores as it is."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple, TypeAlias, cast

from optevolve.errors import TaskError

__all__ = ["Spec", "Value", "convert", "nearest", "spec_of", "split_spec"]

Value: TypeAlias = bool | int | float | str


class Spec(NamedTuple):
    """A spec taken apart.

    Attributes:
        name: a registered name or `module:Name`.
        options: as given, values still text.
        wrappers: (name, value) from the inside out.
    """

    name: str
    options: dict[str, Value]
    wrappers: list[tuple[str, str]]


def split_spec(spec: str) -> Spec:
    """Takes a spec apart. A "+" belongs to a number ("1e+2") or a path unless a wrapper's name and a colon follow it.

    Raises:
        TaskError: if it is malformed; says which part.
    """
    head, *parts = re.split(r"\+(?=[a-z][a-z-]*:)", spec.strip())
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


def spec_of(name: str, options: Mapping[str, Value] | None = None) -> str:
    """The spec of a task with options, keys sorted, so that equal tasks have equal specs; wrappers stay in their order.

    Args:
        name: a name, or a spec whose options are kept unless `options` has the same key.
        options: options to add.
    Raises:
        TaskError: if a value cannot be written in a spec, because it contains a comma or what looks like a wrapper, or begins or ends with
            a space.
    """
    name, merged, wrappers = split_spec(name)
    merged.update(options or {})
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in merged.items()}
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


def convert(what: str, value: Value, hint: object) -> Value:
    """A value as the option's type; text is read, and nothing is rounded.

    Raises:
        TaskError: if it is no value of the type; `what` names the option.
    """
    words: dict[str, Value] = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        if hint is bool:
            return value if isinstance(value, bool) else words[str(value).lower()]
        if hint is int and not isinstance(value, bool):
            number = float(value) if isinstance(value, float) else int(value)
            if number == int(number):
                return int(number)
        elif hint is float and not isinstance(value, bool):
            return float(value)
        elif hint not in (bool, int, float):
            return value
    except (ValueError, KeyError, OverflowError):
        pass  # reported below, with what was expected
    expected = {bool: "true or false", int: "a whole number", float: "a number"}[cast(type, hint)]
    raise TaskError(f"{what} is {expected}; found {value!r}.")
