"""A file is written whole or not at all, in the place of the file that was there and of nothing else."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from optevolve.compile import export
from optevolve.errors import ExportError, StudyError
from optevolve.files import write_whole
from optevolve.run.folder import write_text
from optevolve.space import parse

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, links and permissions are POSIX's")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_whole(tmp_path / "new", "é\ud800\n")
    assert (tmp_path / "new").read_bytes() == "é?\n".encode()
    assert mode(tmp_path / "new") == mode(tmp_path / "other")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new", "other"]


@posix
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o755, 0o444])
def test_a_file_keeps_its_permissions(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "found.py"
    path.write_text("before", encoding="utf-8")
    path.chmod(bits)
    export(parse("g"), path)
    assert mode(path) == bits
    assert "class Found" in path.read_text(encoding="utf-8")


@posix
def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    real = tmp_path / "far" / "real.py"
    real.write_text("before", encoding="utf-8")
    real.chmod(0o600)
    (tmp_path / "middle.py").symlink_to("far/real.py")
    (tmp_path / "link.py").symlink_to(tmp_path / "middle.py")
    (tmp_path / "new.py").symlink_to("far/not_yet.py")
    for name in ("link.py", "new.py"):
        export(parse("g"), tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "middle.py").is_symlink()
    assert "class Link" in real.read_text(encoding="utf-8")
    assert mode(real) == 0o600
    assert "class New" in (tmp_path / "far" / "not_yet.py").read_text(encoding="utf-8")
    assert sorted(file.name for file in (tmp_path / "far").iterdir()) == ["not_yet.py", "real.py"]


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _linked_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def _linked_device(path: Path) -> None:
    path.symlink_to("/dev/null")


@posix
@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, _loop, _linked_pipe, _linked_device])
def test_what_is_no_file_is_refused_and_stays(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "found.py"
    make(path)
    before = {file.name: file.lstat().st_mode for file in tmp_path.iterdir()}
    for form in ("torch", "optax", "latex"):
        with pytest.raises(ExportError, match="got: something is there that is no file, such as a folder, a pipe or a device"):
            export(parse("g"), path, format=form)
    with pytest.raises(StudyError, match="something is there that is no file"):
        write_text(path, "x")
    assert {file.name: file.lstat().st_mode for file in tmp_path.iterdir()} == before


@posix
def test_a_file_whose_folder_takes_no_other_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "found.py"
    path.write_text("before", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ExportError, match="No space left on device"):
        export(parse("g"), path)
    assert path.read_text(encoding="utf-8") == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["found.py"]
