"""Who is measured after the search: survivors and baselines by name, and the ids of their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from optevolve.records import Measurement

__all__ = ["CHOOSE", "EVALUATE", "FINAL", "REFERENCE_STAGE", "TUNE", "UNTRAINED", "Contestant", "Place"]
__all__ += ["check_names", "evolved_name", "is_evolved", "job_id", "place_of"]

# Stages of the final evaluation, in order; the last one measures what a lost run counts as.
TUNE, CHOOSE, EVALUATE, UNTRAINED = "tune", "choose", "evaluate", "untrained"
FINAL = (TUNE, CHOOSE, EVALUATE, UNTRAINED)
REFERENCE_STAGE = "reference"  # AdamW, measured as the evolution's rules are
_EVOLVED = "evolved-"


@dataclass(frozen=True)
class Contestant:
    """A rule under a name: a survivor, or a baseline.

    Attributes:
        name: unique among those it meets, without "/".
        rule: the update rule in native notation.
        weight_decay: that it takes where a protocol tunes none, as AdamW's 0.01.
    """

    name: str
    rule: str
    weight_decay: float = 0.0


class Place(NamedTuple):
    """Whose job it is, and under which of several seeds, counted from 0."""

    name: str
    replicate: int = 0


def evolved_name(place: int, of: int) -> str:
    """The name of the rule that entered the elimination at a place, from 1, among so many."""
    return f"{_EVOLVED}{place:0{max(2, len(str(of)))}}"


def is_evolved(name: str) -> bool:
    """Whether a contestant of a run was found by its search; no rule of the zoo is called like these."""
    return name.startswith(_EVOLVED)


def job_id(stage: str, name: str, task: str = "", replicate: int | None = None) -> str:
    """The id of a contestant's job: "tune/digits/adam", "eliminate/2/evolved-07/seed-1"."""
    parts = [stage, *([task] if task else []), name, *([] if replicate is None else [f"seed-{replicate}"])]
    return "/".join(parts)


def place_of(measurement: Measurement) -> Place:
    """What `job_id` was given, from a measurement of an elimination or of the final evaluation."""
    prefix = measurement.stage + ("/" if measurement.stage.startswith("eliminate/") else f"/{measurement.job.task}/")
    name, _, replicate = measurement.job.id.removeprefix(prefix).partition("/seed-")
    return Place(name, int(replicate) if replicate.isdecimal() else 0)


def check_names(contestants: Sequence[Contestant]) -> None:
    """Raises a ValueError if names repeat, are empty or contain "/", which parts job ids."""
    names = [contestant.name for contestant in contestants]
    wrong = [name for name in names if not name or "/" in name or names.count(name) > 1]
    if wrong:
        raise ValueError(f"names of contestants must be unique, not empty and without '/': {', '.join(map(repr, dict.fromkeys(wrong)))}")
