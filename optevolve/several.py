"""Fitness over several tasks: the mean of scores on a scale where the untrained model is 0 and Adam, tuned by the same protocol, is 1.

A job names several tasks by joining their specs with ";". Adam is measured once per worker, task, protocol and seed: a pure function of
these, so that the number of workers changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from optevolve.errors import ConfigError, TaskError
from optevolve.library import ZOO
from optevolve.records import SEPARATOR, Job, Outcome, Status
from optevolve.tasks import load
from optevolve.tasks.cheaper import made_cheaper
from optevolve.training import untrained_score

__all__ = ["SEPARATOR", "MeasureOne", "join", "measure_all", "split"]

MeasureOne = Callable[[Job], Outcome]


def join(tasks: Sequence[str]) -> str:
    """The spec of several tasks; of one, its own."""
    return SEPARATOR.join(dict.fromkeys(tasks))


def split(task: str) -> list[str]:
    """The specs that a job's task names."""
    return task.split(SEPARATOR)


def measure_all(job: Job, measure_one: MeasureOne) -> Outcome:
    """The outcome over all tasks of a job.

    A rule that does not complete on a task has no fitness; tasks after it are left out. The learning rate of the outcome is that of the
    first task: each task has its own. The interval follows from the tasks' intervals, taken as independent, where every task has one (too
    narrow where single runs on several tasks are judged by the same examples);
    Adam's own noise, the same for all rules, is not in it.

    Args:
        job: its task names several.
        measure_one: measures a job of one task.
    Raises:
        ConfigError: if the job fixes a learning rate.
        TaskError: if Adam does not get better than the untrained model on one of the tasks, so that there is no scale.
    """
    if job.learning_rate is not None:
        raise ConfigError(f"Expected a learning rate chosen on each task, got {job.learning_rate:g} for all of {job.task}. Leave it out.")
    outcomes: list[Outcome] = []
    scores: list[float] = []
    halves: list[float] = []
    for task in split(job.task):
        outcome = measure_one(replace(job, task=task))
        outcome = replace(outcome, curves=tuple(replace(curve, task=task) for curve in outcome.curves))
        outcomes.append(outcome)
        if outcome.status is not Status.COMPLETED or outcome.fitness is None:
            return replace(_spent(outcomes), status=outcome.status, reason=f"{task}: {outcome.reason}")
        untrained, adam = _scale(replace(job, id="adam", rule=str(ZOO["adam"].rule), task=task), measure_one)
        scores.append((outcome.fitness - untrained) / (adam - untrained))
        if outcome.interval is not None:
            halves.append((outcome.interval[1] - outcome.interval[0]) / 2 / (adam - untrained))
    fitness = math.fsum(scores) / len(scores)
    half = math.hypot(*halves) / len(scores)
    interval = (fitness - half, fitness + half) if len(halves) == len(scores) else None
    return replace(
        _spent(outcomes),
        fitness=fitness,
        learning_rate=outcomes[0].learning_rate,
        weight_decay=outcomes[0].weight_decay,
        interval=interval,
        task_scores=tuple(scores),
    )


def _spent(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(
        Status.COMPLETED,
        curves=tuple(curve for outcome in outcomes for curve in outcome.curves),
        steps=sum(outcome.steps for outcome in outcomes),
        seconds=sum(outcome.seconds for outcome in outcomes),
        device=outcomes[0].device,
    )


@lru_cache(maxsize=256)
def _scale(adam: Job, measure_one: MeasureOne) -> tuple[float, float]:
    """Scores of the untrained model and of Adam."""
    outcome = measure_one(adam)
    protocol = adam.protocol
    task = made_cheaper(load(adam.task), protocol.resolution_share, protocol.batch_share)  # what Adam and the rule are measured on
    untrained = untrained_score(task, adam.seed)
    if outcome.fitness is None or not outcome.fitness > untrained:
        found = outcome.reason or f"score {outcome.fitness}"
        raise TaskError(
            f"Expected Adam to do better on {adam.task} than the untrained model's {untrained:.4g}, got {found}. "
            "Lengthen the protocol, widen its learning rates, or leave the task out."
        )
    return untrained, outcome.fitness
