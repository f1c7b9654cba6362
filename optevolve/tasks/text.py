"""Text as token numbers: found in the data folder, split, and cut into windows."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from optevolve.errors import DataError
from optevolve.records import Split
from optevolve.tasks.base import Batch, NumberedBatch
from optevolve.tasks.data import cache_folder
from optevolve.tasks.placement import Files, note, placed

__all__ = ["Corpus", "byte_corpus", "windows", "word_corpus"]


class Corpus(NamedTuple):
    """Token numbers of each split, int64 of shape (tokens,), and how many different tokens there are."""

    splits: dict[Split, Tensor]
    vocabulary: int


def windows(tokens: Tensor, length: int, split: Split, seed: int, batch_size: int) -> Iterator[Batch]:
    """One pass: inputs of `length` tokens, and as targets the tokens that follow each, both of shape (batch, length).

    Windows do not overlap. In training each pass begins at another place (below `length`), goes through the windows in an order of its own,
    and leaves out the last, incomplete batch unless it is the only one. Otherwise windows come in order, and what is left of the text after
    the last whole window is not scored.

    Args:
        tokens: of the split, shape (tokens,).
        length: of a window.
        split: TRAIN, or VALID and TEST.
        seed: of a training pass.
        batch_size: windows per training batch.
    Raises:
        DataError: if the text is shorter than one window.
    """
    if len(tokens) <= length:
        raise DataError(
            f"The {split} text has {len(tokens)} tokens, too few for a window of {length}. Give a longer text, or shorten the window."
        )
    start = 0
    count = (len(tokens) - 1) // length
    order = torch.arange(count)
    if split == Split.TRAIN:
        generator = torch.Generator().manual_seed(seed)
        start = int(torch.randint(min(length, len(tokens) - length), (1,), generator=generator))
        count = (len(tokens) - 1 - start) // length
        order = torch.randperm(count, generator=generator)
        order = order[: max(count // batch_size, 1) * batch_size]
    else:
        batch_size = max(1, 2048 // length)
    offsets = torch.arange(length)
    for index in torch.split(order, batch_size):
        first = start + index * length
        places = first[:, None] + offsets
        yield NumberedBatch.of(tokens[places], tokens[places + 1], places)


def word_corpus(name: str) -> Corpus:
    """Penn Treebank's three files, {name}.train.txt, {name}.valid.txt and {name}.test.txt, in the data folder or its folder {name}.

    Words are separated by spaces; each line ends with a token of its own. The vocabulary is that of the training text, and every other word
    counts as "<unk>". Where the training file is missing, the first nine tenths of the lines of the validation file are the training text
    and the last tenth the validation text; the test file is what it always is, and neither trained on nor counted in the vocabulary.

    Raises:
        DataError: if files are missing, empty or not UTF-8; says what to put where.
    """
    data = os.environ.get("OPTEVOLVE_DATA", "")
    names = {split: f"{name}.{split.value}.txt" for split in Split}
    remedy = f"Put {', '.join(names.values())} into a folder and name it with --data or OPTEVOLVE_DATA; without {names[Split.TRAIN]}, "
    remedy += f"nine tenths of {names[Split.VALID]} are trained on."
    bases = [Path(data) / name, Path(data)] if data else []
    folder = next((base for base in bases if (base / names[Split.VALID]).is_file()), None)
    if folder is None:
        folder = placed(f"text of {name}", cache_folder())
    if folder is None and not data:
        raise DataError(f"The text of {name!r} cannot be fetched. {remedy}")
    if folder is None or not (folder / names[Split.TEST]).is_file():
        missing = Path(data) / name / names[Split.VALID] if folder is None else folder / names[Split.TEST]
        raise DataError(f"No text of {name!r} in {data}: {missing} is not there. {remedy}")
    files = [file for split in Split if (file := folder / names[split]).is_file()]
    return _word_corpus(_noted(f"text of {name}", files), name)


def byte_corpus(file: str) -> Corpus:
    """A text as bytes: the first nine tenths to train, the next twentieth to validate, the last to test.

    Args:
        file: the text, a path as it stands or inside the data folder. Empty: all .txt files in text-gpt/ of the data folder, one after the
            other in the order of their names; where there are none, the reference topics of Python's own help (about half a megabyte of
            English; its text follows the version of Python).
    Raises:
        DataError: if the file is missing, unreadable or empty.
    """
    data = os.environ.get("OPTEVOLVE_DATA", "")
    if file:
        places = [Path(file), Path(data) / file] if data else [Path(file)]
        found = [place for place in places if place.is_file()][:1]
        if not found and (handed := placed(f"text in {file}", cache_folder())) is not None:
            found = list(handed.iterdir())
        if not found:
            raise DataError(
                f"No text file {' or '.join(map(str, places))}. Give text-gpt@file=PATH of any text, absolute or in the data folder."
            )
    else:
        if data and not Path(data).is_dir():
            handed = placed("texts", cache_folder())
            if handed is None:
                raise DataError(f"The data folder {data} does not exist. Point --data or OPTEVOLVE_DATA at an existing folder.")
            found = sorted(handed.iterdir())
        else:
            found = sorted((Path(data) / "text-gpt").glob("*.txt")) if data else []
    return _byte_corpus(_noted(f"text in {file}" if file else "texts", found))


class _Stamp(NamedTuple):
    """A file as it was when it was found, so that a changed one is read again."""

    file: Path
    size: int
    changed: int

    @classmethod
    def of(cls, file: Path) -> "_Stamp":
        stat = file.stat()
        return cls(file.resolve(), stat.st_size, stat.st_mtime_ns)


def _noted(what: str, files: Sequence[Path]) -> tuple[_Stamp, ...]:
    """The files' stamps; and a note that they are in use, for machines that have none."""
    stamps = tuple(_Stamp.of(file) for file in files)
    known = hashlib.sha256(repr([(stamp.file.name, stamp.size, stamp.changed) for stamp in stamps]).encode()).hexdigest()
    note(what, Files(f"text-{known[:16]}", {stamp.file.name: stamp.file for stamp in stamps}))
    return stamps


@lru_cache(maxsize=4)
def _word_corpus(stamps: tuple[_Stamp, ...], name: str) -> Corpus:
    lines = {split: _lines(stamp.file) for stamp in stamps for split in Split if stamp.file.name == f"{name}.{split.value}.txt"}
    if Split.TRAIN not in lines:
        known = lines[Split.VALID]
        if len(known) < 2:
            raise DataError(f"{name}.valid.txt has {len(known)} line, too few to train and validate on. Add {name}.train.txt.")
        held_out = max(len(known) // 10, 1)
        lines[Split.TRAIN], lines[Split.VALID] = known[:-held_out], known[-held_out:]
    words = ["<unk>", *sorted({word for line in lines[Split.TRAIN] for word in line} - {"<unk>"})]
    number = {word: place for place, word in enumerate(words)}
    splits = {split: torch.tensor([number.get(word, 0) for line in lines[split] for word in line]) for split in Split}
    return Corpus(splits, len(words))


def _lines(file: Path) -> list[list[str]]:
    lines = [[*line.split(), "<eos>"] for line in _read(file).decode_lines()]
    if not lines:
        raise DataError(f"{file} is empty. Copy or download it again.")
    return lines


@lru_cache(maxsize=4)
def _byte_corpus(stamps: tuple[_Stamp, ...]) -> Corpus:
    text = b"\n".join(_read(stamp.file).content for stamp in stamps) if stamps else _python_topics()
    tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).long() if text else torch.zeros(0, dtype=torch.int64)
    train, valid = len(tokens) * 18 // 20, len(tokens) * 19 // 20
    return Corpus({Split.TRAIN: tokens[:train], Split.VALID: tokens[train:valid], Split.TEST: tokens[valid:]}, 256)


class _Text(NamedTuple):
    file: Path
    content: bytes

    def decode_lines(self) -> list[str]:
        try:
            return [line for line in self.content.decode("utf-8").split("\n") if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{self.file} is not UTF-8: {error}. Copy or download it again.") from error


def _read(file: Path) -> _Text:
    try:
        return _Text(file, file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} could not be read: {error}.") from error


def _python_topics() -> bytes:
    try:
        from pydoc_data.topics import topics
    except ModuleNotFoundError as error:
        raise DataError("This Python comes without the texts of its help. Give text-gpt@file=PATH of any text.") from error
    return "\n".join(topics[name] for name in sorted(topics)).encode()
