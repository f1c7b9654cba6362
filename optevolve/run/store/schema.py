"""The schema of a database, brought up to date by Alembic's migrations or refused."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from optevolve.errors import StudyError
from optevolve.run.store.place import Place
from optevolve.run.store.tables import METADATA, SCHEMA_TABLE

__all__ = ["migrate"]

_MIGRATIONS = Path(__file__).parents[1] / "migrations"
_READ_ALIKE = {"0006"}  # older schemas that a reader needs not tell apart from this one: it has an index more


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
