"""Whatever is done to a study, every command answers rightly or in one message; what verify mends can be resumed.

The whole, 2,000 edits: OPTEVOLVE_TEST_EDITS=2000 pytest tests/cli/test_damaged_stores.py
"""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from damage import damaged

from optevolve import pipeline
from optevolve.cli import main

WANTED = os.environ.get("OPTEVOLVE_TEST_EDITS")
EDITS = int(WANTED or "60")
pytestmark = pytest.mark.timeout(0 if WANTED else 300)
SETTINGS = [
    *(
        f"{stage}.protocol.{key}"
        for stage in ("initial", "evolution", "elimination.0", "evaluation")
        for key in ("trial_steps=5", "full_steps=5", "first_floor=-99", "floor=-99")
    ),
    *("search.population=6", "search.particles=2", "search.timesteps=1", "search.children=2", "search.redraws=1", "search.lookahead=4"),
    *("contenders=2", "elimination.0.keep=2", "evaluation.seeds=2", 'evaluation.baselines=["adam"]'),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    pipeline.search("quadratics", "quick", out=folder, workers=1, settings=SETTINGS)
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("pragma journal_mode=delete")
    return folder


def call(*arguments: str) -> int:
    """A command's exit code; anything but an orderly exit passes on."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


def test_every_command_answers_or_says_what_is_wrong(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(run, folder)
    commands = [
        ["top", str(folder)],
        ["show", str(folder)],
        ["report", str(folder)],
        ["export", str(folder), "-o", str(tmp_path / "opt.py")],
        ["verify", str(folder)],
        ["resume", str(folder), "--workers", "1"],
        ["backup", str(folder), str(tmp_path / "copy")],
        ["verify", str(folder), "--repair"],
        ["top", str(folder), "--json"],
    ]
    refused = 0
    for number, what in enumerate(damaged(run / "study.db", folder / "study.db", EDITS)):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        for command in (["top", str(folder)], commands[number % len(commands)]):
            try:
                code = call(*command)
            except BaseException as error:
                raise AssertionError(f"{what}: {command[0]} ended in {type(error).__name__}: {error}") from error
            said = capsys.readouterr()
            assert code in ((0, 1, 2) if command[0] == "verify" else (0, 2)), (what, command, code)
            if code == 2:
                refused += 1
                assert said.err.startswith("Error: "), (what, command, said.err)
                assert "Traceback" not in said.err + said.out
    assert refused > EDITS / 10


def test_what_verify_mends_is_resumed_to_the_same_end(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert call("verify", str(folder)) == 0
    whole = pipeline.leaderboard(folder)
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as connection:
        connection.execute("update curves set score = '[1, 2, 3, 4, 5, 6, 7]' where evaluation = (select min(id) from evaluations)")
        connection.execute("insert into curves select 90001, 90000, position, purpose, learning_rate, weight_decay, seed, status, reason, "
                           "seconds, steps, train_loss, train_score, score from curves limit 1")  # fmt: skip
        connection.execute("update events set at = 'yesterday' where id = 1")
        connection.execute("update studies set created = 'never'")
    assert call("report", str(folder)) == 2
    assert call("verify", str(folder)) == 1
    said = capsys.readouterr().out
    for word in ("1 measurements cannot be read", "1 rows of curves belong to no measurement", "events cannot be read", "'created'"):
        assert word in said
    assert call("verify", str(folder), "--repair") == 0
    assert list(folder.glob("study.db.before-repair-*"))
    assert call("verify", str(folder)) == 0
    assert call("resume", str(folder), "--workers", "1") == 0
    clocks = {"seconds"}
    strip = [{key: value for key, value in row.items() if key not in clocks} for row in pipeline.leaderboard(folder)]
    assert strip == [{key: value for key, value in row.items() if key not in clocks} for row in whole]


WRITER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from places import CONFIG, sample
from optevolve.run.store import Study
with Study.create(Path(sys.argv[1]) / "study.db", CONFIG) as study:
    for number in range(100000):
        study.record(sample(f"job/{number}"))
"""


def test_a_copy_made_while_a_run_goes_on_is_whole(tmp_path: Path) -> None:
    run = tmp_path / "run"
    helpers = Path(__file__).parents[1] / "run"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run), str(helpers)], cwd=Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while not (run / "study.db").exists() or call("top", str(run), "--json") != 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        for number in range(3):
            assert call("backup", str(run), str(tmp_path / f"copy-{number}")) == 0
            assert call("verify", str(tmp_path / f"copy-{number}")) == 0
        assert writer.poll() is None
        assert call("backup", str(run), str(tmp_path / "copy-0")) == 2
    finally:
        writer.kill()
        writer.wait()
    assert call("top", str(tmp_path / "copy-2")) == 0
