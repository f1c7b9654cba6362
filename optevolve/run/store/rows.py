"""Records as rows and back, to the last bit. Nothing is pickled; what does not read back as a record is refused."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, BigInteger, Column, DateTime, Float, Integer, Table, Text

from optevolve.config import Protocol, Schedule
from optevolve.errors import StudyError
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status, TrainingCurve
from optevolve.run.store.tables import curves as table_of_curves
from optevolve.run.store.tables import evaluations, proposals, rejections

__all__ = ["canonical", "curve_row", "evaluation_row", "measurement", "plain", "proposal_row", "rejection_rows", "require_types"]

Row = Mapping[str, Any]
_KINDS: dict[type, tuple[type, ...]] = {
    Text: (str,),
    Integer: (int,),
    BigInteger: (int,),
    Float: (float, int),
    JSON: (dict, list),
    DateTime: (datetime,),
}
_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf}


def _text(value: str) -> str:
    """Text that every database takes: messages of exceptions may hold NUL and lone surrogates."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def _number(value: float | None, what: str) -> float | None:
    """A number as a database keeps it; NaN has no place there, since SQLite turns it into null."""
    if value is None:
        return None
    if math.isnan(value):
        raise ValueError(f"{what} is NaN: an outcome without a number has None and a status that says so")
    return float(value) + 0.0  # SQLite forgets the sign of zero


def _to_json(values: Iterable[float]) -> list[float | str | None]:
    return [float(v) if math.isfinite(v) else None if math.isnan(v) else "Infinity" if v > 0 else "-Infinity" for v in values]


def _from_json(values: Sequence[float | str | None]) -> tuple[float, ...]:
    return tuple(math.nan if v is None else _WORDS[v] if isinstance(v, str) else float(v) for v in values)


def canonical(outcome: Outcome) -> Outcome:
    """The outcome as it will be read back, so that a search is told the same before and after a restart.

    Whole numbers given for floats become floats, zero loses its sign, and text what no database takes.
    """

    def points(values: Iterable[float]) -> tuple[float, ...]:
        return tuple(float(value) for value in values)

    return replace(
        outcome,
        fitness=_number(outcome.fitness, "the fitness"),
        interval=None if outcome.interval is None else (float(outcome.interval[0]) + 0.0, float(outcome.interval[1]) + 0.0),
        learning_rate=_number(outcome.learning_rate, "the chosen learning rate"),
        weight_decay=float(outcome.weight_decay) + 0.0,
        task_scores=tuple(float(score) + 0.0 for score in outcome.task_scores),
        reason=_text(outcome.reason),
        steps=int(outcome.steps),
        seconds=float(outcome.seconds) + 0.0,
        curves=tuple(
            replace(
                curve,
                learning_rate=float(curve.learning_rate) + 0.0,
                weight_decay=float(curve.weight_decay) + 0.0,
                steps=tuple(int(step) for step in curve.steps),
                train_loss=points(curve.train_loss),
                train_score=points(curve.train_score),
                score=points(curve.score),
                reason=_text(curve.reason),
                seconds=float(curve.seconds) + 0.0,
            )
            for curve in outcome.curves
        ),
    )


def proposal_row(study: int, proposal: Proposal) -> dict[str, Any]:
    """The row of a proposal; what was rejected before it has rows of its own."""
    row = {field.name: getattr(proposal, field.name) for field in fields(proposal) if field.name != "rejected"}
    return {"study": study} | {name: _text(value) if isinstance(value, str) else value for name, value in row.items()}


def rejection_rows(study: int, proposal: Proposal) -> list[dict[str, Any]]:
    """The rows of what was drawn and refused before a proposal was found."""
    return [
        {"study": study, "before": proposal.id, "position": position, "rule": _text(rule), "reason": _text(reason)}
        for position, (rule, reason) in enumerate(proposal.rejected)
    ]


def plain(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Details of an event as a database takes them."""
    return {name: _text(value) if isinstance(value, str) else value for name, value in detail.items()}


def evaluation_row(study: int, entry: Measurement, turn: int, fingerprint: str, finished_at: datetime) -> dict[str, Any]:
    """The row of a measurement, without its curves and proposal.

    Raises:
        ValueError: if a number is NaN or the seed has more than 63 bits.
    """
    job, outcome = entry.job, entry.outcome
    if not -(2**63) <= job.seed < 2**63:
        raise ValueError(f"seed {job.seed} of job {job.id!r} does not fit in 63 bits")
    return {
        "study": study,
        "job": job.id,
        "turn": turn,
        "proposal": None if entry.proposal is None else entry.proposal.id,
        "stage": entry.stage,
        "rule": _text(job.rule),
        "fingerprint": fingerprint,
        "task": job.task,
        "protocol": _protocol_json(job.protocol),
        "seed": job.seed,
        "split": job.split.value,
        "fixed_learning_rate": _number(job.learning_rate, "the job's learning rate"),
        "fixed_weight_decay": _number(job.weight_decay, "the job's weight decay"),
        "status": outcome.status.value,
        "reason": _text(outcome.reason),
        "fitness": _number(outcome.fitness, "the fitness"),
        "interval_low": None if outcome.interval is None else _number(outcome.interval[0], "the interval"),
        "interval_high": None if outcome.interval is None else _number(outcome.interval[1], "the interval"),
        "learning_rate": _number(outcome.learning_rate, "the chosen learning rate"),
        "weight_decay": _number(outcome.weight_decay, "the chosen weight decay"),
        "task_scores": _to_json(_number(score, "a task's score") or 0.0 for score in outcome.task_scores),
        "device": outcome.device,
        "steps": int(outcome.steps),
        "seconds": _number(outcome.seconds, "the duration"),
        "same_as": entry.same_as,
        "finished_at": finished_at,
    }


@lru_cache(maxsize=64)
def _protocol_json(protocol: Protocol) -> dict[str, Any]:
    """A run has few protocols and many jobs."""
    return asdict(protocol)


def curve_row(evaluation: int, position: int, curve: TrainingCurve) -> dict[str, Any]:
    """The row of one training run; its points are arrays."""
    return {
        "evaluation": evaluation,
        "position": position,
        "purpose": curve.purpose,
        "learning_rate": _number(curve.learning_rate, "a curve's learning rate"),
        "weight_decay": _number(curve.weight_decay, "a curve's weight decay"),
        "seed": curve.seed,
        "status": curve.status.value,
        "reason": _text(curve.reason),
        "seconds": _number(curve.seconds, "a curve's duration"),
        "steps": [int(step) for step in curve.steps],
        "train_loss": _to_json(curve.train_loss),
        "train_score": _to_json(curve.train_score),
        "score": _to_json(curve.score),
    }


def _curve(row: Row) -> TrainingCurve:
    return TrainingCurve(
        learning_rate=row["learning_rate"],
        weight_decay=row["weight_decay"],
        seed=row["seed"],
        steps=tuple(int(step) for step in row["steps"]),
        train_loss=_from_json(row["train_loss"]),
        train_score=_from_json(row["train_score"]),
        score=_from_json(row["score"]),
        status=Status(row["status"]),
        reason=row["reason"],
        purpose=row["purpose"],
        seconds=row["seconds"],
    )


def _protocol(values: Mapping[str, Any]) -> Protocol:
    """A protocol from its JSON, whose tuples came back as lists; what an older version did not know has its default."""
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    plain.pop("device", None)  # of protocols from before there was one for a whole run
    plain["schedule"] = Schedule(**values["schedule"])
    return Protocol(**plain)


def require_types(table: Table, row: Row) -> None:
    """Whether a row holds what its columns promise, which SQLite does not see to.

    Raises:
        TypeError: if it does not.
    """
    for column, kinds in _kinds(table):
        value = row[column.name]
        if not (isinstance(value, kinds) or (value is None and column.nullable)) or isinstance(value, bool):
            raise TypeError(f"{table.name}.{column.name} is {type(value).__name__}, expected {kinds[0].__name__}")


@lru_cache(maxsize=16)
def _kinds(table: Table) -> list[tuple[Column[Any], tuple[type, ...]]]:
    return [(column, _KINDS[type(column.type)]) for column in table.columns]


def measurement(row: Row, curves: Sequence[Row], proposal: Row | None, rejected: Sequence[Row]) -> Measurement:
    """The record behind an evaluation's row and the rows that belong to it.

    Raises:
        StudyError: if the rows do not hold what a record holds.
    """
    try:
        require_types(evaluations, row)
        for table, found in ((table_of_curves, curves), (rejections, rejected), (proposals, [] if proposal is None else [proposal])):
            for each in found:
                require_types(table, each)
        job = Job(
            id=row["job"],
            rule=row["rule"],
            task=row["task"],
            protocol=_protocol(row["protocol"]),
            seed=row["seed"],
            split=Split(row["split"]),
            learning_rate=row["fixed_learning_rate"],
            weight_decay=row["fixed_weight_decay"],
        )
        outcome = Outcome(
            status=Status(row["status"]),
            fitness=row["fitness"],
            interval=None if row["interval_low"] is None else (row["interval_low"], row["interval_high"]),
            learning_rate=row["learning_rate"],
            weight_decay=row["weight_decay"],
            task_scores=_from_json(row["task_scores"]),
            device=row["device"] or str(row["protocol"].get("device", "")),
            reason=row["reason"],
            curves=tuple(_curve(curve) for curve in curves),
            steps=row["steps"],
            seconds=row["seconds"],
        )
        source = None
        if proposal is not None:
            plain = {name: value for name, value in proposal.items() if name != "study"}
            source = Proposal(**plain, rejected=tuple((each["rule"], each["reason"]) for each in rejected))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StudyError(
            f"The store's row of job {row['job']!r} cannot be read ({type(error).__name__}: {str(error)[:200]}). "
            "It was changed by hand or written by another version; restore the file from a copy, or start a new run."
        ) from error
    return Measurement(row["stage"], job, outcome, source, row["same_as"])
