"""How long a measurement may take, judged by what its peers took.

A hanging candidate would hold its worker for ever, but a fixed limit fits no machine. Peers are measurements of the same task; what a
training step costs them, times the steps that the protocol can come to, is what a healthy candidate needs. Random rules differ by a factor
of a few in cost, so that a generous multiple separates slow ones from hanging ones. All times are a worker's own, see
`optevolve.run.own_time`: a machine that is loaded or stopped uses up nobody's limit.
"""

import math
from collections import defaultdict, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from optevolve.config import Protocol
from optevolve.records import Job, Outcome

__all__ = ["Steps", "TimeLimit", "most_steps"]

_WIDENED = 3  # decades that a race may add to its grid
_UNKNOWN = 10.0  # times what a step of a trial costs, at most, for one of a full run, which is also scored; and the other way round


class Steps(NamedTuple):
    """Training steps: of trials, and of full runs, which are scored more often."""

    trial: int
    full: int


def most_steps(job: Job) -> Mapping[str, Steps]:
    """By task, the training steps of a job that nothing ends early, those that no curve shows included.

    These are the runs of a rule that never moves, which a race's gains are counted from, and Adam's own measurement, which gives the scale
    where a job has several tasks. A worker makes them once and remembers them, but nobody knows which job finds them made.
    """
    one = Steps(0, job.protocol.full_steps) if job.learning_rate is not None else _steps_of(job.protocol, job.weight_decay is None)
    rules = 1 if len(job.tasks) == 1 else 2  # Adam's
    return {task: Steps(rules * one.trial, rules * one.full) for task in job.tasks}


@lru_cache(maxsize=256)  # asked for each worker, four times a second
def _steps_of(protocol: Protocol, tunes_decay: bool) -> Steps:
    others = len(set(protocol.weight_decays)) - 1 if tunes_decay else 0
    return (_of_race if protocol.kind == "fast" else _of_trials)(protocol, others)


def _of_trials(protocol: Protocol, others: int) -> Steps:
    trials = len({*protocol.learning_rates, *protocol.first_learning_rates})
    if others:
        trials += others + 2  # at the best learning rate, then its neighbours
    return Steps(trials * protocol.trial_steps, protocol.full_steps)


def _of_race(protocol: Protocol, others: int) -> Steps:
    from optevolve.racing import rung_steps  # loads scipy, which a driver needs only where it comes to this

    rates, last = len(set(protocol.learning_rates)), rung_steps(protocol, protocol.rungs - 1)
    steps = (rates + _WIDENED) * protocol.trial_steps
    steps += sum(math.ceil(rates / protocol.halving**rung) * rung_steps(protocol, rung) for rung in range(1, protocol.rungs))
    steps += (others + 2 + 1) * last  # other decays; neighbours; the rule that never moves
    # Without an interval a second full run is made, and all are made again where they diverged at a bolder rate.
    return Steps(steps * protocol.trial_seeds, 2 * max(2, protocol.full_seeds) * protocol.full_steps)


@dataclass
class TimeLimit:
    """Seconds of its worker's own time that a measurement may take.

    Attributes:
        fixed: the same for every job; None: `multiple` times what the job's peers cost.
        multiple: of the median cost per step of the latest 101 runs of peers, trials and full runs apart, times the job's `most_steps`.
        floor: smallest limit from peers: loading data and compiling take time whatever the steps.
        first: limit while no peer is known.
    """

    fixed: float | None = None
    multiple: float = 10.0
    floor: float = 120.0
    first: float = 24 * 3600.0
    _costs: defaultdict[Hashable, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=101)), repr=False)

    def learn(self, job: Job, outcome: Outcome, share: float = 1.0) -> None:
        """Takes a finished job into account.

        Args:
            job: what was measured.
            outcome: what came of it; its curves say what their runs cost, by the clock.
            share: of the time by the clock that was the worker's own, from 0 to 1.
        """
        timed = [curve for curve in outcome.curves if curve.steps and curve.steps[-1] > 0 and curve.seconds > 0]
        for curve in timed:
            self._note(job, curve.task or job.task, curve.purpose, share * curve.seconds / curve.steps[-1])
        if not timed and outcome.steps > 0 and outcome.seconds > 0:  # of what is not trained, such as in a simulation
            for task in job.tasks:
                for purpose in ("trial", "full"):
                    self._note(job, task, purpose, share * outcome.seconds / outcome.steps)

    def _note(self, job: Job, task: str, purpose: str, cost: float) -> None:
        self._costs[_key(job, task, purpose)].append(cost)

    def seconds(self, job: Job) -> float:
        """The limit for a job, as far as its peers are known now."""
        if self.fixed is not None:
            return self.fixed
        needed = 0.0
        for task, steps in most_steps(job).items():
            trial, full = (self._cost(job, task, purpose) for purpose in ("trial", "full"))
            if trial is None and full is None:
                return self.first
            needed += steps.trial * (_UNKNOWN * (full or 0.0) if trial is None else trial)
            needed += steps.full * (_UNKNOWN * (trial or 0.0) if full is None else full)
        return max(self.floor, self.multiple * needed)

    def _cost(self, job: Job, task: str, purpose: str) -> float | None:
        known = self._costs.get(_key(job, task, purpose))
        return median(known) if known else None


def _key(job: Job, task: str, purpose: str) -> Hashable:
    """What runs have in common whose steps cost alike."""
    return task, purpose, job.split, _engine(job.protocol)


def _engine(protocol: Protocol) -> Hashable:
    """What of a protocol decides what a step costs; not how many there are."""
    smaller = protocol.resolution_share, protocol.batch_share
    return *smaller, protocol.precision, protocol.compile, protocol.replicas, protocol.epoch_steps
