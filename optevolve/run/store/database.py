"""Opening the database of a study: where it is, how it is tuned, which schema it has, and what its errors mean to a user."""

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import QueuePool

from optevolve.errors import StudyError
from optevolve.run.store.tables import SCHEMA_TABLE

__all__ = ["driver_name", "file_of", "lock", "migrate", "open_engine", "store_errors", "use_write_ahead_log"]

_MIGRATIONS = Path(__file__).parents[1] / "migrations"
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


def driver_name() -> str:
    """Who this is, for whoever is refused."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def file_of(store: str | Path) -> Path:
    """The file behind a path or a `sqlite:///` URL.

    Raises:
        StudyError: if it is neither.
    """
    if isinstance(store, Path) or "://" not in store:
        return Path(store).expanduser().absolute()
    try:
        url = make_url(store)
    except ArgumentError as error:
        raise StudyError(f"Expected a path or 'sqlite:///PATH' as the store, found {store!r}.") from error
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        shown = url.render_as_string(hide_password=True)
        raise StudyError(f"Expected a path or 'sqlite:///PATH' as the store, found {shown!r}. Give a path on this machine.")
    return Path(url.database).expanduser().absolute()


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turns what the database and the file system report into a StudyError that says what to do; other errors pass."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        origin = error.orig if isinstance(error, DBAPIError) else error
        name = getattr(origin, "sqlite_errorname", "")
        meaning = next((text for start, text in _MEANINGS.items() if name.startswith(start)), None)
        if meaning is None:
            raise
        raise StudyError(f"The store {path} cannot be used: {meaning}. ({origin})") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise StudyError(
            f"The store {path} cannot be used: {reason}. Give a folder that exists or can be made, and is writable."
        ) from error


def lock(path: Path) -> FileLock | None:
    """The lock that the one driver of a store holds until it ends, however it ends; None if another has it.

    The system drops it with the process, so that nothing is left behind by a crash.
    """
    held = FileLock(path.with_name(path.name + ".lock"), timeout=0, thread_local=False)
    try:
        held.acquire()
    except Timeout:
        return None
    except NotImplementedError as error:  # filelock's word for a file system without locks
        raise StudyError(f"The file system of {path} has no file locks. Put the run on a local disk.") from error
    return held


def open_engine(path: Path, mode: str, patience: float) -> Engine:
    """An engine on a SQLite file: foreign keys are checked, every commit is on the disk before it returns. Changes nothing by itself.

    Args:
        path: the file.
        mode: "ro" to read only, "rw" to write to an existing file, "rwc" to create it if missing.
        patience: seconds to wait for a lock held by another program.
    """

    def connect() -> sqlite3.Connection:
        try:
            return _connect(path, f"?mode={mode}", patience)
        except sqlite3.OperationalError as error:
            # On a read-only disk SQLite cannot make its side files; without a write-ahead log there is nothing in them to miss.
            read_only_disk = error.sqlite_errorname.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN"))
            if mode != "ro" or not read_only_disk or path.with_name(path.name + "-wal").exists():
                raise
            return _connect(path, "?immutable=1", patience)

    engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool)

    # The driver of Python opens transactions of its own accord, and too late for schema changes; with isolation_level=None it leaves that
    # to us. IMMEDIATE takes the write lock at once, where SQLite waits for it; an upgrade later would fail at once.
    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if mode == "ro" else "BEGIN IMMEDIATE")

    return engine


def _connect(path: Path, query: str, patience: float) -> sqlite3.Connection:
    raw = sqlite3.connect(path.as_uri() + query, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        raw.execute("PRAGMA foreign_keys=ON")
        raw.execute("PRAGMA synchronous=FULL")
    except BaseException:
        raw.close()
        raise
    return raw


def use_write_ahead_log(engine: Engine) -> None:
    """Lets others read while one writes; the file remembers it. Only once the file is known to be a study, and outside a transaction."""
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("PRAGMA journal_mode=WAL")
    finally:
        raw.close()


def migrate(connection: Connection, path: Path, *, create: bool, read_only: bool) -> None:
    """Brings the schema to this version's within the caller's transaction.

    Raises:
        StudyError: if the file holds something else, or a schema that this version cannot use.
    """
    names = set(inspect(connection).get_table_names())
    if SCHEMA_TABLE not in names and (names or not create):
        found = f"a database with tables {', '.join(sorted(names)[:5])}" if names else "an empty database"
        raise StudyError(f"Expected a study in {path}, found {found}. Give the folder of a run, or an empty or new folder to start one.")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    found_revision = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE}).get_current_revision()
    if found_revision == scripts.get_current_head():
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if found_revision is not None and found_revision not in known:
        raise StudyError(
            f"The study in {path} has schema {found_revision!r}, newer than this version's {scripts.get_current_head()!r}. "
            "Update optevolve to open it."
        )
    if read_only:
        raise StudyError(f"The study in {path} has the older schema {found_revision!r}. `optevolve resume` on its folder migrates it.")
    command.upgrade(config, "head")
