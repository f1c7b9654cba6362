"""A study in a SQLite file: write-ahead log, one writer, every commit on the disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from optevolve.errors import StudyError
from optevolve.run.store.held import HeldFiles
from optevolve.run.store.place import Held, Mode, Place

__all__ = ["SqliteFile"]

# Start of SQLite's symbolic error name → what it means and what to do.
_MEANINGS = {
    "SQLITE_BUSY": "it is locked by another program. Close what has it open (a database browser, a copy in progress) and run again",
    "SQLITE_LOCKED": "it is locked by another program. Close what has it open (a database browser, a copy in progress) and run again",
    "SQLITE_FULL": "the disk is full. Free some space and run again; everything stored before is kept",
    "SQLITE_READONLY": "it is read-only. Make the file and its folder writable, or use another folder",
    "SQLITE_CANTOPEN": "it cannot be opened or created. Check that the folder exists and that you may write there",
    "SQLITE_PERM": "you may not use it. Check the permissions of the file and its folder",
    "SQLITE_IOERR": "the disk reported an error. Check the disk and its free space; everything stored before is kept",
    "SQLITE_CORRUPT": "it is damaged. Restore it from a copy, or start a new run in another folder",
    "SQLITE_NOTADB": "it is no SQLite database. Expected the study.db of a run; give another folder",
}
_STRANGE = (
    "it does not hold what a study holds. It was changed by hand or damaged: 'optevolve verify' on the run's folder says what is sound; "
    "restore it from a copy, or start a new run in another folder"
)
_QUERIES: dict[Mode, str] = {"read": "?mode=ro", "write": "?mode=rw", "create": "?mode=rwc"}


class SqliteFile(Place):
    """One study in one file.

    Attributes:
        path: the file, absolute.
    """

    shared = False

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.shown = str(self.path)
        self.study = "run"
        self._lock = self.path.with_name(self.path.name + ".lock")
        self._held: HeldFiles | None = None

    def require(self) -> None:
        """See `Place.require`."""
        if not self.path.is_file():
            raise StudyError(f"Expected a study in {self.path}, found no such file. Give the folder of a run, or start one.")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """See `Place.errors`."""
        try:
            yield
        except (DBAPIError, sqlite3.Error) as error:
            origin = error.orig if isinstance(error, DBAPIError) else error
            name = getattr(origin, "sqlite_errorname", "")
            meaning = next((text for start, text in _MEANINGS.items() if name.startswith(start)), None)
            if meaning is None and isinstance(origin, sqlite3.ProgrammingError | sqlite3.InterfaceError):
                raise  # a mistake in this program
            raise StudyError(f"The store {self.path} cannot be used: {meaning or _STRANGE}. ({str(origin)[:300]})") from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise StudyError(
                f"The store {self.path} cannot be used: {reason}. Give a folder that exists or can be made, and is writable."
            ) from error

    def engine(self, mode: Mode, patience: float) -> Engine:
        """See `Place.engine`."""
        if mode == "create":
            self.path.parent.mkdir(parents=True, exist_ok=True)

        def connect() -> sqlite3.Connection:
            try:
                return _connect(self.path, _QUERIES[mode], patience)
            except sqlite3.OperationalError as error:
                # On a read-only disk SQLite cannot make its side files; without a write-ahead log there is nothing in them to miss.
                read_only_disk = error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
                if mode != "read" or not read_only_disk or self.path.with_name(self.path.name + "-wal").exists():
                    raise
                return _connect(self.path, "?immutable=1", patience)

        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

        # Python's driver opens transactions of its own accord, and too late for schema changes; with isolation_level=None it leaves that
        # to us. IMMEDIATE takes the write lock at once, where SQLite waits for it; an upgrade later would fail at once.
        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN" if mode == "read" else "BEGIN IMMEDIATE")

        return engine

    def lock(self, engine: Engine) -> Held | None:
        """See `Place.lock`. The system drops it with the process, so that nothing is left behind by a crash."""
        lock = FileLock(self._lock, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        except NotImplementedError as error:  # filelock's word for a file system without locks
            raise StudyError(f"The file system of {self.path} has no file locks. Put the run on a local disk.") from error
        noted = _noted_driver(engine)  # also makes a new file
        files = HeldFiles(self.path, self._lock)
        if files.others_drive(noted):
            lock.release()
            return None
        self._held = files
        return _Both(lock, files)

    def require_held(self) -> None:
        """See `Place.require_held`."""
        if self._held is not None:
            self._held.require()

    def copy_command(self, file: str) -> str:
        """See `Place.copy_command`."""
        return f"sqlite3 '{self.path}' '.backup {file}'"

    def begin_schema(self, connection: Connection) -> None:
        """Nothing to do: a transaction that writes is alone here."""

    def settle(self, engine: Engine) -> None:
        """The write-ahead log lets others read while one writes; the file remembers it."""
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA journal_mode=WAL")
        finally:
            raw.close()
        if self._held is not None:
            self._held.keep_open(_connect(self.path, _QUERIES["write"], 10.0))


class _Both:
    """The lock file's lock and what is known of the files."""

    def __init__(self, lock: FileLock, files: HeldFiles) -> None:
        self._lock, self._files = lock, files

    def release(self) -> None:
        """See `Held`."""
        self._files.release()
        self._lock.release()


def _noted_driver(engine: Engine) -> str:
    """Who wrote himself into a study last; empty if none did, or it is damaged, as whoever opens it is told."""
    try:
        with engine.connect() as connection:
            return str(connection.exec_driver_sql("SELECT driver FROM studies").scalar() or "")
    except DBAPIError:
        return ""


def _connect(path: Path, query: str, patience: float) -> sqlite3.Connection:
    raw = sqlite3.connect(path.as_uri() + query, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA synchronous=FULL")
    except BaseException:
        raw.close()
        raise
    return raw
