"""Disks that fill up, databases that are locked, candidates that are poison: a clear message, nothing lost, the same end."""

import importlib
import itertools
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from listed import List
from places import small_disk

from optevolve.config import Search
from optevolve.errors import StudyError
from optevolve.records import Job, Outcome, Status
from optevolve.run.driver import drive
from optevolve.run.local import LocalRunner, SerialRunner
from optevolve.run.store import Study

SEARCH = Search(population=40, particles=4, timesteps=3, children=4, redraws=1, lookahead=6)


def source() -> Any:
    return importlib.import_module("search_source")


def go(study: Study, measure: Any = None) -> list[tuple[object, ...]]:
    """Drives the search to its end; everything stored, but for clocks."""
    runner = SerialRunner(measure or source().fitness)
    drive(source().SearchSource(SEARCH), runner, study, lookahead=6, same=lambda job: job.rule)
    return [(m, m.outcome.curves) for m in study.measurements()]


@pytest.fixture
def expected(tmp_path: Path) -> str:
    with Study.create(tmp_path / "expected.db", "x") as study:
        return repr(go(study))


def test_a_disk_that_fills_up_ends_a_search_that_goes_on_when_there_is_room(tmp_path: Path, expected: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "300k"):
        with Study.create(disk / "study.db", "x") as study:
            with pytest.raises(StudyError, match=r"the disk is full\. Free some space and run again; everything stored before is kept"):
                go(study)
            before = study.jobs()
        assert 0 < len(before) < 90
        with Study.open(disk / "study.db", read_only=True) as study:
            assert study.jobs() == before
        subprocess.run(["mount", "-o", "remount,size=20M", str(disk)], check=True)
        again: list[str] = []

        def counted(job: Job) -> Outcome:
            again.append(job.id)
            return source().fitness(job)

        with Study.open(disk / "study.db") as study:
            assert repr(go(study, counted)) == expected
        assert before.isdisjoint(again), "finished work was done twice"


def test_a_database_that_another_process_locks_ends_a_search_that_goes_on_when_it_is_free(tmp_path: Path, expected: str) -> None:
    path, other, count = tmp_path / "study.db", None, 0

    def locking(job: Job) -> Outcome:
        nonlocal other, count
        count += 1
        if count == 30:
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("begin immediate")
        return source().fitness(job)

    with Study.create(path, "x", patience=0.2) as study:
        with pytest.raises(StudyError, match=r"it is locked by another program\. Close what has it open"):
            go(study, locking)
        assert other is not None
        other.execute("rollback")
        other.close()
        assert len(study.jobs()) >= 29
        assert repr(go(study)) == expected


WORDS = ("raise x", "os._exit 2", "segfault", "hang", "sys.exit", "interrupt", "memory 100_000_000_000", "nothing")


def test_two_hundred_evaluations_of_which_one_in_five_is_poison_give_the_same_healthy_results_as_without(tmp_path: Path) -> None:
    poison = importlib.import_module("poison")
    words = itertools.cycle(WORDS)
    jobs = [poison.job(f"{n:03}", next(words) if n % 5 == 0 else f"rule {n}") for n in range(200)]
    healthy = [job for job in jobs if job.rule.startswith("rule")]
    assert len(healthy) == 160
    without = List(healthy)
    with Study.create(tmp_path / "healthy.db", "x") as study:
        drive(without, SerialRunner(poison.synthetic), study, lookahead=4)
    mixed = List(jobs)
    with Study.create(tmp_path / "mixed.db", "x") as study, LocalRunner(2, poison.poisoned, time_limit=1.5, memory_limit=2**30) as runner:
        drive(mixed, runner, study, lookahead=4)
        assert len(study.jobs()) == 200
        reasons = {m.job.id: m.outcome.reason for m in study.measurements()}
    for job in jobs:
        if job in healthy:
            assert repr((mixed.told[job.id], mixed.told[job.id].curves)) == repr((without.told[job.id], without.told[job.id].curves))
        else:
            assert mixed.told[job.id].status is Status.FAILED
            assert reasons[job.id]
