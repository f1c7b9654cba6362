"""Runs to train together and one at a time, and what it means that their curves agree."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from torch import nn
from torch.optim import Optimizer

from optevolve.compile import build
from optevolve.records import TrainingCurve
from optevolve.schedule import schedule_values
from optevolve.tasks import Task
from optevolve.training import Run, Terms, train


def of_rule(rule: str, peak: float, seed: int, total_steps: int = 30, **options: Any) -> Callable[[list[nn.Parameter]], Optimizer]:
    return lambda parameters: build(rule, parameters, lr=peak, total_steps=total_steps, seed=seed, **options)


def runs_of(rule: str, peaks: Sequence[float], seeds: Sequence[int] = (0,), steps: int = 30, **options: Any) -> list[Run]:
    runs = []
    for seed in seeds:
        for peak in peaks:
            rates, momenta = schedule_values(peak, steps, 4)
            runs.append(Run(of_rule(rule, peak, seed, steps, **options), rates, momenta, seed))
    return runs


def one_at_a_time(task: Task, runs: Sequence[Run], terms: Terms) -> list[TrainingCurve]:
    return [
        train(
            task, run.optimizer, run.learning_rates, run.momenta, seed=run.seed, epoch_steps=terms.epoch_steps, split=terms.split,
            floor=terms.floor, floor_epoch=terms.floor_epoch, max_loss_ratio=terms.max_loss_ratio, engine=terms.engine, part=terms.part,
        )
        for run in runs
    ]  # fmt: skip


def assert_agree(found: Sequence[TrainingCurve], expected: Sequence[TrainingCurve], tolerance: float = 1e-4) -> None:
    """Ends, steps and seeds are the same; losses and scores are to the tolerance (relative, and absolute)."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.seed, one.learning_rate, one.steps, one.status) == (other.seed, other.learning_rate, other.steps, other.status)
        # Of a diverged run the numbers are chaos; what it says, to the first word and the step, is not.
        assert one.reason.split()[:1] == other.reason.split()[:1]
        last = -1 if other.reason.startswith(("loss", "a parameter")) else None
        for name in ("train_loss", "train_score", "score", "margin"):
            values, others = getattr(one, name)[:last], getattr(other, name)[:last]
            assert all(map(math.isfinite, others)) or name in ("score", "margin")
            assert values == pytest.approx(others, rel=tolerance, abs=tolerance, nan_ok=True)
