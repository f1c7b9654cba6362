"""What travels between the stages: plain, immutable, made of numbers and text, so that it crosses processes and stores as JSON.

A `Proposal` is a rule that a search wants measured, a `Job` is one measurement to make, an `Outcome` is what came of it. Failures are
values with a `Status` and a reason; programming errors still raise.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from optevolve.config import Protocol

__all__ = ["SEPARATOR", "Job", "Measurement", "Outcome", "Proposal", "Split", "Status", "TrainingCurve"]

SEPARATOR = ";"  # between the tasks of a job


class Status(StrEnum):
    """How a measurement ended."""

    REJECTED = "rejected"  # failed before any training, such as at the integrity check
    DIVERGED = "diverged"  # the loss became non-finite or exploded at every learning rate
    STOPPED = "stopped"  # too weak: early stopping ended it
    FAILED = "failed"  # the candidate or its task broke: an exception, a crash, a time or memory limit
    COMPLETED = "completed"


class Split(StrEnum):
    """Parts of a task's data. The search never sees TEST; only the final evaluation does."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


@dataclass(frozen=True)
class TrainingCurve:
    """One training run, as measured.

    Attributes:
        learning_rate: the peak of the schedule.
        seed: seed of initialisation, batch order and augmentation.
        steps: step count at each point of the curve, shape (points,), increasing.
        train_loss: mean training loss since the previous point, shape (points,).
        train_score: mean training score since the previous point, shape (points,); NaN where not measured.
        score: score on the evaluation split at each point, shape (points,); NaN where not measured.
        status: COMPLETED, STOPPED or DIVERGED.
        reason: why it ended early, empty if it did not.
        purpose: "trial" (to choose the learning rate), "full" (gives the fitness).
        seconds: wall-clock time of the run.
        weight_decay: decoupled, times the learning rate.
        margin: half the width of the 95 % interval of each score, over the batches that it was measured on, shape (points,); NaN where it
            cannot be had. Not kept in a study, whose outcomes keep the interval that follows.
        task: spec of the task, where the job names several; empty where it names one. Not kept in a study.
    """

    learning_rate: float
    seed: int
    steps: tuple[int, ...] = ()
    train_loss: tuple[float, ...] = ()
    train_score: tuple[float, ...] = ()
    score: tuple[float, ...] = ()
    status: Status = Status.COMPLETED
    reason: str = ""
    purpose: str = "full"
    seconds: float = 0.0
    weight_decay: float = 0.0
    margin: tuple[float, ...] = field(default=(), repr=False, compare=False)
    task: str = field(default="", repr=False, compare=False)


@dataclass(frozen=True)
class Proposal:
    """A rule that a search wants measured, and where it comes from.

    Attributes:
        id: unique within a study and a function of structure alone ("initial/0007", "particle-03/t2/c4/r1"), never of time.
        rule: the update rule in native notation.
        genome: the graph behind the rule as JSON text; empty for rules typed by hand.
        stage: "initial" or "evolution": decides on which task and protocol it is measured.
        parent: id of the proposal that this one was mutated from; empty if none.
        particle: number of the particle; -1 if none.
        timestep: 0 for the initial population and a particle's first measurement, then 1, 2, …
        mutation: what was changed, in words; empty if nothing.
        rejected: (rule, reason) of every rule drawn and refused before this one was found, so that what died early can be reported.
    """

    id: str
    rule: str
    genome: str = ""
    stage: str = "evolution"
    parent: str = ""
    particle: int = -1
    timestep: int = 0
    mutation: str = ""
    rejected: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Job:
    """One measurement to make: everything that its outcome depends on.

    Attributes:
        id: unique within a study: a proposal's id, "eliminate/2/opt-07", "evaluate/digits/adam/seed-3", …
        rule: the update rule in native notation.
        task: task spec as `optevolve.tasks.load` takes it, "cifar10-convnet@width=32".
        protocol: how to choose the learning rate and how long to train.
        seed: seed of everything random in the measurement.
        split: split that gives the fitness: VALID in every stage but the final evaluation.
        learning_rate: fixed peak learning rate, so that no trials are made; None to choose it by trials.
        weight_decay: fixed weight decay; None to choose it with the learning rate, or the protocol's first where that is fixed.
    """

    id: str
    rule: str
    task: str
    protocol: Protocol
    seed: int
    split: Split = Split.VALID
    learning_rate: float | None = None
    weight_decay: float | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Specs of the tasks that `task` names, more than one if they are joined by ";"."""
        return tuple(self.task.split(SEPARATOR))


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        status: how it ended.
        fitness: the task's score by the protocol, higher is better; None unless COMPLETED.
        learning_rate: the chosen peak learning rate; None if none was.
        reason: why it did not complete; empty if it did.
        curves: every training run made, trials first.
        steps: training steps spent.
        seconds: wall-clock seconds spent.
        interval: 95 % interval of the fitness (low, high), where the protocol gives one.
        weight_decay: that goes with the learning rate; 0 where none was chosen.
        device: what it was computed on: "cpu", "cuda" or "mps"; empty where nothing was trained.
        task_scores: where the job names several tasks, the score on each, on the scale of the fitness, which is their mean; shape (tasks,).
    """

    status: Status
    fitness: float | None = None
    learning_rate: float | None = None
    reason: str = ""
    curves: tuple[TrainingCurve, ...] = field(default=(), repr=False)
    steps: int = 0
    seconds: float = 0.0
    interval: tuple[float, float] | None = None
    weight_decay: float = 0.0
    task_scores: tuple[float, ...] = ()
    device: str = ""


@dataclass(frozen=True)
class Measurement:
    """A job with its outcome: what the store keeps and the report reads.

    Attributes:
        stage: "initial", "evolution", "eliminate/1", …, "tune" and "evaluate" (final evaluation: trials, then full runs).
        job: what was measured.
        outcome: what came of it.
        proposal: the search's proposal; None outside the search.
        same_as: id of the job whose outcome this is, when the rule behaved the same as one already measured; empty if measured itself.
    """

    stage: str
    job: Job
    outcome: Outcome
    proposal: Proposal | None = None
    same_as: str = ""
