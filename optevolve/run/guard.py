"""A process between a worker and its driver: it takes the blow where a candidate kills its parent, and leaves nothing of the worker behind.

On Linux alone, where a process can be told to end with its parent and to adopt orphans.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil

from optevolve.run.own_time import family

__all__ = ["Ended", "begin_guarded"]

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36  # prctl(2)


@dataclass(frozen=True)
class Ended:
    """What a guard says last: how its worker ended. A guard that ends without a word was killed itself.

    Attributes:
        code: exit code; minus the number of the signal that killed it.
    """

    code: int


def begin_guarded(jobs: Connection, others: Iterable[Connection] = ()) -> None:
    """Goes on as the worker, in a child of this process and a process group of its own; this process waits for it and ends as it does.

    The worker ends with its guard, and the guard with the thread that started it, even while a candidate holds the interpreter's lock.
    What a candidate starts becomes the child of either when those that started it are gone, so that it is found.

    Args:
        jobs: where the guard says how its worker ended.
        others: connections that are the worker's alone.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is None:
        return
    prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guard = os.getpid()
    worker = os.fork()
    if worker:
        _guard(worker, jobs, others)
    prctl(_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.getppid() != guard:  # it ended before this process was tied to it
        os._exit(1)
    os.setpgid(0, 0)  # signals to the worker's group reach nobody else


def _guard(worker: int, jobs: Connection, others: Iterable[Connection]) -> None:
    """Waits for the worker, kills what it has left behind, and ends as it did."""
    for connection in others:
        connection.close()
    found, status = os.wait()
    while found != worker:  # an orphan that was adopted
        found, status = os.wait()
    for relative in family(psutil.Process()):
        with suppress(psutil.Error):  # it ended by itself
            relative.kill()
    code = os.waitstatus_to_exitcode(status)
    with suppress(OSError):  # nobody listens any more
        jobs.send(Ended(code))
    os._exit(code if code >= 0 else 128 - code)
