"""Is a study sound? What is looked at: the file itself, the schema, every row of every table, and whether they fit together.

Whatever makes a command refuse a study is found here, and more, for this reads what commands leave unread, such as genomes and times.

What can be repaired is repaired by taking away what is not sound: a resumed run measures it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Engine, Index, Table, UpdateBase, delete, func, select, update

from optevolve.errors import OptevolveError, ParseError, StudyError
from optevolve.run.store import reading
from optevolve.run.store.lookup import holder, only_study
from optevolve.run.store.place import Place, place_of
from optevolve.run.store.schema import differences, migrate, strangers
from optevolve.run.store.tables import curves, evaluations, events, proposals, rejections, studies
from optevolve.space import parse
from optevolve.space.genome import Genome

__all__ = ["Finding", "Soundness", "verify"]

_CHUNK = 512
_SHOWN = 5  # examples of one finding


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        what: in a sentence.
        count: how many rows; 0 if it is no matter of rows.
        repair: what a repair does about it; empty if nothing can be done but restoring a copy.
    """

    what: str
    count: int = 0
    repair: str = ""


@dataclass(frozen=True)
class Soundness:
    """What was found.

    Attributes:
        store: the database, as messages name it.
        sound: number of rows of each table that are sound.
        findings: what is not; empty for a sound study.
        repaired: whether that was mended.
        saved: copy of the database made before the repair, if one was made.
    """

    store: str
    sound: dict[str, int]
    findings: list[Finding]
    repaired: bool = False
    saved: Path | None = None


def verify(store: str | Path, *, repair: Callable[[], Path | None] | None = None, check_config: Callable[[str], object]) -> Soundness:
    """Looks at everything in a study; see the module.

    Args:
        store: as of `Study.open`.
        repair: makes a copy before anything is changed, and says where; None to change nothing.
        check_config: raises an OptevolveError for a stored config that is none.
    Raises:
        StudyError: if there is no study, or one that cannot even be looked at; if a driver holds what is to be repaired.
    """
    place = place_of(store)
    place.require()
    with place.errors():
        engine = place.engine("read" if repair is None else "write", 30.0)
        held = None
        try:
            if not place.study:
                place.study = only_study(engine, place)
            if repair is not None and (held := place.lock(engine)) is None:
                raise StudyError(f"Expected nobody to drive {place.shown} during a repair; {holder(place)} drives it. Wait for it to end.")
            found = _Look(place, engine, check_config)
            findings, saved = found.findings(), None
            if repair is not None and any(finding.repair for finding in findings):
                saved = repair()
                found.mend()
                return Soundness(place.shown, found.sound, findings, True, saved)
            return Soundness(place.shown, found.sound, findings)
        finally:
            engine.dispose()
            if held is not None:
                held.release()


class _Look:
    """One look at a study."""

    def __init__(self, place: Place, engine: Engine, check_config: Callable[[str], object]) -> None:
        self._place, self._engine, self._check_config = place, engine, check_config
        self.sound: dict[str, int] = {}
        self._study = 0
        self._mending: list[Callable[[Connection], object]] = []
        self._jobs: set[str] = set()
        self._grows = False  # between an extension and its end turns repeat, and equals of what was removed are still to be measured

    def findings(self) -> list[Finding]:
        found = list(self._file())
        with self._engine.begin() as connection:
            migrate(connection, self._place, create=False, read_only=True)
            own = select(studies.c.id).where(studies.c.name == self._place.study)
            ids = connection.scalars(own).all()
            if len(ids) != 1:
                raise StudyError(
                    f"Expected one study {self._place.study!r} in {self._place.shown}, found {len(ids)}. Restore it from a copy."
                )
            self._study = ids[0]
            for look in (self._schema, self._head, self._strays, self._orphans, self._evaluations, self._turns, self._events):
                found += look(connection)
            found += self._references(connection) if not found else ()
        return found

    def mend(self) -> None:
        """Does what the findings' repairs say, all or nothing."""
        with self._engine.begin() as connection:
            for change in self._mending:
                change(connection)

    def _file(self) -> Iterator[Finding]:
        if self._engine.dialect.name != "sqlite":  # a server sees to its own files
            return
        with self._engine.connect() as connection:
            said = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({_SHOWN})")]
        if said == ["ok"]:
            return
        shown = "; ".join(line.splitlines()[0] for line in said)[:400]
        only_indexes = all("index" in line for line in said)
        if only_indexes:
            self._mending.append(lambda connection: connection.exec_driver_sql("REINDEX"))
        yield Finding(f"The file is damaged: {shown}.", repair="its indexes are built anew" if only_indexes else "")

    def _schema(self, connection: Connection) -> Iterator[Finding]:
        for kind, name in strangers(connection):  # removed before all else, for a trigger would run with every repair
            self._mending.append(partial(_drop, kind=kind, name=name))
            yield Finding(f"There is a {kind}, {name[:80]!r}, which no run makes; what is in it runs unasked.", repair="it is removed")
        for words, missing in differences(connection):
            if missing is not None:
                self._mending.append(partial(_make_index, index=missing))
            yield Finding(f"The tables are not those of a study: {words}.", repair="it is made" if missing is not None else "")

    def _head(self, connection: Connection) -> Iterator[Finding]:
        of_study = studies.c.id == self._study
        unfinished = connection.execute(select(studies.c.id).where(of_study, studies.c.finished.is_(None))).first() is not None
        extended = select(events.c.id).where(events.c.study == self._study, events.c.kind == "extended")
        self._grows = unfinished and connection.execute(extended).first() is not None
        try:
            (row,) = reading.fetch(connection, select(studies.c.config, studies.c.version, studies.c.driver).where(of_study))
            if not all(isinstance(value, str) for value in row):
                raise StudyError("The study's config, version or driver is no text.")
            self._check_config(row.config)
            self.sound["studies"] = 1
        except OptevolveError as error:
            yield Finding(f"The study itself cannot be read: {error}")
        for column, instead in ((studies.c.created, datetime.now(UTC).replace(tzinfo=None)), (studies.c.finished, None)):
            try:
                reading.fetch(connection, select(column).where(of_study))
            except StudyError:
                mended = update(studies).where(of_study).values({column: instead})
                self._mending.append(partial(_execute, statement=mended))
                yield Finding(f"The study's time {column.name!r} cannot be read.", repair="it is set anew")

    def _strays(self, connection: Connection) -> Iterator[Finding]:
        known = select(studies.c.id)
        strayed = select(evaluations.c.id).where(evaluations.c.study.not_in(known))
        for table in (evaluations, rejections, proposals, events):
            condition = table.c.study.not_in(known)
            count = connection.execute(select(func.count()).select_from(table).where(condition)).scalar() or 0
            if count:
                if table is evaluations:
                    self._mending.append(partial(_execute, statement=delete(curves).where(curves.c.evaluation.in_(strayed))))
                self._mending.append(partial(_execute, statement=delete(table).where(condition)))
                self._mending.append(partial(_execute, statement=update(studies).where(studies.c.id == self._study).values(finished=None)))
                yield Finding(f"{count} rows of {table.name} belong to no study.", count, "they are removed")

    def _references(self, connection: Connection) -> Iterator[Finding]:
        """What else refers to nothing, such as in another study of the same file."""
        if connection.dialect.name == "sqlite" and (lost := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
            yield Finding(f"{len(lost)} rows of {', '.join(sorted({str(row[0]) for row in lost}))} refer to what is not there.", len(lost))

    def _orphans(self, connection: Connection) -> Iterator[Finding]:
        mine = evaluations.c.study == self._study
        measured = select(evaluations.c.id)
        known = select(proposals.c.id).where(proposals.c.study == self._study)
        wanted = select(evaluations.c.proposal).where(mine, evaluations.c.proposal.is_not(None))
        cases: list[tuple[Table, ColumnElement[bool], str]] = [
            (curves, curves.c.evaluation.not_in(measured), "belong to no measurement"),
            (rejections, (rejections.c.study == self._study) & rejections.c.before.not_in(known), "belong to no proposal"),
            (
                rejections,
                (rejections.c.study == self._study) & rejections.c.before.in_(known) & rejections.c.before.not_in(wanted),
                "belong to a proposal that was never measured",
            ),
            (proposals, (proposals.c.study == self._study) & proposals.c.id.not_in(wanted), "were never measured"),
        ]
        for table, condition, what in cases:
            count = connection.execute(select(func.count()).select_from(table).where(condition)).scalar() or 0
            if count:
                self._mending.append(partial(_execute, statement=delete(table).where(condition)))
                yield Finding(f"{count} rows of {table.name} {what}.", count, "they are removed")
        for table, mine_too in ((proposals, proposals.c.study == self._study), (rejections, rejections.c.study == self._study)):
            self.sound[table.name] = connection.execute(select(func.count()).select_from(table).where(mine_too)).scalar() or 0

    def _evaluations(self, connection: Connection) -> Iterator[Finding]:
        mine = evaluations.c.study == self._study
        self._jobs = {str(job) for job in connection.scalars(select(evaluations.c.job).where(mine))}
        last = connection.execute(select(func.max(evaluations.c.id)).where(mine)).scalar()
        unsound: list[int] = []
        examples: list[str] = []
        good = 0
        for start in range(0, (last if isinstance(last, int) else 0) + 1, _CHUNK):
            here = mine & evaluations.c.id.between(start, start + _CHUNK - 1)
            try:
                good += self._sound(connection, here)
                continue
            except StudyError:
                keys = connection.scalars(select(evaluations.c.id).where(here)).all()
            for key in keys:
                try:
                    good += self._sound(connection, mine & (evaluations.c.id == key))
                except StudyError as error:
                    unsound.append(key)
                    examples.append(str(error).split(". It was changed")[0])
        self.sound["evaluations"] = good
        if unsound:
            self._mending.append(lambda connection: _forget(connection, self._study, unsound))
            shown = "; ".join(examples[:_SHOWN])
            yield Finding(
                f"{len(unsound)} measurements cannot be read: {shown}.",
                len(unsound),
                "they are removed, with what took their outcomes, and measured again by 'optevolve resume'",
            )

    def _sound(self, connection: Connection, condition: ColumnElement[bool]) -> int:
        """How many measurements there are, all of which are sound.

        Raises:
            StudyError: if one is not.
        """
        found = reading.measurements(connection, condition)
        columns = select(evaluations.c.finished_at, evaluations.c.fingerprint).where(condition)
        for row in reading.fetch(connection, columns):
            if not (isinstance(row.finished_at, datetime) and isinstance(row.fingerprint, str)):
                raise StudyError("A measurement's time is none, or its fingerprint is no text")
        for _, _, m in found:
            try:
                parse(m.job.rule)
                if m.proposal is not None:
                    parse(m.proposal.rule)
                    if m.proposal.genome:
                        Genome.from_json(m.proposal.genome)
            except ParseError as error:
                raise StudyError(f"The store's row of job {m.job.id[:200]!r} has no rule or genome ({error})") from error
            if m.proposal is not None and (m.proposal.id, m.proposal.rule, m.proposal.stage) != (m.job.id, m.job.rule, m.stage):
                raise StudyError(f"The store's row of job {m.job.id[:200]!r} measured another rule than its proposal's")
            if m.same_as and (m.same_as == m.job.id or (m.same_as not in self._jobs and not self._grows)):
                raise StudyError(f"The store's row of job {m.job.id[:200]!r} takes the outcome of {m.same_as[:200]!r}, which is not there")
        return len(found)

    def _turns(self, connection: Connection) -> Iterator[Finding]:
        """Places in the order of asking, each of which one job of a stage has; a final evaluation that grows counts anew."""
        if self._grows:
            return
        own = (evaluations.c.study == self._study) & (evaluations.c.turn >= 0)
        ordered = own & (evaluations.c.stage.in_(("initial", "evolution")) | evaluations.c.stage.startswith("eliminate/"))
        by_turn = select(evaluations.c.stage).where(ordered).group_by(evaluations.c.stage, evaluations.c.turn)
        twice = by_turn.having(func.count() > 1).correlate(None)
        count = connection.execute(select(func.count()).select_from(twice.subquery())).scalar() or 0
        if count:
            self._mending.append(lambda connection: _number_anew(connection, ordered & evaluations.c.stage.in_(twice)))
            yield Finding(f"{count} places in the order of asking are taken twice.", count, "these stages are numbered by arrival")

    def _events(self, connection: Connection) -> Iterator[Finding]:
        mine = events.c.study == self._study
        keys = connection.scalars(select(events.c.id).where(mine)).all()
        unsound = []
        for key in keys:
            try:
                reading.events_of(connection, mine & (events.c.id == key))
            except StudyError:
                unsound.append(key)
        self.sound["events"] = len(keys) - len(unsound)
        if unsound:
            self._mending.append(lambda connection: _forget_events(connection, self._study, unsound))
            yield Finding(f"{len(unsound)} events cannot be read.", len(unsound), "they are removed")


def _drop(connection: Connection, kind: str, name: str) -> None:
    connection.exec_driver_sql(f"DROP {kind} IF EXISTS {connection.dialect.identifier_preparer.quote_identifier(name)}")


def _make_index(connection: Connection, index: Index) -> None:
    index.drop(connection, checkfirst=True)  # one of that name on other columns
    index.create(connection)


def _number_anew(connection: Connection, condition: ColumnElement[bool]) -> None:
    order = select(evaluations.c.id, evaluations.c.stage).where(condition).order_by(evaluations.c.turn, evaluations.c.id)
    turns: Counter[str] = Counter()
    for row in connection.execute(order).all():
        connection.execute(update(evaluations).where(evaluations.c.id == row.id).values(turn=turns[row.stage]))
        turns[row.stage] += 1


def _forget_events(connection: Connection, study: int, keys: list[int]) -> None:
    """Removes events; a run that ended early by one of them ends so again when it is resumed."""
    for key in keys:
        connection.execute(delete(events).where(events.c.id == key))
    connection.execute(update(studies).where(studies.c.id == study).values(finished=None))


def _execute(connection: Connection, statement: UpdateBase) -> None:
    connection.execute(statement)


def _forget(connection: Connection, study: int, keys: list[int]) -> None:
    """Removes measurements with all that is theirs, so that a resumed run makes them again; a finished run is then unfinished.

    What took the outcome of a removed one goes with it.
    """
    own = select(evaluations.c.id, evaluations.c.job, evaluations.c.same_as).where(evaluations.c.study == study)
    rows, gone = connection.execute(own).all(), set(keys)
    removed = {row.job for row in rows if row.id in gone}
    for key in [*keys, *(row.id for row in rows if row.same_as in removed and row.id not in gone)]:
        proposal = connection.scalars(select(evaluations.c.proposal).where(evaluations.c.id == key)).first()
        connection.execute(delete(curves).where(curves.c.evaluation == key))
        connection.execute(delete(evaluations).where(evaluations.c.id == key))
        if isinstance(proposal, str):
            others = select(evaluations.c.id).where(evaluations.c.study == study, evaluations.c.proposal == proposal)
            if connection.execute(others).first() is None:
                connection.execute(delete(rejections).where(rejections.c.study == study, rejections.c.before == proposal))
                connection.execute(delete(proposals).where(proposals.c.study == study, proposals.c.id == proposal))
    connection.execute(update(studies).where(studies.c.id == study).values(finished=None))
