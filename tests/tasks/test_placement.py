"""Data sets handed from one machine to another: the same files, fetched once, only where there are none."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optevolve.errors import DataError
from optevolve.records import Split
from optevolve.tasks import data, placement, text
from optevolve.tasks.placement import Offer


@pytest.fixture(autouse=True)
def fresh(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(placement, "_USED", {})
    monkeypatch.setattr(placement, "_OFFERED", {})
    data._images.cache_clear()
    yield
    data._images.cache_clear()


class Handed:
    """What another machine hands over, counted."""

    def __init__(self, files: placement.Files) -> None:
        self.files, self.times = {name: np.fromfile(file, np.uint8) for name, file in files.files.items()}, 0
        self.offer = Offer(files.folder, self.fetch)

    def fetch(self) -> dict[str, Any]:
        self.times += 1
        return self.files


def go_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: dict[str, placement.Files]) -> dict[str, Handed]:
    """As if on a machine without data, where these are offered."""
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("OPTEVOLVE_CACHE", str(tmp_path / "other"))
    handed = {what: Handed(files) for what, files in found.items()}
    placement.offer({what: each.offer for what, each in handed.items()})
    return handed


def grey() -> data.Images:
    return data.images("grey", "train", hub="", image="img", label="label")


def test_images_that_are_not_here_are_taken_once_from_the_offer(tmp_path: Path, write_images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path, "train", range(5))
    expected = grey()
    (handed,) = go_elsewhere(tmp_path, monkeypatch, placement.used()).values()
    for _ in range(2):
        found = grey()
        assert np.array_equal(found.pixels, expected.pixels)
        assert found.labels.tolist() == expected.labels.tolist()
        data._images.cache_clear()
    assert handed.times == 1
    assert list((tmp_path / "other").glob("grey-*/pixels.npy"))


def test_images_that_are_here_are_not_taken(tmp_path: Path, write_images: Any) -> None:
    write_images(tmp_path, "train", range(5))
    expected = grey().labels
    handed = {what: Handed(files) for what, files in placement.used().items()}
    placement.offer({what: each.offer for what, each in handed.items()})
    data._images.cache_clear()
    assert grey().labels.tolist() == expected.tolist()
    assert [each.times for each in handed.values()] == [0]


def test_texts_that_are_not_here_are_taken_from_the_offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text-gpt").mkdir()
    for name, words in (("text-gpt/b.txt", "second"), ("text-gpt/a.txt", "first"), ("own.txt", "own text")):
        (tmp_path / name).write_text(words * 20)
    for split, words in (("valid", "one two\n"), ("test", "two one\n")):
        (tmp_path / f"ptb.{split}.txt").write_text(words * 20)
    kinds = [lambda: text.byte_corpus(""), lambda: text.byte_corpus("own.txt"), lambda: text.word_corpus("ptb")]
    expected = [kind() for kind in kinds]
    found = placement.used()
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "nowhere"))
    for kind in kinds:
        with pytest.raises(DataError):
            kind()
    go_elsewhere(tmp_path, monkeypatch, found)
    for kind, corpus in zip(kinds, expected, strict=True):
        again = kind()
        assert again.vocabulary == corpus.vocabulary
        for split in Split:
            assert again.splits[split].tolist() == corpus.splits[split].tolist()


def test_no_offer_leaves_the_message_about_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="Point --data or OPTEVOLVE_DATA"):
        grey()


def make(target: Path, log: Path) -> None:
    with placement.locked(target):
        if not target.exists():
            with log.open("a") as opened:
                opened.write("made\n")
            target.mkdir()


def test_of_many_processes_one_makes_what_all_need(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    makers = [context.Process(target=make, args=(tmp_path / "cache" / "thing", log)) for _ in range(4)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join(60)
        assert maker.exitcode == 0
    assert log.read_text() == "made\n"


def test_a_cache_without_room_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in the way").write_text("")
    with pytest.raises(DataError, match="Set OPTEVOLVE_CACHE"):
        placement.locked(tmp_path / "in the way" / "thing")
