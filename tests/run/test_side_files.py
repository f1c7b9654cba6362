"""Files of a study taken away under its driver: it is told at once, and a deleted lock lets nobody in."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from places import CONFIG, sample

from optevolve.errors import StudyError
from optevolve.run.store import Entry, Study

FILES = ["study.db", "study.db-wal", "study.db-shm", "study.db.lock"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["deleted", "replaced", "moved"])
def test_a_file_taken_away_ends_the_writing(tmp_path: Path, name: str, how: str) -> None:
    with Study.create(tmp_path / "study.db", CONFIG) as study:
        study.record(sample("a"))
        path = tmp_path / name
        if how == "replaced":
            shutil.copy(path, tmp_path / "copy")
            (tmp_path / "copy").replace(path)
        elif how == "moved":
            path.rename(tmp_path / "elsewhere")
        else:
            path.unlink()
        with pytest.raises(StudyError, match=r"moved, deleted or replaced"):
            study.require_held()
        with pytest.raises(StudyError, match=rf"{name} is"):
            study.record(sample("b"))


WAYS = ["emptied", "shortened", "copied over", "copied over by a larger one", "copied over by one from before", "overwritten"]


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("how", WAYS)
def test_a_file_overwritten_in_place_ends_the_writing(tmp_path: Path, name: str, how: str) -> None:
    store = tmp_path / "study.db"
    with Study.create(store, CONFIG) as study:
        study.record(sample("a"))
    before = store.read_bytes()
    with Study.open(store) as study:
        study.record(sample("b"))
        study.require_held()
        path = tmp_path / name
        if how in ("emptied", "shortened"):
            with path.open("r+b") as file:
                file.truncate(0 if how == "emptied" else path.stat().st_size // 2)
        elif how == "overwritten":
            with path.open("r+b") as file:
                file.write(bytes(8192))
        elif how.endswith("before"):
            with path.open("r+b") as file:
                file.write(before)
        else:
            with Study.create(tmp_path / "other.db", CONFIG) as other:
                for number in range(60 if "larger" in how else 1):
                    other.record(sample(f"other/{number}"))
                content = (tmp_path / ("other" + name.removeprefix("study"))).read_bytes()
            with path.open("r+b") as file:
                file.write(content)
        with pytest.raises(StudyError, match=rf"{name} (is shorter than it was|holds something else): it was overwritten"):
            study.require_held()
        with pytest.raises(StudyError, match="overwritten"):
            study.record(sample("c"))


def test_a_log_that_begins_anew_again_and_again_is_no_loss(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study.db", CONFIG) as study:
        reader = sqlite3.connect(tmp_path / "study.db")
        for number in range(12):
            study.record_all([Entry(sample(f"{number}/{k}"), k, "") for k in range(100)])
            reader.execute("pragma wal_checkpoint(restart)").fetchall()
            study.require_held()
        reader.close()
        study.require_held()


@pytest.mark.parametrize("size", [0, 40, 20_000])
def test_an_index_that_is_shortened_ends_the_writing_and_not_the_process(tmp_path: Path, size: int) -> None:
    with Study.create(tmp_path / "study.db", CONFIG) as study:
        study.record(sample("a"))
        os.truncate(tmp_path / "study.db-shm", size)
        with pytest.raises(StudyError, match=r"was emptied while this run was using it.*Nothing is lost"):
            study.require_held()
    with Study.open(tmp_path / "study.db") as study:
        assert [m.job.id for m in study.measurements()] == ["a"]


@pytest.mark.parametrize("sittings", [1, 3])
def test_other_programs_read_and_empty_the_log_and_disturb_nobody(tmp_path: Path, sittings: int) -> None:
    path = tmp_path / "study.db"
    Study.create(path, CONFIG).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        for sitting in range(sittings):
            with Study.open(path) as study:
                for number in range(5):
                    study.record(sample(f"{sitting}.{number}"))
                    study.require_held()
                    assert other.execute("select count(*) from evaluations").fetchone() == (5 * sitting + number + 1,)
                    other.execute(f"pragma wal_checkpoint({['passive', 'restart', 'truncate'][number % 3]})").fetchall()
                    study.require_held()
                other.execute(f"create index mine_{sitting} on evaluations (rule)")
                study.require_held()


def test_a_folder_taken_away_ends_the_writing(tmp_path: Path) -> None:
    with Study.create(tmp_path / "run" / "study.db", CONFIG) as study:
        study.record(sample("a"))
        (tmp_path / "run").rename(tmp_path / "moved")
        with pytest.raises(StudyError, match="is gone"):
            study.note("still here")
    with Study.open(tmp_path / "moved" / "study.db") as study:
        assert study.jobs() == {"a"}


def test_ordinary_use_is_not_disturbed(tmp_path: Path) -> None:
    """SQLite makes and removes its side files by itself, readers come and go."""
    for number in range(3):
        with Study.create(tmp_path / "study.db", CONFIG) if not number else Study.open(tmp_path / "study.db") as study:
            study.require_held()
            study.record(sample(f"job/{number}"))
            with Study.open(tmp_path / "study.db", read_only=True) as reader:
                assert len(reader.jobs()) == number + 1
            study.require_held()
            study.note("again")


DRIVER = """
import sys, time
from pathlib import Path
from optevolve.run.store import Entry, Study
with Study.open(sys.argv[1]) as study:
    study.note("driving")
    Path(sys.argv[2]).touch()
    time.sleep(60)
"""


def test_a_deleted_lock_file_lets_no_second_driver_in(tmp_path: Path) -> None:
    store, ready = tmp_path / "study.db", tmp_path / "ready"
    with Study.create(store, CONFIG):
        (tmp_path / "study.db.lock").unlink()
        with pytest.raises(StudyError, match=f"process {os.getpid()} on .* drives it"):
            Study.open(store)
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(store), str(ready)], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for _ in range(2):  # the first that is refused leaves a new lock file
            (tmp_path / "study.db.lock").unlink(missing_ok=True)
            with pytest.raises(StudyError, match=f"process {driver.pid} on .* drives it"):
                Study.open(store)
            with pytest.raises(StudyError, match="drives it"):
                Study.open(store)
    finally:
        driver.kill()
        driver.wait()
    with Study.open(store) as study:
        assert [event.kind for event in study.events()] == ["driving"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_within_a_transaction_is_no_loss_of_files(tmp_path: Path, interruption: type[BaseException]) -> None:
    """SQLAlchemy closes the connection that an interruption hits, and SQLite removes its side files with the last connection."""
    path = tmp_path / "study.db"
    with Study.create(path, CONFIG) as study:
        study.record(sample("a"))

        def interrupt(*_: object) -> None:
            sa.event.remove(study._engine, "do_execute", interrupt)
            raise interruption

        sa.event.listen(study._engine, "do_execute", interrupt)
        with pytest.raises(interruption):
            study.record(sample("b"))
        study.record(sample("b"))
        assert {m.job.id for m in study.measurements()} == {"a", "b"}
    assert not path.with_name("study.db-wal").exists(), "its end leaves one file"
