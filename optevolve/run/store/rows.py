"""Records as rows, to the last bit; `reading` is the way back. Nothing is pickled."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from optevolve.config import Protocol
from optevolve.printable import clipped
from optevolve.records import Measurement, Outcome, Proposal, TrainingCurve

__all__ = ["LARGEST_SCORE", "canonical", "curve_row", "evaluation_row", "kept_score", "plain", "proposal_row", "rejection_rows", "said"]

LARGEST_SCORE = 1e150  # in size, of what is finite
_REASON = 1000  # characters of a message that are kept: an exception of a task may say megabytes
_DETAIL = 4000  # and of an event's


def _text(value: str) -> str:
    """Text that every database takes: messages of exceptions may hold NUL and lone surrogates."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def said(message: str, most: int = _REASON) -> str:
    """A message as a store keeps one for every measurement, and as one is taken from a store that keeps more."""
    return clipped(_text(message), most)


def _number(value: float | None, what: str) -> float | None:
    """A number as a database keeps it; NaN has no place there, since SQLite turns it into null."""
    if value is None:
        return None
    if math.isnan(value):
        raise ValueError(f"{what} is NaN: an outcome without a number has None and a status that says so")
    return float(value) + 0.0  # SQLite forgets the sign of zero


def _real(value: float, what: str) -> float:
    found = _number(value, what)
    if found is None:
        raise ValueError(f"{what} is missing")
    return found


def kept_score(value: float, what: str) -> float:
    """A score as a database keeps it: one that is finite is at most 1e150 in size, for means and variances of larger ones overflow.

    Raises:
        ValueError: if it is larger, or NaN.
    """
    if LARGEST_SCORE < abs(value) < math.inf:
        raise ValueError(f"{what} is {value:g}, expected at most {LARGEST_SCORE:g} in size")
    return _real(value, what)


def _kept_interval(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (kept_score(interval[0], "an interval"), kept_score(interval[1], "an interval"))


def _count(value: int, what: str) -> int:
    """A whole number of at most 63 bits, which is what a database keeps."""
    if not -(2**63) <= value < 2**63:  # of NaN too
        raise ValueError(f"{what} is {value}: expected a whole number of at most 63 bits")
    return int(value)


def _to_json(values: Iterable[float]) -> list[float | str | None]:
    return [float(v) if math.isfinite(v) else None if math.isnan(v) else "Infinity" if v > 0 else "-Infinity" for v in values]


def canonical(outcome: Outcome) -> Outcome:
    """The outcome as it will be read back, so that a search is told the same before and after a restart.

    Whole numbers given for floats become floats, zero loses its sign, text what no database takes, and messages their end if they are long.

    Raises:
        ValueError: if a number is NaN where a record has none, a score is too large, a count has more than 63 bits, or a curve's parts
            differ in length.
    """
    return replace(
        outcome,
        fitness=None if outcome.fitness is None else kept_score(outcome.fitness, "the fitness"),
        interval=_kept_interval(outcome.interval),
        learning_rate=_number(outcome.learning_rate, "the chosen learning rate"),
        weight_decay=_real(outcome.weight_decay, "the chosen weight decay"),
        task_scores=tuple(kept_score(score, "a task's score") for score in outcome.task_scores),
        reason=said(outcome.reason),
        device=said(outcome.device),
        steps=_count(outcome.steps, "the number of steps"),
        seconds=_real(outcome.seconds, "the duration"),
        curves=tuple(map(_canonical_curve, outcome.curves)),
    )


def _canonical_curve(curve: TrainingCurve) -> TrainingCurve:
    loss, train, score = (tuple(map(float, values)) for values in (curve.train_loss, curve.train_score, curve.score))
    if {len(loss), len(train), len(score)} != {len(curve.steps)}:
        raise ValueError(f"a curve of {len(curve.steps)} steps has parts of {len(loss)}, {len(train)} and {len(score)} points")
    return replace(
        curve,
        learning_rate=_real(curve.learning_rate, "a curve's learning rate"),
        weight_decay=_real(curve.weight_decay, "a curve's weight decay"),
        seed=_count(curve.seed, "a curve's seed"),
        steps=tuple(_count(step, "a curve's step") for step in curve.steps),
        train_loss=loss,
        train_score=train,
        score=score,
        reason=said(curve.reason),
        seconds=_real(curve.seconds, "a curve's duration"),
    )


def proposal_row(study: int, proposal: Proposal) -> dict[str, Any]:
    """The row of a proposal; what was rejected before it has rows of its own."""
    row = {field.name: getattr(proposal, field.name) for field in fields(proposal) if field.name != "rejected"}
    return {"study": study} | {name: _text(value) if isinstance(value, str) else value for name, value in row.items()}


def rejection_rows(study: int, proposal: Proposal) -> list[dict[str, Any]]:
    """The rows of what was drawn and refused before a proposal was found."""
    return [
        {"study": study, "before": _text(proposal.id), "position": position, "rule": _text(rule), "reason": said(reason)}
        for position, (rule, reason) in enumerate(proposal.rejected)
    ]


def plain(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Details of an event as a database takes them."""
    return {name: said(value, _DETAIL) if isinstance(value, str) else value for name, value in detail.items()}


def evaluation_row(study: int, entry: Measurement, turn: int, fingerprint: str, finished_at: datetime) -> dict[str, Any]:
    """The row of a measurement, without its curves and proposal.

    Raises:
        ValueError: if a number is NaN, a score is too large or the seed has more than 63 bits.
    """
    job, outcome = entry.job, entry.outcome
    low, high = _kept_interval(outcome.interval) or (None, None)
    _count(job.seed, f"the seed of job {job.id!r}")
    return {
        "study": study,
        "job": job.id,
        "turn": turn,
        "proposal": None if entry.proposal is None else _text(entry.proposal.id),
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
        "reason": said(outcome.reason),
        "fitness": None if outcome.fitness is None else kept_score(outcome.fitness, "the fitness"),
        "interval_low": low,
        "interval_high": high,
        "learning_rate": _number(outcome.learning_rate, "the chosen learning rate"),
        "weight_decay": _number(outcome.weight_decay, "the chosen weight decay"),
        "task_scores": _to_json(kept_score(score, "a task's score") for score in outcome.task_scores),
        "device": said(outcome.device),
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
        "reason": said(curve.reason),
        "seconds": _number(curve.seconds, "a curve's duration"),
        "steps": [int(step) for step in curve.steps],
        "train_loss": _to_json(curve.train_loss),
        "train_score": _to_json(curve.train_score),
        "score": _to_json(curve.score),
    }
