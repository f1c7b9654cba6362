"""A whole run whose files are taken away: it ends within a second, with what happened, and leaves nothing where they were."""

import os
import re
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from optevolve.cli import main

LONG = [f"{stage}.protocol.{kind}_steps=100000000" for stage in ("initial", "evolution") for kind in ("trial", "full")]
WAYS = {
    "study.db deleted": "study.db is gone",
    "study.db-wal deleted": "study.db-wal is gone",
    "study.db.lock deleted": "study.db.lock is gone",
    "study.db replaced": "study.db is another file",
    "study.db emptied": "study.db is shorter than it was",
    "folder moved": "study.db is gone",
    "folder deleted": "study.db is gone",
}


def take_away(folder: Path, what: str, how: str) -> None:
    path = folder if what == "folder" else folder / what
    if how == "moved":
        path.rename(path.with_name("elsewhere"))
    elif how == "emptied":
        with path.open("r+b") as file:
            file.truncate(0)
    elif how == "replaced":
        shutil.copy(path, folder / "copy")
        (folder / "copy").replace(path)
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


@pytest.mark.parametrize("way", WAYS)
def test_a_run_whose_files_are_taken_away_ends_within_a_second(way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, what, how = tmp_path / "run", *way.split()
    taken: list[tuple[float, float]] = []
    before: set[str] = set()

    def disturb() -> None:
        log, end = folder / "log.jsonl", time.monotonic() + 280
        while time.monotonic() < end and not (log.exists() and '"submitted"' in log.read_text(encoding="utf-8")):
            time.sleep(0.01)
        take_away(folder, what, how)
        taken.append((time.monotonic(), time.process_time()))
        before.update(os.listdir(folder) if folder.exists() else ["no folder"])

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        with pytest.raises(SystemExit) as ended:
            main(["search", "--task=quadratics", "--preset=quick", "--workers=1", f"--out={folder}", *(f"--set={each}" for each in LONG)])
    finally:
        clock, processor = time.monotonic(), time.process_time()
        thread.join()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.search(rf"{WAYS[way]}: it was (moved, deleted or replaced|overwritten) while this run was using it", said)
    assert "Traceback" not in said
    print(f"{way}: {clock - taken[0][0]:.2f} s by the clock, {processor - taken[0][1]:.2f} s of the processor")
    assert processor - taken[0][1] < 1.0
    assert clock - taken[0][0] < 15.0, "far more than it takes on a machine with other work"
    after = set(os.listdir(folder) if folder.exists() else ["no folder"])
    assert after - before <= {"report.html", "best_optimizer.py"}
    if what == "folder" and how == "moved":
        with closing(sqlite3.connect(tmp_path / "elsewhere" / "study.db")) as study:
            assert study.execute("select count(*) from evaluations").fetchone() == (0,)
