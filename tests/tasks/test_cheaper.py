"""Tasks made cheaper: what a share of the batches and of the resolution changes, and what it leaves alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optevolve.records import Split
from optevolve.tasks import Batch, Task, load
from optevolve.tasks.cheaper import made_cheaper, resolution, with_batch_share, with_resolution_share
from optevolve.tasks.conditions import Rebatched
from optevolve.tasks.registry import TASKS
from optevolve.tasks.vision import ScalableImageTask


@dataclass(frozen=True)
class Numbers(Task):
    """Ten classes, 200 examples, each one number; batches of 16 without a batch size to set."""

    def model(self) -> nn.Module:
        return nn.Linear(1, 10)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        for index in torch.randperm(200, generator=torch.Generator().manual_seed(seed)).split(16):
            yield Batch(index[:, None].float(), index % 10)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch.x), batch.y)


def examples(task: Task) -> list[int]:
    return sorted(int(x) for batch in task.batches(Split.TRAIN, 3) for x in batch.x)


def test_a_share_of_a_batch_is_taken_of_whatever_its_size_is() -> None:
    assert with_batch_share(load("digits@width=2,batch_size=100"), 0.25) == load("digits@width=2,batch_size=25")
    assert with_batch_share(load("digits+label-noise:0.1"), 0.5) == load("digits@batch_size=32+label-noise:0.1")
    assert with_batch_share(Numbers(), 0.5) == Rebatched(Numbers(), 8)
    assert with_batch_share(Rebatched(Numbers(), 60), 0.5) == Rebatched(Rebatched(Numbers(), 60), 30)
    assert examples(with_batch_share(Numbers(), 0.5)) == examples(Numbers()) == list(range(200))
    for untouched in (load("quadratics"), Numbers()):
        assert with_batch_share(untouched, 1.0) is untouched
    assert with_batch_share(load("quadratics"), 0.25) == load("quadratics")
    assert with_batch_share(load("digits@batch_size=10"), 0.1) == load("digits@batch_size=8")
    assert with_batch_share(load("digits@batch_size=4"), 0.1) == load("digits@batch_size=4")

    @dataclass(frozen=True)
    class Pairs(Numbers):
        def batches(self, split: Split, seed: int) -> Iterator[Any]:
            yield Batch((torch.zeros(4), torch.zeros(4)), torch.zeros(4))  # type: ignore[arg-type]

    @dataclass(frozen=True)
    class Whole(Numbers):
        batch_size: int | None = None

    for task in (Pairs(), Whole(), Whole(batch_size=0)):
        assert with_batch_share(task, 0.5) is task


@pytest.mark.parametrize(
    ("spec", "share", "cheaper"),
    [
        ("cifar10-convnet@width=8", 0.5, "cifar10-convnet@width=8,resolution=16"),
        ("cifar10-convnet@resolution=24", 0.5, "cifar10-convnet@resolution=12"),
        ("cifar10-convnet", 0.1, "cifar10-convnet@resolution=8"),
        ("eurosat-convnet", 0.5, "eurosat-convnet@resolution=32"),
        ("pathmnist-convnet+label-noise:0.1+batch:64", 0.5, "pathmnist-convnet@resolution=14+label-noise:0.1+batch:64"),
        ("flowers102-effnetv2s", 0.5, "flowers102-effnetv2s@resolution=112"),
        ("flowers102-effnetv2s@resolution=40", 0.5, "flowers102-effnetv2s@resolution=32"),
        ("cifar10-vit", 0.5, "cifar10-vit"),
        ("digits+label-noise:0.1", 0.5, "digits+label-noise:0.1"),
        ("cifar10-resnet", 1.0, "cifar10-resnet"),
    ],
)
def test_a_share_of_the_resolution_is_taken_where_the_task_has_one(spec: str, share: float, cheaper: str) -> None:
    assert with_resolution_share(load(spec), share) == load(cheaper)


def test_a_task_of_ones_own_has_it_by_the_name_of_an_option() -> None:
    @dataclass(frozen=True)
    class Own(Numbers):
        resolution: int = 7

    assert with_resolution_share(Own(), 0.5) == Own(4)
    assert with_resolution_share(Rebatched(Own(), 8), 0.1) == Rebatched(Own(1), 8)


def test_batches_become_smaller_only_where_images_do_not() -> None:
    for spec, cheaper in (
        ("cifar10-convnet+label-noise:0.1", "cifar10-convnet@resolution=12+label-noise:0.1"),
        ("cifar10-convnet@resolution=8", "cifar10-convnet@resolution=8,batch_size=32"),
        ("digits", "digits@batch_size=16"),
    ):
        assert made_cheaper(load(spec), 0.375, 0.25) == load(cheaper)
    assert made_cheaper(load("cifar10-convnet"), 1.0, 0.25) == load("cifar10-convnet@batch_size=32")
    whole = load("cifar10-convnet+gradient-noise:0.1")
    assert made_cheaper(whole, 1.0, 1.0) is whole
    assert [resolution(task) for task in (whole, load("eurosat-convnet@resolution=20"), load("digits"))] == [32, 20, None]


@pytest.mark.parametrize("kind", [kind for kind in TASKS.values() if issubclass(kind, ScalableImageTask)])
def test_images_are_left_as_they_are_unless_asked(kind: type[ScalableImageTask]) -> None:
    task = kind()
    assert task.resized() == (None if task.image_set.size else task.resolution)
    assert task.resolution >= task.least_resolution
