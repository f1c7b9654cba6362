"""Whatever is done to a study, every command answers rightly or in one message; what it refuses verify finds; what that mends is resumed.

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
# What a command says that is no damage of the store: a run that is too early for it, ended early, or was measured by another config.
ELSEWHERE = ("Expected a finished run", "The run ended early", "holds another job", "holds another proposal", "Task ", "Unknown task")
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


@pytest.fixture(scope="module")
def cut_off(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run before its last measurements."""
    folder = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(run, folder)
    last = "stage = 'evaluate' and job like '%/seed-1'"
    _change(
        folder,
        f"delete from curves where evaluation in (select id from evaluations where {last})",
        f"delete from evaluations where {last}",
        "delete from events where kind = 'reported'",
        "update studies set finished = null",
    )
    return folder


def _change(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def call(*arguments: str) -> int:
    """A command's exit code; anything but an orderly exit passes on."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)


FIRST = "(select min(id) from evaluations)"
ENDED = "insert into events (study, at, kind, detail) values (1, '2026-01-02 03:04:05', 'ended', '{}')"
PROTOCOL = "update evaluations set protocol = json_set(protocol, '$.{}', json('{}'))"
# What is done → a word of what verify says, and a command that refuses it, if any does.
DAMAGES = {
    ENDED: ("events cannot be read", "top"),
    "update events set detail = '{\"said\": [1]}' where kind = 'floors'": ("events cannot be read", "report"),
    PROTOCOL.format("learning_rates", "null"): ("measurements cannot be read", "top"),
    PROTOCOL.format("first_learning_rates", "[true]"): ("measurements cannot be read", "show"),
    PROTOCOL.format("weight_decays", "[1e308]"): ("expected a number that is at most", "top"),
    PROTOCOL.format("schedule.warmup", "-1"): ("expected a number that is at least", "top"),
    PROTOCOL.format("trial_steps", "0.5"): ("expected a whole number", "top"),
    "update evaluations set learning_rate = null where stage = 'tune'": ("completed tuning", "evaluate"),
    "update evaluations set fitness = case id % 2 when 0 then 1e300 else -1e300 end": ("expected at most 1e+150", "show"),
    "update evaluations set task_scores = '[1e200, 0.5]'": ("expected at most 1e+150", "top"),
    f"update curves set steps = replace(steps, '5', '{'7' * 300}')": ("at most 63 bits", "report"),
    f"update evaluations set rule = 'hello(' where id = {FIRST}": ("has no rule", ""),
    "update evaluations set rule = 'g' where id = (select max(id) from evaluations where stage = 'initial')": ("another rule", ""),
    "update proposals set genome = '{'": ("rule or genome", ""),
    "update proposals set genome = '{\"slots\": [1]}' where rowid = 2": ("rule or genome", ""),
    "update evaluations set finished_at = 'garbage' where id = 3": ("measurements cannot be read", ""),
    "update evaluations set fingerprint = x'ff' where id = 3": ("fingerprint is no text", ""),
    "update evaluations set same_as = 'zzz' where id = 3": ("not there", ""),
    "update evaluations set same_as = job where id = 3": ("not there", ""),
    "update evaluations set turn = 1 where stage = 'evolution'": ("taken twice", ""),
    "drop index ix_evaluations_study_stage": ("'ix_evaluations_study_stage' is missing", ""),
    "alter table events add column more text": ("'more' is one too many", ""),
    "create unique index own on events (kind)": ("'own' is one too many", ""),
    "create trigger own after update on studies begin delete from curves; end": ("a trigger, 'own'", "resume"),
    'create view "a b" as select * from curves': ("a view, 'a b'", "resume"),
    **{f"update {table} set study = 99": ("belong to no study", "") for table in ("events", "rejections", "proposals")},
    "update evaluations set study = 99 where id in (3, 4)": ("belong to no study", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_verify_names_what_is_wrong_and_mends_it(damage: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    _change(folder, damage)
    word, refuses = DAMAGES[damage]
    if refuses:
        assert call(refuses, str(folder)) == 2
        said = capsys.readouterr().err
        assert said.startswith("Error: ")
        assert said.count("\n") == 1
    left = "one too many" in word  # what somebody added is left to him
    assert call("verify", str(folder), "--repair") == left
    assert word in capsys.readouterr().out
    assert call("verify", str(folder)) == left


@pytest.mark.parametrize("whole", [True, False])
def test_every_command_answers_or_says_what_is_wrong_and_verify_finds_it(
    whole: bool, run: Path, cut_off: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = run if whole else cut_off, tmp_path / "damaged"
    shutil.copytree(source, folder)
    reading = [
        ["show", str(folder)],
        ["report", str(folder)],
        ["export", str(folder), "-o", str(tmp_path / "opt.py")],
        ["top", str(folder), "--json"],
    ]
    writing = [
        ["resume", str(folder), "--workers", "1"],
        ["evaluate", str(folder), "--workers", "1"],
        ["verify", str(folder), "--repair"],
    ]
    finished = [["top", str(folder), "--follow"], ["backup", str(folder), str(tmp_path / "copy")]]
    commands = [*reading, *finished, *writing] if whole else [*writing[:1], *reading[:2], *writing[1:]]
    refused = 0
    count = EDITS if whole or WANTED else EDITS // 6  # a run that goes on starts workers
    for number, what in enumerate(damaged(source / "study.db", folder / "study.db", count, seed=0 if whole else 1)):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        for command in (["top", str(folder)], commands[number % len(commands)]):
            if "--follow" in command and not _is_finished(folder):
                continue  # it would follow on
            try:
                code = call(*command)
            except BaseException as error:
                raise AssertionError(f"{what}: {command[0]} ended in {type(error).__name__}: {error}") from error
            said = capsys.readouterr()
            assert "Traceback" not in said.err + said.out
            assert code in ((0, 1, 2) if command[0] == "verify" else (0, 2)), (what, command, code)
            if code == 2:
                refused += 1
                assert said.err.startswith("Error: "), (what, command, said.err)
                if command[0] != "verify" and not any(word in said.err for word in ELSEWHERE):
                    assert call("verify", str(folder)) != 0, (what, command, said.err)
                    capsys.readouterr()
    assert refused > count / 10


def test_what_older_versions_left_is_sound(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    _change(folder, "drop index ix_evaluations_study_proposal", "update optevolve_schema set version_num = '0006'",
            "update studies set config = replace(config, 'memory_limit = \"none\"', 'memory_limit = inf')")  # fmt: skip
    assert call("verify", str(folder)) == 0


def _is_finished(folder: Path) -> bool:
    """As a person sees it, who may not see much in what is damaged."""
    try:
        with closing(sqlite3.connect(folder / "study.db")) as connection:
            return connection.execute("select finished from studies where name = 'run'").fetchall()[0][0] is not None
    except (sqlite3.Error, IndexError):
        return False


def test_what_verify_mends_is_resumed_to_the_same_end(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    assert call("verify", str(folder)) == 0
    whole = pipeline.leaderboard(folder)
    _change(
        folder,
        "update curves set score = '[1, 2, 3, 4, 5, 6, 7]' where evaluation = (select min(id) from evaluations)",
        "insert into curves select 90001, 90000, position, purpose, learning_rate, weight_decay, seed, status, reason, seconds, steps, "
        "train_loss, train_score, score from curves limit 1",
        "update events set at = 'yesterday' where id = 1",
        "update studies set created = 'never'",
        "update evaluations set study = 99 where id in (select max(id) from evaluations group by stage having count(*) > 1)",
        "create trigger own before delete on evaluations begin select raise(abort, 'kept'); end",
        ENDED,
    )
    assert call("report", str(folder)) == 2
    assert call("verify", str(folder)) == 1
    said = capsys.readouterr().out
    for word in ("1 measurements cannot be read", "1 rows of curves belong to no measurement", "2 events cannot be read", "'created'"):
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
