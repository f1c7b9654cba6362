"""What a run hands over at a place of its ranking: the rule, tuned, and what can be said of it. The same for every door it leaves by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optevolve import __version__
from optevolve.config import RunConfig
from optevolve.final import Comparison, compare
from optevolve.library.known import said_of
from optevolve.number_text import interval, number
from optevolve.records import Measurement
from optevolve.space import parse
from optevolve.standing import Standing, ranking
from optevolve.verdict import verdicts

__all__ = ["Delivery", "delivered"]


@dataclass(frozen=True)
class Delivery:
    """A rule of a run, ready to be shown or exported.

    Attributes:
        standing: its place in the ranking.
        provenance: where it comes from and how it was chosen, in a sentence.
        scores: mean on the test split by task, or its fitness where there is none.
        notes: sentences on how it compares with the baselines, or that nothing was compared, and on numbers at the end of what was tried.
    """

    standing: Standing
    provenance: str
    scores: dict[str, float]
    notes: tuple[str, ...]


def delivered(measurements: Sequence[Measurement], config: RunConfig, finished: bool, rank: int = 1) -> Delivery | None:
    """The rule at a place, from 1, among those with a fitness; None where there are not so many.

    Args:
        measurements: of the run's study.
        config: of the run.
        finished: whether the run has come to its end.
        rank: which place.
    """
    ranked = [row for row in ranking(measurements, over_tasks=config.search.over_tasks) if row.fitness is not None]
    if rank > len(ranked):
        return None
    found, compared = ranked[rank - 1], compare(measurements)
    own = [row for row in compared if row.name == found.name and row.role in ("chosen", "survivor")]
    scores = {f"{row.task}, test split": row.mean for row in own if row.mean is not None}
    if not scores:
        values = (("choice", found.choice), ("measured again", found.remeasured), (f"fitness in stage {found.stage}", found.fitness))
        what, value = next((what, value) for what, value in values if value is not None)
        scores = {f"{config.task}, {'validation score' if what == 'choice' else what}": value}
    name = found.name or found.id
    place = f"{name}, found by optevolve {__version__} on task {config.task} with seed {config.seed}"
    known = said_of(parse(found.rule))
    provenance = f"{place}: {_how(found, ranked)}." + (f" {known}." if known else "")
    return Delivery(found, provenance, scores, (*_notes(found, ranked[0], compared, finished), *_ends(found)))


def _how(found: Standing, ranked: Sequence[Standing]) -> str:
    rivals = sum(row.ranked_by == "choice" for row in ranked)
    if found.ranked_by == "choice":
        among = "the only survivor" if rivals == 1 else "the best" if found.rank == 1 else f"place {found.rank}"
        of = "" if rivals == 1 else f" of {rivals} survivors"
        by = f"under {found.choice_seeds} fresh seed{'s' * (found.choice_seeds != 1)}" if found.choice_seeds else "of its tuning"
        lost = f", of which {found.choice_lost} were lost and count as the worst" if found.choice_lost else ""
        before = ", before the test split was opened" if found.choice_seeds else ""
        return f"{among}{of} by mean validation score {by}{lost}{before}"
    if found.ranked_by == "elimination":
        return f"place {found.rank} of its elimination, by fitness measured again under fresh seeds"
    return f"place {found.rank} of its search, by a fitness that was not measured again yet"


def _notes(found: Standing, first: Standing, compared: Sequence[Comparison], finished: bool) -> tuple[str, ...]:
    if found.rule == first.rule:
        return tuple(f"Verdict: {verdict}" for verdict in verdicts(compared, finished))
    notes = [f"This is not the rule that the run hands over, which is {first.name or first.id}."]
    for row in compared:
        if row.name == found.name and row.difference is not None:
            spread = f" (95 % interval {interval(row.difference_interval, 3)})" if row.difference_interval else ""
            notes.append(f"On {row.task}, test split, its difference to tuned {row.reference} is {number(row.difference, 3)}{spread}.")
    return tuple(notes)


def _ends(found: Standing) -> tuple[str, ...]:
    """Of the tuned numbers, which lie at the end of those that were tried."""
    notes = []
    if found.edge:
        notes.append(f"Its learning rate, {found.learning_rate:g}, is at the end of those that were tried: others may be better.")
    if found.decay_edge:
        notes.append(f"Its weight decay, {found.weight_decay:g}, is the largest that was tried: more may be better.")
    return tuple(notes)
