"""A study: a run's config and everything measured in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from sqlalchemy import ColumnElement, Connection, Engine, Row, Table, delete, insert, select, update

from optevolve import __version__
from optevolve.errors import StudyError
from optevolve.records import Measurement, Outcome, Proposal
from optevolve.run.store import reading, rows
from optevolve.run.store.lookup import holder, names_in, only_study
from optevolve.run.store.place import Held, Place, driver_name, place_of
from optevolve.run.store.reading import Event
from optevolve.run.store.schema import migrate
from optevolve.run.store.tables import curves, evaluations, events, proposals, rejections, studies

__all__ = ["Entry", "Event", "Study"]

_CHUNK = 512  # evaluations read at a time when a study is taken up


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class Entry(NamedTuple):
    """A measurement to store.

    Attributes:
        measurement: what was measured.
        turn: its place in the order of asking, from 0; -1 if it has none.
        fingerprint: key under which equal rules share an outcome; empty if none was taken.
    """

    measurement: Measurement
    turn: int = -1
    fingerprint: str = ""


class Study:
    """A run's store. Make one with `create` or `open`; use it as a context manager, or call `close`.

    One driver at a time holds a study for writing; any number of others read beside it (`read_only=True`).

    Attributes:
        where: the database, as messages name it.
        name: of the study in its database.
        config_text: the run's config as TOML, as given to `create`.
        version: version of optevolve that created it.
        created: when, in UTC.
    """

    def __init__(self, place: Place, engine: Engine, held: Held | None, row: Row[Any]) -> None:
        self.where = place.shown
        if not all(isinstance(value, str) for value in (row.name, row.config, row.version)):
            raise StudyError(
                f"The study in {self.where} has a name, config or version that is no text. It was changed by hand; restore it from a copy."
            )
        self.name: str = row.name
        self.config_text: str = row.config
        self.version: str = row.version
        self.created: datetime = row.created.replace(tzinfo=UTC)
        self._place = place
        self._engine = engine
        self._held = held
        self._id: int = row.id
        self._jobs: dict[str, int] | None = None  # job → its number in the table, as far as the one who writes knows them
        self._proposals: set[str] = set()
        self._ahead: dict[str, Measurement] = {}  # read, and not yet recalled
        self._chunks: set[int] = set()  # that were read

    @classmethod
    def create(cls, store: str | Path, config_text: str, *, version: str = __version__, patience: float = 30.0) -> Study:
        """A new study, held for writing. Folders on the way are made; it appears with its schema and config, or not at all.

        Args:
            store: path of a SQLite file, or a URL: `sqlite:///PATH`, `postgresql+psycopg://USER@HOST/DATABASE?study=NAME`.
            config_text: the run's config as TOML.
            version: version of optevolve.
            patience: seconds to wait while another program locks the database.

        Raises:
            StudyError: if there is a study already, or something else, or nothing can be written there.
        """
        place = place_of(store)
        if not place.study:
            raise StudyError(f"Expected a name for the new study in {place.shown}, found none. Add it to the URL as ?study=NAME.")
        return cls._enter(place, (config_text, version), False, patience)

    @classmethod
    def open(cls, store: str | Path, *, read_only: bool = False, patience: float = 30.0) -> Study:
        """The study in a file or database; the schema is brought up to date, unless opened to read only.

        Args:
            store: as for `create`; where a database holds one study alone, its name may be left out.
            read_only: look on while another drives it.
            patience: seconds to wait while another program locks the database.

        Raises:
            StudyError: if there is none, it cannot be read or written, its schema is newer, or another driver holds it.
        """
        place = place_of(store)
        place.require()
        return cls._enter(place, None, read_only, patience)

    @classmethod
    def _enter(cls, place: Place, new: tuple[str, str] | None, read_only: bool, patience: float) -> Study:
        held: Held | None = None
        with place.errors():
            engine = place.engine("read" if read_only else "write" if new is None else "create", patience)
            try:
                if not place.study:
                    place.study = only_study(engine, place)
                if not read_only and (held := place.lock(engine)) is None:
                    raise StudyError(
                        f"Expected to be the only driver of {place.shown}; {holder(place)} drives it. Wait for it to end, or stop it."
                    )
                with engine.begin() as connection:
                    migrate(connection, place, create=new is not None, read_only=read_only)
                    row = _study_row(connection, place, new, read_only)
                if not read_only:
                    place.settle(engine)
            except BaseException:
                engine.dispose()
                if held is not None:
                    held.release()
                raise
        return cls(place, engine, held, row)

    def __contains__(self, job_id: object) -> bool:
        """Whether a job is stored. Cheap for the driver, who is the only one to add any."""
        if self._held is not None:
            return job_id in self._known()
        with self._transaction() as connection:
            return connection.execute(select(evaluations.c.id).where(self._job(str(job_id)))).first() is not None

    def _known(self) -> dict[str, int]:
        if self._jobs is None:
            with self._transaction() as connection:
                stored = select(evaluations.c.job, evaluations.c.id).where(evaluations.c.study == self._id)
                jobs: dict[str, int] = {row.job: row.id for row in reading.fetch(connection, stored)}
                self._proposals = set(connection.scalars(select(proposals.c.id).where(proposals.c.study == self._id)))
            self._jobs = jobs
            self._ahead.clear()
            self._chunks.clear()
        return self._jobs

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if self._held is not None:
            self._place.require_held()
        with self._place.errors(), self._engine.begin() as connection:
            yield connection

    def require_held(self) -> None:
        """Makes sure that the store is still there, which nothing else tells while nothing is stored.

        Raises:
            StudyError: if its files were taken away or replaced.
        """
        self._place.require_held()

    def record(self, measurement: Measurement, *, turn: int = -1, fingerprint: str = "") -> None:
        """Stores one measurement with its curves and proposal; on the disk when this returns.

        Raises:
            StudyError: if the store cannot be written; what was stored before is kept.
            ValueError: if the job is stored already, or a number is NaN.
        """
        self.record_all([Entry(measurement, turn, fingerprint)])

    def record_all(self, entries: Sequence[Entry]) -> None:
        """Stores several measurements in one transaction, all or none; otherwise as `record`."""
        if not entries:
            return
        known, ids = self._known(), [entry.measurement.job.id for entry in entries]
        if twice := [job_id for job_id, count in Counter(ids).items() if count > 1 or job_id in known]:
            raise ValueError(f"job {twice[0]!r} is stored already")
        own = {p.id: p for entry in entries if (p := entry.measurement.proposal) is not None and p.id not in self._proposals}
        now = _now()
        try:
            with self._transaction() as connection:
                _insert_all(connection, proposals, [rows.proposal_row(self._id, proposal) for proposal in own.values()])
                _insert_all(connection, rejections, [row for proposal in own.values() for row in rows.rejection_rows(self._id, proposal)])
                values = [rows.evaluation_row(self._id, entry.measurement, entry.turn, entry.fingerprint, now) for entry in entries]
                keys = connection.scalars(insert(evaluations).returning(evaluations.c.id, sort_by_parameter_order=True), values).all()
                points = [
                    rows.curve_row(key, position, curve)
                    for key, entry in zip(keys, entries, strict=True)
                    for position, curve in enumerate(entry.measurement.outcome.curves)
                ]
                _insert_all(connection, curves, points)
            self._place.require_held()  # else it went into a file that nobody will find
            known.update(zip(ids, keys, strict=True))
            self._proposals.update(own)
        except BaseException:
            self._jobs = None  # an interruption may have come before or after the commit: ask the database
            raise

    def forget(self, job_ids: Collection[str]) -> None:
        """Removes measurements, as an extended run does with those that do not belong to it."""
        with self._transaction() as connection:
            for job_id in job_ids:
                found = connection.execute(select(evaluations.c.id, evaluations.c.proposal).where(self._job(job_id))).first()
                if found is None:
                    continue
                connection.execute(delete(curves).where(curves.c.evaluation == found.id))
                connection.execute(delete(evaluations).where(evaluations.c.id == found.id))
                of_proposal = (evaluations.c.study == self._id) & (evaluations.c.proposal == found.proposal)
                if found.proposal is not None and connection.execute(select(evaluations.c.id).where(of_proposal)).first() is None:
                    before = (rejections.c.study == self._id) & (rejections.c.before == found.proposal)
                    connection.execute(delete(rejections).where(before))
                    connection.execute(delete(proposals).where((proposals.c.study == self._id) & (proposals.c.id == found.proposal)))
        self._jobs = None

    def renumber(self, turns: Mapping[str, int]) -> None:
        """Gives jobs another place in the order of asking."""
        with self._transaction() as connection:
            for job_id, turn in turns.items():
                connection.execute(update(evaluations).where(self._job(job_id), evaluations.c.turn != turn).values(turn=turn))

    def jobs(self, *stages: str) -> set[str]:
        """Ids of everything stored, or of some stages."""
        query = select(evaluations.c.job).where(evaluations.c.study == self._id)
        with self._transaction() as connection:
            return set(connection.scalars(query.where(evaluations.c.stage.in_(stages)) if stages else query))

    def stages(self) -> set[str]:
        """Stages in which something is measured."""
        with self._transaction() as connection:
            return set(connection.scalars(select(evaluations.c.stage).where(evaluations.c.study == self._id).distinct()))

    def extend(self, config_text: str, **detail: bool | int | float | str | None) -> None:
        """Takes a larger config in place of the one the run was started with; the run is then unfinished.

        Args:
            config_text: the new config as TOML.
            detail: what changed, for the event "extended" that tells of it.
        """
        with self._transaction() as connection:
            connection.execute(update(studies).where(studies.c.id == self._id).values(config=config_text, finished=None))
            connection.execute(insert(events).values(study=self._id, at=_now(), kind="extended", detail=rows.plain(detail)))
        self.config_text = config_text

    def restart(self, config_text: str, *, version: str = __version__) -> None:
        """Takes another config, where nothing was measured under the one that is there: what was never begun holds no folder.

        Raises:
            ValueError: if something is measured.
        """
        if self.jobs():
            raise ValueError("something is measured already")
        with self._transaction() as connection:
            values = {"config": config_text, "version": version, "created": _now(), "finished": None}
            connection.execute(update(studies).where(studies.c.id == self._id).values(values))
            connection.execute(delete(events).where(events.c.study == self._id))
        self.config_text, self.version = config_text, version

    @property
    def extended(self) -> bool:
        """Whether the run was ever extended."""
        return any(event.kind == "extended" for event in self.events())

    @property
    def redrawn(self) -> bool:
        """Whether the search itself was ever extended, so that it may propose otherwise than it did."""
        return any(event.kind == "extended" and any(key.startswith("search.") for key in event.detail) for event in self.events())

    def _job(self, job_id: str) -> ColumnElement[bool]:
        return (evaluations.c.study == self._id) & (evaluations.c.job == job_id)

    def outcome(self, job_id: str) -> Outcome | None:
        """What came of a job; None if it is not stored."""
        found = self.measurement(job_id)
        return None if found is None else found.outcome

    def measurement(self, job_id: str) -> Measurement | None:
        """A job with its outcome; None if it is not stored."""
        with self._transaction() as connection:
            found = reading.measurements(connection, self._job(job_id))
        return found[0][2] if found else None

    def recall(self, job_id: str) -> Measurement | None:
        """As `measurement`, for the driver, who takes up what is stored, each job once, in about the order in which it arrived.

        Neighbours are read along, so that taking up a whole study is linear and quick.
        """
        key = self._known().get(job_id)
        if key is None:
            return None
        chunk = key // _CHUNK
        if job_id not in self._ahead and chunk not in self._chunks:
            self._chunks.add(chunk)
            here = (evaluations.c.study == self._id) & evaluations.c.id.between(chunk * _CHUNK, (chunk + 1) * _CHUNK - 1)
            with self._transaction() as connection:
                self._ahead |= {m.job.id: m for _, _, m in reading.measurements(connection, here)}
        return self._ahead.pop(job_id, None) or self.measurement(job_id)

    def proposals(self) -> dict[str, Proposal]:
        """By id, every proposal whose measurement is stored, so that a search that is taken up need not draw it again."""
        with self._transaction() as connection:
            return reading.proposals_by_id(connection, self._id)

    def fingerprints(self) -> dict[str, str]:
        """By rule, the fingerprints stored with measurements, in the order of arrival."""
        with self._transaction() as connection:
            return reading.fingerprints(connection, self._id)

    def measurements(
        self, stage: str | None = None, *, with_curves: Callable[[str], bool] | bool = True, with_origins: bool = True
    ) -> list[Measurement]:
        """Everything measured, or one stage, in the order of asking, which is the same for any number of workers.

        Stages come in the order of their first arrival.

        Args:
            stage: one stage alone.
            with_curves: whether curves are read, which takes the most time and memory; or for which stages.
            with_origins: whether proposals come with their genomes and with what was refused before them.
        """
        condition = evaluations.c.study == self._id
        if stage is not None:
            condition &= evaluations.c.stage == stage
        with self._transaction() as connection:
            found = reading.measurements(connection, condition, with_curves=with_curves, with_origins=with_origins)
        order: dict[str, int] = {}
        for _, _, measurement in found:
            order.setdefault(measurement.stage, len(order))
        found.sort(key=lambda each: (order[each[2].stage], each[1], each[0]))
        return [measurement for _, _, measurement in found]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        with self._transaction() as connection:
            return any(row.finished is not None for row in reading.fetch(connection, select(studies).where(studies.c.id == self._id)))

    def finish(self) -> None:
        """Notes that the run came to its end."""
        with self._transaction() as connection:
            connection.execute(update(studies).where(studies.c.id == self._id).values(finished=_now()))

    def note(self, kind: str, **detail: bool | int | float | str | None) -> None:
        """Adds an event, such as "interrupted"; the details are plain values."""
        with self._transaction() as connection:
            connection.execute(insert(events).values(study=self._id, at=_now(), kind=kind, detail=rows.plain(detail)))

    def events(self) -> list[Event]:
        """What happened to the run, oldest first."""
        with self._transaction() as connection:
            return reading.events_of(connection, events.c.study == self._id)

    def close(self) -> None:
        """Lets go of the database and of the right to write. A closed study cannot be used again."""
        self._engine.dispose()
        if self._held is not None:
            self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _insert_all(connection: Connection, table: Table, values: list[dict[str, Any]]) -> None:
    if values:
        connection.execute(insert(table), values)


def _study_row(connection: Connection, place: Place, new: tuple[str, str] | None, read_only: bool) -> Row[Any]:
    own = select(studies).where(studies.c.name == place.study)
    row = next(iter(reading.fetch(connection, own)), None)
    if new is None:
        if row is None:
            raise StudyError(f"Expected a study {place.study!r} in {place.shown}, found {names_in(connection)}.")
        if not read_only:
            connection.execute(update(studies).where(studies.c.id == row.id).values(driver=driver_name()))
        return row
    if row is not None:
        raise StudyError(
            f"Expected no study {place.study!r} in {place.shown}, found one of {row.created:%Y-%m-%d %H:%M}. Resume it, or use another "
            "folder or name."
        )
    values = {"name": place.study, "config": new[0], "version": new[1], "created": _now(), "driver": driver_name()}
    connection.execute(insert(studies).values(values))
    return reading.fetch(connection, own)[0]
