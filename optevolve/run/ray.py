"""Making measurements on a Ray cluster, or on a Ray of this machine. Needs the extra "ray", which is imported when a runner is made.

Long-lived actors take one measurement after the other, see `optevolve.run.ray_node`. The driver alone writes results; nodes may come and
go, and what is lost with one is measured again. A node that has no data takes the driver's from Ray's object store.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from optevolve import __version__, errors
from optevolve.errors import ConfigError, OptevolveError
from optevolve.records import Job, Outcome, Status
from optevolve.run.definitions import Definitions
from optevolve.run.limits import TimeLimit
from optevolve.run.ray_actors import Actors, SilentError
from optevolve.run.ray_node import Failure, Handed, Lost, Measurer
from optevolve.run.worker import Measure, name_of

__all__ = ["RayRunner"]

_FRESH = 2.0  # seconds for which the size of the cluster is taken as known
_ALONE = 2  # times that a job may lose its worker with no other job on the cluster, after its retries
_ENVIRONMENT = ("OPTEVOLVE_DATA", "HF_HOME", "HF_HUB_OFFLINE")  # where data is, for nodes that do not say so themselves


Share: TypeAlias = Callable[[Job], Mapping[str, tuple[str, Mapping[str, Path]]]]


@dataclass
class _Task:
    """A job on the cluster."""

    job: Job
    losses: int = 0
    losses_alone: int = 0  # when no other job was on the cluster
    alone: bool = False
    handed: int = 0  # how many of the driver's data sets were offered with it


class RayRunner:
    """Measures on a Ray cluster, in long-lived actors.

    A candidate that raises, crashes with an exit code, or runs into its limits, gives a FAILED outcome with the reason. A job whose node
    is lost, or whose worker a signal kills, may be the victim of others: it is made again, and after `retries` losses alone on the
    cluster. What is lost alone is its candidate's failure.

    Args:
        measure: a function of a module that every node has.
        address: of the cluster; empty for the one in RAY_ADDRESS, else a new one on this machine alone.
        cpus, gpus: what a measurement takes of a node; may be fractions.
        most: jobs at once; None for as many as the cluster has room for, which may grow and shrink.
        retries: how often a lost job is made again beside others.
        time_limit, memory_limit: as of `LocalRunner`.
        share: what of the driver's data a job needs, by name: a folder's name and its files. Asked for when a node says that it has none;
            None for nothing.
        definitions: what workers cannot import; None for nothing.
    Raises:
        ConfigError: if Ray is not installed or the cluster cannot be reached.
    """

    def __init__(
        self,
        measure: Measure,
        *,
        address: str = "",
        cpus: float = 1.0,
        gpus: float = 0.0,
        most: int | None = None,
        retries: int = 2,
        time_limit: float | TimeLimit | None = None,
        memory_limit: int | None = None,
        share: Share | None = None,
        definitions: Definitions | None = None,
    ) -> None:
        self._ray = _imported()
        self._measure = name_of(measure)
        self._share = {"CPU": cpus, "GPU": gpus}
        self._most, self._retries = most, retries
        self._limit = time_limit if isinstance(time_limit, TimeLimit) else TimeLimit(fixed=time_limit)
        self._share_data = share
        self._handed: dict[str, Handed] = {}
        self._size = (float("-inf"), 1)
        self._error: OptevolveError | None = None
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        put = self._ray.put(definitions or Definitions())  # once, however large
        arguments = (self._measure, memory_limit, environment, __version__, _fetched, put)
        self._actors: Actors[_Task] = Actors(self._ray, Measurer, arguments, options, lambda: self.capacity)
        self._waiting: deque[_Task] = deque()
        self._running: list[_Task] = []

    def _connect(self, address: str) -> None:
        alone = {} if address or os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        try:
            self._ray.init(address=address or None, logging_level="ERROR", log_to_driver=False, **alone)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = address or os.environ.get("RAY_ADDRESS") or "this machine"
            raise ConfigError(
                f"Cannot reach a Ray cluster at {where}: {error} Check workers.ray_address; start one with: ray start"
            ) from error

    @property
    def capacity(self) -> int:
        """Jobs that the cluster has room for now, at least 1: what does not fit waits in its queue."""
        known, size = self._size
        if time.monotonic() - known > _FRESH:
            total = self._ray.cluster_resources()
            size = max(1, min(int(total.get(kind, 0) / share) for kind, share in self._share.items() if share))
            self._size = (time.monotonic(), size)
        return size if self._most is None else min(size, self._most)

    def submit(self, job: Job) -> None:
        """Hands a job to the cluster."""
        self._waiting.append(_Task(job))
        self._assign()

    def _assign(self) -> None:
        while self._waiting and not any(task.alone for task in self._running):
            if self._waiting[0].alone and self._running:
                break
            task = self._waiting.popleft()
            task.handed = len(self._handed)
            self._running.append(task)
            seconds = self._limit.seconds(task.job)
            self._actors.start(task, (task.job, seconds, dict(self._handed)), seconds)

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Jobs that ended, with their outcomes; waits up to `timeout` seconds for the first.

        Raises:
            OptevolveError: what a measurement raised, once the outcomes that came with it have been handed over.
        """
        self._raise_kept()
        self._assign()
        if not self._running:
            return []
        arrived = []
        for task, found, error in self._actors.wait(timeout):
            self._running.remove(task)
            outcome = self._outcome(task, found) if error is None else self._after(task, error)
            if outcome is not None:
                self._limit.learn(task.job, outcome)
                arrived.append((task.job.id, outcome))
        self._assign()
        if not arrived:
            self._raise_kept()
        return arrived

    def _raise_kept(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _after(self, task: _Task, error: Exception) -> Outcome | None:
        """What it means that nothing came back; None if the job is made again."""
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return Outcome(Status.FAILED, reason=f"its outcome was lost on the way: {_first_line(error)}")
        kind = f"{error}" if isinstance(error, SilentError) else type(error).__name__
        return self._lost(task, f"its worker was lost with its node or actor ({kind})")

    def _lost(self, task: _Task, what: str) -> Outcome | None:
        """Nobody knows whose fault a loss is: the job is made again, unless it was lost alone."""
        task.losses += 1
        task.losses_alone += task.alone
        if task.losses_alone >= _ALONE:
            return Outcome(Status.FAILED, reason=f"{what}, {_ALONE} times with no other job beside it")
        task.alone = task.losses > self._retries
        self._waiting.appendleft(task)
        return None

    def _outcome(self, task: _Task, found: Outcome | Failure | Lost) -> Outcome | None:
        """What came back; None if the job is made again, lost or now with the driver's data, or if the user's error is to be raised."""
        if isinstance(found, Outcome):
            return found
        if isinstance(found, Lost):
            return self._lost(task, found.what)
        if found.kind == "DataError":
            self._hand_over(task.job)
            if len(self._handed) > task.handed:
                self._waiting.appendleft(task)
                return None
        kind = getattr(errors, found.kind, OptevolveError) if found.kind in errors.__all__ else OptevolveError
        self._error = kind(found.message)
        return None

    def _hand_over(self, job: Job) -> None:
        """Puts what the driver has of a job's data into the object store, once."""
        found = {} if self._share_data is None else self._share_data(job)
        for what, (folder, files) in found.items():
            if what not in self._handed:
                self._handed[what] = Handed(folder, {name: self._ray.put(_content(path)) for name, path in files.items()})

    def close(self) -> None:
        """Ends the jobs at hand; leaves a cluster that others started running."""
        if not self._ray.is_initialized():
            return
        self._actors.close()
        self._waiting.clear()
        self._running.clear()
        self._handed.clear()
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _fetched(files: Mapping[str, Any]) -> Mapping[str, Any]:
    ray = _imported()
    return {name: ray.get(reference) for name, reference in files.items()}


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The Ray runner needs the extra 'ray'. Install it: pip install 'optevolve[ray]'") from error
    return ray


def _content(path: Path) -> Any:
    """A file's bytes, mapped: the object store gets its copy without another in memory."""
    return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
