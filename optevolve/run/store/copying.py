"""A copy of a study's file, taken while a run goes on."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from optevolve.errors import StudyError
from optevolve.run.store.place import place_of
from optevolve.run.store.sqlite import SqliteFile

__all__ = ["copy_database"]


def copy_database(store: str | Path, target: Path) -> None:
    """Copies a study, as it is at one moment, into a new file, which is looked through and on the disk when this returns.

    The run that drives the study goes on meanwhile: SQLite's backup interface reads one snapshot.

    Raises:
        StudyError: if the study is on a server, is damaged, or the copy cannot be written.
    """
    place = place_of(store)
    if not isinstance(place, SqliteFile):
        raise StudyError(
            f"The study is on a server, {place.shown}: its own tools copy it while a run goes on. Use: {place.copy_command('COPY.sql')}"
        )
    place.require()
    if target.exists():
        raise StudyError(f"Expected no file at {target}, found one. Name another for the copy.")
    with place.errors():
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with (
                contextlib.closing(sqlite3.connect(place.path.as_uri() + "?mode=ro", uri=True, timeout=30.0)) as source,
                contextlib.closing(sqlite3.connect(draft)) as copy,
            ):
                source.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, without side files
                said = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if said != "ok":
                raise StudyError(f"The copy of {place.path} is damaged, as the original is ({said}). 'optevolve verify' says how.")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
