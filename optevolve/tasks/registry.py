"""Tasks by name: the registry, and from spec to task.

A spec is `NAME[@key=value,key=value][+wrapper:value…]` with a name of `TASKS` and wrappers of `WRAPPERS`, or `module:Name[@…]` with one's
own `Task` class or instance, looked up on the import path and in the working directory.
"""

import importlib
import os
import sys
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace

from optevolve.errors import OptevolveError, TaskError
from optevolve.task_spec import Value, convert, nearest, split_spec
from optevolve.tasks.base import Task
from optevolve.tasks.conditions import GradientNoise, Imbalance, LabelNoise, SparseGradients, Wrapper, with_batch_size
from optevolve.tasks.efficientnet import (
    Caltech101EffNet,
    Cars196EffNet,
    Cifar10EffNet,
    Cifar100EffNet,
    Flowers102EffNet,
    TinyImageNetEffNet,
)
from optevolve.tasks.finite import Finite
from optevolve.tasks.language import PtbLstm, TextGpt
from optevolve.tasks.synthetic import LogregDigits, MlpMoons, Quadratics, Rosenbrock
from optevolve.tasks.vision import Cifar10ConvNet, Cifar10ResNet, Cifar10ViT, Cifar100ConvNet, Digits, EurosatConvNet, PathmnistConvNet

__all__ = ["TASKS", "WRAPPERS", "load"]

TASKS: dict[str, type[Task]] = {
    "digits": Digits,
    "cifar10-convnet": Cifar10ConvNet,
    "cifar10-resnet": Cifar10ResNet,
    "cifar10-vit": Cifar10ViT,
    "cifar100-convnet": Cifar100ConvNet,
    "eurosat-convnet": EurosatConvNet,
    "pathmnist-convnet": PathmnistConvNet,
    "cifar10-effnetv2s": Cifar10EffNet,
    "cifar100-effnetv2s": Cifar100EffNet,
    "tinyimagenet-effnetv2s": TinyImageNetEffNet,
    "flowers102-effnetv2s": Flowers102EffNet,
    "cars196-effnetv2s": Cars196EffNet,
    "caltech101-effnetv2s": Caltech101EffNet,
    "ptb-lstm": PtbLstm,
    "text-gpt": TextGpt,
    "quadratics": Quadratics,
    "rosenbrock": Rosenbrock,
    "logreg-digits": LogregDigits,
    "mlp-moons": MlpMoons,
}


def _by_number(kind: type[Wrapper]) -> Callable[[Task, str], Task]:
    return lambda task, text: kind(task, float(convert(f"The value of wrapper {kind.name!r}", text, float)))


WRAPPERS: dict[str, Callable[[Task, str], Task]] = {
    **{kind.name: _by_number(kind) for kind in (LabelNoise, GradientNoise, Imbalance, SparseGradients, Finite)},
    "batch": lambda task, text: with_batch_size(task, int(convert("The value of wrapper 'batch'", text, int))),
}


def load(spec: str, options: Mapping[str, Value] | None = None) -> Task:
    """The task that a spec names.

    Args:
        spec: `NAME[@key=value,key=value][+wrapper:value…]` or the same with `module:Name`. Wrappers apply from left to right.
        options: further options; they win over those of the spec.
    Raises:
        TaskError: for an unknown name, module, option or wrapper, a value of the wrong type or range, or a module that does not import.
    """
    name, given, wrappers = split_spec(spec)
    given.update(options or {})
    task = _made(name, given)
    for wrapper, value in wrappers:
        if wrapper not in WRAPPERS:
            raise TaskError(f"Unknown wrapper {wrapper!r} of task {name!r}. {nearest(wrapper, WRAPPERS, 'Known wrappers')}")
        task = WRAPPERS[wrapper](task, value)
    return task


def _made(name: str, given: Mapping[str, Value]) -> Task:
    found = _own(name) if ":" in name else _registered(name)
    kind = found if isinstance(found, type) else type(found)
    known = _options_of(kind)
    values: dict[str, typing.Any] = {}
    for key, value in given.items():
        if key not in known:
            raise TaskError(f"Task {name!r} has no option {key!r}. {nearest(key, known, 'Its options')}")
        values[key] = convert(f"Option {key!r} of task {name!r}", value, known[key])
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


def _options_of(kind: type[Task]) -> dict[str, typing.Any]:
    """Option → type of a task's class."""
    options = [field for field in fields(kind) if field.init]
    try:
        hints = typing.get_type_hints(kind)
    except Exception:  # noqa: BLE001 (annotations of the user's, which may name what is imported for type checkers alone)
        return {field.name: object if field.default in (MISSING, None) else type(field.default) for field in options}
    return {field.name: hints[field.name] for field in options}


def _registered(name: str) -> type[Task]:
    if name not in TASKS:
        raise TaskError(f"Unknown task {name!r}. {nearest(name, TASKS, 'Known tasks')} One's own task is given as module:Name.")
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
        raise TaskError(f"Task {name!r}: module {module_name!r} has no {attribute!r}. {nearest(attribute, tasks, 'Its tasks')}")
    if _is_task(found):
        return found
    raise TaskError(f"Task {name!r}: expected a subclass or an instance of optevolve.tasks.Task, found {type(found).__name__}.")


def _is_task(value: object) -> typing.TypeGuard[Task | type[Task]]:
    return isinstance(value, Task) or (isinstance(value, type) and issubclass(value, Task))
