"""Making measurements on this machine: in this process, or in a pool of processes that outlives its members."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, resource_tracker
from types import TracebackType
from typing import Self

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from optevolve.errors import OptevolveError
from optevolve.records import Job, Outcome, Status
from optevolve.run.definitions import Definitions
from optevolve.run.limits import TimeLimit
from optevolve.run.spawning import WorkerContext
from optevolve.run.worker import Measure, measure_safely, name_of, prepare, run_job

__all__ = ["LocalRunner", "SerialRunner"]

_TICK = 0.5  # seconds between looks at the clocks of running jobs
_GRACE = 2.0  # seconds for what a worker sent, or the pool's own word about its end, to arrive
_BREAKS = 3  # times in a row that a pool may break before it is given up


class SerialRunner:
    """Measures in this process, one job at a time, while it collects. No limits: what hangs or crashes takes this process with it."""

    capacity = 1

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Takes a job; it runs in `collect`."""
        self._jobs.append(job)

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Measures the oldest job, however long it takes; nothing if `timeout` is 0."""
        if timeout <= 0 or not self._jobs:
            return []
        job = self._jobs.popleft()
        return [(job.id, measure_safely(self._measure, job))]

    def close(self) -> None:
        """Forgets jobs that were not measured."""
        self._jobs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass
class _Run:
    """A job in the pool."""

    job: Job
    slot: int  # where its worker leaves its process id
    future: ProcessFuture[Outcome]
    started: float | None = None  # when a worker took it, on the monotonic clock
    limit: float | None = None  # the time limit that ended it
    gone: float | None = None  # when its worker was first seen to be gone


class LocalRunner:
    """Measures in worker processes, one thread each, started afresh (spawn) so that they share nothing with this one.

    A candidate that raises, hangs, exits or crashes costs only its own measurement, a FAILED outcome with the reason; its worker is
    replaced. Workers ignore Ctrl-C and end with this process, even if it is killed. Environment variables reach the workers as they are
    when `submit` first starts them.

    Args:
        workers: processes, at least 1.
        measure: a function of a module, so that workers can import it.
        time_limit: seconds per measurement, or a `TimeLimit`; None: by the cost of its peers, see `TimeLimit`.
        memory_limit: bytes that a measurement may allocate beyond what its worker holds at its start, where the system can limit it
            (Linux); None for no limit.
        definitions: what workers cannot import; None for nothing.
    """

    def __init__(
        self,
        workers: int,
        measure: Measure,
        *,
        time_limit: float | TimeLimit | None = None,
        memory_limit: int | None = None,
        definitions: Definitions | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        self.capacity = workers
        self._measure = name_of(measure)
        self._memory = memory_limit
        self._limit = time_limit if isinstance(time_limit, TimeLimit) else TimeLimit(fixed=time_limit)
        self._runs: dict[str, _Run] = {}
        self._breaks = 0
        self._error: OptevolveError | None = None
        self._context = WorkerContext(definitions)
        self._pids = self._context.RawArray("q", workers)
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(self.capacity, initializer=prepare, initargs=(self._memory, self._pids), context=self._context)

    def submit(self, job: Job) -> None:
        """Takes a job for the next free worker."""
        slot = min(set(range(self.capacity)) - {run.slot for run in self._runs.values()}, default=None)
        if slot is None:
            raise ValueError(f"{self.capacity} jobs are at hand already, as many as there are workers")
        self._runs[job.id] = _Run(job, slot, self._schedule(job, slot))

    def _schedule(self, job: Job, slot: int) -> ProcessFuture[Outcome]:
        self._pids[slot] = 0
        while True:
            with _signals_held():  # the first job starts the workers
                if self._pool.active:
                    try:
                        return self._pool.schedule(run_job, args=(self._measure, job, slot))
                    except RuntimeError:
                        if self._pool.active:
                            raise
            self._mend()

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Jobs that ended, with their outcomes; waits up to `timeout` seconds for the first.

        Raises:
            OptevolveError: what a measurement raised, once the outcomes that came with it have been handed over.
            RuntimeError: if workers cannot be started at all.
        """
        self._raise_kept()
        end = time.monotonic() + timeout
        while self._runs:
            self._end_overdue()
            self._end_lost()
            if not self._pool.active:
                self._mend()
            left = end - time.monotonic()
            done, _ = wait([run.future for run in self._runs.values()], max(0.0, min(left, _TICK)), FIRST_COMPLETED)
            if done or left <= 0:
                break
        else:
            return []
        arrived = []
        for job_id, run in list(self._runs.items()):
            if run.future.done() and (outcome := self._outcome(run)) is not None:
                del self._runs[job_id]
                arrived.append((job_id, outcome))
        if not arrived:
            self._raise_kept()
        return arrived

    def _raise_kept(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _end_overdue(self) -> None:
        now = time.monotonic()
        for run in self._runs.values():
            if run.started is None:
                run.started = now if run.future.running() else None
            elif run.limit is None and now - run.started > (limit := self._limit.seconds(run.job)):
                run.limit = limit
                run.future.cancel()  # type: ignore[no-untyped-call] # ends its worker

    def _end_lost(self) -> None:
        """Ends jobs whose worker left with exit code 0, which the pool takes for a worker that has done its work."""
        alive = {process.pid for process in active_children()} | {0}
        now = time.monotonic()
        for run in self._runs.values():
            if self._pids[run.slot] in alive or run.future.done():
                run.gone = None
            elif run.gone is None:
                run.gone = now
            elif now - run.gone > _GRACE:
                run.future.cancel()  # type: ignore[no-untyped-call]

    def _outcome(self, run: _Run) -> Outcome | None:
        """What a finished future means; None if the job must wait longer, or its error is to be raised."""
        try:
            outcome = run.future.result()
        except CancelledError:
            if run.limit is None:
                return self._failed(run, "its worker exited with code 0")
            return self._failed(run, f"took longer than its time limit of {run.limit:.3g} s")
        except ProcessExpired as error:
            return self._failed(run, f"its worker {_ending(error.exitcode)}")
        except BrokenProcessPool:
            self._mend()
            return None
        except OptevolveError as error:
            del self._runs[run.job.id]
            self._error = error
            return None
        except Exception as error:  # noqa: BLE001 - an outcome or error that cannot cross processes is the candidate's failure
            return self._failed(run, f"its outcome was lost on the way: {type(error).__name__}: {error}")
        self._breaks = 0
        self._limit.learn(run.job, outcome)
        return outcome

    def _failed(self, run: _Run, reason: str) -> Outcome:
        self._breaks = 0
        seconds = 0.0 if run.started is None else time.monotonic() - run.started
        return Outcome(Status.FAILED, reason=reason, seconds=seconds)

    def _mend(self) -> None:
        """A pool breaks when a worker dies between two jobs, which is no job's fault: its jobs start anew in a new one."""
        self._breaks += 1
        if self._breaks > _BREAKS:
            raise RuntimeError(f"workers broke {self._breaks} times in a row before measuring anything; see their messages above")
        self._stop(self._pool)
        self._pool = self._new_pool()
        for run in self._runs.values():
            future = run.future
            if not future.done() or (not future.cancelled() and isinstance(future.exception(), BrokenProcessPool)):
                run.future, run.started, run.gone = self._schedule(run.job, run.slot), None, None

    def close(self) -> None:
        """Ends all workers at once; jobs at hand are dropped."""
        self._runs.clear()
        self._stop(self._pool)

    @staticmethod
    def _stop(pool: ProcessPool) -> None:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Keeps Ctrl-C from threads and processes that start here, for they inherit the mask; the caller gets it afterwards.

    A worker ignores it by itself only once it runs, some seconds after it was started.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting a first process also starts Python's tracker of shared resources, which unblocks Ctrl-C for the thread on its way.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}"
