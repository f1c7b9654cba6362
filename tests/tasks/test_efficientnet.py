"""EfficientNets of timm on small files in the data sets' layout; a network of timm's own for tests stands in for the large one."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from optevolve.config import Protocol, Schedule
from optevolve.errors import DataError, TaskError
from optevolve.library import ZOO
from optevolve.records import Job, Split, Status
from optevolve.surrogate import measure
from optevolve.tasks import TASKS, check_task, load
from optevolve.tasks.vision import ImageTask

WriteImages = Callable[..., Path]

SCRATCH = ["cifar10-effnetv2s", "cifar100-effnetv2s", "tinyimagenet-effnetv2s"]
TUNED = ["flowers102-effnetv2s", "cars196-effnetv2s", "caltech101-effnetv2s"]
BRIEF = Protocol(
    learning_rates=(1e-2,),
    first_learning_rates=(1e-2,),
    trial_steps=2,
    full_steps=4,
    trial_schedule="compressed",
    epoch_steps=2,
    trial_epoch_steps=2,
    first_floor=-1.0,
    floor=-1.0,
    schedule=Schedule(warmup=0.25),
)


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm does not import here: {error}")
    return timm


def write_photographs(folder: Path, task: type[ImageTask], count: int) -> None:
    """JPEG photographs of many shapes, coloured by their class."""
    arrow, parquet, image = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet"), pytest.importorskip("PIL.Image")
    row = task.image_set
    (folder / row.name / "data").mkdir(parents=True)
    for split in ("train", row.test, *([] if row.validation == "every tenth" else [row.validation])):
        cells, labels = [], []
        for number in range(count):
            label = number % row.classes
            buffer = io.BytesIO()
            image.new("RGB", (50 + number, 90 - number), (5 * label % 256, 100, 200)).save(buffer, "JPEG")
            cells.append({"bytes": buffer.getvalue(), "path": f"{number}.jpg"})
            labels.append(label)
        parquet.write_table(
            arrow.table({row.image: cells, row.label: labels}), folder / row.name / "data" / f"{split}-00000-of-00001.parquet"
        )


def job(spec: str) -> Job:
    return Job("one", str(ZOO["opt6"].rule), spec, BRIEF, seed=0)


@pytest.mark.parametrize("name", SCRATCH)
def test_from_scratch(name: str, timm: ModuleType, data_folder: Path, write_images: WriteImages) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    row = kind.image_set
    for split in ("train", row.test):
        write_images(data_folder / row.name, split, range(40), image=row.image, label=row.label, size=row.size, classes=row.classes)
    outcome = measure(job(f"{name}@batch_size=8,network=test_efficientnet"))
    assert outcome.status == Status.COMPLETED, outcome.reason
    assert outcome.steps == 6


@pytest.mark.parametrize("name", TUNED)
def test_fine_tuned_from_a_file(name: str, timm: ModuleType, data_folder: Path) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    write_photographs(data_folder, kind, 30)
    torch.manual_seed(1)
    weights = timm.create_model("test_efficientnet").state_dict()
    torch.save(weights, data_folder / "weights.pth")
    spec = f"{name}@batch_size=8,network=test_efficientnet.r160_in1k,resolution=32,weights=weights.pth"
    outcome = measure(job(spec))
    assert outcome.status == Status.COMPLETED, outcome.reason
    model = load(spec).model()
    assert isinstance(model, nn.Sequential)
    found = model[1].state_dict()
    assert torch.equal(found["conv_stem.weight"], weights["conv_stem.weight"])
    assert found["classifier.weight"].shape[0] == kind.image_set.classes
    batch = next(iter(load(spec).batches(Split.TRAIN, 0)))
    assert batch.x.shape == (8, 3, 32, 32)


def test_weights_see_images_normalised_as_when_they_were_trained(timm: ModuleType) -> None:
    task = load("flowers102-effnetv2s@network=tf_efficientnetv2_s.in1k,weights=none")
    assert isinstance(task, ImageTask)
    model = task.model()
    assert isinstance(model, nn.Sequential)
    pixels = torch.tensor([[[[0, 127, 255]]]], dtype=torch.uint8)
    seen = model[0](task.normalised(pixels))  # these weights expect pixels from -1 to 1
    assert torch.allclose(seen.flatten(), torch.tensor([-1.0, -0.0039, 1.0]), atol=1e-3)


def test_the_networks_are_efficientnetv2_s_and_fill_small_images(timm: ModuleType) -> None:
    with torch.device("meta"):
        model = load("cifar10-effnetv2s").model()
        assert 20e6 < sum(parameter.numel() for parameter in model.parameters()) < 21e6
        features = model.eval().forward_features(torch.zeros(1, 3, 32, 32))  # type: ignore[operator]
    assert features.shape == (1, 1280, 2, 2)


def test_what_cannot_be_had_says_what_to_do(timm: ModuleType, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(data_folder))
    with pytest.raises(DataError, match=r"could not be fetched from the Hub.*put model.safetensors.*weights=PATH"):
        load("cars196-effnetv2s@network=test_efficientnet.r160_in1k").model()
    with pytest.raises(DataError, match=r"No file absent.pth or .*Option 'weights' is hub, none, or the path"):
        load("cars196-effnetv2s@weights=absent.pth").model()
    with pytest.raises(TaskError, match=r"no weights of 'efficientnetv2_s'"):
        load("cars196-effnetv2s@network=efficientnetv2_s").model()
    with pytest.raises(TaskError, match=r"has no model 'efficientnetv9'"):
        load("cifar10-effnetv2s@network=efficientnetv9").model()
    with pytest.raises(TaskError, match=r"has no model 'tf_efficientnetv2_s.in9k'"):
        load("cars196-effnetv2s@network=tf_efficientnetv2_s.in9k").model()
    with pytest.raises(TaskError, match=r"'test_vit' has no convolution conv_stem"):
        load("cifar10-effnetv2s@network=test_vit").model()
    (data_folder / "other.pth").write_bytes(b"no weights")
    with pytest.raises(TaskError, match=r"timm could not make test_efficientnet.r160_in1k"):
        load("cars196-effnetv2s@network=test_efficientnet.r160_in1k,weights=other.pth").model()


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(TaskError, match=r"need timm.*pip install 'optevolve\[vision\]'"):
        check_task(load("cifar10-effnetv2s"))


@pytest.mark.parametrize("name", TUNED)
def test_photographs_of_many_shapes_become_batches_without_timm(name: str, data_folder: Path) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    write_photographs(data_folder, kind, 20)
    task = load(f"{name}@resolution=48,batch_size=5")
    for split, count in ((Split.TRAIN, 20 if name.startswith("flowers") else 18), (Split.TEST, 20)):
        batches = list(task.batches(split, 0))
        assert all(batch.x.shape[1:] == (3, 48, 48) for batch in batches)
        assert sum(len(batch.y) for batch in batches) == count // 5 * 5


@pytest.mark.parametrize(
    ("spec", "says"),
    [("cars196-effnetv2s@resolution=8", "at least 32; found 8"), ("cifar10-effnetv2s@dropout=1.5", "from 0 to below 1; found 1.5")],
)
def test_options_out_of_range_are_refused(spec: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(spec)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", [*SCRATCH, *TUNED])
def test_missing_data_say_what_to_put_where(name: str, data_folder: Path) -> None:
    kind = TASKS[name]
    assert issubclass(kind, ImageTask)
    with pytest.raises(DataError) as caught:
        next(iter(load(name).batches(Split.TRAIN, 0)))
    assert str(data_folder / kind.image_set.name / "train-00000-of-00001.parquet") in str(caught.value)
