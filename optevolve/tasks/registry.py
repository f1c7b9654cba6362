"""Tasks by name: the registry, and from spec to task.

A spec is `NAME[@key=value,key=value][+wrapper:value…]` with a name of `TASKS` and wrappers of `WRAPPERS`, or `module:Name[@…]` or
`folder/file.py:Name[@…]` with one's own `Task` class or instance, see `own`.
"""

import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, replace

from optevolve.errors import OptevolveError, TaskError
from optevolve.task_spec import Value, convert, nearest, spec_of, split_spec, tidy
from optevolve.tasks import own
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

__all__ = ["TASKS", "WRAPPERS", "load", "spec_for"]

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
    found = own.find(name) if ":" in name else _registered(name)
    kind = found if isinstance(found, type) else type(found)
    known = _options_of(kind)
    values: dict[str, typing.Any] = {}
    for key, value in given.items():
        if key not in known:
            raise TaskError(f"Task {name!r} has no option {key!r}. {nearest(key, known, 'Its options')}")
        values[key] = convert(f"Option {key!r} of task {name!r}", value, known[key])
    try:
        if isinstance(found, type):
            return found(**values)
        return replace(found, **values) if values else found
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
        raise TaskError(
            f"Unknown task {name!r}. {nearest(name, TASKS, 'Known tasks')} One's own task is given as file.py:Name or module:Name."
        )
    return TASKS[name]


def spec_for(task: str | Task | type[Task]) -> str:
    """The spec by which this process and its workers find a task.

    Args:
        task: a spec, which is taken as it is; a class; or an instance, whose fields become options where they differ from their defaults.
            An instance that its options do not make again is named by the global variable that holds it.
    Raises:
        TaskError: if worker processes cannot find the task.
    """
    if isinstance(task, str):
        return tidy(task)
    if not own.is_task(task):
        raise TaskError(f"Expected a task as a name, a class or an instance of optevolve.Task, got {type(task).__name__}.")
    kind = task if isinstance(task, type) else type(task)
    name = next((name for name, known in TASKS.items() if known is kind), None) or own.name_of(kind)
    if isinstance(task, type):
        return name
    if (spec := _spec_with_options(name, task)) is not None:
        return spec
    if (held := own.global_name(task)) is not None:
        return held
    raise TaskError(
        f"The instance of {kind.__name__} cannot be named for worker processes: its options alone do not make it again, and no variable at "
        f"the top level holds it. Write TASK = {kind.__name__}(…) at the top level of the file, script or notebook, and give task=TASK."
    )


def _spec_with_options(name: str, task: Task) -> str | None:
    """The spec that makes the instance again; None where the options of its class do not say all that it is."""
    try:
        spec = spec_of(name, own.changed_options(task))
        again = load(spec)
    except TaskError:
        return None
    return spec if type(again) is type(task) and own.same(vars(again), vars(task)) else None
