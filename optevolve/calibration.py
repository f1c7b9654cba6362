"""The yardstick of a protocol: rules of a search log measured anew, and how well their ranks agree with the log's accuracies.

Two things bound the agreement: the noise of our measurement, seen between seeds, and that of the log, seen between rows of the same rule.
Their geometric mean is the noise ceiling: the correlation that two measurements of this quality would reach if they agreed in everything
but noise.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from optevolve import surrogate
from optevolve.config import PROTOCOLS, REPEATS, Protocol, RunConfig, Stage
from optevolve.config_text import apply_settings, from_toml, on_device, to_toml
from optevolve.eliminate import seed_for
from optevolve.errors import ConfigError, DataError, ParseError, StudyError
from optevolve.integrity import check_integrity
from optevolve.records import Job, Outcome, Proposal, Status
from optevolve.reporting.calibration import write_plot
from optevolve.run.definitions import definitions_of
from optevolve.run.driver import drive
from optevolve.run.local import LocalRunner
from optevolve.run.session import available_cores, require_device, require_number
from optevolve.run.store import Study
from optevolve.run.trial import check_tasks
from optevolve.space import UpdateRule
from optevolve.space.paper_notation import parse_paper
from optevolve.statistics import rank_correlation
from optevolve.tasks import AnyTask, spec_for, spec_of

__all__ = ["Agreement", "Reference", "agreement", "calibrate", "choose", "read_log", "told_apart"]

SPREADS = ("accuracy", "rank")
COLUMNS = ("phase", "status", "acc", "expr")
_STREAM = 81  # of the seed
_RESAMPLES = 2000


@dataclass(frozen=True)
class Reference:
    """A row of a search log: its line in the file (from 1, the header), the rule and its accuracy."""

    line: int
    rule: UpdateRule
    accuracy: float


@dataclass(frozen=True)
class Agreement:
    """How well a protocol ranks what the log ranks.

    Attributes:
        correlation: Spearman's, between the log's accuracies and our mean fitness; a rule that did not complete ranks last.
        interval: its 95 % bootstrap interval over rules (percentiles).
        own_reliability: rank correlation of our measurement with itself under other seeds, for the mean over the seeds taken
            (Spearman-Brown); None with one seed.
        log_reliability: 1 - noise variance / variance of the accuracies taken, the noise from rows of the log with the same rule; None
            where no rule stands there twice.
        ceiling: geometric mean of the two; None if either is missing.
        rules, completed: rules measured, and of these completed under every seed.
        steps, seconds: training steps and worker time spent.
        told_apart: share of the pairs of measurements of one rule whose 95 % intervals do not overlap: what a search that compares by
            intervals would take for a difference, and is none. Intervals of single runs are over examples and leave out what a seed
            changes, so this says whether they are wide enough all the same. None where no rule has two measurements with an interval.
    """

    correlation: float
    interval: tuple[float, float]
    own_reliability: float | None
    log_reliability: float | None
    ceiling: float | None
    rules: int
    completed: int
    steps: int
    seconds: float
    told_apart: float | None = None


def read_log(path: Path, phases: Sequence[str] = ("particle", "mutation")) -> list[Reference]:
    """Rows that have an accuracy and a rule that reads and passes the integrity check, with the sign that passes.

    Args:
        path: CSV with at least the columns phase, status, acc and expr, rules in the authors' notation.
        phases: which phases to take; the initial population of the authors was measured on another model.
    Raises:
        DataError: if the file is no such log or has no such row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                found = ", ".join(reader.fieldnames or ()) or "nothing"
                raise DataError(f"{path} has no column {missing[0]!r}: expected {', '.join(COLUMNS)}, found {found}. Give a search log.")
            rows = [
                (line, row) for line, row in enumerate(reader, start=2) if row["phase"] in phases and row["status"] == "ok" and row["acc"]
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The log {path} cannot be read: {error}. Expected a CSV file with columns {', '.join(COLUMNS)}.") from error
    references = []
    for line, row in rows:
        try:
            references.append(Reference(line, parse_paper(row["expr"]), float(row["acc"])))
        except (ParseError, ValueError) as error:
            raise DataError(f"{path}, line {line}: {error}") from error
    if not references:
        raise DataError(f"{path} has no row with status ok and an accuracy in the phases {', '.join(phases)}. Name other phases.")
    return references


def choose(references: Sequence[Reference], number: int, spread: str = "accuracy") -> list[Reference]:
    """Rules spread evenly, best to worst: of each wanted accuracy the nearest that is left, every rule once.

    Rules that fail the integrity check under both signs are passed over: a search would not have measured them.

    Args:
        references: the log.
        number: how many.
        spread: "accuracy": evenly over the range of accuracies, in which the few rules that failed make up most; "rank": evenly over the
            ranks, so that most are of the ordinary rules that a search has to tell apart.
    """
    left = list({str(reference.rule): reference for reference in reversed(references)}.values())
    accuracies = [reference.accuracy for reference in left]
    wishes = np.linspace(max(accuracies), min(accuracies), number)
    if spread == "rank":
        wishes = np.quantile(accuracies, np.linspace(1, 0, number))
    chosen: list[Reference] = []
    for wanted in wishes:
        left.sort(key=lambda reference: (abs(reference.accuracy - wanted), reference.line))
        while left:
            candidate = left.pop(0)
            verdict = check_integrity(candidate.rule)
            if verdict.ok:
                rule = UpdateRule(candidate.rule.expression, candidate.rule.kind, verdict.sign)
                chosen.append(Reference(candidate.line, rule, candidate.accuracy))
                break
    return sorted(chosen, key=lambda reference: reference.line)


class _Source:
    """Every rule under every seed; seed k is the same for all rules."""

    def __init__(self, references: Sequence[Reference], task: str, protocol: Protocol, repeats: int, seed: int) -> None:
        seeds = [seed_for(seed, _STREAM, number) for number in range(repeats)]
        self.jobs = [
            Job(f"calibrate/{reference.line}/seed-{number}", str(reference.rule), task, protocol, own)
            for number, own in enumerate(seeds)
            for reference in references
        ]
        self.next = self.told = 0
        self.outcomes: dict[str, Outcome] = {}

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        if self.next == len(self.jobs):
            return None
        self.next += 1
        return "calibrate", self.jobs[self.next - 1], None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.outcomes[job_id] = outcome

    @property
    def done(self) -> bool:
        return len(self.outcomes) == len(self.jobs)


def calibrate(
    reference: str | Path,
    out: str | Path,
    *,
    task: AnyTask = "cifar10-convnet@width=8",
    protocol: str = "fast",
    settings: Sequence[str] = (),
    rules: int = 40,
    spread: str = "accuracy",
    repeats: int = 2,
    seed: int = 0,
    phases: Sequence[str] = ("particle", "mutation"),
    data: str | Path | None = None,
    workers: int | None = None,
    device: str | None = None,
    on_event: Any = None,
) -> Agreement:
    """Measures rules of a log and writes study.db, calibration.json and calibration.png into a folder; goes on where it stopped.

    Args:
        reference: the log, see `read_log`.
        out: the folder.
        task: where the rules are measured: a name, a class or an instance.
        protocol: "paper" or "fast".
        settings: changes to it, "full_steps=300".
        rules: how many, at least 3.
        spread: over what they are spread: "accuracy" or "rank", see `choose`.
        repeats: seeds per rule, from 1 to 10,000; from 2 on our noise is known.
        seed: of everything random.
        phases: see `read_log`.
        data: folder of data sets.
        workers: processes; None for one per core.
        device: where to train: "auto", "cpu", "cuda" or "mps"; None for "cpu".
        on_event: told what the driver does.
    Raises:
        OptevolveError: for anything that the caller can mend.
    """
    if protocol not in PROTOCOLS or rules < 3 or not 1 <= repeats <= REPEATS:
        raise ConfigError(
            f"Expected protocol paper or fast, at least 3 rules and 1 to {REPEATS:,} seeds, got {protocol!r}, {rules} and {repeats}."
        )
    if spread not in SPREADS:
        raise ConfigError(f"Expected rules spread over {' or '.join(SPREADS)}, got {spread!r}.")
    spec = spec_of(spec_for(task))
    config = RunConfig(task=spec, seed=seed, evolution=Stage({}, PROTOCOLS[protocol]))
    config = on_device(apply_settings(config, [f"evolution.protocol.{setting}" for setting in settings]), device)
    require_device(config)
    require_number(workers)
    if data is not None:
        os.environ["OPTEVOLVE_DATA"] = str(Path(data).resolve())
    references = read_log(Path(reference), phases)
    chosen = choose(references, rules, spread)
    if len(chosen) < 3:
        raise DataError(f"{reference} has {len(chosen)} rules that pass the integrity check; at least 3 are needed.")
    check_tasks([spec])
    definitions = definitions_of([spec])
    folder = Path(out)
    place, text = folder / "study.db", to_toml(config)
    source = _Source(chosen, spec, config.evolution.protocol, repeats, seed)
    with Study.open(place) if place.exists() else Study.create(place, text) as study:
        if not study.jobs():
            study.restart(text)
        if replace(from_toml(study.config_text), compute=config.compute) != config:  # not the texts: a newer version writes more keys
            raise StudyError(f"{folder} holds a calibration with another task, seed or protocol. Choose another --out.")
        measure = partial(surrogate.measure, compute=config.compute)
        with LocalRunner(workers or available_cores(), measure, definitions=definitions) as runner:
            drive(source, runner, study, lookahead=32, on_event=on_event)
        study.finish()
    outcomes = [[source.outcomes[f"calibrate/{r.line}/seed-{k}"] for k in range(repeats)] for r in chosen]
    scores = [[_score(outcome) for outcome in row] for row in outcomes]
    found = agreement(chosen, np.array(scores), references, list(source.outcomes.values()), seed)
    found = replace(found, told_apart=told_apart(outcomes))
    rows = [
        {
            "line": r.line,
            "rule": str(r.rule),
            "accuracy": r.accuracy,
            "fitness": [_finite(_score(outcome)) for outcome in row],
            "intervals": [outcome.interval for outcome in row],
            "learning_rates": [outcome.learning_rate for outcome in row],
        }
        for r, row in zip(chosen, outcomes, strict=True)
    ]
    content = {**asdict(found), "task": spec, "protocol": asdict(config.evolution.protocol), "seed": seed, "measured": rows}
    (folder / "calibration.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_plot(folder / "calibration.png", [r.accuracy for r in chosen], scores, found.correlation, found.interval)
    return found


def agreement(
    chosen: Sequence[Reference], scores: npt.NDArray[np.float64], references: Sequence[Reference], outcomes: Sequence[Outcome], seed: int
) -> Agreement:
    """The numbers from what was measured.

    Args:
        chosen: the rules measured.
        scores: fitness by rule and seed, shape (rules, seeds), -inf where a measurement did not complete.
        references: the whole log, for its noise.
        outcomes: of all measurements, for their cost.
        seed: of the bootstrap.
    """
    accuracies = np.array([reference.accuracy for reference in chosen])
    means = scores.mean(axis=1)
    resampled = stats.bootstrap(
        (accuracies, stats.rankdata(means)), lambda x, y, axis: rank_correlation(x, y), paired=True, vectorized=True,
        n_resamples=_RESAMPLES, method="percentile", rng=np.random.default_rng(seed),
    )  # fmt: skip
    interval = (float(resampled.confidence_interval.low), float(resampled.confidence_interval.high))
    own, log = _own_reliability(scores), _log_reliability(references, accuracies)
    ceiling = None if own is None or log is None else math.sqrt(max(0.0, own) * max(0.0, log))
    completed = int(np.isfinite(scores).all(axis=1).sum())
    steps, seconds = sum(outcome.steps for outcome in outcomes), sum(outcome.seconds for outcome in outcomes)
    return Agreement(float(rank_correlation(accuracies, means)), interval, own, log, ceiling, len(chosen), completed, steps, seconds)


def told_apart(outcomes: Sequence[Sequence[Outcome]]) -> float | None:
    """Share of the pairs of measurements of one rule whose intervals do not overlap; None where there are no such pairs.

    Args:
        outcomes: by rule and seed.
    """
    pairs = [
        (one.interval, other.interval) for row in outcomes for one, other in combinations(row, 2) if one.interval and other.interval
    ]  # fmt: skip
    return float(np.mean([max(one[0], other[0]) > min(one[1], other[1]) for one, other in pairs])) if pairs else None


def _own_reliability(scores: npt.NDArray[np.float64]) -> float | None:
    seeds = scores.shape[1]
    if seeds < 2:
        return None
    single = float(np.mean([rank_correlation(scores[:, a], scores[:, b]) for a, b in combinations(range(seeds), 2)]))
    return seeds * single / (1 + (seeds - 1) * single) if single > 0 else single


def _log_reliability(references: Sequence[Reference], accuracies: npt.NDArray[np.float64]) -> float | None:
    groups: dict[str, list[float]] = defaultdict(list)
    for reference in references:
        groups[str(reference.rule)].append(reference.accuracy)
    repeated = [np.array(values) for values in groups.values() if len(values) > 1]
    if not repeated:
        return None
    noise = sum(float(((v - v.mean()) ** 2).sum()) for v in repeated) / sum(len(v) - 1 for v in repeated)
    return 1 - noise / max(float(accuracies.var(ddof=1)), 1e-12)


def _score(outcome: Outcome) -> float:
    return outcome.fitness if outcome.status is Status.COMPLETED and outcome.fitness is not None else -math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
