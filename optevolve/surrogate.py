"""A rule's fitness on a task: learning-rate trials with early stopping, then the full run. Source: method section 4.

The learning rate is chosen by the training score of the trials (its maximum over their epochs, as in the paper), never by the split that
gives the fitness, so that a final evaluation on the test split has not tuned on it. Weight decays do not show in training scores; where a
protocol has several, they and a finer pass over learning rates are judged at the end of each trial, by one half of the validation split.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from optevolve.compile import build
from optevolve.config import Compute, Protocol
from optevolve.errors import ConfigError, OptevolveError
from optevolve.floors import Bar, floors_of_task, still_curve
from optevolve.racing import Point, Race, by_training, full_seed, judged, neighbours, rung_seeds, rung_steps
from optevolve.records import Job, Outcome, Split, Status, TrainingCurve
from optevolve.schedule import schedule_values
from optevolve.several import SEPARATOR, MeasureOne, measure_all
from optevolve.space import UpdateRule, parse
from optevolve.statistics import mean_interval
from optevolve.tasks import Task, load
from optevolve.tasks.cheaper import made_cheaper, resolution
from optevolve.training import Engine, Floor, Part, Run, Terms, device_of, train_many

__all__ = ["FIRST_LEARNING_RATE", "best_end", "best_trial", "measure", "step_values"]

FIRST_LEARNING_RATE = 1e-7  # of a run whose warm-up would begin with 0. Source: method section 7.


def measure(job: Job, compute: Compute = Compute()) -> Outcome:  # noqa: B008 - immutable
    """Chooses learning rate and weight decay, unless the job fixes them, and trains in full: a pure function of the job, time apart.

    A job of several tasks has their mean, see `optevolve.several`.

    An exception that the task's own code or the rule's optimizer raises costs this measurement alone: the outcome is FAILED with its
    message. Curves of runs that ended before it are kept.

    Raises:
        OptevolveError: for what the user must mend before anything can be measured: the rule's text, the task, its data, the protocol.
    """
    if SEPARATOR in job.task:
        return measure_all(job, _measure_with(compute))
    started = time.perf_counter()
    whole = load(job.task)
    task = made_cheaper(whole, job.protocol.resolution_share, job.protocol.batch_share)
    own_floors = floors_of_task(whole, job.protocol) if resolution(task) == resolution(whole) else None  # they are of whole images
    measurement = _Measurement(job, task, parse(job.rule), compute, own_floors)
    try:
        status, reason, chosen, fitness = measurement.run()
    except OptevolveError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a task or rule may raise is this candidate's outcome, kept with its message)
        status, reason, chosen, fitness = Status.FAILED, f"{type(error).__name__}: {error}", None, None
    return Outcome(
        status=status,
        fitness=fitness,
        learning_rate=None if chosen is None else chosen[0],
        reason=reason,
        curves=tuple(measurement.curves),
        steps=sum(curve.steps[-1] for curve in measurement.curves),
        seconds=time.perf_counter() - started,
        interval=measurement.interval,
        weight_decay=0.0 if chosen is None else chosen[1],
        device=device_of(compute.device),
    )


@lru_cache
def _measure_with(compute: Compute) -> MeasureOne:
    """`measure` with the compute given, the same function each time, so that what is kept by function is found again."""
    return partial(measure, compute=compute)


def step_values(protocol: Protocol, learning_rate: float, *, trial: bool) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Learning rate and momentum of every step of a trial or of the full run, each of shape (steps,).

    A "cut" trial is the beginning of the full run's schedule; a "compressed" one has the whole schedule, warm-up and hold shrunk alike. The
    first learning rate is 1e-7 where warm-up would make it 0.

    Args:
        protocol: lengths and schedule.
        learning_rate: the peak.
        trial: whether the steps of a trial are wanted.
    Raises:
        ConfigError: if warm-up and hold do not fit into the full run.
    """
    schedule = protocol.schedule
    warmup, hold = (round(leg if leg >= 1 else leg * protocol.full_steps) for leg in (schedule.warmup, schedule.hold))
    if warmup + hold > protocol.full_steps:
        raise ConfigError(
            f"Warm-up and hold take {warmup} + {hold} steps, more than full_steps = {protocol.full_steps}. Shorten schedule.warmup or "
            "schedule.hold (below 1 they are fractions of the run), or lengthen full_steps."
        )
    total = protocol.full_steps
    if trial and protocol.trial_schedule == "compressed":
        total = protocol.trial_steps
        end = round((warmup + hold) * total / protocol.full_steps)
        warmup = round(warmup * total / protocol.full_steps)
        hold = end - warmup
    rates, momenta = schedule_values(learning_rate, total, warmup, hold, schedule.momentum_high, schedule.momentum_low)
    if warmup > 0:
        rates[0] = FIRST_LEARNING_RATE
    steps = protocol.trial_steps if trial else protocol.full_steps
    return rates[:steps], momenta[:steps]


def best_trial(trials: Iterable[TrainingCurve]) -> TrainingCurve | None:
    """The trial with the highest training score of any epoch, diverged ones left out; of equals the one with the lowest last loss."""
    sound = [trial for trial in trials if trial.status != Status.DIVERGED]
    return max(sound, key=lambda trial: (max(trial.train_score), -trial.train_loss[-1]), default=None)


def best_end(trials: Iterable[TrainingCurve]) -> TrainingCurve:
    """The trial whose last score is the highest, the first of equals; one at least has not diverged."""
    return max((trial for trial in trials if trial.status != Status.DIVERGED), key=lambda trial: trial.score[-1])


_Value = TypeVar("_Value")


def _once(function: Callable[..., _Value], *arguments: Any) -> _Value:
    """What a function says of a task, asked once for all the rules that a worker measures."""
    try:
        hash(arguments)
    except TypeError:  # an option of the task that cannot be hashed, such as a list
        return function(*arguments)
    return cast(_Value, _remembered(os.environ.get("OPTEVOLVE_DATA", ""), function, *arguments))


@lru_cache(maxsize=64)
def _remembered(data: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """`data` is where tasks find their data: it tells apart what the same task is there."""
    return function(*arguments)


def _motionless(task: Task, job: Job, compute: Compute) -> tuple[float, float]:
    """Score and training loss of the runs of a job's last rung with a rule that never moves, on the very examples of the others.

    -inf and inf where even that diverges: whatever does not is better.
    """
    last = job.protocol.rungs - 1
    asked = [((1.0, 0.0), seed) for seed in rung_seeds(job.protocol, job.seed, last)]
    curves = list(_Measurement(job, task, parse(job.rule), compute).race(asked, rung_steps(job.protocol, last)))
    if any(curve.status is Status.DIVERGED for curve in curves):
        return -math.inf, math.inf
    return float(np.mean([judged(job.protocol, curve) for curve in curves])), float(np.mean([curve.train_loss[-1] for curve in curves]))


class _Measurement:
    """The runs of one job, in order."""

    def __init__(self, job: Job, task: Task, rule: UpdateRule, compute: Compute, own_floors: tuple[float, float] | None = None) -> None:
        self.job = job
        self.compute = compute
        self.own_floors = own_floors
        self.task = task
        self.rule = rule
        self.curves: list[TrainingCurve] = []
        self.interval: tuple[float, float] | None = None
        given = job.protocol.weight_decays if job.weight_decay is None else (job.weight_decay,)
        self.decays = tuple(dict.fromkeys(given))
        self.protocol = replace(job.protocol, weight_decays=self.decays)

    def run(self) -> tuple[Status, str, Point | None, float | None]:
        """Status, reason, chosen learning rate and weight decay, and fitness."""
        if self.job.protocol.kind == "fast":
            return self._run_fast()
        first_bar, bar = self._bar(0, trial=True), self._bar(1, trial=True)
        floor = first_bar.at(self.protocol.trial_floor_epoch)
        several = self.job.learning_rate is None and len(self.decays) > 1
        chosen = self._fixed()
        if chosen is None:
            first = tuple(dict.fromkeys(self.job.protocol.first_learning_rates))
            rest = tuple(rate for rate in dict.fromkeys(self.job.protocol.learning_rates) if rate not in first)
            best = None
            for rates, needed in ((first, first_bar), (rest, bar)):
                points = [(rate, self.decays[0]) for rate in rates]
                self._trials(points, floor=floor, part="choice" if several else "all")
                best = best_trial(self.curves)
                if best is None:
                    worst = self.curves[0]
                    return Status.DIVERGED, f"every trial diverged; at learning rate {worst.learning_rate:g}: {worst.reason}", None, None
                if short := needed.shortfall(best, self.curves):
                    return Status.STOPPED, short, None, None
            assert best is not None  # the loop above runs twice
            chosen = self._refined(best, floor) if several else (best.learning_rate, self.decays[0])
        part: Part = "judgement" if several and self.job.split is Split.VALID else "all"
        floor = self._bar(1, trial=False).at(self.protocol.floor_epoch)
        (full,) = self._train([(chosen, self.job.seed)], trial=False, floor=floor, part=part)
        if full.status != Status.COMPLETED:
            return full.status, self._ended(full), chosen, None
        fitness = max(full.score) if self.job.protocol.judge == "best" else full.score[-1]
        return Status.COMPLETED, "", chosen, fitness

    def _untrained(self) -> tuple[float, float]:
        """Score and training loss of a run of the race that learns nothing."""
        job = replace(self.job, id="", rule="0 * w", protocol=self.protocol, split=Split.VALID, weight_decay=None)
        return _once(_motionless, self.task, job, self.compute)

    def _bar(self, which: int, *, trial: bool) -> Bar:
        """The floor of trials at the first learning rates (0), or of all of them and of the full run (1); see `optevolve.floors`."""
        protocol = self.job.protocol
        given = (protocol.first_floor, protocol.floor)[which]
        if given is not None or not protocol.early_stopping:
            return Bar(given)
        if self.own_floors is not None:
            return Bar(self.own_floors[which])
        return Bar(still=_once(still_curve, self.task, protocol, self.job.seed, trial, self.compute))

    def _fixed(self) -> Point | None:
        return None if self.job.learning_rate is None else (self.job.learning_rate, self.decays[0])

    def _refined(self, best: TrainingCurve, floor: Floor | None) -> Point:
        """The other weight decays at the best learning rate, then its neighbours at the best of them."""

        def best_of(points: list[Point]) -> TrainingCurve:
            return best_end([best, *self._trials(points, floor=floor, part="choice")])

        best = best_of([(best.learning_rate, decay) for decay in self.decays[1:]])
        best = best_of([(rate, best.weight_decay) for rate in neighbours(best.learning_rate)])
        return best.learning_rate, best.weight_decay

    def _run_fast(self) -> tuple[Status, str, Point | None, float | None]:
        """The same by the protocol "fast"; see `optevolve.racing`."""
        protocol, fixed = self.protocol, self._fixed()
        if not self.task.scores_accuracy:  # of a loss, a rate that ruins the end may have most of the gain
            protocol = replace(protocol, rate_slack=0.0)
        if fixed is not None:
            return self._full_runs(fixed, [self.job.seed])
        relative = protocol.early_stopping and protocol.floor is None
        untrained, still_loss = self._untrained() if relative or protocol.rate_slack > 0 else (0.0, math.inf)
        race = Race(protocol, self.job.seed, self.race, untrained)
        chosen = race.winner()
        if chosen is None:
            worst = self.curves[0]
            return Status.DIVERGED, f"every trial diverged; at learning rate {worst.learning_rate:g}: {worst.reason}", None, None
        found = f"best trial score {race.best_score:.4g} (near {chosen[0]:g})"
        if relative and race.best_score <= untrained and not self._race_loss(race) < still_loss:
            reason = (
                f"{found} not above {untrained:.4g}, and its training loss not below {still_loss:.4g}: what a rule that never moves has"
            )
            return Status.STOPPED, reason, None, None
        if protocol.floor is not None and race.best_score < protocol.floor:
            return Status.STOPPED, f"{found} below {protocol.floor:.4g}", None, None
        seeds = [full_seed(self.job.seed, number) for number in range(protocol.full_seeds)]
        outcome = self._full_runs(chosen, seeds)
        # Divergence alone decides, which shows in training: were it the score, a choice would have seen what gives the fitness.
        if outcome[0] is not Status.DIVERGED or race.best is None or race.best >= chosen:
            return outcome
        self.curves = [replace(curve, purpose="trial") for curve in self.curves]  # that rate was one too much
        return self._full_runs(race.best, seeds)

    def _race_loss(self, race: Race) -> float:
        """Mean training loss of the longest runs of the race's best point."""
        own = [
            curve for curve in self.curves if (curve.learning_rate, curve.weight_decay) == race.best and curve.status is not Status.DIVERGED
        ]
        longest = max((curve.steps[-1] for curve in own), default=0)
        losses = [curve.train_loss[-1] for curve in own if curve.steps[-1] == longest]
        return float(np.mean(losses)) if losses else math.inf

    def _full_runs(self, chosen: Point, seeds: list[int]) -> tuple[Status, str, Point, float | None]:
        """Fitness and interval of full runs, one per seed, and of a second where a single one of a race has no interval."""
        part: Part = "all" if self.job.split is not Split.VALID else "both" if by_training(self.protocol) else "judgement"
        scores, margin = [], math.nan
        while seeds:
            for full in self._train([(chosen, seed) for seed in seeds], trial=False, floor=self.protocol.floor, part=part):
                if full.status != Status.COMPLETED:
                    return full.status, self._ended(full), chosen, None
                judged_at = int(np.argmax(full.score)) if self.protocol.judge == "best" else -1
                scores.append(full.score[judged_at])
                margin = full.margin[judged_at]
            unsure = len(scores) == 1 and math.isnan(margin) and self._fixed() is None
            seeds = [full_seed(self.job.seed, 1)] if unsure else []
        fitness = float(np.mean(scores))
        self.interval = mean_interval(scores) if len(scores) > 1 else None if math.isnan(margin) else (fitness - margin, fitness + margin)
        return Status.COMPLETED, "", chosen, fitness

    def _trials(self, points: Sequence[Point], *, floor: Floor | None, part: Part) -> list[TrainingCurve]:
        """Trials under the job's seed."""
        return list(self._train([(point, self.job.seed) for point in points], trial=True, floor=floor, part=part))

    def race(self, asked: Sequence[tuple[Point, int]], steps: int) -> Iterator[TrainingCurve]:
        """Runs of the race: schedule and decays compressed into their steps. The last point of each is what it is judged by: the training
        score of its second half, or that of its end on the half of the validation split that choices may see.
        """
        training = by_training(self.protocol)
        shorter = replace(
            self.job.protocol, trial_steps=steps, trial_schedule="compressed", trial_floor_epoch=1,
            trial_epoch_steps=math.ceil(steps / 2) if training else steps,
        )  # fmt: skip
        return self._train(asked, trial=True, floor=None, part="all" if training else "choice", protocol=shorter)

    @staticmethod
    def _ended(full: TrainingCurve) -> str:
        decay = f" and weight decay {full.weight_decay:g}" if full.weight_decay else ""
        return f"full run at learning rate {full.learning_rate:g}{decay}: {full.reason}"

    def _train(
        self,
        asked: Sequence[tuple[Point, int]],
        *,
        trial: bool,
        floor: Floor | float | None,
        part: Part = "all",
        protocol: Protocol | None = None,
    ) -> Iterator[TrainingCurve]:
        """The curves of runs, each given by its point and seed, in order; those not taken are not kept."""
        if not asked:
            return
        protocol = self.job.protocol if protocol is None else protocol
        compressed = trial and protocol.trial_schedule == "compressed"
        total = protocol.trial_steps if compressed else protocol.full_steps
        engine = Engine.of(protocol, self.compute)
        terms = Terms(
            epoch_steps=protocol.trial_epoch_steps if trial else protocol.epoch_steps,
            split=None if trial and part == "all" else Split.VALID if trial else self.job.split,
            floor=floor,
            floor_epoch=protocol.trial_floor_epoch if trial else protocol.floor_epoch,
            max_loss_ratio=protocol.max_loss_ratio,
            purpose="trial" if trial else "full",
            engine=engine,
            part=part,
        )
        runs = []
        for (learning_rate, weight_decay), seed in asked:
            make = partial(
                build, self.rule, lr=learning_rate, total_steps=total, weight_decay=weight_decay, seed=seed, flat=engine.flat
            )  # fmt: skip
            runs.append(Run(make, *step_values(protocol, learning_rate, trial=trial), seed, learning_rate))
        for ((_, weight_decay), _), curve in zip(asked, train_many(self.task, runs, terms, protocol.replicas), strict=True):
            kept = replace(curve, weight_decay=weight_decay)
            self.curves.append(kept)
            yield kept
