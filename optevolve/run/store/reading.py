"""Rows as records. Every row is checked: a database may be damaged, edited by hand or made by a stranger.

Whole studies are read in one pass over each table, so that reading is linear in what is read.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from operator import ne
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Double, Float, Integer, Row, Select, Text, cast, select

from optevolve.config import Protocol, Schedule
from optevolve.config_check import validated_protocol
from optevolve.contestants import CHOOSE, EVALUATE, TUNE
from optevolve.errors import ConfigError, StudyError
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status, TrainingCurve
from optevolve.run.older import read_as_now
from optevolve.run.store.rows import LARGEST_SCORE, kept_score, said
from optevolve.run.store.tables import curves, evaluations, events, proposals, rejections

__all__ = ["Event", "events_of", "fetch", "fingerprints", "measurements", "proposals_by_id"]

_LONGEST_ID = 4096
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf}
# What ids are made of, by stage: `optevolve.contestants.place_of` reads names and seeds off them.
_IDS = {TUNE: re.compile(rf"{TUNE}/.+/[^/]+", re.DOTALL)}
_IDS |= {stage: re.compile(rf"{stage}/.+/[^/]+/seed-[0-9]{{1,9}}", re.DOTALL) for stage in (CHOOSE, EVALUATE)}
_STATUS = {status.value: status for status in Status}
_SPLIT = {split.value: split for split in Split}
_ROUND = re.compile(r"eliminate/[0-9]{1,9}")
_SEED = re.compile(r"/seed-(?![0-9]{1,9}$)[^/]*$")


def _text(column: ColumnElement[Any]) -> ColumnElement[str]:
    """JSON as its text: most of it repeats, and is then read once."""
    return cast(column, Text).label(getattr(column, "name", None))


_E, _P, _C, _R = evaluations.c, proposals.c, curves.c, rejections.c
# The columns that make up a record, and what each holds.
_EVALUATION: list[ColumnElement[Any]] = [
    _E.id, _E.job, _E.turn, _E.proposal, _E.stage, _E.rule, _E.task, _text(_E.protocol), _E.seed, _E.split, _E.fixed_learning_rate,
    _E.fixed_weight_decay, _E.status, _E.reason, _E.fitness, _E.interval_low, _E.interval_high, _E.learning_rate, _E.weight_decay,
    _text(_E.task_scores), _E.device, _E.steps, _E.seconds, _E.same_as,
]  # fmt: skip
_ORIGIN: list[ColumnElement[Any]] = [_P.id, _P.rule, _P.stage, _P.parent, _P.particle, _P.timestep, _P.mutation]
_CURVE: list[ColumnElement[Any]] = [
    _C.evaluation, _C.position, _C.purpose, _C.learning_rate, _C.weight_decay, _C.seed, _C.status, _C.reason, _C.seconds,
    _text(_C.steps), _text(_C.train_loss), _text(_C.train_score), _text(_C.score),
]  # fmt: skip
_REJECTION: list[ColumnElement[Any]] = [_R.before, _R.position, _R.rule, _R.reason]
_KINDS: dict[type, tuple[type, ...]] = {
    Text: (str,),
    Integer: (int,),
    BigInteger: (int,),
    Float: (float, int),
    Double: (float, int),
}


def fetch(connection: Connection, query: Select[Any]) -> Sequence[Row[Any]]:
    """The rows of a query.

    Raises:
        StudyError: if one holds what is no text, JSON or time where the tables say so.
    """
    try:
        return connection.execute(query).all()
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise StudyError(_changed("A row of the store", error)) from error


def _changed(what: str, error: Exception) -> str:
    return (
        f"{what} cannot be read ({type(error).__name__}: {str(error)[:200]}). It was changed by hand or damaged: "
        "'optevolve verify' on the run's folder says what is sound; restore the store from a copy, or start a new run."
    )


class _Checked:
    """Whether rows hold what their columns promise, which SQLite does not see to. Rows of the same types are looked at once."""

    def __init__(self, table: str, columns: Sequence[ColumnElement[Any]]) -> None:
        self._table = table
        self._columns = [(c.name, _KINDS[type(c.type)], bool(getattr(c, "nullable", False))) for c in columns]
        self._good: set[tuple[type, ...]] = set()

    def __call__(self, row: Row[Any]) -> None:
        kinds = tuple(map(type, row))
        if kinds in self._good:
            return
        for (name, expected, nullable), kind in zip(self._columns, kinds, strict=True):
            if kind not in expected and not (kind is type(None) and nullable):
                raise TypeError(f"{self._table}.{name} is {kind.__name__}, expected {expected[0].__name__}")
        self._good.add(kinds)


_check_evaluation = _Checked("evaluations", _EVALUATION)
_check_origin = _Checked("proposals", _ORIGIN)
_check_whole_origin = _Checked("proposals", [*_ORIGIN, _P.genome])
_check_curve = _Checked("curves", _CURVE)
_check_rejection = _Checked("rejections", _REJECTION)


@lru_cache(maxsize=256)
def _protocol(text: str) -> tuple[Protocol, str]:
    """A protocol from its JSON, whose tuples came back as lists, and the device that each had before there was one for a whole run.

    What an older version did not know has its default, and what only it took is read as what it did. Each distinct text is checked once.
    """
    values = read_as_now(json.loads(text))
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    device = str(plain.pop("device", ""))
    try:
        validated_protocol({name: value for name, value in values.items() if name != "device"}, "its protocol", "")
    except ConfigError as error:
        raise ValueError(str(error)) from error
    plain["schedule"] = Schedule(**values["schedule"])
    return Protocol(**plain), device


def _floats(text: str) -> tuple[float, ...]:
    values = json.loads(text)
    if not isinstance(values, list):
        raise TypeError(f"expected a list of numbers, found {text[:80]!r}")
    return tuple(math.nan if v is None else _WORDS[v] if isinstance(v, str) else float(v) for v in values)


@lru_cache(maxsize=4096)
def _scores(text: str) -> tuple[float, ...]:
    found = _floats(text)
    if any(map(math.isnan, found)):
        raise ValueError("a task's score is NaN")
    return tuple(kept_score(score, "a task's score") for score in found)


def _steps(text: str) -> tuple[int, ...]:
    values = json.loads(text)
    if not isinstance(values, list) or any(type(value) is not int or not -(2**63) <= value < 2**63 for value in values):
        raise TypeError(f"expected a list of whole numbers of at most 63 bits, found {text[:80]!r}")
    return tuple(values)


def _no_nan(row: Row[Any]) -> None:
    """PostgreSQL keeps NaN, a record has none."""
    if any(map(ne, row, row)):
        raise ValueError("a number is NaN")


def _check_ids(stage: str, job: str, proposal: str) -> None:
    """Whether names can be read as what they stand for."""
    known = _IDS.get(stage)
    if stage.startswith("eliminate/") and not _ROUND.fullmatch(stage):
        raise ValueError(f"stage {stage[:80]!r} is no round of elimination")
    if max(len(stage), len(job), len(proposal)) > _LONGEST_ID or (known is not None and not known.fullmatch(job)):
        raise ValueError(f"id {job[:80]!r} is none of stage {stage[:80]!r}")
    if "/seed-" in proposal and _SEED.search(proposal):
        raise ValueError(f"id {proposal[:80]!r} ends in no seed")


def _curve(row: Row[Any]) -> TrainingCurve:
    _check_curve(row)
    _no_nan(row)
    steps, loss, train, score = _steps(row.steps), _floats(row.train_loss), _floats(row.train_score), _floats(row.score)
    if {len(loss), len(train), len(score)} != {len(steps)}:
        raise ValueError(f"a curve of {len(steps)} steps has parts of {len(loss)}, {len(train)} and {len(score)} points")
    return TrainingCurve(
        row.learning_rate,
        row.seed,
        steps,
        loss,
        train,
        score,
        _STATUS[row.status],
        said(row.reason),
        row.purpose,
        row.seconds,
        row.weight_decay,
    )


def _measurement(row: Row[Any], points: tuple[TrainingCurve, ...], origin: Proposal | None) -> Measurement:
    _check_evaluation(row)
    _no_nan(row)
    values: tuple[Any, ...] = tuple(row)
    (
        _, job, _, proposal, stage, rule, task, protocol, seed, split, fixed_rate, fixed_decay, status, reason, fitness, low, high, rate,
        decay, scores, device, steps, seconds, same_as,
    ) = values  # fmt: skip
    _check_ids(stage, job, proposal or "")
    if (low is None) != (high is None):
        raise ValueError("an interval has one end")
    if fitness is None and status == Status.COMPLETED:
        raise ValueError("it is completed and has no fitness")
    if rate is None and status == Status.COMPLETED and stage == TUNE:
        raise ValueError("it is a completed tuning and has no learning rate")
    how, old = _protocol(protocol)
    for score in (fitness, low, high):
        if score is not None and not -LARGEST_SCORE <= score <= LARGEST_SCORE:
            kept_score(score, "its fitness or interval")
    interval = None if low is None else (low, high)
    outcome = Outcome(
        _STATUS[status], fitness, rate, said(reason), points, steps, seconds, interval, decay, _scores(scores), said(device or old)
    )
    return Measurement(stage, Job(job, rule, task, how, seed, _SPLIT[split], fixed_rate, fixed_decay), outcome, origin, same_as)


def measurements(
    connection: Connection,
    condition: ColumnElement[bool],
    *,
    with_curves: Callable[[str], bool] | bool = True,
    with_origins: bool = True,
) -> list[tuple[int, int, Measurement]]:
    """Measurements with their number in the table and their turn, in the order of arrival.

    Args:
        connection: to the database.
        condition: which evaluations.
        with_curves: whether their curves are read, or of which stages.
        with_origins: whether proposals come with genomes and with what was refused before them.
    Raises:
        StudyError: if the rows do not hold what a record holds.
    """
    found = fetch(connection, select(*_EVALUATION).where(condition).order_by(_E.id))
    if not found:
        return []
    wanted = with_curves if callable(with_curves) else lambda _: bool(with_curves)
    stages = [stage for stage in {row.stage for row in found if isinstance(row.stage, str)} if wanted(stage)]
    by_evaluation = _curves(connection, condition & _E.stage.in_(stages)) if stages else {}
    origins = _origins(connection, condition, with_origins)
    rejected = _rejections(connection, condition) if with_origins else {}
    records = []
    for row in found:
        try:
            origin = None
            if row.proposal is not None:
                origin = _proposal(origins[row.proposal], rejected.get(row.proposal, []))
            points = tuple(map(_curve, by_evaluation.get(row.id, ())))
            records.append((row.id, row.turn, _measurement(row, points, origin)))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StudyError(_changed(f"The store's row of job {str(row.job)[:200]!r}", error)) from error
    return records


def _curves(connection: Connection, condition: ColumnElement[bool]) -> dict[int, list[Row[Any]]]:
    chosen = select(_E.id).where(condition)
    grouped: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for row in fetch(connection, select(*_CURVE).where(_C.evaluation.in_(chosen)).order_by(_C.evaluation, _C.position)):
        grouped[row.evaluation].append(row)
    return grouped


def _origins(connection: Connection, condition: ColumnElement[bool], whole: bool) -> dict[str, Row[Any]]:
    study = select(_E.study).where(condition).distinct()
    chosen = select(_E.proposal).where(condition)
    columns = [*_ORIGIN, _P.genome] if whole else _ORIGIN
    return {row.id: row for row in fetch(connection, select(*columns).where(_P.study.in_(study), _P.id.in_(chosen)))}


def _rejections(connection: Connection, condition: ColumnElement[bool]) -> dict[str, list[Row[Any]]]:
    study = select(_E.study).where(condition).distinct()
    chosen = select(_E.proposal).where(condition)
    query = select(*_REJECTION).where(_R.study.in_(study), _R.before.in_(chosen)).order_by(_R.before, _R.position)
    grouped: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    for row in fetch(connection, query):
        grouped[row.before].append(row)
    return grouped


def _proposal(row: Row[Any], rejected: Sequence[Row[Any]]) -> Proposal:
    whole = len(row) > len(_ORIGIN)
    (_check_whole_origin if whole else _check_origin)(row)
    for each in rejected:
        _check_rejection(each)
    return Proposal(
        row.id, row.rule, row.genome if whole else "", row.stage, row.parent, row.particle, row.timestep, said(row.mutation),
        tuple((each.rule, said(each.reason)) for each in rejected),
    )  # fmt: skip


def proposals_by_id(connection: Connection, study: int) -> dict[str, Proposal]:
    """Everything that a search proposed.

    Raises:
        StudyError: if the rows do not hold what a record holds.
    """
    of_study = _E.study == study
    rejected = _rejections(connection, of_study)
    try:
        return {key: _proposal(row, rejected.get(key, [])) for key, row in _origins(connection, of_study, True).items()}
    except (TypeError, ValueError) as error:
        raise StudyError(_changed("A proposal in the store", error)) from error


# By kind of event, the detail without which it says nothing.
_SAID = {"ended": "reason", "floors": "said"}


@dataclass(frozen=True)
class Event:
    """Something that happened to a run, such as an interruption."""

    at: datetime
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)


def events_of(connection: Connection, condition: ColumnElement[bool]) -> list[Event]:
    """What happened to a run, oldest first.

    Raises:
        StudyError: if the rows do not hold what a record holds.
    """
    found = fetch(connection, select(events.c.at, events.c.kind, events.c.detail).where(condition).order_by(events.c.id))
    for row in found:
        if not (isinstance(row.at, datetime) and isinstance(row.kind, str) and isinstance(row.detail, dict)):
            raise StudyError(_changed("An event in the store", TypeError("expected a time, a word and a table")))
        key = _SAID.get(row.kind)
        if key is not None and not isinstance(row.detail.get(key), str):
            raise StudyError(_changed(f"An event {row.kind!r} in the store", TypeError(f"expected text under {key!r}")))
    return [Event(row.at.replace(tzinfo=UTC), row.kind, row.detail) for row in found]


def fingerprints(connection: Connection, study: int) -> dict[str, str]:
    """By rule, the key under which equal rules share an outcome, in the order of arrival."""
    query = select(_E.rule, _E.fingerprint).where(_E.study == study, _E.fingerprint != "").order_by(_E.id)
    return {str(row.rule): str(row.fingerprint) for row in fetch(connection, query)}
