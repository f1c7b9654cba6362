"""Processes that need nothing of the user's `__main__`: a script without a guard, standard input or a notebook may start them.

multiprocessing runs the main module of the driver again in every process that it spawns, in case something is defined there. Workers are
told by name or by value what they need, and a script that starts a search must not start another in each of them.

On Linux they are forked from one server, which has imported torch once and does nothing else: seconds of processor time less for each.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.reduction import DupFd
from types import ModuleType
from typing import Any

from optevolve.run.definitions import Definitions

if sys.platform == "linux":
    from multiprocessing.context import ForkServerContext as _Context
    from multiprocessing.context import ForkServerProcess as _Start
else:
    from multiprocessing.context import SpawnContext as _Context
    from multiprocessing.context import SpawnProcess as _Start

__all__ = ["SERVER_LOST", "WorkerContext"]

# What multiprocessing gives as exit code of a process whose server was killed, and with it, see `optevolve.run.guard`, the process.
SERVER_LOST = 255 if sys.platform == "linux" else None

# Imported by the server, in this order; the second loads torch.
_AHEAD = ["optevolve.run.ahead", "optevolve.surrogate"]

_starting = threading.RLock()


class _Process(_Start):
    """A process that does not run the main module again, whichever thread starts it, with this process's environment and output."""

    def __init__(self, definitions: Definitions, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._definitions = definitions

    def start(self) -> None:
        """See `multiprocessing.Process.start`."""
        with _main_unnamed():
            super().start()

    def __getstate__(self) -> dict[str, Any]:
        streams = {}
        for standard in (1, 2):
            with suppress(OSError):  # closed
                os.fstat(standard)
                streams[standard] = DupFd(standard)
        return {**self.__dict__, "_given": (dict(os.environ), streams)}

    def run(self) -> None:
        """In the new process: what it is for, with the definitions at hand."""
        environment, streams = self.__dict__.pop("_given")
        os.environ.clear()
        os.environ.update(environment)
        for standard, stream in streams.items():
            descriptor = stream.detach()
            os.dup2(descriptor, standard)
            os.close(descriptor)
        self._definitions.install()
        super().run()


class WorkerContext(_Context):
    """A context of multiprocessing for processes that start without the user's main module, and share nothing with this one.

    Args:
        definitions: what its processes need of that module all the same.
    """

    def __init__(self, definitions: Definitions | None = None) -> None:
        super().__init__()
        self.set_forkserver_preload(_AHEAD)
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
