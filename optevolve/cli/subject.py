"""The rule that a user means: a name of the zoo, a text in the native or the paper's notation, or a place of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optevolve.cli.terminal import notice
from optevolve.errors import RunEndedError, StudyError

if TYPE_CHECKING:
    from optevolve.space import UpdateRule

__all__ = ["RULE_HELP", "Rank", "Subject", "find"]

RULE_HELP = (
    "A name of 'optevolve zoo', a rule such as 'v_hat / sqrt(s_hat)' (or in the paper's notation: 'Nest ~ bessel_i1e(g)'), "
    "or the folder of a run."
)
Rank = Annotated[int, typer.Option("--rank", min=1, help="For the folder of a run: which place of 'optevolve top'.")]


@dataclass(frozen=True)
class Subject:
    """A rule that the user has named, and what is known about it.

    Attributes:
        rule: the rule, with the weight decay that goes with it.
        facts: what to show beside it, by name.
        provenance: where it comes from; empty if it was typed by hand.
        scores: what it reached, by stage.
        learning_rate: a good peak; None if not known.
        notes: sentences on how it compares with others.
    """

    rule: UpdateRule
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    notes: tuple[str, ...] = ()


def find(text: str, rank: int) -> Subject:
    """The rule that the user means.

    Raises:
        ParseError: if it is neither a rule, a name, nor a folder.
        StudyError: if the folder holds no run, or too few rules.
    """
    from optevolve.library import entry_of, rule_of
    from optevolve.library.known import said_of

    if Path(text).is_dir():
        return _in_folder(Path(text), rank)
    entry = entry_of(text)
    if entry is not None:
        facts = {"name": entry.name, "summary": entry.summary, "source": entry.source, "learning_rate": entry.learning_rate}
        if entry.measured is not None and entry.measured.edge:
            facts["learning rates"] = "the best on some task reach the end of the grid that was tried"
        known = {key: value for key, value in facts.items() if value is not None}
        return Subject(entry.rule, known, entry.provenance, learning_rate=entry.learning_rate)
    rule = rule_of(text)
    return Subject(rule, provenance=said_of(rule))


def _in_folder(folder: Path, rank: int) -> Subject:
    from optevolve.delivery import delivered
    from optevolve.run.early_end import ended
    from optevolve.run.folder import read_run
    from optevolve.space import parse

    with read_run(folder) as (study, config):
        found = delivered(study.measurements(with_curves=False, with_origins=False), config, study.finished, rank)
        why = ended(study)
    if why and found is None:
        raise RunEndedError(why)
    if why:
        notice(why)
    if found is None:
        raise StudyError(
            f"Expected at least {rank} measured rules in {folder}, found fewer. See 'optevolve top {folder}', or let the run go on."
        )
    row = found.standing
    known = {"name": row.name or None, "validation": row.choice, "measured again": row.remeasured}
    place = {"rank": row.rank, **{name: value for name, value in known.items() if value is not None}, "fitness": row.fitness}
    place |= {"learning_rate": row.learning_rate, "stage": row.stage, "id": row.id, "provenance": found.provenance}
    place |= {f"note {number}" if number > 1 else "note": note for number, note in enumerate(found.notes, start=1)}
    rule = replace(parse(row.rule), weight_decay=row.weight_decay)
    return Subject(rule, place, found.provenance, found.scores, row.learning_rate, found.notes)
