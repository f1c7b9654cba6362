"""The schema of a database, brought up to date by Alembic's migrations or refused, and compared with this version's tables."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Index, inspect

from optevolve.errors import StudyError
from optevolve.run.store.place import Place
from optevolve.run.store.tables import METADATA, SCHEMA_TABLE

__all__ = ["differences", "migrate", "require_no_strangers", "strangers"]

_MIGRATIONS = Path(__file__).parents[1] / "migrations"
_READ_ALIKE = {"0006": {"ix_evaluations_study_proposal"}}  # older schemas that a reader need not tell apart → the indexes they lack


def migrate(connection: Connection, place: Place, *, create: bool, read_only: bool) -> None:
    """Brings the schema to this version's within the caller's transaction.

    Raises:
        StudyError: if the database holds something else, or a schema that this version cannot use.
    """
    if not read_only:
        place.begin_schema(connection)
    names = set(inspect(connection).get_table_names())
    strangers = names & set(METADATA.tables) if place.shared else names
    if SCHEMA_TABLE not in names and (strangers or not create):
        found = f"a database with tables {', '.join(sorted(strangers)[:5])}" if strangers else "an empty database"
        remedy = "Give the folder of a run, or an empty or new folder or database to start one."
        raise StudyError(f"Expected a study in {place.shown}, found {found}. {remedy}")
    if not read_only:
        require_no_strangers(connection, place)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    heads = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE}).get_current_heads()
    if SCHEMA_TABLE in names and (len(heads) != 1 or not set(METADATA.tables) <= names):
        missing = sorted(set(METADATA.tables) - names)
        what = f"no table {missing[0]!r}" if missing else f"{len(heads)} versions of its schema" if heads else "no version of its schema"
        raise StudyError(f"The study in {place.shown} is damaged: it has {what}. Restore it from a copy, or start a new run elsewhere.")
    found_revision = heads[0] if heads else None
    if found_revision == scripts.get_current_head() or (read_only and found_revision in _READ_ALIKE):
        return
    known = {script.revision for script in scripts.walk_revisions()}
    if found_revision is not None and found_revision not in known:
        raise StudyError(
            f"The study in {place.shown} has schema {found_revision!r}, newer than this version's {scripts.get_current_head()!r}. "
            "Update optevolve to open it."
        )
    if read_only:
        raise StudyError(
            f"The study in {place.shown} has the older schema {found_revision!r}. `optevolve resume` on its folder migrates it."
        )
    command.upgrade(config, "head")


def strangers(connection: Connection) -> list[tuple[str, str]]:
    """The triggers and views of a study's file, which no version makes, each as its type and name: what is in them runs unasked.

    None on a server, where whoever makes them may as well write to the tables themselves.
    """
    if connection.dialect.name != "sqlite":
        return []
    found = connection.exec_driver_sql("SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view') ORDER BY type, name")
    return [(str(row.type), str(row.name)) for row in found]


def require_no_strangers(connection: Connection, place: Place) -> None:
    """Refuses a file with triggers or views before anything is written to it.

    Raises:
        StudyError: if it has any.
    """
    for kind, name in strangers(connection)[:1]:
        raise StudyError(
            f"The study in {place.shown} has a {kind}, {name[:80]!r}, which no run makes: what is in it would run whenever something is "
            "stored. 'optevolve verify --repair' on the run's folder removes it; then look at what it did before."
        )


def differences(connection: Connection) -> Iterator[tuple[str, Index | None]]:
    """How the tables differ from this version's, in words, each with the index to be made where one is missing.

    Of an older schema that is read as this one, what it is known to lack does not count. Tables of others, and indexes that somebody added
    without making values unique, do no harm.
    """

    def ours(_: Any, name: str | None, kind: str, found: bool, other: Any) -> bool:
        return kind != "table" or name in METADATA.tables

    there = inspect(connection)
    tables = [table for table in METADATA.tables.values() if there.has_table(table.name)]
    columns = {table.name: {column["name"] for column in there.get_columns(table.name)} for table in tables}
    lost = [column.name for table in tables for column in table.columns if column.name not in columns[table.name]]
    yield from ((f"the column {name!r} is missing", None) for name in lost)
    if lost:  # what a key of another table names may be among them, so that no comparison can be made
        return
    context = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE, "compare_type": True, "include_object": ours})
    lacking = _READ_ALIKE.get(str(context.get_current_revision()), set())
    for change in compare_metadata(context, METADATA):
        whole = not isinstance(change, list)  # else what is another of a column
        first = change if whole else change[0]
        verb, _, noun = first[0].partition("_")
        of = first[-1] if whole else first[3]
        name = str(getattr(of, "name", of))
        if isinstance(of, Index) and verb == "add":
            if name not in lacking:
                yield f"the index {name!r} is missing", of
        elif not isinstance(of, Index) or of.unique:
            yield f"the {noun} {name[:80]!r} is {_DIFFERS[verb]}" if whole else f"the {noun} of {first[2]}.{name} is another", None


_DIFFERS = {"add": "missing", "remove": "one too many"}
