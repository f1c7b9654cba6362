"""Tasks by name: the registry, and task specs as text.

A spec is `NAME[@key=value,key=value]` with a name of `TASKS`, or `module:Name[@…]` with one's own `Task` class or instance, looked up on
the import path and in the working directory. Text, so that a job crosses processes and stores as it is.
"""

import importlib
import os
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches

from optevolve.errors import OptevolveError, TaskError
from optevolve.tasks.base import Task
from optevolve.tasks.synthetic import LogregDigits, MlpMoons, Quadratics, Rosenbrock
from optevolve.tasks.vision import Cifar10ConvNet, Digits

__all__ = ["TASKS", "Value", "load", "spec_of"]

Value: typing.TypeAlias = bool | int | float | str

TASKS: dict[str, type[Task]] = {
    "digits": Digits,
    "cifar10-convnet": Cifar10ConvNet,
    "quadratics": Quadratics,
    "rosenbrock": Rosenbrock,
    "logreg-digits": LogregDigits,
    "mlp-moons": MlpMoons,
}


def load(spec: str, options: Mapping[str, Value] | None = None) -> Task:
    """The task that a spec names.

    Args:
        spec: `NAME[@key=value,key=value]` or `module:Name[@key=value,…]`.
        options: further options; they win over those of the spec.
    Raises:
        TaskError: for an unknown name, module or option, a value of the wrong type or range, or a module that does not import.
    """
    name, given = _split(spec)
    given.update(options or {})
    found = _own(name) if ":" in name else _registered(name)
    kind = found if isinstance(found, type) else type(found)
    hints = typing.get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind) if field.init}
    values: dict[str, Value] = {}
    for key, value in given.items():
        if key not in known:
            raise TaskError(f"Task {name!r} has no option {key!r}. {_nearest(key, known, 'Its options')}")
        values[key] = _convert(name, key, value, known[key])
    try:
        return found(**values) if isinstance(found, type) else replace(found, **values)
    except OptevolveError:
        raise
    except Exception as error:  # a class of the user's: whatever it raises is about the task, and the cause stays attached
        needed = [
            field.name
            for field in fields(kind)
            if field.default is MISSING and field.default_factory is MISSING and field.name not in values
        ]
        hint = f" Options without a default: {', '.join(needed)}; give them as {name}@{needed[0]}=VALUE." if needed else ""
        raise TaskError(f"Task {name!r} could not be made: {type(error).__name__}: {error}.{hint}") from error


def spec_of(name: str, options: Mapping[str, Value] | None = None) -> str:
    """The spec of a task with options, keys sorted, so that equal tasks have equal specs.

    Args:
        name: a name, or a spec whose options are kept unless `options` has the same key.
        options: options to add.
    Raises:
        TaskError: if a value cannot be written in a spec, because it contains a comma or begins or ends with a space.
    """
    name, merged = _split(name)
    merged.update(options or {})
    texts = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in merged.items()}
    for key, text in texts.items():
        if "," in text or text != text.strip():
            raise TaskError(f"Option {key!r} of task {name!r} is {text!r}; a task spec takes values without commas and outer spaces.")
    return name + ("@" if texts else "") + ",".join(f"{key}={texts[key]}" for key in sorted(texts))


def _split(spec: str) -> tuple[str, dict[str, Value]]:
    name, at, rest = spec.strip().partition("@")
    options: dict[str, Value] = {}
    for part in rest.split(",") if at else []:
        key, equals, value = part.partition("=")
        if not key.strip() or not equals:
            raise TaskError(f"Malformed task spec {spec!r}: expected NAME@key=value,key=value, found {part!r} where an option should be.")
        options[key.strip()] = value.strip()
    return name.strip(), options


def _nearest(word: str, known: Iterable[str], what: str) -> str:
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.5)
    listing = f"{what}: {', '.join(names) or 'none'}."
    return f"Did you mean {close[0]!r}? {listing}" if close else listing


def _registered(name: str) -> type[Task]:
    if name not in TASKS:
        raise TaskError(f"Unknown task {name!r}. {_nearest(name, TASKS, 'Known tasks')} One's own task is given as module:Name.")
    return TASKS[name]


def _own(name: str) -> type[Task] | Task:
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise TaskError(f"Malformed task {name!r}: expected module:Name, such as my_tasks:Moons for class Moons in my_tasks.py.")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        module = importlib.import_module(module_name)
    except Exception as error:  # the module is the user's: importing it may raise anything, and the cause stays attached
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None and (module_name + ".").startswith(error.name + ".")
        if absent:
            raise TaskError(
                f"Task {name!r}: no module {module_name!r} on the import path or in {here}. "
                f"Run the command in the folder of {module_name.split('.')[0]}.py, or install its package."
            ) from error
        raise TaskError(f"Task {name!r}: importing {module_name!r} raised {type(error).__name__}: {error}. Mend the module.") from error
    found: object = getattr(module, attribute, None)
    if found is None:
        tasks = [key for key, value in vars(module).items() if _is_task(value) and value is not Task]
        raise TaskError(f"Task {name!r}: module {module_name!r} has no {attribute!r}. {_nearest(attribute, tasks, 'Its tasks')}")
    if _is_task(found):
        return found
    raise TaskError(f"Task {name!r}: expected a subclass or an instance of optevolve.tasks.Task, found {type(found).__name__}.")


def _is_task(value: object) -> typing.TypeGuard[Task | type[Task]]:
    return isinstance(value, Task) or (isinstance(value, type) and issubclass(value, Task))


def _convert(name: str, key: str, value: Value, hint: object) -> Value:
    """A value as the option's type; text is read, and nothing is rounded."""
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
    expected = {bool: "true or false", int: "a whole number", float: "a number"}[typing.cast(type, hint)]
    raise TaskError(f"Option {key!r} of task {name!r} is {expected}; found {value!r}.")
