"""What a run has found, read from its folder at any time, and the files that say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optevolve.compile import export
from optevolve.config import RunConfig
from optevolve.config_text import to_toml
from optevolve.contestants import EVALUATE
from optevolve.delivery import delivered
from optevolve.final import Comparison, compare
from optevolve.records import Measurement
from optevolve.reporting import CURVES, write_report
from optevolve.reporting.figures import write_figures
from optevolve.run.early_end import ended
from optevolve.run.folder import read_run
from optevolve.run.store import Study
from optevolve.space import UpdateRule, parse
from optevolve.standing import leaderboard as ranked
from optevolve.standing import ranking
from optevolve.verdict import Verdict, verdicts

__all__ = ["Leader", "Result", "comparisons", "leaderboard", "report", "verdict", "why_ended", "write_results"]


@dataclass(frozen=True)
class Leader:
    """One of the best rules of a run.

    Attributes:
        rank: from 1.
        rule: what it is.
        fitness: the surrogate's number; None unless its measurement completed.
        learning_rate: the peak that the final evaluation tuned, else the one that its trials chose.
        score, interval: mean on the test split and its 95 % interval, if the rule reached the final evaluation of the run's own task.
        seconds: worker time that its measurement took.
        status: how its measurement ended.
        name: the contestant's, "evolved-03"; empty if it has not left the search.
        weight_decay: that goes with the learning rate.
        choice: mean score on the validation split that the ranking goes by; None if it did not reach the final evaluation.
    """

    rank: int
    rule: UpdateRule
    fitness: float | None
    learning_rate: float | None
    score: float | None
    interval: tuple[float, float] | None
    seconds: float
    status: str
    name: str = ""
    weight_decay: float = 0.0
    choice: float | None = None


@dataclass(frozen=True)
class Result:
    """What a run has found.

    Attributes:
        folder: holds config.toml, study.db, report.html and best_optimizer.py.
        found_finished: whether the run had come to its end before, so that nothing was done.
    """

    folder: Path
    found_finished: bool = False

    def best(self, n: int = 10) -> list[Leader]:
        """The best n rules, best first; the first is the one that the run hands over."""
        with read_run(self.folder) as (study, config):
            measurements = study.measurements(with_curves=False, with_origins=False)
        final: dict[str, Comparison] = {}
        for compared in compare(measurements):
            final.setdefault(compared.name, compared)  # the run's own task comes first
        leaders = []
        for row in ranking(measurements, n, config.search.over_tasks):
            end = final.get(row.name)
            score, interval = (end.mean, end.interval) if end else (None, None)
            values = (row.fitness, row.learning_rate, score, interval, row.seconds, row.status)
            rule = replace(parse(row.rule), weight_decay=row.weight_decay)
            leaders.append(Leader(row.rank, rule, *values, name=row.name, weight_decay=row.weight_decay, choice=row.choice))
        return leaders

    def comparisons(self) -> list[Comparison]:
        """The final evaluation: every contestant on every task."""
        return comparisons(self.folder)

    @property
    def verdict(self) -> Verdict:
        """How the rule that the run hands over compares with tuned AdamW and the best of the baselines, on the run's own task."""
        return verdict(self.folder)[0]


def leaderboard(out: str | Path, n: int | None = None) -> list[dict[str, Any]]:
    """Rows of the best rules of a run, also while it is running, with the fields of `optevolve.standing.Standing`.

    Args:
        out: its folder, or the URL of its study.
        n: how many; None for all.
    """
    with read_run(out) as (study, config):
        return ranked(study.measurements(with_curves=False, with_origins=False), n, config.search.over_tasks)


def comparisons(out: str | Path) -> list[Comparison]:
    """The final evaluation of a run as far as it has come, best first within a task."""
    with read_run(out) as (study, _):
        return compare(study.measurements(with_curves=False, with_origins=False))


def verdict(out: str | Path) -> list[Verdict]:
    """One verdict per task of the final evaluation, the run's own first; a single one that says so where there is none yet."""
    with read_run(out) as (study, _):
        return verdicts(compare(study.measurements(with_curves=False, with_origins=False)), study.finished)


def why_ended(out: str | Path) -> str:
    """Why a run ended before its end; empty if it did not."""
    with read_run(out) as (study, _):
        return ended(study)


def floors_noted(study: Study) -> str:
    """What early stopping asked of the rules of the search, as it was said when the run began; empty before, and in runs of old."""
    return next((str(event.detail["said"]) for event in study.events() if event.kind == "floors"), "")


def report(out: str | Path, *, figures: str | Path | None = None) -> Path:
    """Writes report.html of a run anew, also while it is running.

    Args:
        out: the run's folder.
        figures: a folder to write the main figures into, as SVG files of their own; None for the page alone.
    Returns:
        The page's path.
    """
    folder = Path(out)
    with read_run(folder) as (study, config):
        measurements = _drawn(study, config)
        if figures is not None:
            write_figures(figures, config=config, measurements=measurements, comparisons=compare(measurements))
        return _write_report(folder, study, config, measurements)


def write_results(folder: Path, study: Study, config: RunConfig) -> None:
    """Report and best optimizer as they stand: also of a run that was interrupted."""
    measurements = _drawn(study, config)
    _write_report(folder, study, config, measurements)
    best = delivered(measurements, config, study.finished)
    if best is None:
        return
    place = best.standing
    export(
        parse(place.rule),
        folder / "best_optimizer.py",
        name="BestOptimizer",
        provenance=best.provenance,
        notes=best.notes,
        scores=best.scores,
        learning_rate=place.learning_rate,
        weight_decay=place.weight_decay,
    )


def _drawn(study: Study, config: RunConfig) -> list[Measurement]:
    """All measurements, with the curves that a report draws: those of the final evaluation, before it those of the leaders."""
    found = study.measurements(with_curves=lambda stage: stage == EVALUATE)
    if any(m.outcome.curves for m in found):
        return found
    leaders = {row.id for row in ranking(found, CURVES, config.search.over_tasks)}
    return [(study.measurement(m.job.id) or m) if m.job.id in leaders else m for m in found]


def _write_report(folder: Path, study: Study, config: RunConfig, measurements: Sequence[Measurement]) -> Path:
    write_report(
        folder / "report.html",
        title=f"optevolve: {config.task}",
        config=config,
        measurements=measurements,
        comparisons=compare(measurements),
        finished=study.finished,
        config_text=to_toml(config),
        notes=[why] if (why := ended(study)) else [],
        floors=floors_noted(study),
    )
    return folder / "report.html"
