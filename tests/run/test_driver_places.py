"""The driver's promises hold on every store: the same search after interruptions and kills, and one driver at a time."""

import importlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from search_path import search_path

from optevolve.errors import StudyError
from optevolve.records import Job, Outcome
from optevolve.run.driver import drive
from optevolve.run.local import SerialRunner
from optevolve.run.store import Study

HERE = Path(__file__).parent
TOTAL, SEED, LOOKAHEAD = 60, 3, 6


def module(name: str) -> Any:
    return importlib.import_module(name)


def by_rule(job: Job) -> str:
    return job.rule


def stored(study: Study) -> list[str]:
    """Everything but clocks, in the order of asking."""
    return [repr((m, m.outcome.curves, m.proposal and m.proposal.rejected)) for m in study.measurements()]


@pytest.fixture
def expected(tmp_path: Path) -> list[str]:
    """What one worker stores in a file, never interrupted."""
    with Study.create(tmp_path / "expected.db", "x") as study:
        source = module("synthetic_source").SyntheticSource(TOTAL, SEED)
        drive(source, SerialRunner(module("poison").synthetic), study, lookahead=LOOKAHEAD, same=by_rule)
        return stored(study)


class Shuffled:
    """Four workers whose outcomes arrive in any order, now and then with a Ctrl-C."""

    capacity = 4

    def __init__(self, dice: random.Random) -> None:
        self.dice, self.jobs = dice, []

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        self.dice.shuffle(self.jobs)
        if timeout > 0 and self.dice.random() < 0.1:
            raise KeyboardInterrupt
        ready = [self.jobs.pop() for _ in range(self.dice.randint(0, len(self.jobs)))]
        return [(job.id, module("poison").synthetic(job)) for job in ready]

    def close(self) -> None:
        self.jobs.clear()


@pytest.mark.parametrize("seed", range(3))
def test_a_search_interrupted_again_and_again_stores_the_same(store: str, expected: list[str], seed: int) -> None:
    Study.create(store, "x").close()
    dice, sittings, finished = random.Random(seed), 0, False
    while not finished:
        sittings += 1
        with Study.open(store) as study:
            try:
                source = module("synthetic_source").SyntheticSource(TOTAL, SEED)
                drive(source, Shuffled(dice), study, lookahead=LOOKAHEAD, same=by_rule)
                finished = True
            except KeyboardInterrupt:
                pass
    assert sittings > 1
    with Study.open(store, read_only=True) as study:
        assert stored(study) == expected


def start(store: str, workers: int) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": search_path()}
    command = [sys.executable, str(HERE / "synthetic_source.py"), store, str(TOTAL), str(SEED), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_driver_killed_on_a_server_is_followed_by_the_next(postgres: str, expected: list[str]) -> None:
    for kill in range(2):
        process = start(postgres, 1 + kill)
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == str(20 * (kill + 1)):
                break
        if kill == 0:  # while it drives, another is refused
            with pytest.raises(StudyError, match="drives it"):
                Study.open(postgres)
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
    process = start(postgres, 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    with Study.open(postgres, read_only=True) as study:
        assert stored(study) == expected
        assert study.finished
