"""Whether a measurement fills a disk: what is left there, and who has written what is gone."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

import psutil

__all__ = ["Disks", "Written", "size_text"]

_LEFT = 2**30, 0.02  # bytes, or share of the disk if that is less, below which a disk is taken for nearly full


class Written:
    """What a process and its descendants write, as found by looking now and then; nothing where the system gives no account (macOS)."""

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._first = {process: _written(process) for process in processes}
        self._last = dict(self._first)

    def look(self, processes: Iterable[psutil.Process]) -> None:
        """Takes note of what each has written by now."""
        for process in processes:
            self._last[process] = max(_written(process), self._last.get(process, 0))

    @property
    def bytes(self) -> int:
        """Since this was made; of descendants that came and went between two looks nothing."""
        return sum(count - self._first.get(process, 0) for process, count in self._last.items())


class Disks:
    """The disks that a run writes to, each by one of its folders.

    Args:
        folders: of the run, beside those for temporary files and the working folder.
    """

    def __init__(self, folders: Iterable[Path] = ()) -> None:
        found: dict[int, Path] = {}
        for folder in (*folders, Path(tempfile.gettempdir()), Path()):
            there = next((each for each in (folder, *folder.absolute().parents) if each.exists()), None)
            if there is not None:
                found.setdefault(os.stat(there).st_dev, there.absolute())
        self._folders = list(found.values())

    def free(self) -> dict[Path, int]:
        """Bytes left on each."""
        return {folder: usage.free for folder in self._folders if (usage := _usage(folder)) is not None}

    def nearly_full(self) -> dict[Path, int]:
        """Bytes left on each that is nearly full."""
        found = {}
        for folder in self._folders:
            usage = _usage(folder)
            if usage is not None and usage.free < min(_LEFT[0], _LEFT[1] * usage.total):
                found[folder] = usage.free
        return found


def size_text(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def _usage(folder: Path) -> shutil._ntuple_diskusage | None:
    try:
        return shutil.disk_usage(folder)
    except OSError:  # it was taken away, as the store will say
        return None


def _written(process: psutil.Process) -> int:
    try:
        counters = process.io_counters()
    except (psutil.Error, AttributeError, OSError, NotImplementedError):
        return 0
    return int(max(counters.write_bytes, getattr(counters, "write_chars", 0)))
