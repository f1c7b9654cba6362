"""Digits, the ConvNet and CIFAR-10 from a small folder in the Hub's layout."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from optevolve.records import Split
from optevolve.tasks import load
from optevolve.tasks.classification import digits_splits
from optevolve.tasks.networks import ConvNet


def test_digits_parts_are_disjoint_stratified_and_whole() -> None:
    parts = digits_splits()
    assert sum(len(y) for _, y in parts.values()) == 1797
    shares = torch.stack([torch.bincount(y, minlength=10) / len(y) for _, y in parts.values()])
    assert (shares - shares[0]).abs().max() < 0.01
    pictures = [{tuple(image.flatten().tolist()) for image in x} for x, _ in parts.values()]
    assert len(set.union(*pictures)) == sum(len(part) for part in pictures)


@pytest.mark.parametrize("name", ["digits", "mlp-moons", "logreg-digits", "quadratics"])
def test_training_passes_follow_their_seed_and_the_other_splits_ignore_it(name: str) -> None:
    task = load(name)

    def passes(split: Split, seed: int) -> torch.Tensor:
        return torch.cat([batch.x for batch in task.batches(split, seed)])

    assert torch.equal(passes(Split.TRAIN, 1), passes(Split.TRAIN, 1))
    assert not torch.equal(passes(Split.TRAIN, 1), passes(Split.TRAIN, 2))
    assert torch.equal(passes(Split.VALID, 1), passes(Split.VALID, 2))
    assert name == "quadratics" or not torch.equal(passes(Split.VALID, 1)[:300], passes(Split.TEST, 1)[:300])


def test_training_batches_have_one_size() -> None:
    sizes = [len(batch.x) for batch in load("digits@batch_size=100").batches(Split.TRAIN, 0)]
    assert sizes == [100] * 10
    assert [len(batch.x) for batch in load("digits@batch_size=5000").batches(Split.TRAIN, 0)] == [1078]


def test_the_convnet_is_the_papers() -> None:
    width = 32
    model = ConvNet((3, width, 2 * width, 4 * width), (1, 2, 2), classes=10, dropout=0.2)
    convolutions = 9 * (3 * width + width * 2 * width + 2 * width * 4 * width)
    assert sum(parameter.numel() for parameter in model.parameters()) == convolutions + 2 * 7 * width + 10 * (4 * width) + 10
    assert nn.Sequential(*list(model)[:9])(torch.zeros(2, 3, 32, 32)).shape == (2, 4 * width, 8, 8)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert model[0].weight.std().item() == pytest.approx((2 / (9 * (3 + width))) ** 0.5, rel=0.1)


def test_cifar_splits(data_folder: Path, write_images: Callable[..., Path]) -> None:
    """Each picture is one grey level, so that its place in the files can be read off a batch."""
    write_images(data_folder / "cifar10", "train", levels=range(0, 200, 2))
    test_file = write_images(data_folder / "cifar10", "test", levels=range(200, 240))
    task = load("cifar10-convnet@width=2,batch_size=16")

    def levels(split: Split, seed: int = 0) -> list[int]:
        red = torch.cat([batch.x[:, 0, 16, 16] for batch in task.batches(split, seed)])
        return [round(level) for level in (red * 63.0 + 125.3).tolist()]

    assert levels(Split.VALID) == list(range(180, 200, 2))
    assert levels(Split.TEST) == list(range(200, 240))
    train = levels(Split.TRAIN)
    assert len(train) == len(set(train)) == 80
    assert set(train) <= set(range(0, 180, 2))
    assert train != levels(Split.TRAIN, 1)

    test_file.unlink()
    assert levels(Split.TRAIN) == train  # training and validation never open the test file


def test_augmented_batches_are_of_the_right_shape_and_follow_their_seed(data_folder: Path, write_images: Callable[..., Path]) -> None:
    write_images(data_folder, "train", levels=range(100))
    task = load("cifar10-convnet@augment=true,batch_size=32")
    first, again, other = (next(iter(task.batches(Split.TRAIN, seed))).x for seed in (0, 0, 1))
    assert first.shape == (32, 3, 32, 32)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all((image == 0).sum() == 3 * 64 for image in first)  # the cutout; no grey level is exactly the mean


def test_real_cifar10(shared_data: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTEVOLVE_DATA", str(shared_data))
    batches = list(load("cifar10-convnet").batches(Split.TEST, 0))
    assert sum(len(batch.y) for batch in batches) == 10_000
    assert torch.cat([batch.y for batch in batches]).bincount().tolist() == [1000] * 10
    pixels = torch.cat([batch.x for batch in batches])
    assert pixels.mean().abs() < 0.05
    assert pixels.std().sub(1).abs() < 0.05
