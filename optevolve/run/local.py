"""Making measurements on this machine: in this process, or in worker processes that are replaced as they die."""

from __future__ import annotations

import signal
import time
import weakref
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from optevolve.errors import OptevolveError
from optevolve.records import Job, Outcome, Status
from optevolve.run.definitions import Definitions
from optevolve.run.disk import Disks, size_text
from optevolve.run.limits import TimeLimit
from optevolve.run.output import OutputLog
from optevolve.run.process import Arrival, Garbled, Gone, WorkerProcess
from optevolve.run.spawning import WorkerContext
from optevolve.run.worker import Done, Measure, Named, Ready, measure_safely, name_of

__all__ = ["LocalRunner", "SerialRunner"]

_TICK = 0.25  # seconds between looks at the workers
_ALONE = 3  # times that a job may lose its worker with no other job beside it
_BREAKS = 3, 30  # times in a row that workers may exit, or be killed, before they are ready
_STOPPED = 3600.0  # seconds that a worker may be stopped (SIGSTOP) while the driver is not, until its job is made elsewhere
_FAMILY = 64  # processes that a measurement may have at a time
_JOBS = 2000  # that a worker measures until it is replaced
_LEAK = 2**31  # bytes that it may grow from job to job, where memory is not limited


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
    """A job at hand."""

    job: Job
    losses: int = 0  # times that its worker died of a signal with no other job beside it
    fresh: bool = False  # it is to have a worker that has measured nothing
    alone: bool = False  # and no other job beside it
    free: dict[Path, int] = field(default_factory=dict)  # bytes left on each disk when it began


class LocalRunner:
    """Measures in worker processes, one thread each, started afresh (spawn) so that they share nothing with this one.

    A candidate that raises, hangs, exits or crashes costs only its own measurement, a FAILED outcome with the reason; its worker is
    replaced. A worker that a signal kills may be the victim of others, such as of the system when memory runs out: its job is made again,
    alone, and fails if that kills three workers. Workers ignore Ctrl-C and end with this process, even if it is killed. Environment
    variables reach a worker as they are when it is started.

    Args:
        workers: processes, at least 1.
        measure: a function of a module, so that workers can import it, or its name, see `worker.name_of`.
        time_limit: seconds of a worker's own time (see `optevolve.run.own_time`) per measurement, or a `TimeLimit`; None: by the cost of
            its peers, see `TimeLimit`.
        memory_limit: bytes that a worker may allocate beyond what it holds when it has started, where the system can limit it (Linux);
            None for no limit. A worker that its jobs leave a quarter larger is replaced, and what fails in one that is an eighth larger
            is made again in a new one.
        logs: folder for what workers print, a bounded file for each; None to let them print where this process does.
        losses: how often a job may lose its worker to a signal with no other job beside it.
        definitions: what workers cannot import; None for nothing.

    Attributes:
        capacity: how many jobs it takes at once.
        offered: data sets that others have put into this machine's cache: name → folder there; may grow.
        lost: by id of a job that failed because a signal killed its worker each time, what happened.
    """

    def __init__(
        self,
        workers: int,
        measure: Measure | Named,
        *,
        time_limit: float | TimeLimit | None = None,
        memory_limit: int | None = None,
        logs: Path | None = None,
        losses: int = _ALONE,
        definitions: Definitions | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}, expected at least 1")
        self.capacity = workers
        self.lost: dict[str, str] = {}
        self.offered: dict[str, str] = {}
        self._measure = measure if isinstance(measure, Named) else name_of(measure)
        self._memory, self._logs, self._losses = memory_limit, logs, losses
        self._limit = time_limit if isinstance(time_limit, TimeLimit) else TimeLimit(fixed=time_limit)
        self._context = WorkerContext(definitions)
        self._arrivals: SimpleQueue[Arrival] = SimpleQueue()
        self._workers: dict[int, WorkerProcess] = {}  # by the number of their log
        self._waiting: deque[_Run] = deque()
        self._running: dict[WorkerProcess, _Run] = {}
        self._breaks = [0, 0]
        self._errors: deque[OptevolveError] = deque()
        self._looked = 0.0
        self._disks = Disks([] if logs is None else [logs])
        self._free = self._disks.free()
        self._writer = 0, ""  # bytes, and which measurement wrote most
        self._latest: deque[str] = deque(maxlen=workers)  # measurements that ended last
        weakref.finalize(self, _kill_all, self._workers)  # also where nobody closes this before the interpreter ends

    def submit(self, job: Job) -> None:
        """Takes a job for the next free worker."""
        if len(self._waiting) + len(self._running) >= self.capacity:
            raise ValueError(f"{self.capacity} jobs are at hand already, as many as there are workers")
        self._waiting.append(_Run(job))
        self._assign()

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Jobs that ended, with their outcomes; waits up to `timeout` seconds for the first.

        Raises:
            OptevolveError: what a measurement raised, once the outcomes that came with it have been handed over.
            RuntimeError: if workers cannot be started at all.
        """
        end = time.monotonic() + timeout
        ended: list[tuple[str, Outcome]] = []
        while self._waiting or self._running:
            if time.monotonic() - self._looked > _TICK:
                ended += self._look()
            self._assign()
            left = 0.0 if ended else max(0.0, end - time.monotonic())
            try:
                arrival = self._arrivals.get(timeout=min(left, _TICK)) if left else self._arrivals.get_nowait()
            except Empty:
                if not left:
                    break
                continue
            ended += self._take(arrival)
            if self._errors and not ended:
                break
        if not ended and self._errors:
            raise self._errors.popleft()
        return ended

    def _assign(self) -> None:
        """Gives jobs to workers that are ready, and starts workers where there are too few."""
        while self._waiting and not any(run.alone for run in self._running.values()):
            run = self._waiting[0]
            if run.alone and self._running:
                break
            idle = [worker for worker in self._workers.values() if worker.ready and worker not in self._running]
            fit = [worker for worker in idle if not (run.fresh and worker.jobs) and worker.takes(run.job)]
            if fit:
                self._waiting.popleft()
                self._running[fit[0]] = run
                run.free = self._disks.free()
                fit[0].give(run.job, self.offered)
                continue
            starting = sum(not worker.ready for worker in self._workers.values())
            if starting >= len(self._waiting):
                break
            if len(self._workers) == self.capacity:
                if not idle:
                    break
                self._end(idle[0])  # a job that wants another worker
            self._start()

    def _start(self) -> None:
        number = min(set(range(self.capacity)) - self._workers.keys())
        log = None if self._logs is None else OutputLog(self._logs / f"worker-{number}.log")
        self._workers[number] = WorkerProcess(self._context, self._measure, self._memory, self._arrivals, log)

    def _end(self, worker: WorkerProcess) -> None:
        for number, each in list(self._workers.items()):
            if each is worker:
                del self._workers[number]
        worker.kill()

    def _look(self) -> list[tuple[str, Outcome]]:
        """Ends what is over its limits."""
        self._looked = time.monotonic()
        ended = []
        nearly_full = self._disks.nearly_full()
        for worker in list(self._workers.values()):
            run = self._running.get(worker)
            crowded = run is not None and worker.is_crowded(_FAMILY)
            if not crowded:
                worker.look()
            if run is None:
                continue
            limit = self._limit.seconds(run.job)
            if crowded:
                ended.append(self._fail(worker, f"started more than {_FAMILY} processes, which its task or its rule must not"))
            elif worker.time.seconds > limit:
                ended.append(self._fail(worker, f"took longer than its time limit of {limit:.3g} s"))
            elif filled := _filled(run.free, nearly_full, worker.written.bytes):
                ended.append(self._fail(worker, f"wrote {filled}, which its task or its rule must not"))
            elif worker.time.stopped > _STOPPED:
                ended += self._lost(worker, f"its worker was stopped for {_STOPPED:g} s")
        return ended

    def _take(self, arrival: Arrival) -> list[tuple[str, Outcome]]:
        """What a worker says; with the outcome, if its job is over."""
        worker, message = arrival
        if worker not in self._workers.values():
            return []
        run = self._running.get(worker)
        if isinstance(message, Ready):
            worker.is_ready(message.process)
            self._breaks = [0, 0]
        elif isinstance(message, Gone):
            code = worker.exit_code
            if run is None:
                self._break(worker, code)
            elif worker.guard_code is not None:
                by = _signal_name(worker.guard_code)
                return self._lost(worker, f"its task or its rule killed the parent process of its worker ({by})")
            elif code is not None and code < 0:
                return self._lost(worker, f"its worker {_ending(code)}")
            else:
                return self._failure(worker, Outcome(Status.FAILED, reason=f"its worker {_ending(code)}", seconds=worker.time.clock))
        elif isinstance(message, Garbled) and run is not None:
            return [self._fail(worker, f"its outcome was lost on the way: {message.reason}")]
        elif isinstance(message, Done) and run is not None:
            return self._done(worker, run, message)
        return []

    def _done(self, worker: WorkerProcess, run: _Run, message: Done) -> list[tuple[str, Outcome]]:
        worker.look()
        found = message.found
        if isinstance(found, Outcome) and found.status is not Status.FAILED:
            self._limit.learn(run.job, found, worker.time.seconds / worker.time.clock if worker.time.clock > 0 else 1.0)
            self._release(worker, message)
            return [(run.job.id, found)]
        if filled := _filled(run.free, self._disks.nearly_full(), worker.written.bytes):
            failed = found if isinstance(found, Outcome) else Outcome(Status.FAILED, reason=str(found), seconds=worker.time.clock)
            found = replace(failed, reason=f"wrote {filled}, which its task or its rule must not; {failed.reason}")
        if isinstance(found, Outcome):
            return self._failure(worker, found, message)
        self._release(worker, message)
        self._errors.append(found)
        return []

    def _release(self, worker: WorkerProcess, message: Done) -> None:
        """The worker's job is over; it is replaced if it has measured much, or its jobs leave it larger and larger."""
        self._over(worker)
        worker.grown = message.grown
        if worker.jobs == 1:
            worker.settled = worker.grown  # code and data that stay
        leak = _LEAK if self._memory is None else self._memory // 4
        if not message.sound or worker.jobs >= _JOBS or worker.grown - worker.settled > leak:
            self._end(worker)

    def _over(self, worker: WorkerProcess) -> _Run:
        """Takes note that a worker's job has ended."""
        run = self._running.pop(worker)
        self._writer = max(self._writer, (worker.written.bytes, _named(run)))
        self._latest.append(_named(run))
        return run

    def who_filled(self) -> str:
        """A sentence on who filled a disk that is nearly full: the measurement that wrote most of it, else those at hand; or nothing."""
        count, who = max([self._writer, *((worker.written.bytes, _named(run)) for worker, run in self._running.items())])
        full = self._disks.nearly_full()
        if filled := _filled(self._free, full, count):
            return f"What filled it is the measurement {who}: it wrote {filled}."
        at_hand = dict.fromkeys([*self._latest, *map(_named, self._running.values())])
        if at_hand and any(self._free.get(folder, 0) - left > left for folder, left in full.items()):
            return (
                f"No measurement is seen to have written as much; measured last were {', '.join(at_hand)}: a task may also take room "
                "without writing (posix_fallocate, mapped files), and so may another program."
            )
        return ""

    def _fail(self, worker: WorkerProcess, reason: str) -> tuple[str, Outcome]:
        """Ends a worker for what its job did."""
        run = self._over(worker)
        self._end(worker)
        return run.job.id, Outcome(Status.FAILED, reason=reason, seconds=worker.time.clock)

    def _failure(self, worker: WorkerProcess, outcome: Outcome, message: Done | None = None) -> list[tuple[str, Outcome]]:
        """A job failed by itself; in a worker that other jobs have left larger, it is made again in a new one.

        Args:
            worker: its worker.
            outcome: what came of it.
            message: that it came in; None if the worker is dead.
        """
        run, before = self._running[worker], worker.grown
        if message is None:
            self._over(worker)
            self._end(worker)
        else:
            self._release(worker, message)
        if self._memory is not None and before > self._memory // 8:
            run.fresh = True
            self._waiting.appendleft(run)
            return []
        return [(run.job.id, outcome)]

    def _lost(self, worker: WorkerProcess, what: str) -> list[tuple[str, Outcome]]:
        """A worker died of a signal, and nobody knows whose fault it is: its job is made again alone, unless it was."""
        run = self._over(worker)
        self._end(worker)
        if run.alone or self.capacity == 1:
            run.losses += 1
        if run.losses >= self._losses:
            self.lost[run.job.id] = what
            reason = what if self._losses == 1 else f"{what}, {self._losses} times with no other job beside it"
            return [(run.job.id, Outcome(Status.FAILED, reason=reason, seconds=worker.time.clock))]
        run.fresh = run.alone = True
        self._waiting.appendleft(run)
        return []

    def _break(self, worker: WorkerProcess, code: int | None) -> None:
        """A worker died that had no job."""
        self._end(worker)
        if worker.ready:
            return
        killed = code is not None and code < 0
        self._breaks[killed] += 1
        if self._breaks[killed] >= _BREAKS[killed]:
            where = "above" if self._logs is None else f"above or in {self._logs}"
            raise RuntimeError(
                f"workers broke {self._breaks[killed]} times in a row before measuring anything (the last {_ending(code)}); "
                f"see their messages {where}"
            )

    def close(self) -> None:
        """Ends all workers at once; jobs at hand are dropped."""
        self._waiting.clear()
        self._running.clear()
        _kill_all(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _named(run: _Run) -> str:
    return f"{run.job.id} of task {run.job.task}"


def _filled(before: dict[Path, int], nearly_full: dict[Path, int], written: int) -> str:
    """How much somebody wrote, and how little it has left, if most of what is gone of a disk is by that; else empty."""
    for folder, left in nearly_full.items():
        gone = before.get(folder, 0) - left
        if gone > left and written >= gone / 2:
            return f"{size_text(written)} until {size_text(left)} were left on the disk of {folder}"
    return ""


def _kill_all(workers: dict[int, WorkerProcess]) -> None:
    for worker in workers.values():
        worker.kill()
    workers.clear()


def _ending(code: int | None) -> str:
    """How a process ended, in words."""
    if code is None or code >= 0:
        return f"exited with code {code}"
    return f"was killed by {_signal_name(code)}"


def _signal_name(code: int) -> str:
    """Of the signal that a process was killed by."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
