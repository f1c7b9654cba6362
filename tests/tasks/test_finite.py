"""Batches that no optimizer can learn from are passed over, the same ones for every rule."""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from optevolve.config import Protocol, Schedule
from optevolve.errors import TaskError
from optevolve.records import Job, Split, Status
from optevolve.surrogate import measure
from optevolve.tasks import Batch, Task, load
from optevolve.tasks.finite import Finite


@dataclass(frozen=True)
class Sensor(Task):
    """Ten batches a pass; the input of every fifth is NaN in training, its target infinite in validation. Batch norm would keep a NaN."""

    bad: int = 5
    hurts: str = "input"

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(4, 1))

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for number in range(10):
            x = torch.randn(8, 2, generator=generator)
            y = x.sum(1, keepdim=True)
            if number % self.bad == 1 and self.hurts == "input":
                x[0, 0] = torch.nan
            if number % self.bad == 1 and self.hurts == "target":
                y[3] = -torch.inf
            yield Batch(x, y)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return nn.functional.mse_loss(model(batch.x), batch.y)


@pytest.mark.parametrize("hurts", ["input", "target"])
@pytest.mark.parametrize("split", list(Split))
def test_only_sound_batches_are_left_in_every_split_and_the_random_state_is_let_be(split: Split, hurts: str) -> None:
    task = pickle.loads(pickle.dumps(Finite(Sensor(hurts=hurts), 0.2)))
    before = torch.get_rng_state()
    kept = list(task.batches(split, 3))
    assert torch.equal(before, torch.get_rng_state())
    assert len(kept) == 8
    sound = [batch for number, batch in enumerate(Sensor(hurts=hurts).batches(split, 3)) if number % 5 != 1]
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(kept, sound, strict=True))


def test_more_than_the_share_is_an_error_that_says_how_many() -> None:
    with pytest.raises(TaskError, match=r"may pass over 10% of the train batches of Sensor.* 2 of 10 .*Mend the data, or allow more"):
        list(Finite(Sensor(), 0.1).batches(Split.TRAIN, 0))
    with pytest.raises(TaskError, match="5 of 10"):
        list(Finite(Sensor(bad=2), 0.2).batches(Split.VALID, 0))


def test_a_task_without_a_sound_batch_is_an_error_whatever_the_share() -> None:
    @dataclass(frozen=True)
    class Dead(Sensor):
        def batches(self, split: Split, seed: int) -> Iterator[Batch]:
            yield Batch(torch.full((4, 2), torch.nan), torch.zeros(4, 1))

    with pytest.raises(TaskError, match="1 of 1"):
        list(Finite(Dead(), 1.0).batches(Split.TRAIN, 0))


def test_a_rule_trains_where_it_would_have_diverged() -> None:
    protocol = Protocol(
        learning_rates=(0.1, 0.01), first_learning_rates=(0.1,), trial_steps=20, full_steps=40, epoch_steps=20, trial_epoch_steps=20,
        trial_schedule="compressed", schedule=Schedule(warmup=4), first_floor=-1e9, floor=-1e9,
    )  # fmt: skip
    spec = f"{__name__}:Sensor"
    bad = measure(Job("bad", "nesterov: g", spec, protocol, 0))
    assert bad.status is Status.DIVERGED
    good = measure(Job("good", "nesterov: g", f"{spec}+finite:0.2", protocol, 0))
    assert good.status is Status.COMPLETED
    assert good.fitness is not None
    assert good.fitness > -1.0  # the targets' variance is 2


def test_the_spec_makes_it() -> None:
    task = load("mlp-moons@width=4+finite:0.25")
    assert isinstance(task, Finite)
    assert task.value == 0.25
    assert task.floors == load("mlp-moons").floors
    with pytest.raises(TaskError, match="from 0 to 1"):
        load("mlp-moons+finite:2")
