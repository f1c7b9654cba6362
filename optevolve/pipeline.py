"""The whole method on one screen: search, elimination, final evaluation, report, export. Each stage goes on where a stored run stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from optevolve import surrogate
from optevolve.algorithms import ALGORITHMS, Sameness
from optevolve.algorithms.ties import seed_number
from optevolve.config import FinalTask, Options, Protocol, RunConfig, Stage
from optevolve.config_text import apply_settings, assemble, on_device
from optevolve.contestants import FINAL, REFERENCE_STAGE, TUNE, Contestant, job_id, place_of
from optevolve.eliminate import EliminationSource, contenders, seed_for, task_of_round
from optevolve.errors import ConfigError, RunEndedError, StudyError
from optevolve.evaluation import Comparison, EvaluationSource
from optevolve.final import REFERENCE, compare
from optevolve.final_tasks import asked_tasks, final_tasks
from optevolve.floors import floors_said, has_floors
from optevolve.integrity import check_integrity
from optevolve.library import ZOO
from optevolve.listening import Listening
from optevolve.printable import shielded
from optevolve.progress import Listener, Progress, listener
from optevolve.records import Job, Outcome
from optevolve.results import Leader, Result, comparisons, floors_noted, leaderboard, report, why_ended, write_results
from optevolve.run import trial
from optevolve.run.driver import Ask
from optevolve.run.early_end import ALIKE, Hopeful, ended, name_of_stage, require_completed, worst_outcomes
from optevolve.run.folder import has_run, open_run
from optevolve.run.session import Session, require_device, require_number, session
from optevolve.run.store import Study
from optevolve.run.watch import Callback
from optevolve.run_size import FINAL_EVALUATION, sizes
from optevolve.several import join, split
from optevolve.space.grammar import grammar
from optevolve.tasks import AnyTask, TaskCheck, listed, spec_for, spec_of

__all__ = ["Leader", "Result", "comparisons", "evaluate", "leaderboard", "report", "require_tasks", "resume", "search", "why_ended"]

_TIES = 51  # stream of the run's seed


def search(
    task: AnyTask | None = None,
    preset: str | None = None,
    *,
    out: str | Path,
    config: RunConfig | str | Path | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    settings: Sequence[str] = (),
    workers: int | None = None,
    device: str | None = None,
    progress: Listener | bool | None = None,
    store: str = "",
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Runs the whole method, or goes on with it where the run in `out` stopped.

    Args:
        task: what to train: a name of `optevolve tasks`, `file.py:Name` or `module:Name`, a class of tasks, or an instance; None for the
            preset's. A class or an instance of a script or notebook goes to the workers by value.
        preset: "quick", "small" or "paper"; None for "small".
        out: the run's folder.
        config: a config, or the path of a TOML file, in place of a preset.
        seed, data, settings: override the config; settings are texts such as "search.particles=3".
        workers: processes that train in parallel; None for one per core. The number does not change the search.
        device: where to train: "auto", "cpu", "cuda" or "mps"; None for the config's. A run may be gone on with on another.
        progress: whether progress is shown; None for: in a terminal and in a notebook. Or a listener such as
            `optevolve.progress.Progress`.
        store: URL of a database for the study, `postgresql+psycopg://USER@HOST/DATABASE`; empty for `study.db` in the folder.
        callbacks: told of evaluations and timesteps; see `optevolve.run.watch.Callback`.
    Raises:
        OptevolveError: for anything that the caller can mend.
    """
    config = assemble(config, preset_name=preset, task=None if task is None else spec_for(task), seed=seed, data=data, settings=settings)
    return _run(Path(out), on_device(config, device), workers, progress, callbacks, store=store)


def resume(
    out: str | Path,
    *,
    workers: int | None = None,
    device: str | None = None,
    progress: Listener | bool | None = None,
    store: str = "",
    extend: Sequence[str] = (),
    settings: Sequence[str] = (),
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Goes on with the run in a folder where it stopped. A finished run is left as it is, unless it is extended.

    Args:
        out, workers, device, progress, store, callbacks: as for `search`; the store is needed only where the folder does not name it.
        extend: larger values for the run, such as "search.timesteps=9"; it then ends as if it had been started with them.
        settings: values of `workers` and `compute` for this time, such as "workers.runner=ray"; and, to stay, of stages that have not
            begun and of the final evaluation's tasks and baselines, such as 'evaluation.tasks=["digits"]'.
    """
    settings = [*settings, *([] if device is None else [f"compute.device={device}"])]
    return _run(Path(out), None, workers, progress, callbacks, store=store, extend=extend, settings=settings)


def _run(
    folder: Path,
    config: RunConfig | None,
    workers: int | None,
    progress: Listener | bool | None,
    callbacks: Sequence[Callback],
    *,
    store: str,
    **opening: Any,
) -> Result:
    """The method, stage by stage."""
    require_number(workers)
    starts = config is not None and not has_run(folder, store)
    checks: Mapping[str, TaskCheck] = {}

    def check(wanted: RunConfig) -> None:
        nonlocal checks
        checks = _ready(wanted)

    if config is not None and starts:  # mistakes are told, and missing data, before there is a folder
        check(config)
    elif config is not None:
        require_tasks(config)
    with open_run(folder, config, store=store, check=check, **opening) as (study, config):
        if study.finished:
            if not _reported(study):
                write_results(folder, study, config)
                study.note("reported")
            if why := ended(study):
                raise RunEndedError(why)
            return Result(folder, found_finished=True)
        told = listener(progress)
        with _session(config, study, workers, told or False, folder, callbacks) as work:
            try:
                if not checks:
                    check(config)
                if not (floors := floors_noted(study)):
                    floors = _floors(config, checks)
                    study.note("floors", said=floors)
                if isinstance(told, Progress):
                    told.note(floors)
                if work.cut_off:
                    _say_cut_off(told, work.cut_off)
                sameness = Sameness(config.search.sameness)
                work(_reference(config), config.search.lookahead)
                search = _SearchSource(config)
                if not study.redrawn:  # else the larger run may draw otherwise
                    search.algorithm.recall(study.proposals())
                    sameness.recall(study.fingerprints())
                work(_hopeful(search, config), config.search.lookahead, same=lambda job: sameness(job.rule))
                work.drop_others("initial", "evolution")
                _require_survivors(study, "initial", "evolution")
                survivors = contenders(
                    study.measurements(with_curves=False, with_origins=False), config.contenders, config.search.over_tasks
                )
                elimination = EliminationSource(
                    survivors, config.rounds, task=config.task, seed=config.seed, over_tasks=config.search.over_tasks
                )
                work(Hopeful(elimination, lambda stage, _: name_of_stage(stage), lambda _: None, has_floors), config.search.lookahead)
                if not elimination.survivors:
                    _require_survivors(study, *elimination.stages[-1:])
                contestants = [*elimination.survivors, *_baselines(config)]
                work(_final_evaluation(config, contestants, final_tasks(config)), config.search.lookahead)
                work.drop_others()
                _require_baselines(study, config)
                study.finish()
            except RunEndedError as error:
                study.note("ended", reason=str(error))
                study.finish()
                raise
            finally:
                write_results(folder, study, config)
        study.note("reported")
    return Result(folder)


def _say_cut_off(told: Listener | None, measured: Sequence[str]) -> None:
    """What the last sitting was measuring when it was killed; a warning where no progress is shown."""
    text = (
        f"The last sitting was cut off, killed or with the machine, while it measured {' and '.join(measured)}. "
        "If that happens again, look at what the task does to other processes."
    )
    if isinstance(told, Progress):
        told.note(text)
    else:
        warnings.warn(shielded(text), RuntimeWarning, stacklevel=2)


def _reported(study: Study) -> bool:
    """Whether a finished run has its report; it has not if it was killed between the two."""
    last = next((event.kind for event in reversed(study.events()) if event.kind in ("reported", "extended")), "")
    return last == "reported"


def evaluate(
    out: str | Path,
    tasks: Sequence[AnyTask | FinalTask] | AnyTask = (),
    seeds: int | None = None,
    *,
    settings: Sequence[str] = (),
    workers: int | None = None,
    device: str | None = None,
    progress: Listener | bool | None = None,
) -> list[Comparison]:
    """Evaluates the survivors of a run beside the tuned baselines on more tasks, or with more seeds; what is measured already is kept.

    Args:
        out: the run's folder.
        tasks: as `task` of `search`, one or several, or `optevolve.config.FinalTask` with a budget of its own; none for the run's own final
            tasks.
        settings: changes to the evaluation's protocol: "full_steps=3000" for all of these tasks, "digits.full_steps=500" for one. A task
            keeps the protocol under which it was evaluated before.
        seeds: paired seeds per contestant; None for the config's number.
        workers, device, progress: as for `search`.
    Returns:
        The comparisons of all tasks evaluated so far.
    Raises:
        StudyError: if the search of the run has not come to its end, or a task was evaluated under another protocol.
        ConfigError: if a setting names no task or no value of a protocol.
    """
    require_number(workers)
    folder = Path(out)
    with open_run(folder, None) as (study, config):
        if not study.finished:
            raise StudyError(
                f"Expected a finished run in {folder}, found one that stopped before its end. First: optevolve resume {folder}"
            )
        now = on_device(config, device)
        if seeds is not None:
            now = apply_settings(now, [f"evaluation.seeds={seeds}"])
        given = [task if isinstance(task, FinalTask) else spec_of(spec_for(task)) for task in listed(tasks)]
        measured = {m.job.task: m.job.protocol for m in study.measurements("tune", with_curves=False)}
        chosen = asked_tasks(now, given, settings, measured)
        rows = tuple(FinalTask(spec, protocol=asdict(protocol)) for spec, protocol in chosen.items())
        now = replace(now, evaluation=replace(now.evaluation, tasks=rows))
        contestants = _contestants_of(study)
        if not contestants and (why := ended(study)):
            raise RunEndedError(why)
        with _session(now, study, workers, progress, folder, tasks=list(chosen)) as work:
            try:
                trial.check_tasks(list(chosen), time_limit=config.workers.time_limit)
                work(_final_evaluation(now, contestants, chosen), config.search.lookahead)
            finally:
                write_results(folder, study, config)
        return comparisons(folder)


def require_tasks(config: RunConfig) -> None:
    """Makes every task that a run of this config trains, and tries none.

    Raises:
        TaskError: for an unknown name or option, or a value of the wrong type or range.
    """
    trial.require_tasks(_tasks_of(config))


def _hopeful(search: _SearchSource, config: RunConfig) -> Hopeful:
    """The search, ended once its population, or the first generation after it, has failed to a rule."""
    generation = max(ALIKE, config.search.particles * (1 + config.search.children))
    enough = {name_of_stage("initial"): config.search.population, name_of_stage("evolution"): generation}
    return Hopeful(search, lambda stage, _: name_of_stage(stage), enough.get, has_floors)


def _require_survivors(study: Study, *stages: str) -> None:
    """Ends the run if nobody completed a stage, or, in a round of elimination, nobody under every seed of it."""
    for stage in stages:
        found = study.measurements(stage, with_curves=False, with_origins=False)
        search = stage in ("initial", "evolution")
        outcomes = [m.outcome for m in found] if search else worst_outcomes(found)
        require_completed(name_of_stage(stage), outcomes, any(has_floors(m.job) for m in found[:1]))


def _require_baselines(study: Study, config: RunConfig) -> None:
    """Ends the run if no baseline has a score."""
    measurements = study.measurements(with_curves=False, with_origins=False)
    baselines = [row for row in compare(measurements) if row.name in config.evaluation.baselines]
    if any(set(row.seeds) - set(row.lost) for row in baselines):
        return
    own = [m for m in measurements if m.stage in FINAL and place_of(m).name in config.evaluation.baselines]
    require_completed("baselines", worst_outcomes(own), any(has_floors(m.job) for m in own[:1]))


class _SearchSource:
    """A search as a source for the driver: each proposal becomes a job of its stage's task and protocol."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.algorithm = ALGORITHMS[config.search.algorithm](config.search, grammar(config.grammar), check_integrity, config.seed)

    def ask(self) -> Ask | None:
        proposal = self.algorithm.ask()
        if proposal is None:
            return None
        stage = self.config.initial if proposal.stage == "initial" else self.config.evolution
        number = seed_number(proposal.id)
        seed = seed_for(self.config.seed, _TIES, number) if number else self.config.seed
        job = Job(proposal.id, proposal.rule, _task_of_stage(self.config, stage), stage.protocol, seed)
        return proposal.stage, job, proposal

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.algorithm.tell(job_id, outcome)

    @property
    def done(self) -> bool:
        return self.algorithm.done


class _OneJob:
    """A single measurement as a source for the driver."""

    def __init__(self, stage: str, job: Job) -> None:
        self._stage, self._job = stage, job
        self._asked = self.done = False

    def ask(self) -> Ask | None:
        if self._asked:
            return None
        self._asked = True
        return self._stage, self._job, None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.done = True


def _reference(config: RunConfig) -> _OneJob:
    """AdamW, measured as the evolution's rules are: what their fitness is to be seen beside."""
    stage, rule = config.evolution, str(ZOO[REFERENCE].rule)
    job = Job(job_id(REFERENCE_STAGE, REFERENCE), rule, _task_of_stage(config, stage), stage.protocol, config.seed)
    return _OneJob(REFERENCE_STAGE, job)


def _task_of(config: RunConfig, options: Options) -> str:
    return spec_of(config.task, options)


def _task_of_stage(config: RunConfig, stage: Stage) -> str:
    return join([_task_of(config, stage.task_options), *map(spec_of, stage.more_tasks)])


def _tasks_of(config: RunConfig) -> list[str]:
    """Specs of all tasks that a run trains, in the order of its stages."""
    stages = [_task_of_stage(config, stage) for stage in (config.initial, config.evolution)]
    rounds = [task_of_round(budget, config.task) for budget in config.rounds]
    return list(dict.fromkeys(spec for joined in (*stages, *rounds) for spec in split(joined)) | dict.fromkeys(final_tasks(config)))


def _baselines(config: RunConfig) -> list[Contestant]:
    unknown = [name for name in config.evaluation.baselines if name not in ZOO]
    if unknown:
        raise ConfigError(f"Unknown baseline {unknown[0]!r} in evaluation.baselines. Expected names of the zoo: {', '.join(ZOO)}.")
    return [Contestant(name, str(ZOO[name].rule), ZOO[name].weight_decay) for name in config.evaluation.baselines]


def _contestants_of(study: Study) -> list[Contestant]:
    """Survivors and baselines as the run's own final evaluation met them."""
    found = {place_of(m).name: m.job for m in study.measurements(TUNE)}
    return [Contestant(name, job.rule, job.weight_decay or 0.0) for name, job in found.items()]


def _final_evaluation(config: RunConfig, contestants: Sequence[Contestant], tasks: Mapping[str, Protocol]) -> Hopeful:
    """The final evaluation, ended once every baseline has failed: nothing can be compared then."""
    evaluation = config.evaluation
    counts = {"seeds": evaluation.seeds, "choice_seeds": evaluation.choice_seeds}
    source = EvaluationSource(contestants, list(tasks), evaluation.protocol, protocols=tasks, seed=config.seed, **counts)
    baselines = source.tunings(evaluation.baselines)
    return Hopeful(source, lambda _, job: "baselines" if job.id in baselines else "", lambda _: len(baselines), has_floors)


def _find_data(config: RunConfig) -> None:
    """Data sets are where the config says, for this process and its workers."""
    if config.data:
        os.environ["OPTEVOLVE_DATA"] = str(Path(config.data).resolve())


def _floors(config: RunConfig, checks: Mapping[str, TaskCheck]) -> str:
    """A sentence on the floors of the search's two stages."""
    said: dict[str, list[str]] = {}
    for name, stage in (("the initial population", config.initial), ("the evolution", config.evolution)):
        for spec in split(_task_of_stage(config, stage)):
            said.setdefault(floors_said(spec, stage.protocol, checks.get(spec)), []).append(name)
    parts = [f"for {' and '.join(dict.fromkeys(names))} {floors}" for floors, names in said.items()]
    return f"Floors: {'; '.join(parts if len(parts) > 1 else said)}."


def _ready(config: RunConfig) -> dict[str, TaskCheck]:
    """Whether a run can begin: device, baselines, tasks and their data.

    Returns:
        What the check of each task measured.
    Raises:
        OptevolveError: if it cannot.
    """
    require_device(config)
    _find_data(config)
    _baselines(config)
    return trial.check_tasks(_tasks_of(config), time_limit=config.workers.time_limit)  # before hours are spent on them


@contextmanager
def _session(
    config: RunConfig,
    study: Study,
    workers: int | None,
    progress: Listener | bool | None,
    folder: Path,
    callbacks: Sequence[Callback] = (),
    tasks: Sequence[str] = (),
) -> Iterator[Session]:
    """Workers for the time of a run; they find the data where the config says."""
    require_device(config)
    _find_data(config)
    told = listener(progress)
    listeners = [Listening(told, _stage_of, sizes(config).__getitem__)] if told is not None else []
    try:
        with session(
            study,
            partial(surrogate.measure, compute=config.compute),
            config.workers,
            workers,
            folder,
            tasks=tasks or _tasks_of(config),
            listeners=listeners,
            callbacks=callbacks,
        ) as work:
            yield work
    finally:
        if told is not None:
            told.on_end()


def _stage_of(stage: str) -> str:
    """As `run_size.sizes` counts them."""
    return FINAL_EVALUATION if stage in FINAL else stage
