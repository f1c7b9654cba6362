"""The whole program, killed at any moment and called again, ends as if nobody had touched it: row by row, for one and for two workers."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from optevolve import pipeline

KILLS = int(os.environ.get("OPTEVOLVE_TEST_KILLS", "2"))  # random moments; more on demand
STEPS = [
    f"{stage}.protocol.{key}"
    for stage in ("initial", "evolution", "elimination.0", "evaluation")
    for key in ("trial_steps=5", "full_steps=5", "first_floor=-99", "floor=-99")
]
SETTINGS = [
    *STEPS,
    *("search.population=16", "search.particles=2", "search.timesteps=3", "search.children=5", "search.redraws=1", "search.lookahead=4"),
    *("contenders=3", "elimination.0.keep=2", "evaluation.seeds=2", 'evaluation.baselines=["adam"]'),
]
CLOCKS = {"id", "evaluation", "seconds", "finished_at", "at", "created", "driver", "finished", "name"}


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Everything stored but clocks, and numbers that count arrivals."""
    raw = sqlite3.connect(folder / "study.db")
    raw.row_factory = sqlite3.Row
    queries = {
        "studies": "select * from studies",
        "proposals": "select * from proposals order by id",
        "rejections": "select * from rejections order by before, position",
        "evaluations": "select * from evaluations order by turn, stage, job",
        "curves": "select e.job, c.* from curves c join evaluations e on e.id = c.evaluation order by e.job, position",
    }
    found = {table: [dict(row) for row in raw.execute(query)] for table, query in queries.items()}
    raw.close()
    return {
        table: [{name: value for name, value in row.items() if name not in CLOCKS or table == "proposals"} for row in each]
        for table, each in found.items()
    }


def ends(folder: Path) -> Any:
    """What a person gets: the best rules, the comparisons, the optimizer's file."""
    best = [{name: value for name, value in row.items() if name != "seconds"} for row in pipeline.leaderboard(folder)]
    return best, repr(pipeline.comparisons(folder)), (folder / "best_optimizer.py").read_text(encoding="utf-8")


def start(out: Path, workers: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "optevolve", "search", "--task=quadratics", "--preset=quick", f"--out={out}", f"--workers={workers}"]
    return subprocess.Popen(
        [*command, *(f"--set={setting}" for setting in SETTINGS)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=out.parent
    )


def measured(folder: Path) -> int:
    """How many measurements the log tells of, in all sittings."""
    log = folder / "log.jsonl"
    return log.read_text(encoding="utf-8").count('"event": "measured"') if log.exists() else 0


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.timeout(300 + 60 * KILLS)
def test_a_search_killed_at_random_moments_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole, broken, dice = tmp_path / "whole", tmp_path / "broken", random.Random(KILLS)
    pipeline.search("quadratics", "quick", out=whole, workers=1, settings=SETTINGS)
    expected = rows(whole)
    total = len(expected["evaluations"])
    assert total > 40
    done = kills = 0
    for kill in range(KILLS):
        process = start(broken, 1 + kill % 2)
        # Most while it measures, wherever it stands by then; some while it starts, or goes through what is stored.
        if dice.random() < 0.8:
            aim = max(done + 1, (kill + 1) * total // (KILLS + 1))
            while process.poll() is None and measured(broken) < aim:
                time.sleep(0.005)
            time.sleep(dice.uniform(0, 0.05))
        else:
            time.sleep(dice.uniform(0, 8))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode in (-signal.SIGKILL, 0), errors
        kills += process.returncode != 0
        done = measured(broken)
    assert kills >= min(KILLS, 1)
    process = start(broken, 2)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    found = rows(broken)
    for table, each in expected.items():
        assert len(found[table]) == len(each), table
        for one, other in zip(found[table], each, strict=True):
            assert one == other
    assert ends(broken) == ends(whole)
    assert (broken / "report.html").is_file()
    print(f"{kills} of {KILLS} kills came before the end; {total} evaluations")


def test_a_run_killed_between_its_end_and_its_report_gets_it_when_called_again(tmp_path: Path) -> None:
    small = [*SETTINGS, "search.timesteps=1", "elimination=[]", "evaluation.seeds=1"]
    pipeline.search("quadratics", "quick", out=tmp_path, workers=1, settings=[s for s in small if not s.startswith("elimination.")])
    report = tmp_path / "report.html"
    before = (tmp_path / "best_optimizer.py").read_text(encoding="utf-8")
    assert pipeline.resume(tmp_path).found_finished
    raw = sqlite3.connect(tmp_path / "study.db")
    with raw:
        raw.execute("delete from events where kind = 'reported'")
    raw.close()
    report.write_text("half", encoding="utf-8")
    (tmp_path / "best_optimizer.py").unlink()
    assert pipeline.resume(tmp_path).found_finished
    assert "</html>" in report.read_text(encoding="utf-8")
    assert (tmp_path / "best_optimizer.py").read_text(encoding="utf-8") == before
