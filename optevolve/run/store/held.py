"""The files of a study under its driver: whether they are still those that it opened, and whether another process drives them.

A file that is deleted or replaced goes on existing for whoever has it open, so that a driver would write into nothing and never notice; of
one that is overwritten in place, SQLite reads what it remembers.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
from contextlib import suppress
from io import FileIO
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
        self._stamped: _Stamped | None = None
        self._log: _Log | None = None
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
        self._stamped = _Stamped(self._database, stamp)
        if all(path.exists() for path in self._sides):  # else the system has no shared memory for them, and no log
            self._log = _Log(*self._sides)

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
        if self._log is not None and self._log.restores_index():
            raise StudyError(
                f"{self._sides[1]} was emptied while this run was using it. The run has ended and nothing more is measured. Nothing is "
                "lost: SQLite makes this file anew. Go on with 'optevolve resume'."
            )
        for content in (self._stamped, self._log):
            if content is not None and (what := content.changed()):
                raise StudyError(
                    f"{content.path} {what}: it was overwritten while this run was using it. The run has ended and nothing more is "
                    f"measured. Put back a copy of {self._database.name} from before, without a -wal and a -shm beside it, and go on with "
                    "'optevolve resume'; if there is none, start a new run in another folder."
                )

    def release(self) -> None:
        """The files are no longer driven."""
        if self._open is not None:
            self._open.close()
        for content in (self._stamped, self._log):  # last: the system drops a process's locks on a file with the first descriptor closed
            if content is not None:
                content.close()
        if self._own is not None:
            _DRIVEN.discard(self._own)


class _Stamped:
    """The database: it never gets shorter, and its `user_version` is that of this sitting.

    Args:
        path: the file; exists.
        stamp: the version; the one before holds too, until the log is in the file.
    """

    def __init__(self, path: Path, stamp: int) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._size = 0
        self._stamps = {struct.pack(">I", stamp), self._header()[60:64]}

    def _header(self) -> bytes:
        return _first(self._file, 100)

    def changed(self) -> str:
        """What others have done to it, in words; empty if nothing."""
        size, header = os.fstat(self._file.fileno()).st_size, self._header()
        if size < self._size or len(header) < 100:
            return "is shorter than it was"
        self._size = size
        return "" if header[60:64] in self._stamps else "holds something else"

    def close(self) -> None:
        """Lets go of it."""
        with suppress(OSError):  # a disk that is gone
            self._file.close()


class _Log:
    """The write-ahead log, which holds what SQLite's index of it says. Others may empty both, as by a checkpoint.

    Args:
        log, index: the -wal and the -shm; they exist.
    """

    def __init__(self, log: Path, index: Path) -> None:
        self.path = log
        self._log, self._index = log.open("rb", buffering=0), index.open("r+b", buffering=0)
        self._mapped = os.fstat(self._index.fileno()).st_size

    def restores_index(self) -> bool:
        """Whether the index is shorter than SQLite has it in memory, where touching what is not there would end the process. It gets its
        length back, and SQLite makes its content anew."""
        size = os.fstat(self._index.fileno()).st_size
        if size >= self._mapped:
            self._mapped = size
            return False
        self._index.truncate(self._mapped)
        return True

    def changed(self) -> str:
        """What others have done to it, in words; empty if nothing, or if it is being written."""
        for _ in range(3):
            index = self._indexed()
            size, header = os.fstat(self._log.fileno()).st_size, _first(self._log, 32)
            if index != self._indexed():
                continue
            page, frames = struct.unpack("=HI", index[14:20])
            if not frames:
                return ""
            if size < 32 + frames * (24 + (65536 if page == 1 else page)):
                return "is shorter than it was"
            return "" if header[16:24] == index[32:40] else "holds something else"
        return ""

    def _indexed(self) -> bytes:
        """The header of the index, https://www.sqlite.org/walformat.html: size of a page at 14, number of frames at 16, salts at 32."""
        return _first(self._index, 48)

    def close(self) -> None:
        """Lets go of both."""
        for file in (self._log, self._index):
            with suppress(OSError):  # a disk that is gone
                file.close()


def _first(file: FileIO, count: int) -> bytes:
    """The first bytes of a file, as many as there are."""
    file.seek(0)
    return file.read(count) or b""


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
