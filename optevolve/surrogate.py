"""A rule's fitness on a task: learning-rate trials with early stopping, then the full run. Source: method section 4.

The learning rate is chosen by the training score of the trials (its maximum over their epochs, as in the paper), never by the split that
gives the fitness, so that a final evaluation on the test split has not tuned on it.
"""

import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from optevolve.compile import build
from optevolve.config import Protocol
from optevolve.errors import ConfigError, OptevolveError
from optevolve.racing import Race, full_seed, mean_interval
from optevolve.records import Job, Outcome, Split, Status, TrainingCurve
from optevolve.schedule import schedule_values
from optevolve.several import SEPARATOR, measure_all
from optevolve.space import UpdateRule, parse
from optevolve.tasks import Task, load
from optevolve.training import Engine, Part, train, untrained_score

__all__ = ["FIRST_LEARNING_RATE", "best_trial", "measure", "step_values"]

FIRST_LEARNING_RATE = 1e-7  # of a run whose warm-up would begin with 0. Source: method section 7.


def measure(job: Job) -> Outcome:
    """Chooses the learning rate, unless the job fixes it, trains in full and says what came of it: a pure function of the job, time apart.

    A job of several tasks has their mean, see `optevolve.several`.

    An exception that the task's own code or the rule's optimizer raises costs this measurement alone: the outcome is FAILED with its
    message. Curves of runs that ended before it are kept.

    Raises:
        OptevolveError: for what the user must mend before anything can be measured: the rule's text, the task, its data, the protocol.
    """
    if SEPARATOR in job.task:
        return measure_all(job, measure)
    started = time.perf_counter()
    measurement = _Measurement(job, load(job.task), parse(job.rule))
    try:
        status, reason, learning_rate, fitness = measurement.run()
    except OptevolveError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever a task or rule may raise is this candidate's outcome, kept with its message)
        status, reason, learning_rate, fitness = Status.FAILED, f"{type(error).__name__}: {error}", None, None
    return Outcome(
        status=status,
        fitness=fitness,
        learning_rate=learning_rate,
        reason=reason,
        curves=tuple(measurement.curves),
        steps=sum(curve.steps[-1] for curve in measurement.curves),
        seconds=time.perf_counter() - started,
        interval=measurement.interval,
    )


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


class _Measurement:
    """The runs of one job, in order."""

    def __init__(self, job: Job, task: Task, rule: UpdateRule) -> None:
        self.job = job
        self.task = task
        self.rule = rule
        self.curves: list[TrainingCurve] = []
        self.interval: tuple[float, float] | None = None

    def run(self) -> tuple[Status, str, float | None, float | None]:
        """Status, reason, chosen learning rate and fitness."""
        if self.job.protocol.kind == "fast":
            return self._run_fast()
        first_floor, floor = self._floors()
        learning_rate = self.job.learning_rate
        if learning_rate is None:
            first = tuple(dict.fromkeys(self.job.protocol.first_learning_rates))
            rest = tuple(rate for rate in dict.fromkeys(self.job.protocol.learning_rates) if rate not in first)
            best = None
            for rates, needed in ((first, first_floor), (rest, floor)):
                for rate in rates:
                    self._train(rate, trial=True, floor=first_floor)
                best = best_trial(self.curves)
                if best is None:
                    worst = self.curves[0]
                    return Status.DIVERGED, f"every trial diverged; at learning rate {worst.learning_rate:g}: {worst.reason}", None, None
                if max(best.train_score) < needed:
                    return Status.STOPPED, self._below(best, needed), None, None
            assert best is not None  # the loop above runs twice
            learning_rate = best.learning_rate
        full = self._train(learning_rate, trial=False, floor=floor)
        if full.status != Status.COMPLETED:
            return full.status, f"full run at learning rate {learning_rate:g}: {full.reason}", learning_rate, None
        fitness = max(full.score) if self.job.protocol.judge == "best" else full.score[-1]
        return Status.COMPLETED, "", learning_rate, fitness

    def _run_fast(self) -> tuple[Status, str, float | None, float | None]:
        """The same by the protocol "fast"; see `optevolve.racing`."""
        protocol, learning_rate = self.job.protocol, self.job.learning_rate
        seeds = [self.job.seed]
        if learning_rate is None:
            race = Race(protocol, self.job.seed, self._race)
            learning_rate = race.winner()
            if learning_rate is None:
                worst = self.curves[0]
                return Status.DIVERGED, f"every trial diverged; at learning rate {worst.learning_rate:g}: {worst.reason}", None, None
            best, needed = float(np.mean(race.scores[learning_rate])), self._floors_fast()
            if best < needed:
                return Status.STOPPED, f"best trial score {best:.4g} (at {learning_rate:g}) below {needed:.4g}", None, None
            seeds = [full_seed(self.job.seed, number) for number in range(protocol.full_seeds)]
        part: Part = "judgement" if self.job.split is Split.VALID else "all"
        scores = []
        for seed in seeds:
            full = self._train(learning_rate, trial=False, floor=protocol.floor, seed=seed, part=part)
            if full.status != Status.COMPLETED:
                return full.status, f"full run at learning rate {learning_rate:g}: {full.reason}", learning_rate, None
            scores.append(max(full.score) if protocol.judge == "best" else full.score[-1])
        self.interval = mean_interval(scores)
        return Status.COMPLETED, "", learning_rate, float(np.mean(scores))

    def _race(self, learning_rate: float, steps: int, seed: int) -> TrainingCurve:
        """A run of the race: schedule and decays compressed into its steps, judged once, at its end, by the half that choices may see."""
        shorter = replace(
            self.job.protocol, trial_steps=steps, trial_schedule="compressed", trial_epoch_steps=steps, trial_floor_epoch=1
        )  # fmt: skip
        return self._train(learning_rate, trial=True, floor=None, seed=seed, part="choice", protocol=shorter)

    def _floors_fast(self) -> float:
        given = self.job.protocol.floor
        return float(np.nextafter(untrained_score(self.task, self.job.seed), np.inf)) if given is None else given

    def _below(self, best: TrainingCurve, needed: float) -> str:
        tried = f"{len(self.curves)} learning rates"
        return f"best trial score {max(best.train_score):.4g} of {tried} (at {best.learning_rate:g}) below {needed:.4g}"

    def _floors(self) -> tuple[float, float]:
        """Floors of trials and full run: the protocol's, else the task's, else just above what the untrained model scores."""
        protocol = self.job.protocol
        own = self.task.floors
        if own is None and (protocol.first_floor is None or protocol.floor is None):
            untrained = float(np.nextafter(untrained_score(self.task, self.job.seed), np.inf))
            own = (untrained, untrained)
        first, full = own or (0.0, 0.0)  # with no floors of the task, both of the protocol's are given
        return (first if protocol.first_floor is None else protocol.first_floor, full if protocol.floor is None else protocol.floor)

    def _train(
        self,
        learning_rate: float,
        *,
        trial: bool,
        floor: float | None,
        seed: int | None = None,
        part: Part = "all",
        protocol: Protocol | None = None,
    ) -> TrainingCurve:
        protocol = self.job.protocol if protocol is None else protocol
        seed = self.job.seed if seed is None else seed
        split = None if trial and part == "all" else Split.VALID if trial else self.job.split
        rates, momenta = step_values(protocol, learning_rate, trial=trial)
        compressed = trial and protocol.trial_schedule == "compressed"
        decay_steps = protocol.trial_steps if compressed else protocol.full_steps
        engine = Engine.of(protocol)
        curve = train(
            self.task,
            lambda parameters: build(self.rule, parameters, lr=learning_rate, total_steps=decay_steps, seed=seed, flat=engine.flat),
            rates,
            momenta,
            seed=seed,
            epoch_steps=protocol.trial_epoch_steps if trial else protocol.epoch_steps,
            split=split,
            part=part,
            floor=floor,
            floor_epoch=protocol.trial_floor_epoch if trial else protocol.floor_epoch,
            max_loss_ratio=protocol.max_loss_ratio,
            learning_rate=learning_rate,
            purpose="trial" if trial else "full",
            engine=engine,
        )
        self.curves.append(curve)
        return curve
