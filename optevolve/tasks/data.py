"""Labelled images in the Hub's parquet layout (or MedMNIST's npz): found in a folder or fetched, decoded once, mapped from a cache.

The folder comes from `OPTEVOLVE_DATA`: it is the data set's own folder or its parent. Where that is not set, the data set comes from the
Hugging Face Hub. Decoded pixels lie in `OPTEVOLVE_CACHE`, else in the user's cache folder, and are mapped into memory, so that all workers
of a machine share one copy, made by the first of them while the others wait. A machine of a cluster that has no data takes the driver's.
"""

import hashlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optevolve.errors import DataError
from optevolve.tasks.placement import Files, locked, note, placed

__all__ = ["Images", "cache_folder", "images"]

Pixels: TypeAlias = npt.NDArray[np.uint8]  # of one image, shape (height, width, 3)

_INSTALL = "Install the data extra: pip install 'optevolve[data]'."


class Images(NamedTuple):
    """Pixels, uint8 of shape (n, height, width, 3), mapped from the cache; labels, int64 of shape (n,)."""

    pixels: Tensor
    labels: Tensor


def images(name: str, split: str, *, hub: str, image: str, label: str, size: int | None = None) -> Images:
    """One split of a data set.

    Args:
        name: folder of the data set inside `OPTEVOLVE_DATA`, and what the user calls it.
        split: prefix of its files ("train" finds train-00000-of-00001.parquet) and split on the Hub.
        hub: its name on the Hugging Face Hub; empty if it is not there.
        image, label: names of the columns: encoded images ({bytes, path}) and class numbers.
        size: edge in pixels to which each image is scaled, what sticks out on the longer side cut off evenly. None: all have one size.
    Raises:
        DataError: if it is neither in the folder nor reachable, or not in the expected layout, or the cache cannot be written.
    """
    return _images(name, split, hub, image, label, size, os.environ.get("OPTEVOLVE_DATA", ""), str(cache_folder()))


def cache_folder() -> Path:
    """Where decoded data are kept: `OPTEVOLVE_CACHE`, else optevolve/ in the platform's cache folder of the user."""
    if own := os.environ.get("OPTEVOLVE_CACHE"):
        return Path(own)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "optevolve"


@lru_cache(maxsize=16)
def _images(name: str, split: str, hub: str, image: str, label: str, size: int | None, data: str, cache: str) -> Images:
    what = repr((name, split, image, label, size))
    try:
        target = _cached(name, split, hub, image, label, size, data, cache)
    except DataError:
        handed = placed(what, Path(cache))
        if handed is None:
            raise
        target = handed
    note(what, Files(target.name, {file: target / file for file in ("pixels.npy", "labels.npy")}))
    # Copy-on-write: the pages stay shared until written to, and torch wants an array that may be written to.
    pixels = np.load(target / "pixels.npy", mmap_mode="c")
    return Images(torch.from_numpy(pixels), torch.from_numpy(np.load(target / "labels.npy")))


def _cached(name: str, split: str, hub: str, image: str, label: str, size: int | None, data: str, cache: str) -> Path:
    """The folder in the cache with a data set that this machine has, decoded if it was not."""
    if data:
        files = _find(name, split, Path(data))
        stamp = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    elif hub:
        files, stamp = [], [(hub, 0, 0)]
    else:
        raise DataError(f"{name!r} cannot be fetched. Put {name}.npz into a folder and name it with --data or OPTEVOLVE_DATA.")
    facts = (stamp, split, image, label) if size is None else (stamp, split, image, label, size)
    target = Path(cache) / f"{name}-{split}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"
    if target.is_dir():
        return target
    with locked(target):
        if not target.is_dir():
            what = f"{name}/{split}"
            if files and files[0].suffix == ".npz":
                decoded = _npz_images(files[0], split)
            elif files:
                decoded = _decode(what, _parquet_rows(files, image, label), size)
            else:
                decoded = _decode(what, _hub_rows(name, split, hub, image, label), size)
            _store(target, what, decoded)
    return target


def _find(name: str, split: str, folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"The data folder {folder} does not exist. Point --data or OPTEVOLVE_DATA at an existing folder.")
    for base in (folder / name, folder):
        for inner in (base, base / "data", base / "plain_text"):
            if files := sorted(inner.glob(f"{split}-*.parquet")):
                return files
        if (base / f"{name}.npz").is_file():
            return [base / f"{name}.npz"]
    raise DataError(
        f"No {split} split of {name!r} in {folder}: expected {folder / name / f'{split}-00000-of-00001.parquet'} (or more such parts). "
        "Put it there, or unset OPTEVOLVE_DATA and leave out --data to fetch it from the Hub."
    )


def _npz_images(file: Path, split: str) -> Iterator[tuple[Pixels, int]]:
    """MedMNIST's layout: {split}_images, uint8 of shape (n, height, width, 3), and {split}_labels, shape (n, 1)."""
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array by itself")
        with loaded as arrays:
            found = list(arrays.keys())
            if missing := {f"{split}_images", f"{split}_labels"} - set(found):
                raise DataError(f"{file} has no array {', '.join(sorted(missing))}; found {', '.join(found)}. Is this the right data set?")
            pixels, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"].ravel()
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} could not be read: {str(error).rstrip('.')}. Copy or download it again.") from error
    if pixels.dtype != np.uint8 or pixels.shape[3:] != (3,) or len(pixels) != len(labels) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{file} should hold colour images as uint8 of shape (n, height, width, 3) with n whole numbers as labels; found "
            f"{pixels.dtype} of shape {pixels.shape} with {len(labels)} of {labels.dtype}."
        )
    yield from zip(pixels, map(int, labels), strict=True)


def _parquet_rows(files: list[Path], image: str, label: str) -> Iterator[tuple[bytes, int]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ModuleNotFoundError as error:
        raise DataError(f"Reading {files[0]} needs the package {error.name}, which is missing. {_INSTALL}") from error
    for file in files:
        try:
            with parquet.ParquetFile(file) as table:
                columns = table.schema_arrow.names
                if missing := {image, label} - set(columns):
                    raise DataError(
                        f"{file} has no column {', '.join(sorted(missing))}: expected columns {image} ({{bytes, path}}) and {label}, found "
                        f"{', '.join(columns)}. Is this the right data set?"
                    )
                for part in table.iter_batches(1024, columns=[image, label]):
                    for cell, number in zip(part.column(image).to_pylist(), part.column(label).to_pylist(), strict=True):
                        yield _encoded(cell, file, image), int(number)
        except (arrow.ArrowInvalid, OSError) as error:
            raise DataError(f"{file} could not be read as parquet: {error}. Copy or download it again.") from error


def _encoded(cell: object, source: object, column: str) -> bytes:
    if isinstance(cell, dict) and isinstance(cell.get("bytes"), bytes):
        return bytes(cell["bytes"])
    raise DataError(f"Column {column} of {source} should hold encoded images as {{bytes, path}}; found {type(cell).__name__}.")


def _hub_rows(name: str, split: str, hub: str, image: str, label: str) -> Iterator[tuple[bytes, int]]:
    where = f"put {name}/{split}-00000-of-00001.parquet into a folder and name it with --data or OPTEVOLVE_DATA"
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"Fetching {name!r} from the Hub needs the missing package {error.name}. {_INSTALL} Or {where}.") from error
    try:
        table = datasets.load_dataset(hub, split=split)
        if missing := {image, label} - set(table.column_names):
            raise DataError(f"{hub} on the Hub has no column {', '.join(sorted(missing))}; found {', '.join(table.column_names)}.")
        table = table.cast_column(image, datasets.Image(decode=False))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name!r} ({hub}) could not be fetched from the Hub: {type(error).__name__}: {error}. Check the network, or {where}."
        ) from error
    for row in table:
        yield _encoded(row[image], hub, image), int(row[label])


def _decode(what: str, rows: Iterable[tuple[bytes, int]], size: int | None) -> Iterator[tuple[Pixels, int]]:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise DataError(f"Decoding images needs the package Pillow, which is missing. {_INSTALL}") from error
    for number, (encoded, label) in enumerate(rows):
        try:
            with Image.open(io.BytesIO(encoded)) as opened:
                image = opened.convert("RGB")
            yield np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)), label
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"Image {number} of {what} could not be decoded: {error}. Copy or download the data again.") from error


def _store(target: Path, what: str, rows: Iterable[tuple[Pixels, int]]) -> None:
    """Writes the arrays beside the target and renames: readers see all or nothing, and of two workers that race, one wins."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
        try:
            np.save(part / "labels.npy", _write_pixels(part / "pixels.npy", what, rows))
            if not target.is_dir():
                part.rename(target)
        except OSError:
            if not target.is_dir():  # else another worker was first, with the same arrays
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(f"Decoded data could not be written to {target}: {error}. Set OPTEVOLVE_CACHE to a folder with room.") from error


def _write_pixels(file: Path, what: str, rows: Iterable[tuple[Pixels, int]]) -> npt.NDArray[np.int64]:
    """Writes images as they come, as one array of shape (n, height, width, 3), and returns their labels: gigabytes need no memory."""
    labels: list[int] = []
    shape: tuple[int, ...] = ()
    with file.open("wb") as opened:
        for image, label in rows:
            if not labels:
                shape = image.shape
                _write_header(opened, 0, shape)
            elif image.shape != shape:
                raise DataError(f"Images of {what} should have one size; found {shape[:2]} and, at {len(labels)}, {image.shape[:2]}.")
            opened.write(np.ascontiguousarray(image).data)
            labels.append(label)
        if not labels:
            raise DataError(f"{what} holds no images. Copy or download the data again.")
        opened.seek(0)
        _write_header(opened, len(labels), shape)  # as long as the first: numpy leaves room for the first axis to grow
    return np.array(labels, dtype=np.int64)


def _write_header(opened: BinaryIO, count: int, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(opened, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
