"""Several tasks at once: the scale, the mean, the interval, and what one task's failure means."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from torch import Tensor, nn

from optevolve.config import FAST
from optevolve.errors import ConfigError, TaskError
from optevolve.library import ZOO
from optevolve.records import Job, Outcome, Split, Status
from optevolve.several import join, measure_all, split
from optevolve.surrogate import measure
from optevolve.tasks import TASKS as REGISTERED
from optevolve.tasks import Batch, load
from optevolve.tasks.synthetic import LogregDigits
from optevolve.training import untrained_score

ADAM = str(ZOO["adam"].rule)
TINY = replace(FAST, trial_steps=24, full_steps=40, epoch_steps=40, learning_rates=(0.1, 0.01, 1e-3))
TASKS = ["mlp-moons", "logreg-digits"]
JOB = Job("one", ADAM, join(TASKS), TINY, seed=2)


def test_specs_are_joined_once_each_and_split_again() -> None:
    assert split(join(["a@x=1", "b", "a@x=1"])) == ["a@x=1", "b"]
    assert split("a") == ["a"]


def test_adam_is_one() -> None:
    outcome = measure(JOB)
    assert outcome.status is Status.COMPLETED
    assert outcome.fitness == pytest.approx(1)
    assert outcome.task_scores == pytest.approx((1, 1))
    assert outcome.interval is not None
    assert outcome.interval[0] < 1 < outcome.interval[1]


def test_the_fitness_is_the_mean_over_tasks_of_scores_between_untrained_and_adam() -> None:
    job = replace(JOB, rule="momentum: g")
    parts = []
    for task in TASKS:
        own, adam = measure(replace(job, task=task)), measure(replace(JOB, task=task))
        zero = untrained_score(load(task), 2)
        assert own.fitness is not None
        assert adam.fitness is not None
        parts.append((own.fitness - zero) / (adam.fitness - zero))
    outcome = measure(job)
    assert outcome.fitness == pytest.approx(sum(parts) / 2)
    assert outcome.task_scores == pytest.approx(parts)
    assert outcome.steps == sum(curve.steps[-1] for curve in outcome.curves)
    assert {curve.purpose for curve in outcome.curves} == {"trial", "full"}


@dataclass(frozen=True)
class Scaled(LogregDigits):
    """Digits whose images may be smaller; then they are darker, so that the untrained model scores otherwise."""

    resolution: int = 8

    def model(self) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(8), *super().model().children())

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        for batch in super().batches(split, seed):
            yield Batch(nn.functional.avg_pool2d(batch.x, 8 // self.resolution), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -self.loss(model, batch)


def test_the_untrained_model_is_scored_on_the_images_that_the_rule_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTERED, "scaled", Scaled)
    job = replace(JOB, rule="g", task=join(["scaled", "mlp-moons"]), protocol=replace(TINY, resolution_share=0.25), seed=4)

    def one(job: Job) -> Outcome:
        return Outcome(Status.COMPLETED, 3.0 if job.rule == ADAM else 2.0)

    small, whole = untrained_score(Scaled(resolution=2), 4), untrained_score(Scaled(), 4)
    assert small != pytest.approx(whole, abs=0.01)
    assert measure_all(job, one).task_scores[0] == pytest.approx((2 - small) / (3 - small))


def test_a_rule_that_fails_on_one_task_has_no_fitness() -> None:
    def one(job: Job) -> Outcome:
        if job.rule != ADAM and job.task == "logreg-digits":
            return Outcome(Status.DIVERGED, reason="exploded", steps=3)
        return Outcome(Status.COMPLETED, 1.0, 0.1, steps=10)

    outcome = measure_all(replace(JOB, rule="g"), one)
    assert (outcome.status, outcome.fitness, outcome.steps) == (Status.DIVERGED, None, 13)
    assert outcome.reason == "logreg-digits: exploded"


def test_where_adam_learns_nothing_there_is_no_scale() -> None:
    def one(job: Job) -> Outcome:
        return Outcome(Status.COMPLETED, 0.0 if job.rule == ADAM else 0.5)

    with pytest.raises(TaskError, match="Expected Adam to do better on mlp-moons"):
        measure_all(replace(JOB, rule="g"), one)


def test_one_learning_rate_for_all_tasks_is_refused() -> None:
    with pytest.raises(ConfigError, match="chosen on each task"):
        measure(replace(JOB, learning_rate=0.1))
