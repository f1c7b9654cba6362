"""Finding, decoding and caching images, and what is said when that fails."""

import io
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from optevolve.errors import DataError
from optevolve.tasks import data
from optevolve.tasks.data import Images, cache_folder, images

WriteImages = Callable[..., Path]


@pytest.fixture(autouse=True)
def fresh(data_folder: Path) -> None:
    data._images.cache_clear()


def grey(split: str = "train") -> Images:
    return images("grey", split, hub="nobody/no-such-data-set", image="img", label="label")


def levels(found: Images) -> list[int]:
    return [int(level) for level in found.pixels[:, 0, 0, 0]]


@pytest.mark.parametrize("inner", ["grey", ".", "grey/data", "grey/plain_text"])
def test_the_folder_may_be_the_data_sets_own_or_its_parent(tmp_path: Path, write_images: WriteImages, inner: str) -> None:
    write_images(tmp_path / inner, "train", range(5), part="00000-of-00002")
    write_images(tmp_path / inner, "train", range(5, 8), part="00001-of-00002")
    found = grey()
    assert found.pixels.shape == (8, 32, 32, 3)
    assert found.pixels.dtype == torch.uint8
    assert levels(found) == found.labels.tolist() == list(range(8))


def test_decoding_happens_once(tmp_path: Path, write_images: WriteImages, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, "train", range(5))
    grey()
    data._images.cache_clear()

    def never(what: str, rows: Iterable[tuple[bytes, int]], size: int | None) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(data, "_decode", never)
    assert levels(grey()) == list(range(5))


def test_a_changed_file_is_decoded_anew(tmp_path: Path, write_images: WriteImages) -> None:
    file = write_images(tmp_path, "train", range(5))
    grey()
    data._images.cache_clear()
    write_images(tmp_path, "train", range(5, 10))
    os.utime(file, (1, 1))
    assert levels(grey()) == list(range(5, 10))


def test_the_cache_is_mapped_and_writing_to_a_batch_leaves_it_alone(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path, "train", range(5))
    found = grey()
    found.pixels.zero_()
    (stored,) = (tmp_path / "cache").glob("*/pixels.npy")
    assert np.load(stored)[4, 0, 0, 0] == 4


def test_of_two_workers_that_race_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "cache" / "grey"
    first, second = np.zeros((2, 1, 1, 3), np.uint8), np.ones((2, 1, 1, 3), np.uint8)
    data._store(target, "grey", zip(first, [0, 0], strict=True))
    real, asked = Path.is_dir, []

    def not_yet(path: Path) -> bool:
        asked.append(path == target)
        return sum(asked) > 1 and real(path) if path == target else real(path)

    monkeypatch.setattr(Path, "is_dir", not_yet)  # the loser looks just before the winner renames
    data._store(target, "grey", zip(second, [0, 0], strict=True))
    assert sum(asked) == 2
    assert np.array_equal(np.load(target / "pixels.npy"), first)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["grey"]


def test_a_missing_folder_or_split_says_what_to_put_where(
    tmp_path: Path, write_images: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "grey", "train", range(5))
    with pytest.raises(DataError) as caught:
        grey("test")
    assert str(tmp_path / "grey" / "test-00000-of-00001.parquet") in str(caught.value)
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="does not exist"):
        grey()


def test_broken_files_are_data_errors(tmp_path: Path, write_images: WriteImages) -> None:
    file = write_images(tmp_path, "train", range(5), image="picture")
    with pytest.raises(DataError, match=r"no column img.*found picture, label"):
        grey()
    whole = write_images(tmp_path, "train", range(5)).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="could not be read as parquet"):
        grey()
    write_images(tmp_path, "train", [])
    with pytest.raises(DataError, match="holds no images"):
        grey()
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock"}  # nothing half written is left


def test_images_of_two_sizes_are_refused(tmp_path: Path, write_images: WriteImages) -> None:
    write_images(tmp_path, "train", range(2), part="00000-of-00002", size=8)
    write_images(tmp_path, "train", range(2), part="00001-of-00002", size=9)
    with pytest.raises(DataError, match=r"one size; found \(8, 8\) and, at 2, \(9, 9\)"):
        grey()


def test_images_of_many_sizes_are_scaled_and_cropped_to_one(tmp_path: Path) -> None:
    arrow, parquet, image = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet"), pytest.importorskip("PIL.Image")
    cells = []
    for width, height in ((40, 20), (12, 30), (16, 16)):
        picture = image.new("RGB", (width, height), (10, 20, 30))
        picture.paste((200, 20, 30), (width // 2, 0, width, height))  # the right half is red
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    parquet.write_table(arrow.table({"img": cells, "label": [0, 1, 2]}), tmp_path / "train-0.parquet")
    found = images("grey", "train", hub="", image="img", label="label", size=8)
    assert found.pixels.shape == (3, 8, 8, 3)
    assert (found.pixels[..., :3, 0] < 15).all()
    assert (found.pixels[..., 5:, 0] > 195).all()
    assert images("grey", "train", hub="", image="img", label="label", size=4).pixels.shape == (3, 4, 4, 3)


def test_an_npz_file_is_read_like_parquet_files(tmp_path: Path) -> None:
    pixels = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    file = tmp_path / "grey.npz"
    np.savez(file, train_images=pixels, train_labels=np.array([[3], [1], [2], [0]], np.uint8))
    found = grey()
    assert np.array_equal(found.pixels.numpy(), pixels)
    assert found.labels.tolist() == [3, 1, 2, 0]
    with pytest.raises(DataError, match=r"no array val_images, val_labels; found train_images, train_labels"):
        grey("val")
    np.savez(file, train_images=pixels[..., 0], train_labels=np.zeros(4))
    os.utime(file, (1, 1))
    data._images.cache_clear()
    with pytest.raises(DataError, match=r"uint8 of shape \(n, height, width, 3\)"):
        grey()
    file.write_bytes(b"PK\x03\x04 and then nothing")
    data._images.cache_clear()
    with pytest.raises(DataError, match="could not be read"):
        grey()


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("where", ["labels", "pixels", "both", "a bare pickle", "an array's file", "an array's file of pickles"])
def test_an_npz_file_that_holds_pickles_is_refused_in_one_message_and_nothing_is_unpickled(where: str, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    load = np.empty(4, dtype=object)
    load[:] = [Payload(taken)] * 4
    pixels, labels = np.zeros((4, 5, 5, 3), np.uint8), np.zeros(4, np.uint8)
    file = tmp_path / "grey.npz"
    if where == "a bare pickle":
        file.write_bytes(pickle.dumps(Payload(taken)))
    elif where.startswith("an array's file"):
        with file.open("wb") as stream:
            np.save(stream, load if "pickles" in where else labels)
    else:
        arrays = {"train_images": pixels if where == "labels" else load, "train_labels": labels if where == "pixels" else load}
        np.savez(file, **arrays)
    with pytest.raises(DataError, match=r"grey\.npz could not be read: .*\. Copy or download it again\.$"):
        grey()
    assert not taken.exists()
    assert pickle.loads(pickle.dumps(Payload(taken))) is None
    assert taken.exists(), "the payload is harmless: the test shows nothing"


@pytest.mark.parametrize("labels", [np.array(["a"] * 4), np.full(4, np.nan), np.full(4, 0.5), np.zeros(4, "M8[s]")])
def test_labels_that_are_no_whole_numbers_are_refused(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "grey.npz", train_images=np.zeros((4, 5, 5, 3), np.uint8), train_labels=labels)
    with pytest.raises(DataError, match=r"with n whole numbers as labels; found uint8 of shape .* with 4 of "):
        grey()


def test_a_set_that_is_not_on_the_hub_says_which_file_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTEVOLVE_DATA", "")
    with pytest.raises(DataError, match=r"Put pathmnist.npz into a folder and name it with --data or OPTEVOLVE_DATA"):
        images("pathmnist", "train", hub="", image="image", label="label")


def test_a_column_that_holds_no_images_is_refused(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "train-0.parquet"
    parquet.write_table(arrow.table({"img": [1, 2], "label": [0, 1]}), file)
    with pytest.raises(DataError, match=r"should hold encoded images.*found int"):
        grey()
    parquet.write_table(arrow.table({"img": [{"bytes": b"no image", "path": None}], "label": [0]}), file)
    with pytest.raises(DataError, match=r"Image 0 of grey/train could not be decoded"):
        grey()


def test_a_cache_that_cannot_be_written_names_the_remedy(
    tmp_path: Path, write_images: WriteImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path, "train", range(5))
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OPTEVOLVE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="Set OPTEVOLVE_CACHE"):
        grey()


def test_a_hub_out_of_reach_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("OPTEVOLVE_DATA", "")
    with pytest.raises(DataError, match=r"could not be fetched from the Hub.*grey/train-00000-of-00001.parquet.*OPTEVOLVE_DATA"):
        grey()


@pytest.mark.parametrize("package", ["datasets", "pyarrow", "PIL"])
def test_a_missing_package_is_named(tmp_path: Path, write_images: WriteImages, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    write_images(tmp_path, "train", range(5))
    if package == "datasets":
        monkeypatch.setenv("OPTEVOLVE_DATA", "")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"pip install 'optevolve\[data\]'"):
        grey()


def test_the_cache_lies_in_the_users_cache_folder_unless_told_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("OPTEVOLVE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "optevolve"
