"""Tasks of one's own: from a name to the class or instance, `module:Name` or `folder/file.py:Name`, and back."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias, TypeGuard, TypeVar

from optevolve.errors import TaskError
from optevolve.task_spec import nearest, split_spec
from optevolve.tasks.base import Task

__all__ = ["MAIN", "AnyTask", "changed_options", "find", "global_name", "is_known", "is_task", "listed", "name_of", "same"]

AnyTask: TypeAlias = str | Task | type[Task]  # what functions take for a task: a spec, an instance or a class
_Item = TypeVar("_Item")
MAIN = "__main__"  # the module of a script or notebook: found by the process that runs it, sent by value to its workers


def is_task(value: object) -> TypeGuard[Task | type[Task]]:
    """Whether something is a task, or a class of tasks."""
    return isinstance(value, Task) or (isinstance(value, type) and issubclass(value, Task))


def is_known(spec: str) -> bool:
    """Whether the module of one's own task is here already, imported or on its way, so that nothing of it is run to find the task."""
    place = split_spec(spec).name.rpartition(":")[0]
    if not place.endswith(".py"):
        return place in sys.modules
    path = _path_of(place)
    return path is not None and _key_of(path) in sys.modules


def find(name: str) -> type[Task] | Task:
    """The class or instance that a name with a colon stands for.

    Args:
        name: `module:Name`, looked up on the import path and in the working directory, or `folder/file.py:Name`.
    Raises:
        TaskError: if there is no such module, file or task, or importing it fails.
    """
    place, _, attribute = name.rpartition(":")
    if not place or not attribute:
        raise TaskError(
            f"Malformed task {name!r}: expected module:Name or file.py:Name, such as my_tasks.py:Moons for class Moons in my_tasks.py."
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _file(name, place) if place.endswith(".py") else _module(name, place)
    found = _attribute(module, attribute)
    if found is None:
        tasks = [key for key, value in vars(module).items() if is_task(value) and value is not Task]
        where = "the script or notebook that runs" if place == MAIN else f"module {place!r}"
        raise TaskError(f"Task {name!r}: {where} has no {attribute!r}. {_remedy(place) or nearest(attribute, tasks, 'Its tasks')}")
    if is_task(found):
        return found
    raise TaskError(f"Task {name!r}: expected a subclass or an instance of optevolve.tasks.Task, found {type(found).__name__}.")


def _remedy(place: str) -> str:
    if place != MAIN:
        return ""
    return (
        "The run was started from a script or notebook: go on from there, after the class is defined, with optevolve.resume(folder); "
        "a class in a file of its own, given as file.py:Name, is found from anywhere."
    )


def _attribute(module: ModuleType, path: str) -> object:
    found: object = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found


def _module(name: str, place: str) -> ModuleType:
    _refuse_circle(name, sys.modules.get(place))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:  # the module is the user's: importing it may raise anything, and the cause stays attached
        absent = isinstance(error, ModuleNotFoundError) and error.name is not None and (place + ".").startswith(error.name + ".")
        if absent:
            raise TaskError(
                f"Task {name!r}: no module {place!r} on the import path or in {os.getcwd()}. "
                f"Run the command in the folder of {place.split('.')[0]}.py, give the file as FOLDER/{place.split('.')[0]}.py:Name, "
                "or install its package."
            ) from error
        raise TaskError(f"Task {name!r}: importing {place!r} raised {type(error).__name__}: {error}. Mend the module.") from error


def _file(name: str, place: str) -> ModuleType:
    """The module in a file, which may lie in the working directory or beside what the import path names, in every process alike."""
    path = _path_of(place)
    if path is None:
        raise TaskError(
            f"Task {name!r}: no file {place} in {os.getcwd()} or on the import path. Give its path from the folder that you are in."
        )
    key = _key_of(path)
    if (known := sys.modules.get(key)) is not None:
        _refuse_circle(name, known)
        return known
    if str(path.parent) not in sys.path:  # its neighbours are imported as if it were run
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[key] = importlib.util.module_from_spec(spec)
    module.__task_file__ = Path(place).as_posix()  # type: ignore[attr-defined] # under which its classes are named
    _set_importing(spec, True)
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[key]  # half of a module is none, also after Ctrl-C
        if not isinstance(error, Exception | SystemExit):
            raise
        # The file is the user's: running it may raise anything, and the cause stays attached.
        raise TaskError(f"Task {name!r}: importing {place} raised {type(error).__name__}: {error}. Mend the file.") from error
    finally:
        _set_importing(spec, False)
    return module


def _path_of(place: str) -> Path | None:
    folders = [Path.cwd(), *map(Path, sys.path)]
    path = next((path for folder in folders if (path := folder / Path(place).expanduser()).is_file()), None)
    return None if path is None else path.resolve()


def _key_of(path: Path) -> str:
    """Name of the module; files of one name in two folders are two modules."""
    return f"_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


def _set_importing(spec: ModuleSpec, value: bool) -> None:
    """As Python's own import marks a module whose code still runs."""
    spec._initializing = value  # type: ignore[attr-defined]


def _refuse_circle(name: str, module: ModuleType | None) -> None:
    """A script that starts a run when it is imported would start another in every worker, and in this process first."""
    if getattr(getattr(module, "__spec__", None), "_initializing", False):
        place, _, attribute = name.rpartition(":")
        raise TaskError(
            f"Task {name!r}: importing {place} starts a run with this very task. Give the class itself, task={attribute}, "
            'or put the start of the run under: if __name__ == "__main__":'
        )


def name_of(kind: type[Task]) -> str:
    """The name under which worker processes find a class of one's own.

    Raises:
        TaskError: if they cannot.
    """
    module, path = sys.modules.get(kind.__module__), kind.__qualname__
    if "<locals>" in path or module is None or _attribute(module, path) is not kind:
        raise TaskError(
            f"Task class {kind.__name__} cannot be sent to worker processes: it is not found as {path} in {kind.__module__}. "
            "Define it at the top level of a file, script or notebook."
        )
    file: str | None = getattr(module, "__task_file__", None)
    if file is None and kind.__module__ != MAIN:
        _require_importable(kind.__module__, kind.__name__)
    return f"{file or kind.__module__}:{path}"


def _require_importable(module: str, name: str) -> None:
    """Workers have this process's import path; a module that was loaded otherwise is not there for them."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    top = module.partition(".")[0]
    importlib.invalidate_caches()
    finders = (finder.find_spec(top, None) for finder in sys.meta_path if hasattr(finder, "find_spec"))
    found = next((spec for spec in finders if spec is not None), None)
    loaded = getattr(sys.modules.get(top), "__spec__", None)
    if found is None or (loaded is not None and found.origin != loaded.origin):
        raise TaskError(
            f"Task class {name} cannot be sent to worker processes: they cannot import its module {module!r}, which is not on the import "
            "path. Give it as path/of/file.py:Name, or add its folder to sys.path."
        )


def changed_options(task: Task) -> Mapping[str, Any]:
    """The values of an instance's fields that are not their defaults."""
    values: dict[str, Any] = {}
    for field in fields(task):
        value = getattr(task, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.init and (default is MISSING or not same(value, default)):
            values[field.name] = value
    return values


def same(a: Any, b: Any) -> bool:
    """Whether two values are equal and of one type, also where comparing them makes an array."""
    try:
        return type(a) is type(b) and bool(a == b)
    except (ValueError, RuntimeError, TypeError):  # the truth of an array
        return False


def global_name(task: Task) -> str | None:
    """`module:name` of a global variable that holds the instance, in the module of its class or in the script or notebook."""
    for module in (type(task).__module__, MAIN):
        for name, value in list(vars(sys.modules.get(module, ModuleType(""))).items()):
            if value is task and not re.match(r"_(i?\d*|_+)$", name):  # IPython's own memory of results
                return f"{module}:{name}"
    return None


def listed(tasks: Sequence[_Item] | AnyTask) -> list[_Item | AnyTask]:
    """Several tasks, of which one may be given alone."""
    return [tasks] if isinstance(tasks, str | Task | type) else list(tasks)
