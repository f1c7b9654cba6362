"""The rule that a user means: a name of the zoo, a text in the native or the paper's notation, or a place of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optevolve import __version__
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
        rule: the rule.
        facts: what to show beside it, by name.
        provenance: where it comes from; empty if it was typed by hand.
        scores: what it reached, by stage.
        learning_rate: a good peak; None if not known.
        weight_decay: that goes with it.
    """

    rule: UpdateRule
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None
    weight_decay: float = 0.0


def find(text: str, rank: int) -> Subject:
    """The rule that the user means.

    Raises:
        ParseError: if it is neither a rule, a name, nor a folder.
        StudyError: if the folder holds no run, or too few rules.
    """
    from optevolve.library import ZOO, rule_or_name

    if Path(text).is_dir():
        return _in_folder(Path(text), rank)
    name = text.strip().lower()
    if name in ZOO:
        entry = ZOO[name]
        facts = {"name": entry.name, "summary": entry.summary, "source": entry.source, "learning_rate": entry.learning_rate}
        if entry.measured is not None and entry.measured.edge:
            facts["learning rates"] = "the best on some task reach the end of the grid that was tried"
        known = {key: value for key, value in facts.items() if value is not None}
        return Subject(entry.rule, known, f"{entry.summary}; {entry.source}", learning_rate=entry.learning_rate)
    return Subject(rule_or_name(text))


def _in_folder(folder: Path, rank: int) -> Subject:
    from optevolve import pipeline
    from optevolve.space import parse

    ranked = [row for row in pipeline.leaderboard(folder) if row["fitness"] is not None]
    why = pipeline.why_ended(folder)
    if why and rank > len(ranked):
        raise RunEndedError(why)
    if why:
        notice(why)
    if rank > len(ranked):
        raise StudyError(
            f"Expected at least {rank} measured rules in {folder}, found {len(ranked)}. See 'optevolve top {folder}', or let the run go on."
        )
    row = ranked[rank - 1]
    place: dict[str, Any] = {name: row[name] for name in ("rank", "fitness", "learning_rate", "stage", "id") if name in row}
    provenance = f"found by optevolve {__version__} in run {folder.resolve().name}, place {rank} of its search ({row['id']})"
    scores = {f"fitness in stage {row['stage']}": row["fitness"]}
    return Subject(parse(row["rule"]), place, provenance, scores, row["learning_rate"], row["weight_decay"])
