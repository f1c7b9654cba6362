"""How long a measurement may take, judged by what its peers took.

A hanging candidate would hold its worker for ever, but a fixed limit fits no machine. Peers are measurements of the same task; their
cost per training step, times the steps of the protocol, is what a healthy candidate needs. Random rules differ by a factor of a few in
cost, so that a generous multiple separates slow ones from hanging ones.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field
from statistics import median

from optevolve.records import Job, Outcome

__all__ = ["TimeLimit", "longest"]


def longest(job: Job) -> int:
    """Training steps of a job that nothing ends early: its trials and its full run."""
    if job.learning_rate is not None:
        return job.protocol.full_steps
    trials = len({*job.protocol.learning_rates, *job.protocol.first_learning_rates})
    if job.weight_decay is None and (others := len(set(job.protocol.weight_decays)) - 1):
        trials += others + 2  # at the best learning rate, then its neighbours
    return trials * job.protocol.trial_steps + job.protocol.full_steps


@dataclass
class TimeLimit:
    """Seconds that a measurement may take.

    Attributes:
        fixed: the same for every job; None: `multiple` times what the job's peers cost.
        multiple: of the median cost per step of the latest 101 peers, times the job's `longest` steps.
        floor: smallest limit from peers: loading data and compiling take time whatever the steps.
        first: limit while no peer is known.
    """

    fixed: float | None = None
    multiple: float = 10.0
    floor: float = 120.0
    first: float = 24 * 3600.0
    _peers: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=101)), repr=False)

    def learn(self, job: Job, outcome: Outcome) -> None:
        """Takes a finished job into account."""
        if outcome.steps > 0 and outcome.seconds > 0:
            self._peers[job.task].append(outcome.seconds / outcome.steps)

    def seconds(self, job: Job) -> float:
        """The limit for a job, as far as its peers are known now."""
        if self.fixed is not None:
            return self.fixed
        peers = self._peers.get(job.task)
        return max(self.floor, self.multiple * median(peers) * longest(job)) if peers else self.first
