"""What of the time by the clock a process had for itself: processor time, and the time that it slept of its own accord.

A limit by the clock fails the healthy on a machine that is loaded, suspended or stopped; one on processor time lets a process sleep for
ever. So both count that are the process's own doing, and waiting for a processor, for a disk, or for a SIGCONT does not.
"""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["OwnTime", "family", "is_crowded"]

_AWAKE = 1.0  # seconds between looks; of longer gaps, in which who looks was away too, no more is taken for sleep
_KNOWN = 1.0  # seconds for which the descendants are taken as known
_STOPPED = {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
_ASLEEP = {psutil.STATUS_SLEEPING, psutil.STATUS_IDLE, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
_LINUX = sys.platform == "linux"
_MOST = 128  # descendants that are looked at: whoever has more is not measured but ended
_IDLE = 0.02  # share of processor time below which a process is taken for asleep, where the system does not say it


class OwnTime:
    """Own time of a process and its descendants since this was made, as found by looking now and then.

    Attributes:
        seconds: the own time, never more than the time by the clock.
        clock: seconds by the clock.
        stopped: seconds for which the process has been stopped without a break while whoever looks was not.
        relatives: its descendants at the last look, of very many some.
    """

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.relatives: list[psutil.Process] = []
        self.begin()

    def begin(self) -> None:
        """Counts from now."""
        self.seconds = self.clock = self.stopped = 0.0
        self._looked = time.monotonic()
        self._related = -math.inf
        self._asleep = False  # at the last look
        self._cpu = 0.0
        self._cpu, _ = self._look()

    def look(self) -> None:
        """Takes the time since the last look into account."""
        now = time.monotonic()
        elapsed, self._looked = now - self._looked, now
        cpu, states = self._look()
        used, self._cpu = max(0.0, cpu - self._cpu), cpu
        self.clock += elapsed
        awake = min(elapsed, _AWAKE)
        self.stopped = self.stopped + awake if states & _STOPPED else 0.0
        asleep = states <= _ASLEEP if _LINUX else not states & _STOPPED and used < _IDLE * elapsed
        # Who sleeps at one look alone has slept for less than the gap, which is long where the observer waits for a processor as well.
        self.seconds += min(elapsed, max(used, awake if asleep and self._asleep else 0.0))
        self._asleep = asleep

    def _look(self) -> tuple[float, set[str]]:
        """Processor time so far, and what the process and its descendants are doing."""
        if time.monotonic() - self._related > _KNOWN:
            self.relatives, self._related = family(self.process, _MOST), time.monotonic()
        total = 0.0
        states: set[str] = set()
        for process in (self.process, *self.relatives):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    states.add(process.status())
            except psutil.Error:
                continue
            total += times.user + times.system
            if process is self.process:
                total += times.children_user + times.children_system
        # Of a descendant that ended unseen, some is lost.
        return max(total, self._cpu), states


def family(process: psutil.Process, most: float = math.inf) -> list[psutil.Process]:
    """The descendants of a process that are alive; the search for them ends with `most`."""
    try:
        if not Path(f"/proc/{process.pid}/task/{process.pid}/children").exists():
            return process.children(recursive=True)  # reads every process of the machine
        found = [process]
        for each in found:  # which grows meanwhile
            if len(found) > most:
                break
            found += [psutil.Process(child) for child in _children(each.pid)]
        return found[1:]
    except psutil.Error:  # one ended meanwhile
        return []


def is_crowded(pid: int, most: int) -> bool:
    """Whether a process has more descendants than that; read in no time, for what forks on and on leaves nobody any."""
    found = [pid]
    for each in found:  # which grows meanwhile
        found += _children(each)
        if len(found) > most + 1:
            return True
    return False


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):  # it alone has
                found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="ascii").split())
    return found
