"""One worker process as the driver sees it: a pipe of its own, so that whatever happens to one worker reaches no other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from queue import SimpleQueue
from typing import NamedTuple

import psutil

from optevolve.records import Job
from optevolve.run.disk import Written
from optevolve.run.guard import Ended
from optevolve.run.output import OutputLog, drain
from optevolve.run.own_time import OwnTime, family, is_crowded
from optevolve.run.worker import Done, Named, Ready, own_place, serve

__all__ = ["Arrival", "Garbled", "Gone", "WorkerProcess"]

_GRACE = 2.0  # seconds for what a dead worker had sent to arrive
_PATIENCE = 10.0  # seconds for a killed process to be gone
_ROUNDS = 100  # of stopping what forks


class Garbled(NamedTuple):
    """A message that cannot be read, and why."""

    reason: str


class Gone(NamedTuple):
    """The worker is dead and has said all that it had to say."""


class Arrival(NamedTuple):
    """A message with the worker that it comes from."""

    worker: WorkerProcess
    message: Ready | Done | Garbled | Gone


class WorkerProcess:
    """A process that measures one job at a time, started when this is made.

    Args:
        context: of multiprocessing, which says how processes are started.
        measure, memory: as of `worker.serve`.
        arrivals: what the worker says goes there.
        log: for what it prints; None to let it print where this process does.
    """

    def __init__(
        self,
        context: BaseContext,
        measure: Named,
        memory: int | None,
        arrivals: SimpleQueue[Arrival],
        log: OutputLog | None,
    ) -> None:
        self.ready = False
        self.jobs = 0  # that it was given
        self.grown = self.settled = 0  # bytes that it held after the last one, and after the first, beyond what it began with
        self.bound = ""  # where the tasks of its jobs are from, see `worker.own_place`
        self._arrivals, self._log = arrivals, log
        self._gone_at: float | None = None
        self._draining: threading.Thread | None = None
        ours, theirs = Pipe()
        pipes: tuple[Connection, Connection] | None = None if log is None or os.name != "posix" else Pipe(duplex=False)
        process = context.Process(  # type: ignore[attr-defined]
            target=serve, args=(theirs, None if pipes is None else pipes[1], measure, memory),
            daemon=True, name="optevolve-worker",
        )  # fmt: skip
        with _signals_held():
            process.start()
        self.process = process  # the worker, or its guard
        self.pid = process.pid  # the worker, as far as it is known
        self.time = OwnTime(process.pid)
        self.written = Written(())
        self._ended: int | None = None
        theirs.close()
        self._jobs = ours
        threading.Thread(target=self._listen, args=(ours,), daemon=True, name="listen-to-worker").start()
        if pipes is not None and log is not None:
            pipes[1].close()
            descriptor = os.dup(pipes[0].fileno())
            pipes[0].close()
            self._draining = threading.Thread(target=drain, args=(descriptor, log), daemon=True, name="output-of-worker")
            self._draining.start()

    def _listen(self, connection: Connection) -> None:
        with connection:
            while True:
                try:
                    message = connection.recv()
                except (EOFError, OSError):
                    break
                except Exception as error:  # noqa: BLE001 - a worker's message may be anything; what it means is the runner's to say
                    message = Garbled(f"{type(error).__name__}: {error}")
                if isinstance(message, Ended):
                    self._ended = message.code
                    break
                self._arrivals.put(Arrival(self, message))
        self._arrivals.put(Arrival(self, Gone()))

    def is_ready(self, process: int) -> None:
        """It has said so, with its number."""
        self.ready = True
        if process != self.pid:
            self.pid = process
            with suppress(psutil.Error):  # it has ended meanwhile, as will be said
                self.time = OwnTime(process)

    def give(self, job: Job, offered: Mapping[str, str]) -> None:
        """Hands over a job with what data there is for it, see `worker.serve`, and starts its clock; a dead worker says so by `Gone`."""
        self.jobs += 1
        self.bound = own_place(job)
        if self._log is not None:
            self._log.begin(job.id)
        self.time.begin()
        self.written = Written((self.time.process, *self.time.relatives))
        with suppress(OSError):
            self._jobs.send((job, offered))

    def takes(self, job: Job) -> bool:
        """Whether a job may be measured here: what a task of somebody's own has done to its process is to reach no task from elsewhere."""
        return self.bound in ("", own_place(job))

    def is_crowded(self, most: int) -> bool:
        """Whether it has more descendants than that, where the system says it at once; else as of the last look."""
        return is_crowded(self.pid, most) or len(self.time.relatives) > most

    def look(self) -> None:
        """Brings clock and account up to date, and notices a death that the pipe does not show because a descendant still holds it."""
        self.time.look()
        self.written.look((self.time.process, *self.time.relatives))
        if self.process.is_alive():
            return
        now = time.monotonic()
        self._gone_at = self._gone_at or now
        if now - self._gone_at > _GRACE:
            self._arrivals.put(Arrival(self, Gone()))

    @property
    def exit_code(self) -> int | None:
        """Of the dead worker; minus the number of the signal that killed it, or its guard."""
        self.process.join(_PATIENCE)
        code: int | None = self.process.exitcode
        return code if self._ended is None else self._ended

    @property
    def guard_code(self) -> int | None:
        """Exit code of the guard of the dead worker, if it was the guard that a signal killed."""
        code: int | None = self.process.exitcode
        own = self.pid != self.process.pid and self._ended is None
        return code if own and code is not None and code < 0 else None

    def kill(self) -> None:
        """Ends the process and what it has started, whatever it is doing."""
        relatives = set(self.time.relatives)
        parents = [self.time.process]
        with suppress(psutil.Error):
            parents.append(psutil.Process(self.process.pid))
        _signal("suspend", parents)
        self._signal_group("SIGSTOP")
        for _ in range(_ROUNDS):  # first, none may start another
            found = {*relatives, *(each for known in (*parents, *relatives) for each in family(known))}
            if found == relatives:
                break
            _signal("suspend", found - relatives)
            relatives = found
        self._signal_group("SIGKILL")
        _signal("kill", relatives)
        self.process.kill()
        self.process.join(_PATIENCE)
        if self._draining is not None:  # what it printed last is on its way to the log
            self._draining.join(_GRACE)

    def _signal_group(self, name: str) -> None:
        """All at once, so that none of those who fork meanwhile escapes."""
        if self.pid != self.process.pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, getattr(signal, name))


def _signal(method: str, processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):  # it has ended; of a number that is another process's by now, psutil knows
            getattr(process, method)()


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
