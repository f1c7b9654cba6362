"""The same search comes out of any number of workers, any order of arrival, any interruption."""

import importlib
import math
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_path import search_path

from optevolve.errors import DataError, StudyError
from optevolve.records import Job, Outcome, Status, TrainingCurve
from optevolve.run.driver import Happening, drive
from optevolve.run.local import SerialRunner
from optevolve.run.store import Study

HERE = Path(__file__).parent
KILLS = int(os.environ.get("OPTEVOLVE_TEST_KILLS", "5"))  # random moments of a crash test; more on demand


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Modules beside this one are found, by workers too."""
    sys.path.insert(0, str(HERE))
    yield
    sys.path.remove(str(HERE))


def poison() -> ModuleType:
    return importlib.import_module("poison")


def source(total: int = 40, seed: int = 0, kinds: int = 30) -> object:
    return importlib.import_module("synthetic_source").SyntheticSource(total, seed, kinds)


@dataclass
class ShuffledRunner:
    """Many workers whose outcomes arrive in any order, some late; may be interrupted."""

    capacity: int
    dice: random.Random
    interrupt: float = 0.0
    jobs: list[Job] = field(default_factory=list)
    measured: list[str] = field(default_factory=list)

    def submit(self, job: Job) -> None:
        assert len(self.jobs) < self.capacity
        self.jobs.append(job)

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        self.dice.shuffle(self.jobs)
        if timeout > 0 and self.dice.random() < self.interrupt:
            raise KeyboardInterrupt
        ready = [self.jobs.pop() for _ in range(self.dice.randint(0, len(self.jobs)))]
        self.measured += [job.id for job in ready]
        return [(job.id, poison().synthetic(job)) for job in ready]

    def close(self) -> None:
        self.jobs.clear()


def rows(path: Path) -> list[tuple[object, ...]]:
    """Everything stored but times and the order of arrival."""
    raw = sqlite3.connect(path)
    with raw:
        found = raw.execute(
            "select turn, job, proposal, stage, rule, fingerprint, task, protocol, seed, split, status, reason, fitness, learning_rate, "
            "steps, same_as from evaluations order by turn"
        ).fetchall()
        found += raw.execute("select * from proposals order by id").fetchall()
        found += raw.execute("select before, position, rule, reason from rejections order by before, position").fetchall()
        found += raw.execute(
            "select e.job, position, purpose, c.learning_rate, c.seed, c.steps, train_loss, train_score, score "
            "from curves c join evaluations e on e.id = c.evaluation order by e.turn, position"
        ).fetchall()
    raw.close()
    return found


def reference(
    total: int, seed: int, lookahead: int, same: Callable[[Job], str] | None = None
) -> tuple[list[str], list[tuple[object, ...]], list[Happening]]:
    """Log, rows and happenings of a search with one worker in this process."""
    with tempfile.TemporaryDirectory() as folder:
        path, searched, seen = Path(folder) / "study.db", source(total, seed), []
        with Study.create(path, "x") as study:
            drive(searched, SerialRunner(poison().synthetic), study, lookahead=lookahead, same=same, on_event=seen.append)
        return searched.log, rows(path), seen


def exact(outcome: Outcome) -> str:
    """Text in which equal means equal, NaN included."""
    return repr((outcome, outcome.curves))


def by_rule(job: Job) -> str:
    return job.rule


@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.booleans(), st.integers(0, 10**6))
def test_order_of_arrival_and_interruptions_change_nothing(
    total: int, seed: int, lookahead: int, workers: int, equal_rules: bool, dice: int
) -> None:
    same = by_rule if equal_rules else None
    log, expected, _ = reference(total, seed, lookahead, same)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        Study.create(path, "x").close()
        measured: list[str] = []
        interrupted = True
        while interrupted:
            runner = ShuffledRunner(workers, random.Random(dice + len(measured)), interrupt=0.1)
            searched = source(total, seed)
            with Study.open(path) as study:
                try:
                    drive(searched, runner, study, lookahead=lookahead, same=same)
                    interrupted = False
                except KeyboardInterrupt:
                    pass
            dice += 1
            measured += runner.measured
        assert searched.log == log
        assert rows(path) == expected
        assert len(measured) == len(set(measured)), "work was done twice"
        assert len(measured) == sum(1 for row in expected if len(row) == 16 and not row[15])


def test_equal_rules_are_measured_once_for_each_stage_and_seed() -> None:
    log, stored, seen = reference(60, 1, 8, by_rule)
    evaluations = [row for row in stored if len(row) == 16]
    own = {row[1]: row for row in evaluations if not row[15]}
    taken = [row for row in evaluations if row[15]]
    assert len(taken) > 10
    assert len({(row[3], row[4]) for row in own.values()}) == len(own)
    for row in taken:
        first = own[row[15]]
        assert first[0] < row[0]
        assert (first[3], first[4], first[10:14]) == (row[3], row[4], row[10:14])
        assert row[14] == 0
    submitted = [happening.job.id for happening in seen if happening.kind == "submitted"]
    assert submitted == sorted(own, key=lambda job_id: own[job_id][0])
    assert [f"{h.kind} {h.job.id}" for h in seen if h.kind == "told"] == [
        f"told {line.split()[1]}" for line in log if line.startswith("tell")
    ]
    assert all((h.outcome is not None) == (h.kind in {"measured", "told"}) for h in seen)


@dataclass
class ListSource:
    """Asks the jobs of a list, one stage."""

    jobs: list[Job]
    told: dict[str, Outcome] = field(default_factory=dict)
    done: bool = False

    def ask(self) -> tuple[str, Job, None] | None:
        return ("stage", self.jobs.pop(0), None) if self.jobs else None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.told[job_id] = outcome
        self.done = not self.jobs


def test_other_seeds_and_unknown_fingerprints_are_measured_anew(tmp_path: Path) -> None:
    jobs = [poison().job(name, "rule", seed=seed) for name, seed in (("a", 1), ("b", 2), ("c", 1))]
    unknown = [poison().job(name, "unknown") for name in ("d", "e")]
    with Study.create(tmp_path / "study.db", "x") as study:
        drive(
            ListSource(jobs + unknown),
            SerialRunner(poison().synthetic),
            study,
            lookahead=5,
            same=lambda job: "" if job.rule == "unknown" else "1",
        )
        assert {m.job.id: m.same_as for m in study.measurements()} == {"a": "", "b": "", "c": "a", "d": "", "e": ""}


def test_a_completed_outcome_without_a_number_is_a_failure(tmp_path: Path) -> None:
    outcomes = {
        "nan": Outcome(Status.COMPLETED, math.nan),
        "none": Outcome(Status.COMPLETED, None),
        "diverged": Outcome(Status.DIVERGED, math.nan, reason="loss"),
        "fine": Outcome(Status.COMPLETED, 0.5),
        "infinite": Outcome(Status.COMPLETED, -math.inf),
    }
    searched = ListSource([poison().job(name) for name in outcomes])
    with Study.create(tmp_path / "study.db", "x") as study:
        drive(searched, SerialRunner(lambda job: outcomes[job.id]), study, lookahead=2)
        assert {name: study.outcome(name) for name in outcomes} == searched.told
    assert searched.told["nan"].reason == "its task gave nan as its score"
    assert {name: (outcome.status, outcome.fitness) for name, outcome in searched.told.items()} == {
        "nan": (Status.FAILED, None),
        "none": (Status.FAILED, None),
        "diverged": (Status.DIVERGED, None),
        "fine": (Status.COMPLETED, 0.5),
        "infinite": (Status.COMPLETED, -math.inf),
    }


def test_a_resumed_search_is_told_to_the_letter_what_it_was_told_before(tmp_path: Path) -> None:
    curve = TrainingCurve(1, 0, (1,), (2,), (3,), (4,), reason="\0")  # whole numbers where floats are meant
    outcome = Outcome(Status.COMPLETED, 1, 2, "\0 \ud800", (curve,), 3, 0)
    first, again = ListSource([poison().job("a")]), ListSource([poison().job("a")])
    with Study.create(tmp_path / "study.db", "x") as study:
        drive(first, SerialRunner(lambda job: outcome), study, lookahead=1)
        drive(again, SerialRunner(poison().poisoned), study, lookahead=1)
    assert exact(first.told["a"]) == exact(again.told["a"])


def test_another_search_in_the_same_study_is_refused(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study.db", "x") as study:
        drive(ListSource([poison().job("a", "one")]), SerialRunner(poison().synthetic), study, lookahead=1)
        other = replace(poison().job("a", "one"), seed=5)
        with pytest.raises(StudyError, match="another job under the id 'a'"):
            drive(ListSource([other]), SerialRunner(poison().synthetic), study, lookahead=1)


def test_sources_that_break_their_promise_are_named(tmp_path: Path) -> None:
    runner = SerialRunner(poison().synthetic)
    with Study.create(tmp_path / "study.db", "x") as study:
        with pytest.raises(ValueError, match="asked twice"):
            drive(ListSource([poison().job("a"), poison().job("a")]), runner, study, lookahead=2)
        with pytest.raises(ValueError, match="waits for nothing"):
            drive(ListSource([]), runner, study, lookahead=2)
        with pytest.raises(ValueError, match="at least 1"):
            drive(ListSource([]), runner, study, lookahead=0)


def test_an_error_of_the_user_ends_the_drive_and_keeps_what_was_measured(tmp_path: Path) -> None:
    def measure(job: Job) -> Outcome:
        if job.id == "c":
            raise DataError("Expected data, found none.")
        return poison().synthetic(job)

    with Study.create(tmp_path / "study.db", "x") as study:
        with pytest.raises(DataError):
            drive(ListSource([poison().job(name) for name in "abcd"]), SerialRunner(measure), study, lookahead=4)
        assert [m.job.id for m in study.measurements()] == ["a", "b"]


def start(path: Path, total: int, seed: int, workers: int) -> "subprocess.Popen[str]":
    """A real driver in a process group of its own."""
    environment = os.environ | {"PYTHONPATH": search_path()}
    command = [sys.executable, str(HERE / "synthetic_source.py"), str(path), str(total), str(seed), str(workers)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True, cwd=path.parent
    )


def read_until(process: "subprocess.Popen[str]", word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == word:
            return


@pytest.mark.timeout(300 + 20 * KILLS)
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_a_driver_killed_at_random_moments_ends_where_it_would_have_ended(tmp_path: Path) -> None:
    total, seed, dice = 60, 3, random.Random(4)
    _, expected, _ = reference(total, seed, 6, by_rule)
    path = tmp_path / "study.db"
    for kill in range(KILLS):
        process = start(path, total, seed, 1 + kill % 2)
        read_until(process, str((kill + 1) * total // (KILLS + 2)))
        time.sleep(dice.uniform(0, 0.01))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors
    process = start(path, total, seed, 2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert rows(path) == expected
    with Study.open(path, read_only=True) as study:
        assert study.finished


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_ctrl_c_reaches_the_driver_alone_and_loses_nothing(tmp_path: Path) -> None:
    total, seed = 60, 5
    _, expected, _ = reference(total, seed, 6, by_rule)
    path = tmp_path / "study.db"
    process = start(path, total, seed, 2)
    read_until(process, "10")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert output.split()[-1] == "interrupted"
    assert errors == ""
    with Study.open(path, read_only=True) as study:
        assert 10 < len(study.measurements()) < total
    process = start(path, total, seed, 1)
    process.communicate(timeout=120)
    assert rows(path) == expected


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
def test_workers_end_with_a_driver_that_was_killed(tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    process = start(tmp_path / "study.db", 10**6, 1, 2)
    read_until(process, "3")
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for worker in alive:
        with suppress(psutil.NoSuchProcess):
            worker.kill()
    assert alive == []
