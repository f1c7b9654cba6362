"""Measure functions for worker processes: the rule says what to do. A module of its own, without test libraries, for workers to import."""

import ctypes
import mmap
import os
import signal
import sys
import threading
import time

from optevolve.config import Compute, Protocol
from optevolve.errors import DataError
from optevolve.records import Job, Outcome, Status, TrainingCurve

_LEAKED: list[bytearray] = []


def _spin() -> None:
    while True:
        pass


class OwnError(DataError):
    """An error that cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"own error {one} {two}")


def job(ident: str, rule: str = "", seed: int = 0, task: str = "synthetic") -> Job:
    return Job(ident, rule or ident, task, Protocol(), seed)


def synthetic(job: Job) -> Outcome:
    """An outcome that is a function of the job alone; some fail."""
    value = sum(map(ord, job.rule + job.task)) * 7919 + job.seed * 104729
    if value % 7 == 0:
        return Outcome(Status.DIVERGED, reason="as every seventh", seconds=0.001)
    curve = TrainingCurve(0.1, job.seed, (1, 2), (1.0, float("nan")), (0.5, 0.25), (float(value % 13), float("inf")))
    return Outcome(Status.COMPLETED, value % 1000 / 1000, 0.1, curves=(curve,), steps=2, seconds=0.001)


def answers(job: Job, compute: Compute) -> Outcome:
    """Says what it was given."""
    return Outcome(Status.COMPLETED, 0.5, device=compute.device)


def slow(job: Job) -> Outcome:
    time.sleep(0.002 * (sum(map(ord, job.rule)) % 5))
    return synthetic(job)


def poisoned(job: Job) -> Outcome:
    """Does what the rule says."""
    word, _, rest = job.rule.partition(" ")
    if word == "raise":
        raise ZeroDivisionError(rest)
    if word == "data":
        raise DataError("Expected data, found none. Download it.")
    if word == "interrupt":
        raise KeyboardInterrupt
    if word == "own":
        raise OwnError(1, 2)
    if word == "nothing":
        return None  # type: ignore[return-value]
    if word == "sys.exit":
        sys.exit(rest)
    if word == "os._exit":
        os._exit(int(rest))
    if word == "segfault":
        ctypes.string_at(0)
    if word == "kill":
        os.kill(os.getpid(), getattr(signal, rest))
    if word == "deadlock":  # in C, with the interpreter's lock
        ctypes.PyDLL(None).pause()
    if word == "leak":
        _LEAKED.append(bytearray(int(rest)))
    if word == "raise-long":
        raise ValueError("x" * int(rest))
    if word == "reason":
        return Outcome(
            Status.FAILED, reason="y" * int(rest), curves=(TrainingCurve(0.1, 0, (1,), (1.0,), (0.0,), (0.0,), reason=rest * 9999),)
        )
    if word == "print":
        for _ in range(int(rest) // 1000):
            print("z" * 999)
    if word == "fork":  # without end, slowly, and each on its own as soon as it is there
        while True:
            if not os.fork():
                os.setsid()
                time.sleep(600)
            time.sleep(0.01)
    if word == "double":  # every child forks on
        end = time.monotonic() + 20
        while time.monotonic() < end:
            os.fork()
            time.sleep(0.2)
        os._exit(0)
    if word == "kill-parent":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if word == "fill":
        with open(os.path.join(os.environ["OPTEVOLVE_TEST_DISK"], "filled"), "wb") as file:
            while True:
                file.write(bytes(2**20))
    if word in ("allocate", "map"):  # all the room there is, without writing
        with open(os.path.join(os.environ["OPTEVOLVE_TEST_DISK"], "filled"), "w+b") as file:
            room = os.fstatvfs(file.fileno())
            size = room.f_bavail * room.f_bsize
            if word == "allocate":
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
                with mmap.mmap(file.fileno(), size) as mapped:
                    for place in range(0, size, mmap.PAGESIZE):
                        mapped[place] = 1
    if word == "stop":
        os.kill(os.getppid() if rest == "parent" else os.getpid(), signal.SIGSTOP)
    if word == "close":
        os.closerange(0, 100)
    if word == "thread":
        threading.Thread(target=_spin, daemon=True).start()
    if word == "chdir":
        os.chdir("/")
    if word == "hang":
        while True:
            pass
    if word == "sleep":
        time.sleep(float(rest))
    if word == "memory":
        return Outcome(Status.COMPLETED, float(len(bytearray(int(rest)))))
    if word == "unpicklable":
        return Outcome(Status.COMPLETED, 0.5, reason=lambda: None)  # type: ignore[arg-type]
    if word == "lock":  # which not even cloudpickle takes
        return Outcome(Status.COMPLETED, 0.5, reason=threading.Lock())  # type: ignore[arg-type]
    if word == "process":
        time.sleep(float(rest))
        return Outcome(Status.COMPLETED, 0.5, reason=str(os.getpid()))
    if word == "environment":
        return Outcome(Status.COMPLETED, 0.5, reason=" ".join(f"{name}={os.environ.get(name, '')}" for name in rest.split()))
    return synthetic(job)
