"""The training loop: determinism, schedules applied, curves, scores, early ends."""

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from optevolve.errors import TaskError
from optevolve.records import Split, Status, TrainingCurve
from optevolve.schedule import schedule_values
from optevolve.tasks import Batch, Task, load
from optevolve.training import LOOK_STEPS, evaluate, train, untrained_score


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0, momentum=0.9)


def run(task: Task, steps: int = 40, peak: float = 0.1, optimizer: Any = sgd, **options: Any) -> TrainingCurve:
    rates, momenta = schedule_values(peak, steps, steps // 10)
    return train(task, optimizer, rates, momenta, **{"seed": 0, "epoch_steps": 10, **options})


@dataclass(frozen=True)
class Line(Task):
    """y = 2x, three batches."""

    size: int = 8

    def model(self) -> nn.Module:
        return nn.Linear(1, 1)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        for start in range(3):
            x = torch.linspace(start, start + 1, self.size)[:, None]
            yield Batch(x, 2 * x)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(model(batch.x), batch.y)


def spoiled(at: int, change: Callable[[Tensor], Tensor]) -> Line:
    """A task whose loss is changed from step `at` on."""
    calls = iter(range(10_000))

    @dataclass(frozen=True)
    class Spoiled(Line):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            loss = super().loss(model, batch)
            return change(loss) if next(calls) >= at else loss

        def score(self, model: nn.Module, batch: Batch) -> Tensor:
            return torch.tensor(0.5)

    return Spoiled()


@pytest.mark.parametrize("spec", ["digits@width=4", "mlp-moons", "quadratics"])
def test_the_same_seed_gives_the_same_curve_and_another_seed_another(spec: str) -> None:
    task = load(spec)
    first, again, other = run(task), run(task), run(task, seed=1)
    assert (first.train_loss, first.train_score, first.score) == (again.train_loss, again.train_score, again.score)
    assert first.train_loss != other.train_loss


def test_the_callers_random_state_and_denormals_are_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = run(load("digits@width=2"), steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert run(load("digits@width=2"), steps=5).train_loss == first.train_loss
    assert torch.tensor(1e-40).mul(1.0).item() != 0


def test_every_step_gets_its_learning_rate_and_momentum() -> None:
    seen: list[tuple[float, float]] = []

    class Recording(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.extend((group["lr"], group["momentum"]) for group in self.param_groups)
            return super().step(closure)

    rates, momenta = schedule_values(0.1, 30, 5)
    train(Line(), lambda parameters: Recording(parameters, lr=9.0, momentum=0.5), rates, momenta, seed=0, epoch_steps=10)
    assert seen == list(zip(rates.tolist(), momenta.tolist(), strict=True))
    # an optimizer without a momentum is not given one
    groups: list[dict[str, Any]] = []

    def adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        made = torch.optim.Adam(parameters)
        groups.extend(made.param_groups)
        return made

    run(Line(), optimizer=adam)
    assert "momentum" not in groups[0]


def test_the_loop_is_the_plain_loop() -> None:
    """Losses and scores of the curve are those of a loop written out by hand."""
    task = load("mlp-moons")
    rates, momenta = schedule_values(0.2, 23, 4)
    curve = train(task, sgd, rates, momenta, seed=5, epoch_steps=10)
    passes = {split: list(task.batches(split, 0)) for split in (Split.VALID,)}
    order: list[Batch] = []

    @dataclass(frozen=True)
    class Spy(type(task)):  # type: ignore[misc]
        def batches(self, split: Split, seed: int) -> Iterator[Batch]:
            for batch in super().batches(split, seed):
                if split == Split.TRAIN:
                    order.append(batch)
                yield batch

    train(Spy(), sgd, rates, momenta, seed=5, epoch_steps=10, split=None)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = task.model()
    optimizer = sgd(list(model.parameters()))
    losses, scores, valid = [], [], []
    for step, batch in enumerate(order[:23]):
        optimizer.param_groups[0].update(lr=rates[step], momentum=momenta[step])
        optimizer.zero_grad()
        loss = task.loss(model, batch)
        losses.append(loss.item())
        scores.append(task.score(model, batch).item())
        loss.backward()
        optimizer.step()
        if step in (9, 19, 22):
            valid.append((model(passes[Split.VALID][0].x).argmax(-1) == passes[Split.VALID][0].y).float().mean().item())
    assert curve.steps == (10, 20, 23)
    mean = statistics.fmean
    assert curve.train_loss == pytest.approx([mean(losses[:10]), mean(losses[10:20]), mean(losses[20:])], rel=1e-6)
    assert curve.train_score == pytest.approx([mean(scores[:10]), mean(scores[10:20]), mean(scores[20:])], rel=1e-6)
    assert curve.score == pytest.approx(valid, rel=1e-6)
    assert curve.learning_rate == pytest.approx(max(rates))


def test_passes_over_the_data_differ() -> None:
    seeds: list[int] = []

    @dataclass(frozen=True)
    class Spy(Line):
        def batches(self, split: Split, seed: int) -> Iterator[Batch]:
            if split == Split.TRAIN:
                seeds.append(seed)
            return super().batches(split, seed)

    run(Spy(), steps=9)
    assert len(seeds) == len(set(seeds)) == 3


def test_digits_are_learnt() -> None:
    curve = run(load("digits@width=8"), steps=200, peak=0.2, epoch_steps=100)
    assert curve.status is Status.COMPLETED
    assert curve.score[-1] > 0.9
    assert curve.seconds > 0


def test_a_training_score_costs_no_second_forward_pass() -> None:
    forwards = []

    class Counting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            forwards.append(self.training)
            return super().forward(x)

    @dataclass(frozen=True)
    class Counted(Line):
        def model(self) -> nn.Module:
            return Counting(1, 1)

    curve = run(Counted(), steps=7, split=None)
    assert forwards == [True] * 7
    assert curve.train_score == (-curve.train_loss[0],)
    assert all(math.isnan(score) for score in curve.score)


def test_a_score_may_ask_the_model_for_other_things() -> None:
    @dataclass(frozen=True)
    class Other(Line):
        def score(self, model: nn.Module, batch: Batch) -> Tensor:
            weight: Any = model.weight
            return model(batch.x + 0).mean() * 0 + model(input=batch.x).mean() * 0 + weight.sum() * 0 + 0.25

    assert run(Other()).train_score == (0.25,) * 4


@pytest.mark.parametrize(
    ("change", "says", "at"),
    [
        *((lambda loss: loss * math.nan, "loss nan", at) for at in (0, 3, 10, 19, 25)),
        *((lambda loss: loss * math.inf, "loss inf", at) for at in (0, 3, 10, 19, 25)),
        *((lambda loss: loss + 1e9, "above", at) for at in (1, 3, 10, 19, 25)),  # the first loss is the measure of the later ones
    ],
)
def test_divergence_is_seen_within_ten_steps(change: Callable[[Tensor], Tensor], says: str, at: int) -> None:
    curve = run(spoiled(at, change), steps=100, split=None, epoch_steps=25)
    assert curve.status is Status.DIVERGED
    assert says in curve.reason
    assert f"step {at}" in curve.reason
    assert at < curve.steps[-1] <= at + LOOK_STEPS
    assert len(curve.steps) == len(curve.train_loss) == len(curve.train_score) == len(curve.score) == at // 25 + 1


def test_a_wild_learning_rate_diverges_and_leaves_no_number_that_json_lacks() -> None:
    curve = run(Line(), steps=400, peak=1e4)
    assert curve.status is Status.DIVERGED
    assert curve.steps[-1] < 400
    assert math.isnan(curve.score[-1])
    assert not any(math.isinf(value) for value in curve.train_loss + curve.train_score)


def test_a_last_update_that_ruins_the_model_is_seen() -> None:
    class Ruin(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> Any:
            self.steps += 1
            if self.steps == 20:
                self.param_groups[0]["params"][1].data.fill_(math.nan)

    for split, says in ((None, "parameter"), (Split.VALID, "validation score nan")):
        curve = run(Line(), steps=20, optimizer=lambda parameters: Ruin(parameters, lr=0.1), split=split)
        assert curve.status is Status.DIVERGED
        assert says in curve.reason


def test_a_weak_run_is_stopped_at_its_floor() -> None:
    task = load("digits@width=2")
    weak = run(task, steps=60, peak=1e-6, floor=0.9, floor_epoch=3)
    assert weak.status is Status.STOPPED
    assert weak.steps == (10, 20, 30)
    assert "below 0.9 after epoch 3" in weak.reason
    assert run(task, steps=60, peak=1e-6, floor=-1.0, floor_epoch=3).status is Status.COMPLETED


def test_evaluation_weighs_batches_by_size_and_puts_the_mode_back() -> None:
    @dataclass(frozen=True)
    class Uneven(Line):
        def batches(self, split: Split, seed: int) -> Iterator[Batch]:
            yield Batch(torch.ones(3, 1), torch.ones(3, 1))
            yield Batch(torch.zeros(1, 1), torch.zeros(1, 1))

        def score(self, model: nn.Module, batch: Batch) -> Tensor:
            assert not model.training
            return batch.y.mean()

    model = Uneven().model()
    assert evaluate(Uneven(), model, Split.VALID).mean == 0.75
    assert model.training


def test_the_untrained_score_is_that_of_the_runs_first_model() -> None:
    curve = run(load("mlp-moons"), steps=1, peak=0.0, epoch_steps=1, seed=3)
    assert untrained_score(load("mlp-moons"), 3) == curve.score[0]


def test_no_batches_is_the_tasks_error() -> None:
    @dataclass(frozen=True)
    class Empty(Line):
        def batches(self, split: Split, seed: int) -> Iterator[Batch]:
            yield from list(super().batches(split, seed))[: 0 if split == self.empty else 3]

        empty: Split = Split.TRAIN

    with pytest.raises(TaskError, match="no training batches"):
        run(Empty())
    with pytest.raises(TaskError, match="no valid batches"):
        run(Empty(empty=Split.VALID))
