"""Studies in a PostgreSQL database, by name: for runs on many machines. Needs the extra "postgres"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import QueuePool

from optevolve.errors import StudyError
from optevolve.run.store.place import Held, Mode, Place

__all__ = ["PostgresDatabase"]

# Start of the SQLSTATE → what it means and what to do.
_MEANINGS = {
    "53100": "the server's disk is full. Free some space there and run again; everything stored before is kept",
    "53": "the server is out of resources. Run again when it has room; everything stored before is kept",
    "55P03": "its tables are locked by another program. Close what holds them and run again; everything stored before is kept",
    "25006": "it is read-only. Connect to the primary server, or use a role that may write",
    "42501": "you may not use it. Ask for the rights to create and write tables in its schema",
    "28": "the server refused the login. Check the user, and the password in the URL, in PGPASSWORD or in ~/.pgpass",
    "3D": "there is no such database. Create it, or name another",
    "42P01": "a table is missing. Restore the database from a copy, or start a new run in another",
    "42703": "a table has other columns. Restore the database from a copy, or start a new run in another",
    "57P": "the server is shutting down. Run again when it is back; everything stored before is kept",
}
_UNREACHABLE = "the server cannot be reached. Check that it runs and that the URL is right, and run again; everything stored before is kept"
# While a connection is made there is no SQLSTATE, only words of the server or of its client library: the first that fits.
_REFUSALS = {
    r"password|no pg_hba\.conf entry|authentication|role .* (does not exist|is not permitted)": _MEANINGS["28"],
    r"database .* does not exist": _MEANINGS["3D"],
    r"too many (clients|connections)|connection slots": _MEANINGS["53"],
    r"starting up|shutting down|recovery mode": "the server is not ready. Run again when it is; everything stored before is kept",
    r"FATAL": "the server refused the connection for the reason given here. Mend it and run again; everything stored before is kept",
}
_SESSION = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}  # frees the lock of a lost host
_SCHEMA_KEY = 0x6F7074  # advisory lock on changes of the schema


class _WithConnection:
    """Advisory locks live as long as the connection that took them."""

    def release(self) -> None:
        """Nothing to do: the engine has closed the connection."""


class PostgresDatabase(Place):
    """Studies in a database, told apart by `study=NAME` in the URL's query; the rest of the query goes to the server's client library."""

    shared = True

    def __init__(self, url: URL) -> None:
        study = url.query.get("study", "")
        self.study = study if isinstance(study, str) else study[-1]
        self.url = url.difference_update_query(["study"]).set(drivername="postgresql+psycopg")
        self.shown = self.url.difference_update_query(["password", "sslpassword", "options"]).render_as_string(hide_password=True)

    def require(self) -> None:
        """Nothing to look for beforehand: the connection tells."""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """See `Place.errors`."""
        try:
            yield
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None) or ""
            meaning = next((words for start, words in _MEANINGS.items() if state.startswith(start)), None)
            if meaning is None and isinstance(error, OperationalError):
                meaning = next((words for sign, words in _REFUSALS.items() if re.search(sign, str(error.orig))), _UNREACHABLE)
            if meaning is None:
                raise
            raise StudyError(f"The store {self.shown} cannot be used: {meaning}. ({_first_line(error.orig)})") from error

    def engine(self, mode: Mode, patience: float) -> Engine:
        """See `Place.engine`. A writer has one connection, which holds its lock: what loses the lock cannot write."""
        own = self.url.query.get("options", ())
        settings = _SESSION | {"lock_timeout": str(max(1, round(1000 * patience)))}
        if mode == "read":
            settings["default_transaction_read_only"] = "on"
        options = " ".join([*([own] if isinstance(own, str) else own), *(f"-c {name}={value}" for name, value in settings.items())])
        arguments: dict[str, Any] = {"options": options, "connect_timeout": max(2, round(patience))}
        try:
            return create_engine(
                self.url,
                connect_args=arguments,
                poolclass=QueuePool,
                pool_size=1,
                max_overflow=0 if mode != "read" else 4,
                isolation_level="REPEATABLE READ" if mode == "read" else "READ COMMITTED",
            )
        except ModuleNotFoundError as error:
            raise StudyError("PostgreSQL needs the extra 'postgres'. Install it: pip install 'optevolve[postgres]'") from error

    def lock(self, engine: Engine) -> Held | None:
        """See `Place.lock`. The server drops it with the connection."""
        key = text("select pg_try_advisory_lock(hashtextextended('optevolve ' || current_schema() || ' ' || :study, 0))")
        with engine.begin() as connection:
            if not connection.execute(key, {"study": self.study}).scalar():
                return None

        @event.listens_for(engine, "do_connect")
        def refuse(*_: Any) -> None:
            raise StudyError(
                f"The connection to {self.shown} was lost, and with it the right to write to the study {self.study!r}. "
                "Go on with the run: optevolve resume; everything stored before is kept."
            )

        return _WithConnection()

    def copy_command(self, file: str) -> str:
        """See `Place.copy_command`. The password is left to PGPASSWORD and ~/.pgpass."""
        url = self.url.set(drivername="postgresql", password=None).difference_update_query(["password", "sslpassword", "options"])
        return f"pg_dump --dbname='{url.render_as_string()}' --file={file}"

    def begin_schema(self, connection: Connection) -> None:
        """See `Place.begin_schema`."""
        connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_KEY})

    def settle(self, engine: Engine) -> None:
        """Nothing to do."""


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [""])[0]
