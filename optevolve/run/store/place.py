"""Where a study is kept: a SQLite file or a PostgreSQL database, each with its own way to open, to lock and to fail."""

from __future__ import annotations

import os
import re
import socket
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias

from sqlalchemy import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError

from optevolve.errors import StudyError
from optevolve.printable import without_passwords

__all__ = ["Held", "Mode", "Place", "driver_name", "named", "place_of", "process_here"]

Mode: TypeAlias = Literal["read", "write", "create"]


class Held(Protocol):
    """The right to write to a study, which the system takes back when the process ends, however it ends."""

    def release(self) -> None:
        """Gives it back."""


class Place(ABC):
    """A database that holds studies.

    Attributes:
        shown: how messages name it; without a password.
        study: name of the study; empty if it was left open which.
        shared: whether tables of other programs may stand beside those of a study.
    """

    shared: ClassVar[bool]
    shown: str
    study: str

    @abstractmethod
    def require(self) -> None:
        """Makes sure that there is something to open.

        Raises:
            StudyError: if there is not.
        """

    @abstractmethod
    def errors(self) -> AbstractContextManager[None]:
        """Turns what the database and the system report into a StudyError that says what to do; other errors pass."""

    @abstractmethod
    def engine(self, mode: Mode, patience: float) -> Engine:
        """An engine; every commit is durable before it returns. Changes nothing by itself.

        Args:
            mode: what it is for; "create" also makes a missing file.
            patience: seconds to wait for locks of other programs.
        """

    @abstractmethod
    def lock(self, engine: Engine) -> Held | None:
        """The lock that the one driver of a study holds; None if another has it."""

    def require_held(self) -> None:
        """Makes sure that what is held for writing is still what stands there.

        Raises:
            StudyError: if it was taken away or replaced. A server's connection tells by itself.
        """
        return

    @abstractmethod
    def copy_command(self, file: str) -> str:
        """A command that copies the database into a file while a run goes on."""

    @abstractmethod
    def begin_schema(self, connection: Connection) -> None:
        """Lets one at a time look at and change the schema, until the transaction ends."""

    @abstractmethod
    def settle(self, engine: Engine) -> None:
        """Last touches once it is known to hold a study, outside a transaction."""


def place_of(store: str | Path) -> Place:
    """The place behind a path or URL.

    Raises:
        StudyError: if it is none of a path, `sqlite:///PATH` and `postgresql+psycopg://…`.
    """
    from optevolve.run.store.postgres import PostgresDatabase
    from optevolve.run.store.sqlite import SqliteFile

    if isinstance(store, Path) or "://" not in store:
        return SqliteFile(Path(store))
    expected = "Expected a path, 'sqlite:///PATH' or 'postgresql+psycopg://USER@HOST/DATABASE' as the store"
    try:
        url: URL = make_url(store)
    except (ArgumentError, ValueError) as error:  # ValueError: of a port that is no number
        raise StudyError(f"{expected}, found {_public(store)!r}.") from error
    backend = url.get_backend_name()
    if backend == "sqlite" and url.database and url.database != ":memory:":
        return SqliteFile(Path(url.database))
    if backend == "postgresql" and url.get_driver_name() in {"psycopg", "psycopg2"} and url.database:  # psycopg2 is what no name means
        return PostgresDatabase(url)
    raise StudyError(f"{expected}, found {_public(store)!r}.")


def _public(store: str) -> str:
    """What was given as a store, be it a URL or none, without passwords: these may hold any character."""
    start, mark, rest = store.partition("://")
    login, at, place = rest.rpartition("@")
    user, colon, _ = login.partition(":")
    return without_passwords(f"{start}{mark}{user}{colon and ':***'}{at}{place}")


def named(store: str, study: str) -> tuple[str, str]:
    """A store's URL or path with the name of a study unless it has one; and the same without a password, for others to see.

    Raises:
        StudyError: if it is no store.
    """
    if not place_of(store).shared:
        return store, store
    url = make_url(store)
    if not url.query.get("study"):
        url = url.update_query_dict({"study": study})
    public = url.difference_update_query(["password", "sslpassword"])
    return url.render_as_string(hide_password=False), public.set(password=None).render_as_string()


def driver_name() -> str:
    """Who this is, for whoever is refused."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def process_here(name: str) -> int | None:
    """The process that a `driver_name` names; None if it is of another machine."""
    found = re.fullmatch(r"process ([0-9]{1,9}) on (.*)", name, re.DOTALL)
    return int(found[1]) if found is not None and found[2] == socket.gethostname() else None
