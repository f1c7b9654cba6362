"""What came out of a run, in words: said the same way whoever won."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from optevolve.config import RunConfig
from optevolve.errors import ParseError
from optevolve.library.known import headline
from optevolve.records import Measurement
from optevolve.reporting.tables import by_task, is_search, leaderboard, stage_costs
from optevolve.space import parse

if TYPE_CHECKING:
    from optevolve.evaluation import Comparison

__all__ = ["REFERENCE", "Verdict", "duration", "interval", "number", "opening", "p_text", "rule_text", "verdicts"]

REFERENCE = "adam"  # the baseline that evolved rules are tested against


def number(value: float | None, digits: int = 4) -> str:
    """A number for people: `digits` significant digits, a dash where there is none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}g}".replace("-", "−")


def interval(pair: tuple[float, float] | None, digits: int = 4) -> str:
    """Two ends of an interval with as many decimals each as give the larger one `digits` significant digits."""
    if pair is None:
        return "–"
    largest = max(map(abs, pair))
    if not math.isfinite(largest) or not 1e-4 <= largest < 1e6:
        return f"{number(pair[0], digits)} to {number(pair[1], digits)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(largest)))
    return " to ".join(f"{end:.{decimals}f}".replace("-", "−") for end in pair)


@lru_cache(maxsize=1024)
def rule_text(text: str) -> str:
    """A rule in its shortest form, with the name that it is known by; what this version cannot read, as it stands."""
    try:
        return headline(parse(text))
    except ParseError:
        return text


def p_text(p: float | None, name: str = "") -> str:
    """A p-value as it is commonly printed, after `name` and the fitting sign if one is given."""
    if p is None or math.isnan(p):
        return "–"
    if p < 0.001:
        return f"{name} < 0.001".strip()
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"{name} = {text}" if name else text


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


@dataclass(frozen=True)
class Verdict:
    """What the final evaluation says of one task.

    Attributes:
        task: the task's spec.
        outcome: "better", "worse", "undecided" or "missing".
        headline: the result in a few words.
        text: the result in full: scores, difference, interval and p-value.
        rule: the best evolved rule on this task, empty if there is none.
    """

    task: str
    outcome: str
    headline: str
    text: str
    rule: str = ""


def _score(row: Comparison) -> str:
    spread = f" (95 % interval {interval(row.interval)})" if row.interval is not None else ""
    return f"{number(row.mean)}{spread}"


def _scored(rows: Sequence[Comparison]) -> list[Comparison]:
    return [row for row in rows if row.mean is not None and math.isfinite(row.mean)]


def _verdict(task: str, rows: Sequence[Comparison], baselines: Sequence[str]) -> Verdict:
    evolved = _scored([row for row in rows if row.name not in baselines])
    reference = next(iter(_scored([row for row in rows if row.name == REFERENCE])), None)
    if not evolved:
        return Verdict(task, "missing", "No evolved rule has a score", "No evolved rule finished its final runs on this task.")
    best = evolved[0]
    if reference is None:
        text = f"The best evolved rule, {best.name}, scored {_score(best)}. Adam has no score on this task to compare it with."
        return Verdict(task, "missing", "Adam has no score", text, best.rule)
    paired = len(set(best.seeds) & set(reference.seeds))
    over = f"over {paired} paired seed{'s' * (paired != 1)}"
    said = [f"The best evolved rule, {best.name}, scored {_score(best)} {over}; tuned Adam scored {_score(reference)}.", _difference(best)]
    difference, p = best.difference, best.p_value
    if p is None or math.isnan(p) or difference is None:
        outcome, headline = "undecided", "No test of the best evolved rule against tuned Adam"
        said.append("A test takes at least two paired seeds whose differences are not all equal.")
    else:
        # The best of several is a choice made on the test split, so a gain is held to the corrected p; a loss needs no such care.
        corrected = min(1.0, p * len(evolved))
        if len(evolved) > 1:
            said.append(
                f"It is the best of {len(evolved)} evolved rules on this same test split; corrected for that choice (Bonferroni), "
                f"{p_text(corrected, 'p')}."
            )
        if corrected < 0.05 and difference > 0:
            outcome, headline = "better", "The best evolved rule beats tuned Adam"
        elif p < 0.05 and difference < 0:
            outcome, headline = "worse", "Tuned Adam beats the best evolved rule"
        else:
            outcome, headline = "undecided", "No significant difference between the best evolved rule and tuned Adam"
    said.append(_winner(rows, baselines))
    return Verdict(task, outcome, headline, " ".join(filter(None, said)), best.rule)


def _difference(row: Comparison) -> str:
    if row.difference is None:
        return ""
    spread = row.difference_interval
    between = f" (95 % interval {interval(spread, 3)})" if spread is not None else ""
    test = f", {p_text(row.p_value, 'p')}" if row.p_value is not None and not math.isnan(row.p_value) else ""
    return f"The difference is {number(row.difference, 3)}{between}{test}."


def _winner(rows: Sequence[Comparison], baselines: Sequence[str]) -> str:
    """Who was best of all, or which baseline came closest, where that is not Adam."""
    winner = _scored(rows)[0]
    if winner.name == REFERENCE:
        return "Adam has the highest mean of all."
    if winner.name in baselines:
        return f"The highest mean of all is a baseline's: {winner.name} with {_score(winner)}."
    rival = next(iter(_scored([row for row in rows if row.name in baselines])), None)
    return f"The best baseline is {rival.name} with {_score(rival)}." if rival is not None and rival.name != REFERENCE else ""


def verdicts(comparisons: Sequence[Comparison], baselines: Sequence[str]) -> list[Verdict]:
    """One verdict per task of the final evaluation; empty where there was none."""
    return [_verdict(task, rows, baselines) for task, rows in by_task(comparisons).items()]


def opening(config: RunConfig, measurements: Sequence[Measurement], finished: bool) -> str:
    """The run in two or three sentences: what was searched, with what budget, and what the search itself found."""
    costs = stage_costs(measurements)
    search = [m for m in measurements if is_search(m)]
    what = f"This run searched for update rules that train {config.task} ({config.search.algorithm} search, seed {config.seed}). "
    if not costs:
        return what + "Nothing has been measured yet."
    total = costs[-1]
    refused = sum(len(p.rejected) for p in {m.proposal.id: m.proposal for m in search if m.proposal is not None}.values())
    own = sum(not m.same_as for m in search)
    what += f"It measured {own:,} candidates" + (f" and refused {refused:,} before any training" if refused else "")
    what += f"; all stages together took {total.steps:,} training steps and {duration(total.seconds)} of worker time. "
    best = next((row for row in leaderboard(search, 1) if row["fitness"] is not None), None)
    if best is None:
        what += "No candidate has completed the surrogate training yet. "
    else:
        what += f"The best fitness of the search on validation data was {number(best['fitness'])}. "
        leader = leaderboard(measurements, 1, config.search.over_tasks)[0]
        if leader["remeasured"] is not None:
            what += f"Measured again under fresh seeds, the leader has {number(leader['remeasured'])}. "
    if not finished:
        what += "The run is not finished: everything below is as far as it has come."
    return what.strip()
