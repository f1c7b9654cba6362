"""Texts found, split and cut into windows."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optevolve.errors import DataError
from optevolve.records import Split
from optevolve.tasks.base import NumberedBatch
from optevolve.tasks.text import byte_corpus, windows, word_corpus


@given(
    tokens=st.integers(2, 300),
    length=st.integers(1, 20),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 99),
    split=st.sampled_from(list(Split)),
)
def test_windows_are_pieces_of_the_text_and_targets_what_follows(
    tokens: int, length: int, batch_size: int, seed: int, split: Split
) -> None:
    text = 1000 + torch.arange(tokens)
    if tokens <= length:
        with pytest.raises(DataError, match="too few for a window"):
            list(windows(text, length, split, seed, batch_size))
        return
    seen: list[int] = []
    for batch in windows(text, length, split, seed, batch_size):
        assert batch.x.shape == batch.y.shape == (len(batch.x), length)
        assert torch.equal(batch.y, batch.x + 1)
        assert (batch.x[:, 1:] == batch.x[:, :-1] + 1).all()
        assert isinstance(batch, NumberedBatch)
        assert batch.numbers is not None
        assert torch.equal(text[batch.numbers], batch.x)
        seen += batch.x.flatten().tolist()
    assert len(seen) == len(set(seen)) > 0
    if split != Split.TRAIN:
        assert seen == text[: (tokens - 1) // length * length].tolist()


def test_training_passes_begin_and_go_elsewhere_each_time() -> None:
    text = torch.arange(1000)
    first, again, other = (next(windows(text, 10, Split.TRAIN, seed, 4)).x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({int(next(windows(text, 10, Split.TRAIN, seed, 4)).x[0, 0]) % 10 for seed in range(40)}) > 5


def write_ptb(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        (folder / f"ptb.{split}.txt").write_text(text)


@pytest.mark.parametrize("inner", ["ptb", "."])
def test_words_of_the_three_files(inner: str, data_folder: Path) -> None:
    write_ptb(data_folder / inner, train=" the cat <unk> \n the end \n", valid=" the dog \n", test=" a cat\n\n")
    splits, vocabulary = word_corpus("ptb")
    assert vocabulary == 5  # <unk> <eos> cat end the
    assert splits[Split.TRAIN].tolist() == [4, 2, 0, 1, 4, 3, 1]
    assert splits[Split.VALID].tolist() == [4, 0, 1]
    assert splits[Split.TEST].tolist() == [0, 2, 1]


def test_without_the_training_file_the_validation_file_is_split_and_the_test_file_left_alone(data_folder: Path) -> None:
    write_ptb(data_folder, valid="".join(f"w{line} x\n" for line in range(20)), test="w19 y w0\n")
    splits, vocabulary = word_corpus("ptb")
    assert vocabulary == 18 + 1 + 2  # w0 … w17, x, <unk> and <eos>: no word of the held-out lines or of the test file
    assert len(splits[Split.TRAIN]) == 18 * 3
    assert splits[Split.VALID].tolist()[0::3] == [0, 0]  # w18 and w19 are unknown
    assert splits[Split.TEST].tolist()[:2] == [0, 0]
    assert splits[Split.TEST].tolist()[2] != 0


def test_a_changed_text_is_read_again(data_folder: Path) -> None:
    write_ptb(data_folder, valid="a b\nc\n", test="a\n")
    assert word_corpus("ptb").vocabulary == 4
    write_ptb(data_folder, valid="a b longer\nc\n", test="a\n")
    assert word_corpus("ptb").vocabulary == 5


def test_missing_and_broken_texts_say_what_to_put_where(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError) as caught:
        word_corpus("ptb")
    assert str(data_folder / "ptb" / "ptb.valid.txt") in str(caught.value)
    assert "Put ptb.train.txt, ptb.valid.txt, ptb.test.txt into a folder" in str(caught.value)
    write_ptb(data_folder, valid="a\nb\n")
    with pytest.raises(DataError, match=r"ptb.test.txt is not there"):
        word_corpus("ptb")
    write_ptb(data_folder, valid="a\n", test="b\n")
    with pytest.raises(DataError, match=r"has 1 line, too few.*Add ptb.train.txt"):
        word_corpus("ptb")
    write_ptb(data_folder, test=" \n\n")
    with pytest.raises(DataError, match=r"ptb.test.txt is empty"):
        word_corpus("ptb")
    (data_folder / "ptb.test.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is not UTF-8"):
        word_corpus("ptb")
    monkeypatch.setenv("OPTEVOLVE_DATA", "")
    with pytest.raises(DataError, match="cannot be fetched"):
        word_corpus("ptb")


def test_bytes_of_a_file_and_of_a_folder(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a.txt"
    elsewhere.write_bytes(bytes(range(100)))
    splits, vocabulary = byte_corpus(str(elsewhere))
    assert vocabulary == 256
    assert torch.cat([splits[split] for split in Split]).tolist() == list(range(100))
    assert [len(splits[split]) for split in Split] == [90, 5, 5]
    (data_folder / "text-gpt").mkdir()
    for name in ("b.txt", "a.txt"):
        (data_folder / "text-gpt" / name).write_text(name)
    assert bytes(torch.cat([byte_corpus("").splits[split] for split in Split]).tolist()) == b"a.txt\nb.txt"
    assert bytes(torch.cat([byte_corpus("text-gpt/b.txt").splits[split] for split in Split]).tolist()) == b"b.txt"
    with pytest.raises(DataError, match=r"No text file absent.txt or .*Give text-gpt@file=PATH"):
        byte_corpus("absent.txt")


def test_the_default_text_comes_with_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPTEVOLVE_DATA", raising=False)
    splits = byte_corpus("").splits
    assert sum(map(len, splits.values())) > 100_000
    assert b"statement" in bytes(splits[Split.TRAIN].tolist())
