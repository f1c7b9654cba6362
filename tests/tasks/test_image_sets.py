"""Every image task on small files in its data set's own layout: its splits, its batches, and a rule measured on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from optevolve.config import Protocol, Schedule
from optevolve.errors import DataError, TaskError
from optevolve.library import ZOO
from optevolve.records import Job, Split, Status
from optevolve.surrogate import measure
from optevolve.tasks import TASKS, check_task, load
from optevolve.tasks.networks import ResNet
from optevolve.tasks.vision import ImageTask

WriteImages = Callable[..., Path]

BRIEF = Protocol(
    learning_rates=(1e-2,),
    first_learning_rates=(1e-2,),
    trial_steps=4,
    full_steps=8,
    trial_schedule="compressed",
    epoch_steps=4,
    trial_epoch_steps=4,
    first_floor=-1e9,
    floor=-1e9,
    schedule=Schedule(warmup=0.25),
)

# The ResNet has eight channels: with four, the convolutions of torch 2.13 for the CPU write beyond their buffers on some processors.
SMALL = {
    "cifar10-convnet": "width=4",
    "cifar100-convnet": "width=4",
    "cifar10-resnet": "width=8,blocks=1",
    "cifar10-vit": "patch=8,width=12,depth=1,heads=2",
    "eurosat-convnet": "width=4",
    "pathmnist-convnet": "width=4",
}


def write_set(folder: Path, task: type[ImageTask], write: WriteImages, count: int = 60) -> None:
    """Files as the Hub has them: every split of the set, one grey level per image."""
    row = task.image_set
    own = row.validation not in ("last tenth", "every tenth")
    for start, split in enumerate(["train", row.test] + ([row.validation] if own else [])):
        levels = range(start * count, start * count + count)
        write(folder / row.name, split, levels, image=row.image, label=row.label, size=row.size or 40, classes=row.classes)


def brief_job(spec: str) -> Job:
    return Job("one", str(ZOO["opt6"].rule), spec, BRIEF, seed=0)


@pytest.mark.parametrize("name", SMALL)
def test_a_rule_is_measured_on_files_in_the_sets_layout(name: str, data_folder: Path, write_images: WriteImages) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    write_set(data_folder, kind, write_images)
    spec = f"{name}@batch_size=16,{SMALL[name]}"
    assert check_task(load(spec)).parameters > 0
    outcome = measure(brief_job(spec))
    assert outcome.status == Status.COMPLETED, outcome.reason
    assert outcome.fitness is not None
    assert 0 <= outcome.fitness <= 1
    assert outcome.steps == 12


@pytest.mark.parametrize("name", ["cifar10-convnet", "cifar10-resnet", "eurosat-convnet"])
def test_images_are_scaled_to_the_resolution_asked_for(name: str, data_folder: Path, write_images: WriteImages) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    write_set(data_folder, kind, write_images)
    spec = f"{name}@batch_size=16,resolution=12,{SMALL[name]}"
    task = load(spec)
    assert isinstance(task, ImageTask)
    for split in Split:
        assert {tuple(batch.x.shape[1:]) for batch in task.batches(split, 0)} == {(3, 12, 12)}
    assert sorted(grey_levels(task, Split.TEST)) == sorted(grey_levels(kind(), Split.TEST))
    half = replace(BRIEF, resolution_share=0.375 if name != "eurosat-convnet" else 0.1875)
    whole = f"{name}@batch_size=16,{SMALL[name]}"
    outcomes = [measure(Job("one", str(ZOO["opt6"].rule), at, protocol, seed=0)) for at, protocol in ((spec, BRIEF), (whole, half))]
    assert outcomes[0].status == Status.COMPLETED, outcomes[0].reason
    assert [(curve.train_loss, curve.score) for curve in outcomes[0].curves] == [(c.train_loss, c.score) for c in outcomes[1].curves]


def test_images_too_small_to_see_anything_are_refused() -> None:
    with pytest.raises(TaskError, match="'resolution' of task Cifar10ConvNet is at least 8; found 4"):
        load("cifar10-convnet@resolution=4")


def grey_levels(task: ImageTask, split: Split, seed: int = 0) -> list[int]:
    """Level of every image of a pass, by the first colour's normalisation."""
    mean, deviation = task.image_set.mean[0], task.image_set.deviation[0]
    return [round(float(x[0, 4, 4]) * deviation + mean) for batch in task.batches(split, seed) for x in batch.x]


def test_every_tenth_image_is_held_out_of_a_file_that_may_be_sorted(
    data_folder: Path, write_images: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load("cifar100-convnet@batch_size=4")
    assert isinstance(task, ImageTask)
    monkeypatch.setattr(type(task), "image_set", replace(task.image_set, validation="every tenth"))
    write_set(data_folder, type(task), write_images, count=40)
    assert grey_levels(task, Split.VALID) == [9, 19, 29, 39]
    assert sorted(grey_levels(task, Split.TRAIN)) == [level for level in range(40) if level % 10 != 9]
    assert sorted(grey_levels(task, Split.TEST)) == list(range(40, 80))


def test_a_validation_file_of_its_own_is_used_whole(data_folder: Path, write_images: WriteImages) -> None:
    task = load("eurosat-convnet@batch_size=4")
    assert isinstance(task, ImageTask)
    write_set(data_folder, type(task), write_images, count=40)
    assert sorted(grey_levels(task, Split.TRAIN)) == list(range(40))
    assert sorted(grey_levels(task, Split.VALID)) == list(range(80, 120))
    assert sorted(grey_levels(task, Split.TEST)) == list(range(40, 80))


def test_pathmnist_in_its_authors_file(data_folder: Path) -> None:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = random.integers(0, 256, (20, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = random.integers(0, 9, (20, 1), dtype=np.uint8)
    np.savez(data_folder / "pathmnist.npz", **arrays)
    assert measure(brief_job("pathmnist-convnet@batch_size=8,width=4")).status == Status.COMPLETED
    task = load("pathmnist-convnet")
    assert isinstance(task, ImageTask)
    (batch,) = task.batches(Split.VALID, 0)
    assert batch.y.tolist() == arrays["val_labels"].ravel().tolist()


def test_labels_beyond_the_classes_are_another_data_set(data_folder: Path, write_images: WriteImages) -> None:
    write_images(data_folder / "cifar10", "train", range(100), classes=100)
    with pytest.raises(DataError, match=r"cifar10/train should lie in 0 to 9; found 0 to 99"):
        check_task(load("cifar10-convnet"))


@pytest.mark.parametrize("name", SMALL)
def test_missing_data_say_what_to_put_where(name: str, data_folder: Path) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    with pytest.raises(DataError) as caught:
        check_task(load(name))
    assert str(data_folder / kind.image_set.name / "train-00000-of-00001.parquet") in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("cifar10-resnet@norm=layer", "batch or group; found 'layer'"),
        ("cifar10-vit@patch=5", "patch to divide 32"),
        ("cifar10-vit@heads=5", "heads to divide width"),
        ("cifar10-vit@dropout=1", "dropout from 0 to below 1"),
        ("cifar10-vit@depth=0", "'depth' of task Cifar10ViT is at least 1; found 0"),
    ],
)
def test_options_out_of_range_are_refused(spec: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(spec)
    assert says in str(caught.value)


def test_resnet_20_is_the_published_one_but_for_its_shortcuts() -> None:
    model = ResNet(16, 3, "batch", classes=10)
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)  # 1x1 convolutions with norm, where the paper pads with zeros
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722 + shortcuts


def test_group_norm_does_not_mix_the_examples_of_a_batch() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 32, 32)
    for norm, alone in (("group", True), ("batch", False)):
        model = load(f"cifar10-resnet@width=8,blocks=1,norm={norm}").model()
        assert torch.allclose(model(x)[:2], model(x[:2]), atol=1e-5) == alone


def test_the_vision_transformer_knows_where_a_patch_is() -> None:
    torch.manual_seed(0)
    model = load("cifar10-vit@width=12,depth=1,heads=2,patch=8").model().eval()
    x = torch.randn(1, 3, 32, 32)
    assert not torch.allclose(model(x), model(x.roll(8, dims=3)))
