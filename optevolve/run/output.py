"""What workers print, in one bounded log each: a task that prints without end fills neither the terminal nor the disk."""

from __future__ import annotations

import os
import threading
from collections import deque
from pathlib import Path

__all__ = ["OutputLog", "drain"]

_FILE = 2**20  # bytes after which a log begins anew; the one before is kept
_HEAD = 2**16  # bytes that are kept of what one job prints, from its beginning
_TAIL = 2**13  # and from its end
_PIECE = 2**16


class OutputLog:
    """The output of one worker, as `PATH` and, of what came before, `PATH.1`: at most some 2 MiB together.

    Of each job the beginning and the end are kept, with how much lies between.

    Args:
        path: the file, whose folder is made when something is printed.
    """

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path
        self._lock = threading.Lock()  # a thread writes, and the runner says whose output it is
        self._begin("before the first job")

    def begin(self, job: str) -> None:
        """What comes from now on is a job's."""
        with self._lock:
            self._end()
            self._begin(job)

    def write(self, piece: bytes) -> None:
        """Takes what was printed."""
        with self._lock:
            room = max(0, _HEAD - self._kept)
            if head := piece[:room]:
                self._append(head if self._kept else f"--- {self._job}\n".encode() + head)
                self._kept += len(head)
            if rest := piece[room:]:
                self._left_out += len(rest)
                self._tail.append(rest[-_TAIL:])
                self._tail_size += len(self._tail[-1])
                while self._tail_size - len(self._tail[0]) >= _TAIL:
                    self._tail_size -= len(self._tail.popleft())

    def end(self) -> None:
        """The worker has ended."""
        self.begin("after the last job")

    def _begin(self, job: str) -> None:
        self._job, self._kept, self._left_out, self._tail_size = job, 0, 0, 0
        self._tail: deque[bytes] = deque()

    def _end(self) -> None:
        if self._tail:
            tail = b"".join(self._tail)[-_TAIL:]
            self._append(f"\n... {self._left_out - len(tail):,} bytes left out ...\n".encode() + tail + b"\n")

    def _append(self, text: bytes) -> None:
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size + len(text) > _FILE:
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            with self._path.open("ab") as file:
                file.write(text)
        except OSError:  # a full disk: the study says so, and what a task prints is not worth a run
            self._path = None


def drain(descriptor: int, log: OutputLog) -> None:
    """Moves what comes out of a pipe into a log, until all who write to it are gone; for a thread of its own."""
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while piece := pipe.read(_PIECE):
            log.write(piece)
    log.end()
