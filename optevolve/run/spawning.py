"""Processes that need nothing of the user's `__main__`: a script without a guard, standard input or a notebook may start them.

multiprocessing runs the main module of the driver again in every process that it spawns, in case something is defined there. Workers are
told by name or by value what they need, and a script that starts a search must not start another in each of them.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import Any

from optevolve.run.definitions import Definitions

__all__ = ["WorkerContext"]

_starting = threading.RLock()


class _Process(SpawnProcess):
    """A spawned process that does not run the main module again, whichever thread starts it."""

    def __init__(self, definitions: Definitions, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._definitions = definitions

    def start(self) -> None:
        """See `multiprocessing.Process.start`."""
        with _main_unnamed():
            super().start()

    def run(self) -> None:
        """In the new process: what it is for, with the definitions at hand."""
        self._definitions.install()
        super().run()


class WorkerContext(SpawnContext):
    """As `multiprocessing.get_context("spawn")`, for processes that start without the user's main module.

    Args:
        definitions: what its processes need of that module all the same.
    """

    def __init__(self, definitions: Definitions | None = None) -> None:
        super().__init__()
        self.Process = partial(_Process, definitions or Definitions())  # type: ignore[assignment, misc]


class _Unnamed(ModuleType):
    """The main module, without what says how to run it again. Other threads find in it what they found before."""

    def __init__(self, main: ModuleType) -> None:
        super().__init__("__main__")
        vars(self)["_main"] = main

    def __getattr__(self, name: str) -> Any:
        if name == "__file__":
            raise AttributeError(name)
        return getattr(vars(self)["_main"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["_main"], name, value)


@contextmanager
def _main_unnamed() -> Iterator[None]:
    """For a moment, `multiprocessing.spawn` finds no name and no file to start the new process's main module from."""
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = _Unnamed(main)
        try:
            yield
        finally:
            sys.modules["__main__"] = main
