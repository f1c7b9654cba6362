"""A study: a run's config and everything measured in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from filelock import FileLock
from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, Select, insert, select, update

from optevolve import __version__
from optevolve.errors import StudyError
from optevolve.records import Measurement, Outcome
from optevolve.run.store import rows
from optevolve.run.store.database import driver_name, file_of, lock, migrate, open_engine, store_errors, use_write_ahead_log
from optevolve.run.store.tables import curves, evaluations, events, proposals, rejections, studies

__all__ = ["Entry", "Event", "Study"]


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


@dataclass(frozen=True)
class Event:
    """Something that happened to a run, such as an interruption."""

    at: datetime
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)


class Study:
    """A run's store. Make one with `create` or `open`; use it as a context manager, or call `close`.

    One driver at a time holds a study for writing; any number of others read beside it (`read_only=True`).

    Attributes:
        path: the SQLite file.
        config_text: the run's config as TOML, as given to `create`.
        version: version of optevolve that created it.
        created: when, in UTC.
    """

    def __init__(self, path: Path, engine: Engine, held: FileLock | None, row: RowMapping) -> None:
        self.path = path
        self.config_text: str = row["config"]
        self.version: str = row["version"]
        self.created: datetime = row["created"].replace(tzinfo=UTC)
        self._engine = engine
        self._lock = held
        self._id: int = row["id"]

    @classmethod
    def create(cls, store: str | Path, config_text: str, *, version: str = __version__, patience: float = 30.0) -> Study:
        """A new study, held for writing. Folders on the way are made; the file appears with its schema and config, or not at all.

        Args:
            store: path of a SQLite file, or a `sqlite:///` URL.
            config_text: the run's config as TOML.
            version: version of optevolve.
            patience: seconds to wait while another program locks the file.

        Raises:
            StudyError: if there is a study already, or something else, or nothing can be written there.
        """
        return cls._enter(file_of(store), (config_text, version), False, patience)

    @classmethod
    def open(cls, store: str | Path, *, read_only: bool = False, patience: float = 30.0) -> Study:
        """The study in a file; its schema is brought up to date, unless opened to read only.

        Raises:
            StudyError: if there is none, it cannot be read or written, its schema is newer, or another driver holds it.
        """
        path = file_of(store)
        if not path.is_file():
            raise StudyError(f"Expected a study in {path}, found no such file. Give the folder of a run, or start one.")
        return cls._enter(path, None, read_only, patience)

    @classmethod
    def _enter(cls, path: Path, new: tuple[str, str] | None, read_only: bool, patience: float) -> Study:
        held: FileLock | None = None
        with store_errors(path):
            if new is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            engine = open_engine(path, "ro" if read_only else "rw" if new is None else "rwc", patience)
            try:
                if not read_only and (held := lock(path)) is None:
                    raise StudyError(
                        f"Expected to be the only driver of {path}; {_holder(path)} drives it. Wait for it to end, or stop it."
                    )
                with engine.begin() as connection:
                    migrate(connection, path, create=new is not None, read_only=read_only)
                    row = _study_row(connection, path, new, read_only)
                if not read_only:
                    use_write_ahead_log(engine)
            except BaseException:
                engine.dispose()
                if held is not None:
                    held.release()
                raise
        return cls(path, engine, held, row)

    def record(self, measurement: Measurement, *, turn: int = -1, fingerprint: str = "") -> None:
        """Stores one measurement with its curves and proposal; on the disk when this returns.

        Raises:
            StudyError: if the store cannot be written; what was stored before is kept.
            ValueError: if the job is stored already, or a number is NaN.
        """
        self.record_all([Entry(measurement, turn, fingerprint)])

    def record_all(self, entries: Sequence[Entry]) -> None:
        """Stores several measurements, all or none; otherwise as `record`."""
        with store_errors(self.path), self._engine.begin() as connection:
            for entry in entries:
                self._insert(connection, entry)

    def _insert(self, connection: Connection, entry: Entry) -> None:
        job, proposal = entry.measurement.job, entry.measurement.proposal
        if connection.execute(select(evaluations.c.id).where(self._job(job.id))).first() is not None:
            raise ValueError(f"job {job.id!r} is stored already")
        if proposal is not None:
            key = (proposals.c.study == self._id) & (proposals.c.id == proposal.id)
            if connection.execute(select(proposals.c.id).where(key)).first() is None:
                connection.execute(insert(proposals).values(rows.proposal_row(self._id, proposal)))
                refused = [
                    {"study": self._id, "before": proposal.id, "position": position, "rule": rule, "reason": reason}
                    for position, (rule, reason) in enumerate(proposal.rejected)
                ]
                if refused:
                    connection.execute(insert(rejections), refused)
        row = rows.evaluation_row(self._id, entry.measurement, entry.turn, entry.fingerprint, _now())
        key_of_row = connection.execute(insert(evaluations).values(row)).inserted_primary_key
        assert key_of_row is not None
        points = [rows.curve_row(key_of_row[0], position, curve) for position, curve in enumerate(entry.measurement.outcome.curves)]
        if points:
            connection.execute(insert(curves), points)

    def _job(self, job_id: str) -> ColumnElement[bool]:
        return (evaluations.c.study == self._id) & (evaluations.c.job == job_id)

    def outcome(self, job_id: str) -> Outcome | None:
        """What came of a job; None if it is not stored."""
        found = self.measurement(job_id)
        return None if found is None else found.outcome

    def measurement(self, job_id: str) -> Measurement | None:
        """A job with its outcome; None if it is not stored."""
        found = self._load(self._job(job_id))
        return found[0] if found else None

    def measurements(self, stage: str | None = None) -> list[Measurement]:
        """Everything measured, or one stage, in the order of asking, which is the same for any number of workers.

        Stages come in the order of their first arrival.
        """
        condition = evaluations.c.study == self._id
        return self._load(condition if stage is None else condition & (evaluations.c.stage == stage))

    def _load(self, condition: ColumnElement[bool]) -> list[Measurement]:
        with store_errors(self.path), self._engine.begin() as connection:
            found = _rows(connection, select(evaluations).where(condition).order_by(evaluations.c.id))
            if not found:
                return []
            of_curves = select(curves).join(evaluations, curves.c.evaluation == evaluations.c.id).where(condition)
            points = _grouped(connection, of_curves.order_by(curves.c.evaluation, curves.c.position), "evaluation")
            own = (proposals.c.study == evaluations.c.study) & (proposals.c.id == evaluations.c.proposal)
            sources = {row["id"]: row for row in _rows(connection, select(proposals).join(evaluations, own).where(condition))}
            own = (rejections.c.study == evaluations.c.study) & (rejections.c.before == evaluations.c.proposal)
            of_rejections = select(rejections).distinct().join(evaluations, own).where(condition)
            refused = _grouped(connection, of_rejections.order_by(rejections.c.before, rejections.c.position), "before")
        order: dict[str, int] = {}
        for row in found:
            order.setdefault(row["stage"], len(order))
        ordered = sorted(found, key=lambda row: (order[row["stage"]], row["turn"], row["id"]))
        return [
            rows.measurement(row, points[row["id"]], sources.get(row["proposal"]), refused[row["proposal"]] if row["proposal"] else [])
            for row in ordered
        ]

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        with store_errors(self.path), self._engine.begin() as connection:
            return connection.execute(select(studies.c.finished).where(studies.c.id == self._id)).scalar() is not None

    def finish(self) -> None:
        """Notes that the run came to its end."""
        with store_errors(self.path), self._engine.begin() as connection:
            connection.execute(update(studies).where(studies.c.id == self._id).values(finished=_now()))

    def note(self, kind: str, **detail: bool | int | float | str | None) -> None:
        """Adds an event, such as "interrupted"; the details are plain values."""
        with store_errors(self.path), self._engine.begin() as connection:
            connection.execute(insert(events).values(study=self._id, at=_now(), kind=kind, detail=detail))

    def events(self) -> list[Event]:
        """What happened to the run, oldest first."""
        with store_errors(self.path), self._engine.begin() as connection:
            found = connection.execute(select(events).where(events.c.study == self._id).order_by(events.c.id)).mappings().all()
        return [Event(row["at"].replace(tzinfo=UTC), row["kind"], row["detail"]) for row in found]

    def close(self) -> None:
        """Lets go of the file and of the right to write. A closed study cannot be used again."""
        self._engine.dispose()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    return [row._asdict() for row in connection.execute(query)]


def _grouped(connection: Connection, query: Select[Any], column: str) -> defaultdict[Any, list[dict[str, Any]]]:
    groups: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(connection, query):
        groups[row[column]].append(row)
    return groups


def _study_row(connection: Connection, path: Path, new: tuple[str, str] | None, read_only: bool) -> RowMapping:
    row = connection.execute(select(studies).order_by(studies.c.id)).mappings().first()
    if new is None:
        if row is None:
            raise StudyError(f"Expected a study in {path}, found its tables empty. Start the run anew in another folder.")
        if not read_only:
            connection.execute(update(studies).where(studies.c.id == row["id"]).values(driver=driver_name()))
        return row
    if row is not None:
        raise StudyError(f"Expected no study in {path}, found one of {row['created']:%Y-%m-%d %H:%M}. Resume it, or use another folder.")
    values = {"name": "run", "config": new[0], "version": new[1], "created": _now(), "driver": driver_name()}
    connection.execute(insert(studies).values(values))
    return connection.execute(select(studies)).mappings().one()


def _holder(path: Path) -> str:
    """Who holds a study, as it wrote itself; reading is free while another writes."""
    try:
        with store_errors(path):
            engine = open_engine(path, "ro", 1.0)
            try:
                with engine.begin() as connection:
                    return connection.execute(select(studies.c.driver)).scalar() or "another process"
            finally:
                engine.dispose()
    except StudyError:  # it is still being made
        return "another process"
