"""Runs of one task trained together: learning rates and seeds as replicas of one vectorised program.

Each replica sees what it would see alone: its seed's initialisation, batches and (on the CPU) dropout, its own learning rates, its own
running moments, its own draws of a stochastic rule. The curves equal those of `train` up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from optevolve.records import TrainingCurve
from optevolve.tasks import Task
from optevolve.training.loop import denormals_flushed, passes
from optevolve.training.runs import Run, Terms
from optevolve.training.scoring import evaluate
from optevolve.training.stack import Stack, UnstackableError
from optevolve.training.stack_optimizer import optimizer_of

__all__ = ["train_together"]


def train_together(task: Task, runs: Sequence[Run], terms: Terms) -> list[TrainingCurve]:
    """Trains a fresh model for each run, all of them at once, and measures each every epoch.

    Runs that diverge or fall below their floor are dropped on the way, and the others go on with less to compute. The seconds of a curve
    are its share of the time.

    Args:
        task: what is trained.
        runs: at least one, all of the same number of steps.
        terms: what they share.
    Returns:
        The curves, in the order of the runs.
    Raises:
        UnstackableError: if the task's loss cannot be vectorised, the runs differ in length, or their batches in shape.
        TaskError: if the task has no training batches.
    """
    if len({len(run.learning_rates) for run in runs}) > 1:
        raise UnstackableError("runs of several lengths")
    together = _Together(task, runs, terms)
    with terms.engine.forked_rng(), denormals_flushed():
        return together.train()


class _Together:
    """The running training. Replicas have the numbers of their runs; `live` are those of the rows of the stack."""

    def __init__(self, task: Task, runs: Sequence[Run], terms: Terms) -> None:
        self.task = task
        self.runs = runs
        self.terms = terms
        self.total = len(runs[0].learning_rates)
        self.records = [terms.record(self.total) for _ in runs]
        self.live = list(range(len(runs)))
        self.seconds = [0.0] * len(runs)
        self.fresh: list[torch.Tensor] = []

    def train(self) -> list[TrainingCurve]:
        """The curves of all runs."""
        started = time.perf_counter()
        stack = self._stack()
        optimizer = optimizer_of(self.runs, stack)
        batches = {number: passes(self.task, seed) for number, seed in enumerate(self._seeds())}
        engine = self.terms.engine
        for step in range(1, self.total + 1):
            given = {number: engine.place(next(batches[number])) for number in stack.live_seeds()}
            self.fresh.append(torch.stack(stack.backward(given), dim=1))
            optimizer.step(step - 1)
            if not self.records[0].wants_look(step):
                continue
            self._look(stack, step)
            now = time.perf_counter()
            for replica in self.live:
                self.seconds[replica] += (now - started) / len(self.live)
            started = now
            kept = [row for row, replica in enumerate(self.live) if not self.records[replica].ended]
            if len(kept) < len(self.live):
                self.live = [self.live[row] for row in kept]
                if not kept:
                    break
                stack.keep(kept)
                optimizer.keep(kept)
        return [
            record.curve(run.peak, run.seed, self.terms.purpose, seconds)
            for record, run, seconds in zip(self.records, self.runs, self.seconds, strict=True)
        ]

    def _seeds(self) -> list[int]:
        """The different seeds, in the order of the runs."""
        return list(dict.fromkeys(run.seed for run in self.runs))

    def _stack(self) -> Stack:
        models, generators = [], []
        engine = self.terms.engine
        for seed in self._seeds():
            torch.manual_seed(seed)
            models.append(self.task.model().train().to(engine.device))
            generator = torch.Generator(engine.device)
            if engine.device == "cpu":
                generators.append(generator.set_state(torch.get_rng_state()))  # dropout goes on where the initialisation ended
            else:
                generators.append(generator.manual_seed(seed))
        seeds = self._seeds()
        return Stack(self.task, models, generators, [seeds.index(run.seed) for run in self.runs], engine)

    def _look(self, stack: Stack, step: int) -> None:
        """Reads what the steps since the last look gave, and ends the runs that have to end."""
        read = torch.stack(self.fresh).transpose(0, 1).tolist()  # (replicas, steps, 2)
        self.fresh.clear()
        finite = stack.finite() if self.records[0].ends_epoch(step) else []
        terms = self.terms
        for row, replica in enumerate(self.live):
            record = self.records[replica]
            trouble, score = record.look([(loss, score) for loss, score in read[row]]), None
            if record.ends_epoch(step) and not trouble:
                if terms.split is not None:
                    score = evaluate(self.task, stack.one(row), terms.split, terms.engine, terms.part)
                trouble = record.unsound(score, finite[row])
            if trouble:
                record.diverge(step, trouble)
            elif record.ends_epoch(step):
                record.add_point(step, score)
