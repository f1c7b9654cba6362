"""How the rule that a run hands over compares with tuned AdamW and with the best of the baselines: one record, one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optevolve.final import REFERENCE, Comparison, best_baseline, lost_text
from optevolve.number_text import interval, number, p_text

__all__ = ["Against", "Verdict", "verdicts"]

_NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}


@dataclass(frozen=True)
class Against:
    """The rule against one baseline on test data.

    Attributes:
        name: of the baseline.
        outcome: "better", "equal" (no clear difference), "worse", or "unknown" (there is no test).
        mean: score of the baseline.
        difference: of the rule to it, paired by seed; positive if the rule is better. None where one of them has no score.
        interval: 95 % interval of the difference.
        p_value, p_corrected: of the two-sided paired t-test, as it is and corrected for the rule's number of tests (Holm). "better" and
            "worse" are said where the corrected one is below 0.05.
        seeds: paired seeds.
    """

    name: str
    outcome: str
    mean: float | None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    p_corrected: float | None = None
    seeds: int = 0

    def __str__(self) -> str:
        """The numbers."""
        if self.difference is None:
            return "no score to compare with"
        spread = f", 95 % interval {interval(self.interval, 3)}" if self.interval else ""
        test = f", corrected {p_text(self.p_corrected, 'p')}" if self.p_corrected is not None else ", no test"
        return f"difference {number(self.difference, 3)}{spread}{test}, {self.seeds} paired seed{'s' * (self.seeds != 1)}"


@dataclass(frozen=True)
class Verdict:
    """What a run can stand for, on one task. `str()` says it in a sentence or two.

    Attributes:
        outcome: "better", "equal", "worse" or "unknown": the rule against the best of the baselines, which were tuned alike.
        name, rule: of the rule that the run hands over, chosen before the test split was opened; empty if there is none.
        task: spec of the task, empty before any final evaluation.
        metric: what is compared; higher is better.
        mean: the rule's.
        lost: of its seeds, how many diverged or broke, such as "2 of 5 diverged"; each counts as the worst score.
        best: against the best of the baselines, chosen on validation data as the rule was; None if there is none.
        reference: against tuned AdamW; None if it is not among the baselines.
        reason: why the outcome is unknown; empty if it is known.
    """

    outcome: str
    name: str = ""
    rule: str = ""
    task: str = ""
    metric: str = "score on the test split"
    mean: float | None = None
    lost: str = ""
    best: Against | None = None
    reference: Against | None = None
    reason: str = ""

    @property
    def than(self) -> str:
        """Name of the best of the baselines; empty if there is none."""
        return self.best.name if self.best else ""

    @property
    def difference(self) -> float | None:
        """To the best of the baselines; None without one."""
        return self.best.difference if self.best else None

    @property
    def headline(self) -> str:
        """The outcome in a few words."""
        return {
            "better": "Better than the best of the baselines",
            "equal": "Not better than the best of the baselines: no clear difference",
            "worse": "Not better than the best of the baselines: worse",
            "unknown": "No verdict",
        }[self.outcome]

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, with the sentence as "text"."""
        return {**asdict(self), "than": self.than, "difference": self.difference, "text": str(self)}

    def __str__(self) -> str:
        """The verdict in words."""
        if self.best is None:
            return self.reason
        both = self.reference is not None and self.reference.name == self.best.name
        whom = f"tuned {_named(self.best.name)}, the best of the baselines" if both else f"the best of the baselines, {_named(self.than)}"
        said = {
            "better": f"{self.name} beats {whom}",
            "worse": f"{self.name} does not beat {whom}: it is worse",
            "equal": f"{self.name} does not beat {whom}: there is no clear difference",
            "unknown": f"Whether {self.name} beats {whom}, is not known",
        }[self.outcome]
        text = f"{said} on {self.task} ({_scores(self.mean, self.best)})"
        if self.reference is None:
            text += ". AdamW is not among the baselines, so nothing is said against it"
        elif not both:
            text += f"; {_beside(self.reference)} ({_scores(self.mean, self.reference)})"
        if self.reason:
            text += f". {self.reason}"
        if self.lost:
            text += f". Of its seeds, {self.lost} and count as the worst score"
        return text + ("" if text.endswith(".") else ".")


def verdicts(comparisons: Sequence[Comparison], finished: bool = True) -> list[Verdict]:
    """One per task, the run's own first; a single one that says why there is none where no rule was chosen.

    Args:
        comparisons: of a run, as `optevolve.final.compare` gives them.
        finished: whether more measurements may come.
    """
    chosen = [row for row in comparisons if row.role == "chosen"]
    if not chosen:
        if not finished:
            reason = "No verdict yet: the final evaluation beside tuned baselines has not chosen a rule so far."
        elif comparisons:
            reason = "No verdict: no evolved rule finished its tuning in the final evaluation."
        else:
            reason = "No verdict: the run has no final evaluation."
        return [Verdict("unknown", reason=reason)]
    order = list(dict.fromkeys(row.task for row in comparisons))
    chosen.sort(key=lambda row: order.index(row.task))
    return [_verdict(row, [other for other in comparisons if other.task == row.task], finished) for row in chosen]


def _verdict(row: Comparison, rows: Sequence[Comparison], finished: bool) -> Verdict:
    known = {other.name: other for other in rows}
    reference = _against(known[REFERENCE], row) if REFERENCE in known else None
    leader = best_baseline({o.name: o.validation for o in rows if o.role == "baseline" and o.validation is not None})
    best = None if not leader else reference if leader == REFERENCE else _against(known[leader], row)
    reason = ""
    if row.mean is None:
        reason = f"No verdict: {row.name} has no score on {row.task}" + (f" ({row.reason})." if row.reason else ".")
    elif best is None:
        reason = f"No verdict: {row.name} scored {number(row.mean)} on {row.task}, and no baseline has a score to compare it with."
    elif best.outcome == "unknown":
        reason = "A test takes at least two paired seeds whose differences are not all equal."
    if reason and not finished:
        reason += " The run is not finished."
    usable = best if row.mean is not None else None
    return Verdict(
        outcome=usable.outcome if usable else "unknown",
        name=row.name,
        rule=row.rule,
        task=row.task,
        mean=row.mean,
        lost=lost_text(row),
        best=usable,
        reference=reference,
        reason=reason,
    )


def _against(baseline: Comparison, row: Comparison) -> Against:
    if row.reference == baseline.name and row.difference is not None:
        seeds = len(set(row.seeds) & set(baseline.seeds))
        paired = (row.difference, row.difference_interval, row.p_value, row.p_corrected, seeds)
    elif row.best is not None and row.best.name == baseline.name:
        paired = (row.best.difference, row.best.interval, row.best.p_value, row.best.p_corrected, row.best.seeds)
    else:
        return Against(baseline.name, "unknown", baseline.mean)
    difference, _, _, corrected, seeds = paired
    outcome = "equal"
    if corrected is None:
        outcome = "equal" if difference == 0 and seeds > 1 else "unknown"
    elif corrected < 0.05:
        outcome = "better" if difference > 0 else "worse"
    return Against(baseline.name, outcome, baseline.mean, *paired)


def _beside(against: Against) -> str:
    name = _named(against.name)
    return {
        "better": f"it beats tuned {name}",
        "worse": f"it is worse than tuned {name}",
        "equal": f"there is no clear difference to tuned {name}",
        "unknown": f"how it compares with tuned {name}, is not known",
    }[against.outcome]


def _scores(mean: float | None, against: Against) -> str:
    return f"{number(mean)} against {number(against.mean)}, {against}"


def _named(name: str) -> str:
    return _NAMES.get(name, name)
