"""Small image data sets in the Hub's parquet layout, written where a test wants them."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import pytest

WriteImages: TypeAlias = Callable[..., Path]


def encoded(level: int, size: int = 32) -> bytes:
    """A grey square as PNG, which keeps the level exactly."""
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (size, size), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def write_images() -> WriteImages:
    """Writes one file of grey squares whose labels are their levels modulo the number of classes."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(
        folder: Path,
        split: str,
        levels: Iterable[int],
        part: str = "00000-of-00001",
        image: str = "img",
        label: str = "label",
        size: int = 32,
        classes: int = 10,
    ) -> Path:
        levels = list(levels)
        folder.mkdir(parents=True, exist_ok=True)
        cells = [{"bytes": encoded(level, size), "path": None} for level in levels]
        file = folder / f"{split}-{part}.parquet"
        parquet.write_table(arrow.table({image: cells, label: [level % classes for level in levels]}), file)
        return file

    return write


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder with a cache of its own, and no way to the Hub."""
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path))
    monkeypatch.setenv("OPTEVOLVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path
