"""What the driver's own code has defined that its workers cannot import: tasks of a script or notebook, and operators of one's own.

Workers run neither the script nor the notebook, so both go to them by value, when they start.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from optevolve.errors import TaskError
from optevolve.space.operators import Operator, own_operators, register_operator
from optevolve.task_spec import split_spec

__all__ = ["Definitions", "definitions_of"]

_MAIN = "__main__"


@dataclass(frozen=True)
class Definitions:
    """Goes to a worker process, which installs it before its first job.

    Attributes:
        operators: that were registered beyond those of the package.
        names: what the specs of tasks look for in `__main__`.
        values: by name, pickled.
    """

    operators: tuple[Operator, ...] = ()
    names: tuple[str, ...] = ()
    values: bytes = b""

    def install(self) -> None:
        """Makes everything known in this process; tasks when one is first asked for, since they load torch. Again, it changes nothing."""
        for row in self.operators:
            register_operator(row)
        main = sys.modules[_MAIN]
        known = vars(main).get("__getattr__")
        if self.names and not (isinstance(known, _Finder) and known.definitions == self):
            main.__getattr__ = _Finder(self)  # type: ignore[method-assign]


class _Finder:
    """Finds in a worker what the driver's main module has (PEP 562), made when first asked for and kept out of the module's own names."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._found: dict[str, Any] | None = None

    def __call__(self, name: str) -> Any:
        if name not in self.definitions.names:
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        if self._found is None:
            import cloudpickle

            try:
                self._found = cloudpickle.loads(self.definitions.values)
            except Exception as error:  # the user's code runs here: whatever it raises is about the task
                raise TaskError(
                    f"What the script or notebook defines cannot be made in a worker process: {type(error).__name__}: {error}. "
                    "Put the task into a file of its own, and give it as file.py:Name."
                ) from error
        assert self._found is not None
        return self._found[name]


def definitions_of(specs: Iterable[str]) -> Definitions:
    """What workers need beside the specs of their tasks, as it is now.

    Raises:
        TaskError: if something cannot be pickled.
    """
    names = [split_spec(spec).name.rpartition(":") for spec in specs]
    main = vars(sys.modules[_MAIN])
    wanted = sorted({path.partition(".")[0] for place, _, path in names if place == _MAIN} & main.keys())
    return Definitions(own_operators(), tuple(wanted), _pickled(wanted) if wanted else b"")


def _pickled(names: list[str]) -> bytes:
    import cloudpickle

    main = vars(sys.modules[_MAIN])
    try:
        content: bytes = cloudpickle.dumps({name: main[name] for name in names})
    except Exception as error:  # what cannot be pickled says so in many ways: TypeError, PicklingError, RecursionError, its own
        raise TaskError(
            f"Task {', '.join(names)} of the script or notebook cannot be sent to worker processes: {type(error).__name__}: {error}. "
            "Make what it uses inside its methods, or put the class into a file of its own and give it as file.py:Name."
        ) from error
    return content
