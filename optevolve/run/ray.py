"""Making measurements on a Ray cluster, or on a Ray of this machine. Needs the extra "ray", which is imported when a runner is made.

Each measurement is one task; with GPUs, long-lived actors take one after the other. The driver alone writes results; nodes may come and
go, and what is lost with one is measured again. A node that has no data takes the driver's from Ray's object store.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from optevolve import __version__, errors
from optevolve.errors import ConfigError, OptevolveError
from optevolve.records import Job, Outcome, Status
from optevolve.run.definitions import Definitions
from optevolve.run.limits import TimeLimit
from optevolve.run.ray_actors import Actors, Hands, Tasks
from optevolve.run.worker import Measure, Named, limited_memory, measure_alone, name_of, one_thread

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


class _Handed(NamedTuple):
    """A data set of the driver in the object store: name of its folder, and the files' bytes as references by name."""

    folder: str
    files: dict[str, Any]


Share: TypeAlias = Callable[[Job], Mapping[str, tuple[str, Mapping[str, Path]]]]


@dataclass
class _Task:
    """A job on the cluster."""

    job: Job
    losses: int = 0
    handed: int = 0  # how many of the driver's data sets were offered with it


def measure_on_node(
    name: Named,
    job: Job,
    seconds: float,
    memory: int | None,
    environment: Mapping[str, str],
    version: str,
    handed: Mapping[str, _Handed],
    definitions: Definitions,
) -> Outcome | _Failure:
    """What a worker of the cluster does with a job: see `worker.measure_alone`, with a time limit of its own."""
    if version != __version__:
        return _Failure(
            "ConfigError", f"A node of the cluster has optevolve {__version__}, the driver {version}. Install the same on both."
        )
    for key, value in environment.items():
        os.environ.setdefault(key, value)
    one_thread()
    _offer(handed)
    definitions.install()
    try:
        with _alarm(seconds), limited_memory(memory):
            return measure_alone(name, job, (_OverdueError,))
    except OptevolveError as error:
        return _Failure(type(error).__name__, str(error))
    except _OverdueError:
        return Outcome(Status.FAILED, reason=f"took longer than its time limit of {seconds:.3g} s", seconds=seconds)


def _offer(handed: Mapping[str, _Handed]) -> None:
    """The driver's data for tasks that find none here; fetched by the first worker of the node that needs them."""
    if handed:
        from optevolve.tasks.placement import Offer, offer

        offer({what: Offer(each.folder, partial(_fetched, each.files)) for what, each in handed.items()})


def _fetched(files: Mapping[str, Any]) -> dict[str, Any]:
    ray = _imported()
    return {name: ray.get(reference) for name, reference in files.items()}


class Measurer:
    """A long-lived worker: jobs one after the other with the same CUDA context, kernels and data."""

    def ready(self) -> None:
        """Makes the CUDA context, where there is CUDA, lest it count as the first candidate's time and memory."""
        one_thread()
        import torch

        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")

    def measure(self, *arguments: Any) -> tuple[Outcome | _Failure, bool]:
        """What came of a job, and whether this process may take another: a candidate may have broken its CUDA context for good."""
        return measure_on_node(*arguments), cuda_is_sound()


def cuda_is_sound() -> bool:
    """Whether CUDA still works in this process, or was never begun."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:  # an illegal access or a failed assertion on the device ends every later call too
        return False
    return True


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
    """Measures on a Ray cluster, one task a job, or in long-lived actors.

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
        actors: whether workers stay for many jobs, so that a CUDA context is made once; None: if they have GPUs.
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
        actors: bool | None = None,
        share: Share | None = None,
        definitions: Definitions | None = None,
    ) -> None:
        self._ray = _imported()
        self._measure = name_of(measure)
        self._share = {"CPU": cpus, "GPU": gpus}
        self._most, self._retries, self._memory = most, retries, memory_limit
        self._limit = time_limit if isinstance(time_limit, TimeLimit) else TimeLimit(fixed=time_limit)
        self._share_data = share
        self._handed: dict[str, _Handed] = {}
        self._size = (float("-inf"), 1)
        self._error: OptevolveError | None = None
        self._own = not self._ray.is_initialized()
        if self._own:
            self._connect(address)
        self._definitions = self._ray.put(definitions or Definitions())  # once, however large
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        self._hands: Hands[_Task] = Tasks(self._ray, measure_on_node, options)
        if gpus > 0 if actors is None else actors:
            self._hands = Actors(self._ray, Measurer, options, lambda: self.capacity)
        self._at_hand = 0
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
        self._at_hand += 1
        self._start(_Task(job))

    def _start(self, task: _Task) -> None:
        seconds = self._limit.seconds(task.job)
        task.handed = len(self._handed)
        limits = (seconds, self._memory, self._environment, __version__)
        self._hands.start(task, (self._measure, task.job, *limits, self._handed, self._definitions))

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Jobs that ended, with their outcomes; waits up to `timeout` seconds for the first.

        Raises:
            OptevolveError: what a measurement raised, once the outcomes that came with it have been handed over.
        """
        self._raise_kept()
        if not self._at_hand:
            return []
        arrived = []
        for task, found, error in self._hands.wait(timeout):
            outcome = self._outcome(task, found) if error is None else self._lost(task, error)
            if outcome is not None:
                self._at_hand -= 1
                self._limit.learn(task.job, outcome)
                arrived.append((task.job.id, outcome))
        if not arrived:
            self._raise_kept()
        return arrived

    def _raise_kept(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _lost(self, task: _Task, error: Exception) -> Outcome | None:
        """What it means that nothing came back; None if the job is made again."""
        if isinstance(error, self._ray.exceptions.RayTaskError):
            return Outcome(Status.FAILED, reason=f"its outcome was lost on the way: {_first_line(error)}")
        task.losses += 1
        if task.losses > self._retries:
            times = f"{task.losses} times" if task.losses > 1 else "once"
            return Outcome(Status.FAILED, reason=f"lost {times} with its worker or node: {type(error).__name__}")
        self._start(task)
        return None

    def _outcome(self, task: _Task, found: Outcome | _Failure) -> Outcome | None:
        """What came back; None if the job is made again with the driver's data, or the user's error is to be raised."""
        if isinstance(found, Outcome):
            return found
        if found.kind == "DataError":
            self._hand_over(task.job)
            if len(self._handed) > task.handed:
                self._start(task)
                return None
        self._at_hand -= 1
        kind = getattr(errors, found.kind, OptevolveError) if found.kind in errors.__all__ else OptevolveError
        self._error = kind(found.message)
        return None

    def _hand_over(self, job: Job) -> None:
        """Puts what the driver has of a job's data into the object store, once."""
        found = {} if self._share_data is None else self._share_data(job)
        for what, (folder, files) in found.items():
            if what not in self._handed:
                self._handed[what] = _Handed(folder, {name: self._ray.put(_content(path)) for name, path in files.items()})

    def close(self) -> None:
        """Ends the jobs at hand; leaves a cluster that others started running."""
        if not self._ray.is_initialized():
            return
        self._hands.close()
        self._at_hand = 0
        self._handed.clear()
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


def _content(path: Path) -> Any:
    """A file's bytes, mapped: the object store gets its copy without another in memory."""
    return np.asarray(np.memmap(path, np.uint8, "r")) if path.stat().st_size else np.zeros(0, np.uint8)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
