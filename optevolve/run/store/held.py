"""The files of a study under its driver: whether they are still those that it opened, and whether another process drives them.

A file that is deleted or replaced goes on existing for whoever has it open, so that a driver would write into nothing and never notice.
"""

from __future__ import annotations

import os
import sqlite3
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

    def require(self) -> None:
        """Makes sure that all files are those that were opened.

        Raises:
            StudyError: if one was deleted, moved or replaced.
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

    def release(self) -> None:
        """The files are no longer driven."""
        if self._open is not None:
            self._open.close()
        if self._own is not None:
            _DRIVEN.discard(self._own)


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
