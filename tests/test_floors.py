"""Floors fit any score: what learns passes, what never moves does not, whatever the unit."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from optevolve.config import FAST, Protocol, Schedule
from optevolve.config_text import PRESETS, preset
from optevolve.floors import Bar, floors_said, surpasses
from optevolve.records import Job, Outcome, Split, Status, TrainingCurve
from optevolve.surrogate import measure
from optevolve.tasks import TASKS, Batch, Task
from optevolve.tasks.synthetic import MlpMoons

PAPER = Protocol(
    learning_rates=(1.0, 0.1, 0.01), first_learning_rates=(0.1,), trial_steps=24, full_steps=48, trial_schedule="compressed",
    epoch_steps=8, trial_epoch_steps=6, schedule=Schedule(warmup=0.1),
)  # fmt: skip
RACE = replace(FAST, trial_steps=24, full_steps=48, epoch_steps=48, learning_rates=(1.0, 0.1, 0.01))
PROTOCOLS = {"paper": PAPER, "race by training scores": RACE, "race by its end": replace(RACE, trial_judge="end", rate_slack=0.0)}


@dataclass(frozen=True)
class Regression(Task):
    """A plane with an offset, scored by minus the loss."""

    def model(self) -> nn.Module:
        return nn.Linear(4, 1)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed({"train": seed % 1000 + 2, "valid": 0, "test": 1}[split])
        for _ in range(6):
            x = torch.randn(16, 4, generator=generator)
            yield Batch(x, x.sum(1, keepdim=True) - 3)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(model(batch.x), batch.y)


@dataclass(frozen=True)
class FarBelowZero(Regression):
    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -900 - 100 * torch.tanh(self.loss(model, batch) / 10)


@dataclass(frozen=True)
class Huge(Regression):
    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -1e12 * self.loss(model, batch)


@dataclass(frozen=True)
class Constant(Regression):
    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.loss(model, batch) * 0 + 0.5


@dataclass(frozen=True)
class NegativeLoss(Regression):
    """A log likelihood whose loss is below zero from the start."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return torch.log1p(mse_loss(model(batch.x), batch.y)) - 50


@dataclass(frozen=True)
class ThousandClasses(Regression):
    """An accuracy that a short trial leaves where it was."""

    scores_accuracy: ClassVar[bool] = True

    def model(self) -> nn.Module:
        return nn.Linear(4, 1000)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        for batch in super().batches(split, seed):
            yield Batch(batch.x, (batch.x[:, 0].abs() * 300).long().clamp(max=999))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch.x), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch.x).argmax(-1) == batch.y).float().mean()


@dataclass(frozen=True)
class Normalised(Regression):
    """With batch norm and dropout the untrained model scores otherwise in training than in evaluation."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


KINDS = [Regression, FarBelowZero, Huge, Constant, NegativeLoss, ThousandClasses, Normalised]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    def measured(kind: type[Task], rule: str, protocol: Protocol) -> Outcome:
        monkeypatch.setitem(TASKS, "own", kind)
        return measure(Job("one", rule, "own", protocol, seed=3))

    return measured


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_learns_passes_and_what_never_moves_is_stopped(kind: type[Task], protocol: str, measured: Any) -> None:
    # A bias before a batch norm has gradients of exactly zero, by which the exact quotient v_hat / sqrt(s_hat) is not a number.
    for rule in ("momentum: g", "div(v_hat, sqrt(s_hat))") if protocol == "paper" else ("momentum: g",):
        found = measured(kind, rule, PROTOCOLS[protocol])
        assert found.status is Status.COMPLETED, found.reason
    still = measured(kind, "g - g", PROTOCOLS[protocol])
    assert still.status is Status.STOPPED
    assert "a rule that never moves" in still.reason
    assert "best trial score" in still.reason


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_early_stopping_nobody_is_stopped(protocol: str, measured: Any) -> None:
    lenient = replace(PROTOCOLS[protocol], early_stopping=False)
    assert measured(Regression, "g - g", lenient).status is Status.COMPLETED
    said = replace(lenient, floor=0.0, first_floor=0.0)  # which no score of this task reaches
    strict = measured(Regression, "momentum: g", said)
    assert strict.status is Status.STOPPED
    assert "below 0" in strict.reason


@dataclass(frozen=True)
class Demanding(Regression):
    floors: ClassVar[tuple[float, float] | None] = (-0.001, -0.001)


@dataclass(frozen=True)
class DemandingLater(Demanding):
    floors_from: ClassVar[int] = 25


def test_a_tasks_own_floors_hold_in_trials_as_long_as_they_are_for(measured: Any) -> None:
    stopped = measured(Demanding, "momentum: g", PAPER)
    assert stopped.status is Status.STOPPED
    assert "below -0.001" in stopped.reason
    assert measured(DemandingLater, "momentum: g", PAPER).status is Status.COMPLETED
    assert measured(DemandingLater, "momentum: g", replace(PAPER, trial_steps=25)).status is Status.STOPPED
    assert measured(Demanding, "momentum: g", replace(PAPER, first_floor=-1e9, floor=-1e9)).status is Status.COMPLETED


def test_a_full_run_is_stopped_once_it_is_no_better_than_one_that_never_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "own", Normalised)
    job = Job("one", "g - g", "own", replace(PAPER, floor_epoch=2), seed=0, learning_rate=0.1)
    found = measure(job)
    assert (found.status, found.curves[0].steps) == (Status.STOPPED, (8, 16))
    assert "after epoch 2" in found.reason
    assert measure(replace(job, rule="momentum: g", learning_rate=0.01)).status is Status.COMPLETED


def test_images_of_another_size_have_no_floors_of_the_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Scaled(MlpMoons):
        floors: ClassVar[tuple[float, float] | None] = (1.0, 1.0)
        resolution: int = 8

    monkeypatch.setitem(TASKS, "scaled", Scaled)
    job = Job("one", "momentum: g", "scaled", PAPER, seed=0)
    assert measure(job).status is Status.STOPPED
    assert measure(replace(job, protocol=replace(PAPER, resolution_share=0.5))).status is Status.COMPLETED


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_has_floors_that_are_numbers_of_a_task(name: str) -> None:
    config = preset(name)
    for stage in (config.initial, config.evolution, *config.elimination, config.evaluation):
        assert (stage.protocol.first_floor, stage.protocol.floor) == (None, None)


def _curve(score: float, loss: float, status: Status = Status.COMPLETED) -> TrainingCurve:
    return TrainingCurve(0.1, 0, (5,), (loss,), (score,), (0.0,), status)


def test_equal_up_to_rounding_is_no_better() -> None:
    still = _curve(0.5, 1000.0)
    assert not surpasses(_curve(0.5, 999.9999), still)
    assert surpasses(_curve(0.5, 999.9), still)
    assert surpasses(_curve(0.51, 2000.0), still)
    diverged = _curve(float("nan"), float("nan"), Status.DIVERGED)
    assert not surpasses(diverged, diverged)
    assert surpasses(still, diverged)
    assert Bar(still=diverged).at(1) is None


@pytest.mark.parametrize(
    ("spec", "changes", "said"),
    [
        ("logreg-digits", {}, "the task's own, a training score of 0.25 in trials and 0.4 in the full run"),
        ("logreg-digits", {"first_floor": 0.3, "floor": 0.5}, "the protocol's, a training score of 0.3 and then 0.5"),
        ("logreg-digits", {"floor": 0.5}, "the protocol's, a training score of 0.5"),
        ("logreg-digits", {"early_stopping": False}, "none, since early stopping is off"),
        ("quadratics", {}, "a rule must beat one that never moves"),
    ],
)
def test_floors_are_said_with_their_numbers(spec: str, changes: dict[str, Any], said: str) -> None:
    assert floors_said(spec, replace(Protocol(), **changes)) == said
