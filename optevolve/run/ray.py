"""Making measurements on a Ray cluster, or on a Ray of this machine. Needs the extra "ray", which is imported when a runner is made.

Each measurement is one task. The driver alone writes results; nodes may come and go, and what is lost with one is measured again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from optevolve import __version__, errors
from optevolve.errors import ConfigError, OptevolveError
from optevolve.records import Job, Outcome, Status
from optevolve.run.limits import TimeLimit
from optevolve.run.worker import Measure, limited_memory, measure_alone, name_of, one_thread

__all__ = ["RayRunner"]

_FRESH = 2.0  # seconds for which the size of the cluster is taken as known
_GRACE = 60.0  # seconds that a candidate may take to notice its time limit before its worker is ended
_ENVIRONMENT = ("OPTEVOLVE_DATA", "HF_HOME", "HF_HUB_OFFLINE")  # where data is, for nodes that do not say so themselves


class _OverdueError(BaseException):
    """Raised into a candidate at its time limit; no candidate catches it by accident."""


@dataclass(frozen=True)
class _Failure:
    """An error that the user must mend, in words, on its way from a node."""

    kind: str
    message: str


@dataclass
class _Task:
    """A job on the cluster."""

    job: Job
    losses: int = 0


def measure_on_node(
    name: str, job: Job, seconds: float, memory: int | None, environment: Mapping[str, str], version: str
) -> Outcome | _Failure:
    """What a worker of the cluster does with a job: see `worker.measure_alone`, with a time limit of its own."""
    if version != __version__:
        return _Failure(
            "ConfigError", f"A node of the cluster has optevolve {__version__}, the driver {version}. Install the same on both."
        )
    for key, value in environment.items():
        os.environ.setdefault(key, value)
    one_thread()
    try:
        with _alarm(seconds), limited_memory(memory):
            return measure_alone(name, job, (_OverdueError,))
    except OptevolveError as error:
        return _Failure(type(error).__name__, str(error))
    except _OverdueError:
        return Outcome(Status.FAILED, reason=f"took longer than its time limit of {seconds:.3g} s", seconds=seconds)


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Ends what runs inside after that time; with the whole process if it does not listen."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _OverdueError

    deaf = threading.Timer(seconds + _GRACE, os._exit, (1,))
    deaf.daemon = True
    deaf.start()
    heard = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    before = signal.signal(signal.SIGALRM, ring) if heard else None
    try:
        if heard:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        if heard:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        deaf.cancel()


class RayRunner:
    """Measures on a Ray cluster, one task a job.

    A candidate that raises, or runs into its limits, gives a FAILED outcome with the reason. A job whose worker or node is lost is made
    again, a bounded number of times, since a worker does not say whether its candidate or its machine was to blame.

    Args:
        measure: a function of a module that every node has.
        address: of the cluster; empty for the one in RAY_ADDRESS, else a new one on this machine alone.
        cpus, gpus: what a measurement takes of a node; may be fractions.
        most: jobs at once; None for as many as the cluster has room for, which may grow and shrink.
        retries: how often a lost job is made again.
        time_limit: seconds per measurement, or a `TimeLimit`; None: by the cost of its peers.
        memory_limit: bytes that a measurement may allocate beyond what its worker holds.
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
    ) -> None:
        self._ray = _imported()
        self._measure = name_of(measure)
        self._share = {"CPU": cpus, "GPU": gpus}
        self._most, self._retries, self._memory = most, retries, memory_limit
        self._limit = time_limit if isinstance(time_limit, TimeLimit) else TimeLimit(fixed=time_limit)
        self._tasks: dict[Any, _Task] = {}
        self._size = (float("-inf"), 1)
        self._error: OptevolveError | None = None
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        self._remote = self._ray.remote(**options)(measure_on_node)
        self._environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}

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
        self._start(_Task(job))

    def _start(self, task: _Task) -> None:
        seconds = self._limit.seconds(task.job)
        self._tasks[self._remote.remote(self._measure, task.job, seconds, self._memory, self._environment, __version__)] = task

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Jobs that ended, with their outcomes; waits up to `timeout` seconds for the first.

        Raises:
            OptevolveError: what a measurement raised, once the outcomes that came with it have been handed over.
        """
        self._raise_kept()
        if not self._tasks:
            return []
        done, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=timeout)
        if done:
            done, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        arrived = []
        for reference in done:
            task = self._tasks.pop(reference)
            outcome = self._outcome(reference, task)
            if outcome is not None:
                self._limit.learn(task.job, outcome)
                arrived.append((task.job.id, outcome))
        if not arrived:
            self._raise_kept()
        return arrived

    def _raise_kept(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _outcome(self, reference: Any, task: _Task) -> Outcome | None:
        """What an ended task means; None if the job is made again, or its error is to be raised."""
        failures = self._ray.exceptions
        try:
            found = self._ray.get(reference)
        except failures.RayTaskError as error:
            return Outcome(Status.FAILED, reason=f"its outcome was lost on the way: {_first_line(error)}")
        except failures.RayError as error:
            task.losses += 1
            if task.losses > self._retries:
                times = f"{task.losses} times" if task.losses > 1 else "once"
                return Outcome(Status.FAILED, reason=f"lost {times} with its worker or node: {type(error).__name__}")
            self._start(task)
            return None
        if isinstance(found, _Failure):
            kind = getattr(errors, found.kind, OptevolveError) if found.kind in errors.__all__ else OptevolveError
            self._error = kind(found.message)
            return None
        assert isinstance(found, Outcome)
        return found

    def close(self) -> None:
        """Ends the jobs at hand; leaves a cluster that others started running."""
        if not self._ray.is_initialized():
            return
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._tasks.clear()
        if self._own:
            self._ray.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _imported() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("The Ray runner needs the extra 'ray'. Install it: pip install 'optevolve[ray]'") from error
    return ray


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
