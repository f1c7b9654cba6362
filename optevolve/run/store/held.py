"""The files of a study under its driver: whether they are still those that it opened, and whether another process drives them.

A file that is deleted or replaced goes on existing for whoever has it open, so that a driver would write into nothing and never notice; of
one that is overwritten in place, SQLite reads what it remembers.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from optevolve.errors import StudyError
from optevolve.run.store.place import process_here

__all__ = ["HeldFiles"]

_Identity = tuple[int, int]  # device and inode
_DRIVEN: set[_Identity] = set()  # by this process, which locks of the system do not keep from itself


class HeldFiles:
    """The database of a driver, its side files and its lock.

    Args:
        database: the file; exists.
        lock: its lock file; exists.
    """

    def __init__(self, database: Path, lock: Path) -> None:
        self._database = database
        self._sides = [database.with_name(database.name + suffix) for suffix in ("-wal", "-shm")]  # SQLite makes them when it needs them
        self._known = {path: identity for path in (database, lock) if (identity := _identity(path)) is not None}
        self._contents: list[_Content] = []
        self._own: _Identity | None = None
        self._open: sqlite3.Connection | None = None

    def others_drive(self, noted: str) -> bool:
        """Whether the file is driven although its lock was free, for somebody deleted the lock file; if not, it is ours from now on.

        Args:
            noted: name of its last driver, as of `driver_name`.
        """
        identity = self._known.get(self._database)
        if identity is None:
            return False
        process = process_here(noted)
        if identity in _DRIVEN or (process is not None and process != os.getpid() and _has_open(process, identity)):
            return True
        _DRIVEN.add(identity)
        self._own = identity
        return False

    def keep_open(self, connection: sqlite3.Connection) -> None:
        """Takes a connection that nothing else uses, until `release`.

        SQLite removes the side files with the last connection, and an interruption within a transaction closes the one that it hits.
        """
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # only now are the side files opened
        self._open = connection
        stamp = secrets.randbelow(2**31 - 1) + 1  # of this sitting, so that a copy of another study, or of this one before, is another file
        connection.execute(f"PRAGMA user_version={stamp}")
        connection.execute("PRAGMA wal_checkpoint").fetchall()  # into the file, unless somebody reads there, and then later
        content = _Content(self._database, _stamp)
        content.allow(struct.pack(">I", stamp))
        self._contents = [content]

    def require(self) -> None:
        """Makes sure that all files are those that were opened.

        Raises:
            StudyError: if one was deleted, moved, replaced or overwritten.
        """
        for path, identity in self._known.items():
            if (found := _identity(path)) != identity:
                what = "is gone" if found is None else "is another file"
                raise StudyError(
                    f"{path} {what}: it was moved, deleted or replaced while this run was using it. The run has ended and nothing more is "
                    "measured. If it was moved, put it back beside the others; then go on with 'optevolve resume'."
                )
        for path in self._sides:
            if path not in self._known and (found := _identity(path)) is not None:
                self._known[path] = found
                if path.name.endswith("-wal"):
                    self._contents.append(_Content(path, _sequence))
        for content in self._contents:
            if what := content.changed():
                raise StudyError(
                    f"{content.path} {what}: it was overwritten while this run was using it. The run has ended and nothing more is "
                    f"measured. Put back a copy of {self._database.name} from before, without a -wal and a -shm beside it, and go on with "
                    "'optevolve resume'; if there is none, start a new run in another folder."
                )

    def release(self) -> None:
        """The files are no longer driven."""
        for content in self._contents[1:]:
            content.close()
        if self._open is not None:
            self._open.close()
        for content in self._contents[:1]:  # last: the system drops a process's locks on a file with the first descriptor that it closes
            content.close()
        if self._own is not None:
            _DRIVEN.discard(self._own)


class _Content:
    """A file that nobody but SQLite may write to: it never gets shorter, and a mark in its header stays.

    Args:
        path: the file; exists.
        mark: of a file's first 100 bytes; None if they have none.
    """

    def __init__(self, path: Path, mark: Callable[[bytes], bytes | None]) -> None:
        self.path, self._mark = path, mark
        self._file = path.open("rb", buffering=0)
        self._size, self._marks = 0, set[bytes | None]()
        self.changed()

    def allow(self, mark: bytes) -> None:
        """The file may have this mark too."""
        self._marks.add(mark)

    def changed(self) -> str:
        """What others have done to it, in words; empty if nothing."""
        size = os.fstat(self._file.fileno()).st_size
        self._file.seek(0)
        mark = self._mark(self._file.read(100))
        if size < self._size or (mark is None and self._marks):
            return "is shorter than it was"
        self._size = size
        if mark is not None and not self._marks:
            self._marks.add(mark)
        return "" if mark is None or mark in self._marks else "holds something else"

    def close(self) -> None:
        """Lets go of it."""
        with suppress(OSError):  # a disk that is gone
            self._file.close()


def _stamp(header: bytes) -> bytes | None:
    """Of a database, its `user_version`."""
    return header[60:64] if len(header) == 100 else None


def _sequence(header: bytes) -> bytes | None:
    """Of a write-ahead log, its kind, and its first salt less the number of its beginnings, for both grow by one with each."""
    if len(header) < 32:
        return None
    number, salt = struct.unpack(">II", header[12:20])
    return header[:12] + struct.pack(">I", (salt - number) % 2**32)


def _identity(path: Path) -> _Identity | None:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _has_open(process: int, identity: _Identity) -> bool:
    try:
        opened = [Path(file.path) for file in psutil.Process(process).open_files()]
    except psutil.Error:  # it has ended, or belongs to somebody else
        return False
    return any(_identity(path) == identity for path in opened)
