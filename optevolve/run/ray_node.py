"""What runs on the nodes of a Ray cluster: an actor that keeps a worker process of its own, which measures.

The actor outlives whatever a candidate does to its process, with the interpreter's lock or without: it keeps the time limit, and answers
the driver meanwhile.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from optevolve import __version__
from optevolve.errors import OptevolveError
from optevolve.records import Job, Outcome
from optevolve.run.definitions import Definitions
from optevolve.run.limits import TimeLimit
from optevolve.run.local import LocalRunner
from optevolve.run.worker import Named

__all__ = ["Failure", "Fetch", "Handed", "Lost", "Measurer"]


def _logs() -> Path:
    """A folder for what the worker prints, beside what Ray keeps of this process, where that can be found."""
    try:
        own = Path(os.readlink("/proc/self/fd/1"))
    except OSError:
        own = Path()
    return (own.parent if own.is_file() else Path(tempfile.gettempdir())) / f"optevolve-{os.getpid()}"


@dataclass(frozen=True)
class Failure:
    """An error that the user must mend, in words, on its way from a node."""

    kind: str
    message: str


@dataclass(frozen=True)
class Lost:
    """A signal killed the worker of a job, on a node that is still there."""

    what: str


class Handed(NamedTuple):
    """A data set of the driver in the object store: name of its folder, and the files' bytes as references by name."""

    folder: str
    files: dict[str, Any]


Fetch: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Measurer:
    """Measures jobs one after the other, with the same CUDA context, kernels and data as long as its worker lives.

    Args:
        measure, memory: as of `LocalRunner`.
        environment: variables that this node takes from the driver, unless it has them.
        version: of optevolve, the driver's.
        fetch: bytes from the object store: references by name → arrays by name.
        definitions: what workers cannot import.
    """

    def __init__(
        self, measure: Named, memory: int | None, environment: Mapping[str, str], version: str, fetch: Fetch, definitions: Definitions
    ) -> None:
        self._measure, self._memory, self._version, self._fetch, self._definitions = measure, memory, version, fetch, definitions
        self._limit = TimeLimit()
        self._runner: LocalRunner | None = None
        # A guard ends with the thread that started it, and Ray's threads come and go.
        self._thread = ThreadPoolExecutor(1, "measures")
        for key, value in environment.items():
            os.environ.setdefault(key, value)

    def ready(self) -> None:
        """Returns when this actor may be used."""

    def alive(self) -> None:
        """Returns as long as this process runs."""

    def close(self) -> None:
        """Ends the worker, whose log is then whole."""
        if self._runner is not None:
            self._thread.submit(self._runner.close).result()

    def measure(self, job: Job, seconds: float, handed: Mapping[str, Handed]) -> Outcome | Failure | Lost:
        """What came of a job; `seconds` is its time limit, `handed` what the driver has given of its data."""
        if self._version != __version__:
            text = f"A node of the cluster has optevolve {__version__}, the driver {self._version}. Install the same on both."
            return Failure("ConfigError", text)
        return self._thread.submit(self._measured, job, seconds, handed).result()

    def _measured(self, job: Job, seconds: float, handed: Mapping[str, Handed]) -> Outcome | Failure | Lost:
        try:
            runner = self._ready_runner(handed)
            self._limit.fixed = seconds
            runner.submit(job)
            while True:
                for job_id, outcome in runner.collect(1.0):
                    what = runner.lost.pop(job_id, "")
                    return Lost(what) if what else outcome
        except OptevolveError as error:
            return Failure(type(error).__name__, str(error))
        except BaseException:  # such as a worker that cannot be started: what is at hand is not to stand in the way of the next job
            if self._runner is not None:
                self._runner.close()
            raise

    def _ready_runner(self, handed: Mapping[str, Handed]) -> LocalRunner:
        """The runner, whose worker knows of the data at hand."""
        if self._runner is None:
            options: dict[str, Any] = {"time_limit": self._limit, "memory_limit": self._memory, "definitions": self._definitions}
            self._runner = LocalRunner(1, self._measure, losses=1, logs=_logs(), **options)
        for what in handed.keys() - self._runner.offered.keys():
            from optevolve.tasks.data import cache_folder  # loads torch
            from optevolve.tasks.placement import Offer, keep

            keep(Offer(handed[what].folder, partial(self._fetch, handed[what].files)), cache_folder())
            self._runner.offered[what] = handed[what].folder
        return self._runner
