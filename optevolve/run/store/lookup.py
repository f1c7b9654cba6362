"""Which studies there are in a database, and who holds one."""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select

from optevolve.errors import StudyError
from optevolve.run.store.place import Place, place_of
from optevolve.run.store.schema import migrate
from optevolve.run.store.tables import SCHEMA_TABLE, studies

__all__ = ["exists", "holder", "names_in", "only_study"]


def exists(store: str | Path) -> bool:
    """Whether a study is there: for a file, whether the file is.

    Raises:
        StudyError: if the database cannot be reached.
    """
    place = place_of(store)
    if not place.shared:
        return Path(place.shown).is_file()
    with place.errors():
        engine = place.engine("read", 30.0)
        try:
            with engine.begin() as connection:
                if not inspect(connection).has_table(SCHEMA_TABLE):
                    return False
                return connection.execute(select(studies.c.id).where(studies.c.name == place.study)).first() is not None
        finally:
            engine.dispose()


def names_in(connection: Connection) -> str:
    """The studies of a database in a few words, the latest first."""
    names = connection.scalars(select(studies.c.name).order_by(studies.c.id.desc())).all()
    return ", ".join(map(repr, names[:10])) + (", …" if len(names) > 10 else "") or "none. Start the run anew in another folder"


def only_study(engine: Engine, place: Place) -> str:
    """The name of the one study in a database that may hold several.

    Raises:
        StudyError: if it holds none, or several.
    """
    with engine.begin() as connection:
        migrate(connection, place, create=False, read_only=True)
        names: Sequence[str] = connection.scalars(select(studies.c.name)).all()
        if len(names) != 1:
            raise StudyError(
                f"Expected the name of a study in {place.shown}, as ?study=NAME at its end, found {names_in(connection)} there."
            )
    return names[0]


def holder(place: Place) -> str:
    """Who holds a study, as it wrote itself; reading is free while another writes."""
    try:
        with place.errors():
            engine = place.engine("read", 1.0)
            try:
                with engine.begin() as connection:
                    own = select(studies.c.driver).where(studies.c.name == place.study)
                    return connection.execute(own).scalar() or "another process"
            finally:
                engine.dispose()
    except StudyError:  # it is still being made
        return "another process"
