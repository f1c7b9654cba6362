"""Every number of a run, as frozen dataclasses whose defaults are the paper's.

Types carry the ranges. `optevolve.config_text` checks them when text becomes a config; values made in Python are taken as they are. Imports
neither torch nor pydantic, so that the space and the searches stay light.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from annotated_types import Gt, Interval, Len, Unit

__all__ = [
    "FAST",
    "PROTOCOLS",
    "REPEATS",
    "Compute",
    "EliminationRound",
    "Evaluation",
    "FinalTask",
    "GrammarTable",
    "Options",
    "Protocol",
    "ProtocolTable",
    "RunConfig",
    "Schedule",
    "Search",
    "Stage",
    "Workers",
]

Options: TypeAlias = dict[str, bool | int | float | str]
GrammarTable: TypeAlias = dict[str, Any]
ProtocolTable: TypeAlias = dict[str, Any]
# Bounds of counts are far beyond what is ever wanted, and below what strands a run: numbers in ids, jobs that are held at once.
Steps: TypeAlias = Annotated[int, Interval(ge=1, le=10**9)]
Count: TypeAlias = Annotated[int, Interval(ge=1, le=10**6)]
Natural: TypeAlias = Annotated[int, Interval(ge=0, le=10**6)]
REPEATS = 10**4
Repeats: TypeAlias = Annotated[int, Interval(ge=1, le=REPEATS)]
MaybeRepeats: TypeAlias = Annotated[int, Interval(ge=0, le=REPEATS)]
Seed: TypeAlias = Annotated[int, Interval(ge=0, lt=2**63)]  # what a database keeps
LearningRate: TypeAlias = Annotated[float, Interval(gt=0, le=1e6)]
Momentum: TypeAlias = Annotated[float, Interval(ge=0, lt=1)]
WeightDecay: TypeAlias = Annotated[float, Interval(ge=0, le=1e6)]
Length: TypeAlias = Annotated[float, Interval(ge=0, le=1e12)]

_NO_OTHER_KEYS: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class Schedule:
    """Learning-rate and momentum schedule: linear warm-up, hold, cosine to zero. Source: method section 2.

    Attributes:
        warmup: steps of warm-up (W), if at least 1; as a fraction of the run if below 1.
        hold: steps at the peak after warm-up (H), likewise.
        momentum_high, momentum_low: momentum goes from high to low during warm-up, stays, returns.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    warmup: Length = 800
    hold: Length = 0
    momentum_high: Momentum = 0.95
    momentum_low: Momentum = 0.85


@dataclass(frozen=True)
class Protocol:
    """How a rule is measured: learning-rate trials with early stopping, then a full run. Source: method section 4.

    `Protocol()` is the paper's, `FAST` is ours (see `optevolve.racing`). In a config, the key `preset` in a protocol's table, "paper" or
    "fast", says where all that the table leaves out comes from.

    Attributes:
        kind: "paper": as said; "fast": learning rates raced by successive halving on compressed schedules; fitness with an interval from
            `full_seeds` full runs, on validation data that the race has not seen (see `trial_judge`). The interval is over the runs; of a
            single run it is over the examples judged, and leaves out what another seed would have given; where that cannot be had, as on
            an exact function, a second run is made after a race. `first_learning_rates`, `first_floor`, `trial_schedule`,
            `trial_epoch_steps` and `trial_floor_epoch` say nothing here, and without `floor` a rule is dropped if its best trial has
            neither a better score nor a lower training loss than a rule that never moves.
        trial_seeds, rungs, halving, full_seeds: of "fast": runs per learning rate; rungs of the race, each twice as long as the one before;
            the best 1/halving of a rung enter the next; full runs.
        trial_judge: of "fast": what learning rates are raced by: "training": the training score over the second half of a run, whose
            many examples leave less to noise; the fitness is then that of the whole validation split; "end": the score at the end of a run,
            by one half of that split, and the fitness is of the other half. With several weight decays it is the end in any case, for
            these do not show in training scores. Of a task with noisy labels the training scores are of these.
        rate_slack: of "fast": of the grid's learning rates in the last rung the largest is chosen whose gain over a run that learns nothing
            is at most this share below the best one's, for runs longer than the trials bear larger rates; and a rate off the grid, a half
            decade or beyond its edge, only where its gain is better than all of the grid's by more than this share, for noise decides
            between near equals. Should the full run at a bolder rate diverge, it is made again at the best one. 0: the best is chosen,
            as it is on tasks whose score is no accuracy (`Task.scores_accuracy`).
        learning_rates: the grid, each tried for `trial_steps`.
        first_learning_rates: tried first; if none reaches `first_floor`, the rule is dropped.
        weight_decays: decoupled weight decays, each step's times its learning rate. The first is that of the learning-rate trials. The
            others are tried at the best learning rate, then the neighbours of that, half a decade away, at the best of them, all judged at
            the end of each trial by one half of the validation split; a fitness on validation data is then of the other half.
        resolution_share: share of the edge of the task's images at which models are trained and judged, where the task has an option
            `resolution`: half of it is a quarter of the pixels, and rules rank on small images nearly as they do on large ones. A
            task's own floors are those of its whole images.
        batch_share: where the task has none: share of the examples of its training batches that a step takes, at least eight.
        trial_steps: length of a trial.
        full_steps: length of the full run at the best learning rate.
        trial_schedule: "cut": a trial is the first steps of the full run's schedule and decays (the authors': wholly inside warm-up);
            "compressed": schedule and decays are compressed into the trial.
        epoch_steps: steps per epoch of the curve: scores are taken and floors are looked at once an epoch.
        trial_epoch_steps: the same within a trial.
        early_stopping: whether rules are dropped that miss the task's own floors or are no better than one that never moves. Floors that
            are given here hold in any case.
        first_floor, floor: training scores below which a rule is dropped, in a trial and in the full run. None: the task's own floors, if
            it has any for trials of this length; else what a rule that never moves has, so that whatever raises the training score or
            lowers the training loss stays. Under "fast" `floor` is also for the best of the trials, by what these are judged by.
        trial_floor_epoch, floor_epoch: the epoch (from 1) after which a run below its floor is stopped.
        judge: "best" (maximum over epochs, as in the paper) or "last".
        schedule: learning rate and momentum over the steps of a run.
        max_loss_ratio: a run is diverged once its loss exceeds this multiple of its first loss (plus one).
        precision: "float32"; "bf16": the forward pass in bfloat16; "auto": bf16 where the processor computes with it, so that results then
            depend on the machine.
        compile: fused layers and a flat optimizer, where there is a C++ compiler: faster, and equal up to rounding. On a GPU, runs trained
            together are one CUDA graph.
        replicas: runs of one rule (the learning rates of a trial or rung, the seeds of the full runs) "off": are trained one at a time;
            "on": together, as one vectorised program, where the task allows it; "auto": together on a GPU, and on the CPU where a
            calibration of a few steps finds that faster. All are equal up to rounding; with "auto" the choice, and so the rounding, may
            differ from one machine to the next.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    kind: Literal["paper", "fast"] = "paper"
    learning_rates: Annotated[tuple[LearningRate, ...], Len(1)] = (10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
    first_learning_rates: Annotated[tuple[LearningRate, ...], Len(1)] = (10.0, 1e-2, 1e-5)
    trial_steps: Steps = 800
    full_steps: Steps = 8000
    trial_schedule: Literal["cut", "compressed"] = "cut"
    epoch_steps: Steps = 200
    trial_epoch_steps: Steps = 200
    early_stopping: bool = True
    first_floor: float | None = None
    floor: float | None = None
    trial_floor_epoch: Steps = 3
    floor_epoch: Steps = 5
    judge: Literal["best", "last"] = "best"
    schedule: Schedule = field(default_factory=Schedule)
    max_loss_ratio: Annotated[float, Gt(1)] = 1e4
    precision: Literal["auto", "float32", "bf16"] = "float32"
    compile: bool = False
    replicas: Literal["off", "on", "auto"] = "off"
    trial_seeds: Repeats = 1
    rungs: Annotated[int, Interval(ge=1, le=30)] = 2
    halving: Annotated[int, Interval(ge=2, le=1000)] = 3
    full_seeds: Repeats = 2
    trial_judge: Literal["end", "training"] = "end"
    rate_slack: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    weight_decays: Annotated[tuple[WeightDecay, ...], Len(1)] = (0.0,)
    resolution_share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    batch_share: Annotated[float, Interval(gt=0, le=1)] = 1.0

    def ends_at(self, learning_rate: float | None) -> bool:
        """Whether a chosen learning rate lies at an end of the grid, or beyond it, so that what was not tried may be better."""
        grid = self.learning_rates
        return learning_rate is not None and len(grid) > 1 and not min(grid) < learning_rate < max(grid)

    def tops_decays(self, weight_decay: float | None) -> bool:
        """Whether a chosen weight decay is the largest that was tried; the smallest of a grid is mostly 0, below which nothing is."""
        grid = self.weight_decays
        return weight_decay is not None and len(grid) > 1 and weight_decay >= max(grid)


# A ninth to an eighth of what the paper's 13,600 steps take on its ConvNet at width 8, where a step on images of 12x12 takes 0.18 of one on
# 32x32; more where a full run has to be made again. The measurements that chose the values are in docs/results/calibration.md.
FAST = Protocol(
    kind="fast", trial_steps=200, full_steps=5200, epoch_steps=5200, judge="last", schedule=Schedule(warmup=0.1), floor_epoch=1,
    resolution_share=0.375, batch_share=0.1875, trial_judge="training", rate_slack=0.25, full_seeds=1,
)  # fmt: skip

# Name → the protocol that a stage of a config and `optevolve calibrate` start from.
PROTOCOLS = {"paper": Protocol(), "fast": FAST}


@dataclass(frozen=True)
class Stage:
    """Where proposals of one stage are measured.

    Attributes:
        task_options: options of the run's task.
        protocol: how.
        more_tasks: specs of further tasks. The fitness is then the mean over all of them of scores on a scale where the untrained model is
            0 and Adam, tuned by the same protocol, is 1.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    task_options: Options = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    more_tasks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """Size of the search. Source: method section 5.

    Attributes:
        algorithm: a key of `optevolve.algorithms.ALGORITHMS`: "particle", "random" or "regularized", all at the same budget.
        population: initial random rules, each passing the integrity check.
        particles: the best of the population, each an independent line.
        timesteps: generations of each particle.
        children: measured children per timestep.
        redraws: how often a child that fails the surrogate is drawn again.
        elitist: whether a parent better than all of its children stays.
        tie_seeds: how many more seeds the children of a particle may be measured under, all the same ones, while the intervals of the best
            and of others overlap; 0: the best number wins.
        over_tasks: what decides where rules measured on several tasks (`more_tasks`) are compared: "score": the fitness; "rank": the mean
            over the tasks of a rule's rank among those it is compared with: the initial population, the children of a particle in a
            timestep, the members of a tournament, the contenders. The fitness shown is the mean score in any case.
        remeasure: where there is no elimination, fresh seeds under which the best rules of the search are measured again, as the evolution
            measures, before anything is called the best: the best of many noisy numbers is too high. 0: they are not.
        tournament: members drawn per cycle of regularized evolution.
        sameness: which rules count as one, so that a stage measures them once: "spelling", "behaviour" (the same updates on fixed gradient
            streams) or "nearly" (real training could not tell them apart).
        lookahead: jobs asked for before the oldest outcome is told. Part of the search, unlike the number of workers, so that any number
            of workers runs the same search; at least the number of workers keeps all of them busy.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    algorithm: str = "particle"
    population: Count = 500
    particles: Count = 50
    timesteps: Natural = 6
    children: Count = 6
    redraws: MaybeRepeats = 4
    elitist: bool = False
    tie_seeds: MaybeRepeats = 0
    over_tasks: Literal["score", "rank"] = "score"
    remeasure: MaybeRepeats = 1
    tournament: Count = 10
    sameness: Literal["spelling", "behaviour", "nearly"] = "behaviour"
    lookahead: Count = 32


@dataclass(frozen=True)
class EliminationRound:
    """One round of elimination: the survivors are measured anew and `keep` of them stay. Source: method section 6.

    Attributes:
        keep: survivors after the round.
        task: task name; empty for the run's own task.
        task_options: options of that task.
        protocol: learning-rate trials and full run of the round.
        more_tasks: specs of further tasks, as of `Stage`.
        seeds: fresh seeds, the same for all, over which the fitness is averaged.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    keep: Count
    task: str = ""
    task_options: Options = field(default_factory=dict)
    protocol: Protocol = field(default_factory=Protocol)
    more_tasks: tuple[str, ...] = ()
    seeds: Repeats = 1


@dataclass(frozen=True)
class FinalTask:
    """A task of the final evaluation with a budget of its own.

    Attributes:
        task: name or spec of the task.
        task_options: options of that task.
        protocol: what differs from the evaluation's protocol: some of a protocol's values, such as full_steps = 3000.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    task: str
    task_options: Options = field(default_factory=dict)
    protocol: ProtocolTable = field(default_factory=dict)

    def protocol_over(self, protocol: Protocol) -> Protocol:
        """The protocol of the task, where the evaluation's is `protocol`."""
        values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in self.protocol.items()}
        if "schedule" in values:
            values["schedule"] = replace(protocol.schedule, **values["schedule"])
        return replace(protocol, **values)


@dataclass(frozen=True)
class Evaluation:
    """The final evaluation beside the baselines, on the test split. Source: method section 6.

    Attributes:
        tasks: task specs, or tables [[evaluation.tasks]] with a budget for each task; empty for the run's own task with `task_options`.
        task_options: options of the run's own task.
        baselines: names of rules of the zoo that get the same trials of learning rates and weight decays.
        seeds: paired seeds per contestant.
        choice_seeds: fresh paired seeds per contestant under which full runs are judged on the validation split: by them the rule that is
            handed over and the best of the baselines are chosen, before the test split is opened. 0: the run of the tuning decides.
        protocol: the trials (on the validation split) and the full runs (on the test split).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    tasks: tuple[str | FinalTask, ...] = ()
    task_options: Options = field(default_factory=dict)
    baselines: tuple[str, ...] = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop")
    seeds: Repeats = 5
    choice_seeds: MaybeRepeats = 3
    protocol: Protocol = field(default_factory=lambda: Protocol(judge="last"))


@dataclass(frozen=True)
class Compute:
    """With what the numbers of a whole run are computed. No part of the search: a run may be resumed with another.

    Attributes:
        device: where models are trained: "cpu", "cuda", "mps" (a Mac's GPU), or "auto": the first of cuda, mps and cpu that torch finds
            where a measurement is made, so that each worker of a cluster finds its own. Rounding differs between devices, and a training
            enlarges it. On Ray, a measurement has a GPU only with `workers.gpus`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"


@dataclass(frozen=True)
class Workers:
    """What measures, and what it allows a measurement. No part of the search: a run may be resumed with others.

    Attributes:
        runner: "local": processes of this machine; "ray": a Ray cluster.
        time_limit: longest time per measurement, in seconds or as text such as "90s", "5m", "1h30m": its worker's own time, which is
            processor time and what it sleeps, not what it waits for a processor or is stopped. None: ten times what the steps of its
            protocol cost its peers, at least two minutes.
        memory_limit: GiB that a worker may allocate beyond what it holds when it has started. None: no limit.
        ray_address: of the cluster: "auto", "ray://HOST:10001"; empty for the cluster in RAY_ADDRESS, else a Ray of this machine alone.
        cpus, gpus: share of a node that a measurement takes on Ray; fractions put several on one.
        retries: how often a measurement that was lost with its worker or node is made again on Ray beside others; then it is made alone,
            and what is lost alone is its candidate's failure.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    runner: Literal["local", "ray"] = "local"
    time_limit: Annotated[float, Interval(gt=0, le=1e9), Unit("seconds")] | None = None
    memory_limit: Annotated[float, Interval(gt=0, le=2**20), Unit("GiB")] | None = None
    ray_address: str = ""
    cpus: Annotated[float, Interval(gt=0, le=1024)] = 1.0
    gpus: Annotated[float, Interval(ge=0, le=64)] = 0.0
    retries: MaybeRepeats = 2


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        task: a name of `optevolve tasks`, or one's own as `module:Name`.
        data: a folder of data sets; empty for the environment variable `OPTEVOLVE_DATA` or the Hub.
        seed: seed of everything random in the run.
        grammar: the space that rules are drawn from: "paper", "bello2017" or "extended"; or one's own: the path of a TOML file, or a table
            [grammar] with what such a file holds (see docs/search-space.md). A path is read at once, and the run keeps the table.
            A table of a few fields changes the grammar that there is: `grammar.decays = false` switches decay functions off.
        initial: how the initial population is measured.
        evolution: how particles and their children are measured.
        search: size of the search.
        contenders: best rules of the search that enter the elimination.
        elimination: rounds in which the best rules of the whole search are narrowed, in order.
        evaluation: the final evaluation beside the baselines.
        compute: with what the numbers are computed.
        workers: what measures.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _NO_OTHER_KEYS

    task: str = "cifar10-convnet"
    data: str = ""
    seed: Seed = 0
    grammar: str | GrammarTable = "paper"
    initial: Stage = field(default_factory=lambda: Stage({"width": 32}))
    evolution: Stage = field(default_factory=lambda: Stage({"width": 48, "augment": True}, Protocol(full_steps=16000, epoch_steps=400)))
    search: Search = field(default_factory=Search)
    contenders: Count = 100
    elimination: tuple[EliminationRound, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    compute: Compute = field(default_factory=Compute)
    workers: Workers = field(default_factory=Workers)

    @property
    def rounds(self) -> tuple[EliminationRound, ...]:
        """The elimination, or, where there is none, the measuring again of the best of the search, all of whom stay."""
        if self.elimination or not self.search.remeasure:
            return self.elimination
        stage, again = self.evolution, self.search.remeasure
        return (EliminationRound(self.contenders, self.task, stage.task_options, stage.protocol, stage.more_tasks, again),)
