"""Many runs of one task: one after another, or together as replicas where that is asked for, can be, and pays.

A run's curve is the same either way up to rounding. What a job's runs are is no matter of time, so a search with replicas "off" or "on" is
as reproducible as its runs; with "auto" the choice follows a measurement, and two searches may differ by rounding.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from optevolve.records import TrainingCurve
from optevolve.tasks import Task
from optevolve.training.engine import Engine
from optevolve.training.loop import train
from optevolve.training.record import LOOK_STEPS
from optevolve.training.replicas import train_together
from optevolve.training.runs import Run, Terms
from optevolve.training.stack import UnstackableError

__all__ = ["Replicas", "train_many", "why_alone"]

Replicas: TypeAlias = Literal["off", "on", "auto"]

_Key: TypeAlias = tuple[type[Task], str, Engine]

_LOG = logging.getLogger(__name__)
_WARM_UP = 2  # steps that no time is taken of
_alone: dict[_Key, str] = {}  # why a task's runs are not trained together
_pays: dict[tuple[_Key, int], bool] = {}


def train_many(task: Task, runs: Sequence[Run], terms: Terms, replicas: Replicas = "off") -> Iterator[TrainingCurve]:
    """The curves of runs, in their order.

    Args:
        task: what is trained.
        runs: at least one.
        terms: what they share.
        replicas: "off": one after another, each when its curve is asked for; "on": all together; "auto": together on CUDA, on the CPU
            where a calibration of a few steps (made once per process, task, engine and number of runs) finds that faster. A single run is
            such a program only where the engine makes it a CUDA graph. Runs whose task cannot be vectorised are trained one after another,
            and the log says why.
    Raises:
        TaskError: if the task has no training batches.
    """
    if replicas != "off" and (len(runs) > 1 or terms.engine.graph) and not why_alone(task, terms.engine):
        try:
            together = replicas == "on" or _is_faster(task, runs, terms)
            curves = train_together(task, runs, terms) if together else []
        except UnstackableError as error:
            _alone[_key(task, terms.engine)] = str(error)
            _LOG.warning("Runs of %s are trained one at a time: %s", task, error)
        else:
            if together:
                yield from curves
                return
    for run in runs:
        yield _alone_curve(task, run, terms)


def why_alone(task: Task, engine: Engine) -> str:
    """Why runs of a task are not trained together although that was asked for; "" while nothing is known against it."""
    return _alone.get(_key(task, engine), "")


def _alone_curve(task: Task, run: Run, terms: Terms) -> TrainingCurve:
    return train(
        task, run.optimizer, run.learning_rates, run.momenta, seed=run.seed, learning_rate=run.learning_rate, epoch_steps=terms.epoch_steps,
        split=terms.split, floor=terms.floor, floor_epoch=terms.floor_epoch, max_loss_ratio=terms.max_loss_ratio, purpose=terms.purpose,
        engine=terms.engine, part=terms.part,
    )  # fmt: skip


def _key(task: Task, engine: Engine) -> _Key:
    return type(task), repr(task), engine


def _is_faster(task: Task, runs: Sequence[Run], terms: Terms) -> bool:
    """Whether these runs take less time together than one after another, by a few steps of each."""
    if terms.engine.device != "cpu":  # whose time the processor's clock does not tell
        return terms.engine.device == "cuda"
    key = _key(task, terms.engine), len(runs)
    if key not in _pays:
        together = _seconds(lambda short, steps: train_together(task, short, steps), runs, terms)
        alone = _seconds(lambda short, steps: [_alone_curve(task, short[0], steps)], runs, terms) * len(runs)
        _pays[key] = together < alone
        _LOG.info("A step of %d runs of %s: %.3g s together, %.3g s one at a time", len(runs), task, together, alone)
    return _pays[key]


def _seconds(train_short: Callable[[list[Run], Terms], object], runs: Sequence[Run], terms: Terms) -> float:
    """Processor time of a step, the first ones and what comes before them left out."""
    spent = []
    for steps in (_WARM_UP, _WARM_UP, LOOK_STEPS):  # the first for what torch does once per process
        short = [replace(run, learning_rates=run.learning_rates[:steps], momenta=run.momenta[:steps]) for run in runs]
        started = time.process_time()
        train_short(short, replace(terms, epoch_steps=steps, split=None, floor=None))
        spent.append(time.process_time() - started)
    return (spent[2] - spent[1]) / (LOOK_STEPS - _WARM_UP)
