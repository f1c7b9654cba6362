"""One sitting of a run: what measures, what is stored and who is told, from start to end or interruption."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from optevolve import __version__
from optevolve.config import RunConfig, Workers
from optevolve.config_text import checked
from optevolve.errors import ConfigError, StudyError
from optevolve.records import Job
from optevolve.run.definitions import Definitions, definitions_of
from optevolve.run.driver import Happening, Runner, Source, drive
from optevolve.run.local import LocalRunner
from optevolve.run.ray import RayRunner
from optevolve.run.sharing import data_of
from optevolve.run.store import Study, driver_name
from optevolve.run.watch import Callback, Journal, Watch
from optevolve.run.worker import Measure

__all__ = ["Session", "available_cores", "make_runner", "require_device", "require_number", "session"]

_MOST = 10_000  # workers; on Ray, measurements at a time


class Session:
    """Drives sources, one after the other, with the runner, the study and the listeners at hand.

    Attributes:
        cut_off: see `optevolve.run.watch.Journal`.
    """

    def __init__(self, runner: Runner, study: Study, listeners: Sequence[Callable[[Happening], None]], cut_off: Sequence[str] = ()) -> None:
        self._runner, self._study, self._listeners = runner, study, listeners
        self.cut_off = cut_off
        self._asked: set[str] = set()

    def __call__(self, source: Source, lookahead: int, *, same: Callable[[Job], str] | None = None) -> None:
        """Drives a source to its end; see `drive`."""
        self._asked |= drive(source, self._runner, self._study, lookahead=lookahead, same=same, on_event=self._listen)

    def _listen(self, happening: Happening) -> None:
        for listener in self._listeners:
            listener(happening)

    def drop_others(self, *stages: str) -> None:
        """In an extended run, what belonged to the smaller one alone goes: of these stages, or of all if none is named."""
        if self._study.extended:
            self._study.forget(self._study.jobs(*stages) - self._asked)


@contextmanager
def session(
    study: Study,
    measure: Measure,
    workers: Workers,
    number: int | None,
    folder: Path,
    *,
    tasks: Sequence[str] = (),
    listeners: Sequence[Callable[[Happening], None]] = (),
    callbacks: Sequence[Callback] = (),
) -> Iterator[Session]:
    """A sitting: workers are there until it ends, and log.jsonl in the folder tells what happens.

    Args:
        study: held for writing.
        measure: a function of a module.
        workers, number: what measures, and how many at once; None for all there is.
        folder: of the run.
        tasks: specs of all that will be measured, for what workers cannot import of them.
        listeners: told of everything that the driver does.
        callbacks: told of evaluations and timesteps.
    """
    with Journal(folder / "log.jsonl") as journal:
        watch = Watch(callbacks, lambda text: journal.write("callback", text=text))
        journal.write("start", version=__version__, driver=driver_name(), study=study.where, runner=workers.runner, workers=number)
        ending = ""
        try:
            with make_runner(measure, workers, number, definitions_of(tasks), logs=folder / "workers") as runner, _blaming(runner):
                yield Session(runner, study, [journal, watch, *listeners], journal.cut_off)
        except BaseException as error:
            ending = f"{type(error).__name__}: {error}"
            raise
        finally:
            watch.end(not ending)
            with suppress(StudyError) if ending else nullcontext():  # what has ended the run is to be told
                journal.write("end", finished=not ending, error=ending)


@contextmanager
def _blaming(runner: Runner) -> Iterator[None]:
    """Where the store fails for want of room, the message says which measurement has filled the disk."""
    try:
        yield
    except StudyError as error:
        if isinstance(runner, LocalRunner) and (who := runner.who_filled()):
            raise StudyError(f"{error} {who}") from error
        raise


def make_runner(
    measure: Measure, workers: Workers, number: int | None, definitions: Definitions | None = None, *, logs: Path | None = None
) -> LocalRunner | RayRunner:
    """The runner that a config asks for; on this machine, what workers print goes to the folder `logs`.

    Raises:
        ConfigError: if a value is out of range, or it needs Ray, which is not installed or not there.
    """
    workers = checked(RunConfig(workers=workers)).workers  # made in Python, it may hold anything
    memory = None if workers.memory_limit is None else round(workers.memory_limit * 2**30)
    if workers.runner == "local":
        number = number or available_cores()
        return LocalRunner(number, measure, time_limit=workers.time_limit, memory_limit=memory, logs=logs, definitions=definitions)
    return RayRunner(
        measure,
        address=workers.ray_address,
        cpus=workers.cpus,
        gpus=workers.gpus,
        most=number,
        retries=workers.retries,
        time_limit=workers.time_limit,
        memory_limit=memory,
        share=data_of,
        definitions=definitions,
    )


def require_device(config: RunConfig) -> None:
    """Whether this machine has the device that it is to train on, before workers are started; on a cluster each worker looks for itself.

    Raises:
        ConfigError: if it has not.
    """
    if config.workers.runner == "local" and config.compute.device not in ("auto", "cpu"):
        from optevolve.training import device_of  # loads torch

        device_of(config.compute.device)


def require_number(workers: int | None) -> None:
    """Whether so many workers can be had; None is what there is.

    Raises:
        ConfigError: if not.
    """
    if workers is not None and not 1 <= workers <= _MOST:
        raise ConfigError(f"Expected 1 to {_MOST:,} workers, got {workers}. Leave --workers out for one per core.")


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
