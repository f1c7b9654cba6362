"""Runs trained together: each sees what it sees alone, the curves are the same, and those that end are dropped on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from optevolve.records import Split, Status
from optevolve.tasks import Batch, Task, load
from optevolve.training import Engine, Run, Terms, UnstackableError, train_many, train_together
from optevolve.training.stack import Stack
from tests.training.replica_cases import assert_agree, of_rule, one_at_a_time, runs_of

TERMS = Terms(epoch_steps=15)
PEAKS = (1e-3, 1e-2, 1e-1, 1e4)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("digits@width=4", "momentum: g"),  # convolutions, batch norm's running moments, dropout
        ("mlp-moons", "v_hat / sqrt(s_hat)"),
        ("quadratics", "nesterov: sign(g)"),
        ("digits@width=4+label-noise:0.2", "g"),
    ],
)
def test_learning_rates_and_seeds_together_give_the_curves_of_one_at_a_time(spec: str, rule: str) -> None:
    task = load(spec)
    runs = runs_of(rule, PEAKS, seeds=(0, 5))
    together = train_together(task, runs, TERMS)
    assert_agree(together, one_at_a_time(task, runs, TERMS))
    assert Status.COMPLETED in {curve.status for curve in together}
    assert together[0].train_loss != together[4].train_loss  # the seeds are two


def test_a_diverged_run_is_dropped_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    backward = Stack.backward

    def counting(stack: Stack, batches: dict[int, Batch]) -> Any:
        rows.append(len(stack))
        return backward(stack, batches)

    monkeypatch.setattr(Stack, "backward", counting)
    task = load("mlp-moons")
    runs = runs_of("momentum: g", (1e4, 1e-2, 1e5, 1e-1))
    curves = train_together(task, runs, TERMS)
    assert [curve.status for curve in curves] == [Status.DIVERGED, Status.COMPLETED, Status.DIVERGED, Status.COMPLETED]
    assert rows == [4] * 10 + [2] * 20
    assert_agree(curves, one_at_a_time(task, runs, TERMS))
    assert all(curve.seconds > 0 for curve in curves)


def test_a_single_run_can_be_such_a_program() -> None:
    task, runs = load("digits@width=4"), runs_of("momentum: g", (1e-1,))
    assert_agree(train_together(task, runs, TERMS), one_at_a_time(task, runs, TERMS))


def test_if_all_diverge_the_program_ends() -> None:
    curves = train_together(load("mlp-moons"), runs_of("g", (1e5, 1e6), steps=200), TERMS)
    assert [curve.status for curve in curves] == [Status.DIVERGED] * 2
    assert max(curve.steps[-1] for curve in curves) <= 20


def test_a_run_below_its_floor_is_stopped_alone() -> None:
    task = load("digits@width=4")
    terms = Terms(epoch_steps=10, split=None, floor=0.2, floor_epoch=2)
    runs = runs_of("v_hat / sqrt(s_hat)", (1e-7, 3e-2))
    curves = train_together(task, runs, terms)
    assert [curve.status for curve in curves] == [Status.STOPPED, Status.COMPLETED]
    assert_agree(curves, one_at_a_time(task, runs, terms))


def test_scores_are_those_of_the_part_of_the_split() -> None:
    task = load("mlp-moons")
    runs = runs_of("momentum: g", (1e-2, 1e-1))
    halves = [train_together(task, runs, replace(TERMS, part=part)) for part in ("choice", "judgement")]
    assert halves[0][0].score != halves[1][0].score
    assert_agree(halves[1], one_at_a_time(task, runs, replace(TERMS, part="judgement")))


def test_the_same_runs_give_the_same_bits_and_the_callers_random_state_is_left_alone() -> None:
    task = load("digits@width=2")
    runs = runs_of("dropout(v, 0.5)", (1e-2, 1e-1), seeds=(1, 2), steps=12)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again = train_together(task, runs, TERMS), train_together(task, runs, TERMS)
    assert torch.equal(torch.get_rng_state(), before)
    assert [curve.train_loss for curve in first] == [curve.train_loss for curve in again]


def test_bfloat16_together_is_bfloat16_alone_to_within_its_precision() -> None:
    task = load("mlp-moons")
    terms = replace(TERMS, engine=Engine("bf16"))
    runs = runs_of("momentum: g", (1e-2, 1e-1))
    assert_agree(train_together(task, runs, terms), one_at_a_time(task, runs, terms), tolerance=0.02)


@dataclass(frozen=True)
class Line(Task):
    """y = 2x."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        x = torch.linspace(0, 1, 8)[:, None]
        yield Batch(x, 2 * x)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(model(batch.x), batch.y)


class Branching(Line):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        return loss if loss > 0.1 else 2 * loss


class Reading(Line):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        loss = super().loss(model, batch)
        return loss * loss.item()


class Noisy(Line):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, Batch(batch.x + torch.randn_like(batch.x), batch.y))


class Unused(Line):
    def model(self) -> nn.Module:
        model = nn.Linear(1, 1)
        model.extra = nn.Parameter(torch.ones(2))
        return model


class Growing(Line):
    """Batches whose size depends on the seed."""

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        x = torch.linspace(0, 1, 2 + seed % 50)[:, None]
        yield Batch(x, 2 * x)


class Wrong(Line):
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(model(batch.x[:, :0]), batch.y)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Branching(), "control flow"),
        (Reading(), "item"),
        (Noisy(), "random"),
        (Unused(), "extra without a gradient"),
        (Growing(), "several shapes"),
        (load("mlp-moons+gradient-noise:0.1"), "hooks"),
        (load("mlp-moons+sparse-gradients:0.5"), "hooks"),
    ],
)
def test_what_cannot_be_vectorised_says_so(task: Task, says: str) -> None:
    with pytest.raises(UnstackableError, match=says):
        train_together(task, runs_of("g", (1e-2, 1e-1), seeds=(0, 1), steps=4), TERMS)


def test_a_fault_of_the_task_is_not_taken_for_one_of_vectorising() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train_together(Wrong(), runs_of("g", (1e-2, 1e-1), steps=4), TERMS)


def test_runs_of_several_lengths_are_not_trained_together() -> None:
    runs = [Run(of_rule("g", 0.1, 0), [0.1] * steps, [0.9] * steps, 0) for steps in (4, 5)]
    with pytest.raises(UnstackableError, match="lengths"):
        train_together(Line(), runs, TERMS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu_the_curves_are_those_of_the_cpu(graph: bool) -> None:
    task = load("mlp-moons")  # without dropout, whose draws differ between devices
    runs = runs_of("momentum: g", PEAKS, seeds=(0, 5))
    terms = replace(TERMS, engine=Engine(device="cuda", graph=graph))
    found = train_together(task, runs, terms)
    assert_agree(found, one_at_a_time(task, runs, TERMS), tolerance=1e-3)
    assert_agree(found, one_at_a_time(task, runs, terms), tolerance=1e-3)
    assert_agree(list(train_many(task, runs[:1], terms, "auto")), found[:1], tolerance=1e-3)
