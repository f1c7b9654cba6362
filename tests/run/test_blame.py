"""Whose fault it is: workers that signals kill, memory that others have leaked, and candidates that break the machine's rules."""

import importlib
import os
import random
import signal
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil
import pytest
from listed import List
from search_path import search_path

from optevolve.records import Job, Outcome, Status
from optevolve.run.driver import Runner, drive
from optevolve.run.local import LocalRunner, SerialRunner
from optevolve.run.store import Study

LEAKS = 15 if "OPTEVOLVE_TEST_KILLS" in os.environ else 6
KILLS = int(os.environ.get("OPTEVOLVE_TEST_KILLS", "6"))  # random moments; more on demand
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


def poison() -> Any:
    return importlib.import_module("poison")


def measured(
    runner: LocalRunner, jobs: list[Job], meanwhile: Callable[[], None] = lambda: None, seconds: float = 240
) -> dict[str, Outcome]:
    """Outcomes of all jobs, as many at once as the runner takes; what is not there in time is missing."""
    end = time.monotonic() + seconds
    waiting, found = list(jobs), dict[str, Outcome]()
    at_hand = 0
    while len(found) < len(jobs) and time.monotonic() < end:
        while waiting and at_hand < runner.capacity:
            runner.submit(waiting.pop(0))
            at_hand += 1
        arrived = dict(runner.collect(0.1))
        at_hand -= len(arrived)
        found |= arrived
        meanwhile()
    return found


def text(outcomes: dict[str, Outcome]) -> dict[str, str]:
    return {name: repr((outcome, outcome.curves)) for name, outcome in sorted(outcomes.items())}


class Beside:
    """A runner with something that is done beside it, again and again."""

    def __init__(self, runner: LocalRunner, meanwhile: Callable[[], None]) -> None:
        self._runner, self._meanwhile, self.capacity = runner, meanwhile, runner.capacity
        self.submit, self.close = runner.submit, runner.close

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        self._meanwhile()
        return self._runner.collect(min(timeout, 0.1))


def rows(store: Path) -> list[dict[str, object]]:
    """Every evaluation in the order of asking with its curves, but for numbers that count arrivals, and clocks."""
    with closing(sqlite3.connect(store)) as connection:
        connection.row_factory = sqlite3.Row
        found = []
        for evaluation in connection.execute("select * from evaluations order by turn").fetchall():
            curves = connection.execute("select * from curves where evaluation = ? order by position", (evaluation["id"],)).fetchall()
            found += [{name: row[name] for name in set(row.keys()) - {"id", "evaluation", "finished_at"}} for row in (evaluation, *curves)]
    return found


@pytest.mark.timeout(300 + 20 * KILLS)
def test_workers_killed_and_stopped_at_random_moments_change_no_row(tmp_path: Path) -> None:
    """Each is killed by a signal, or stopped for longer than the time limit, and then continued or killed; no job thrice."""
    jobs = [poison().job(f"{number:03}", f"sleep 0.{number % 3}", seed=number) for number in range(10 * KILLS)]
    dice, killed, stopped = random.Random(5), 0, dict[int, float]()
    due, hits = 0.0, Counter[str]()

    def study_of(name: str, source: Runner) -> list[dict[str, object]]:
        with Study.create(tmp_path / f"{name}.db", "x") as study:
            drive(List(jobs), source, study, lookahead=4)
        return rows(tmp_path / f"{name}.db")

    with LocalRunner(2, poison().poisoned, time_limit=1.0) as runner:

        def disturb() -> None:
            nonlocal killed, due
            now = time.monotonic()
            for pid, until in list(stopped.items()):
                if now > until:
                    del stopped[pid]
                    with suppress(ProcessLookupError):
                        os.kill(pid, dice.choice([signal.SIGCONT, signal.SIGKILL]))
            jobs_of = {worker.pid: run.job.id for worker, run in runner._running.items() if hits[run.job.id] < 2}
            workers = list(jobs_of)
            if now < due or killed == KILLS or not workers or set(workers) <= stopped.keys():
                return
            due, killed = now + dice.uniform(0.1, 0.5), killed + 1
            pid = dice.choice([pid for pid in workers if pid not in stopped])
            hits[jobs_of[pid]] += 1
            with suppress(ProcessLookupError):
                if killed % 3 == 0:
                    os.kill(pid, signal.SIGSTOP)
                    stopped[pid] = now + 1.5
                else:
                    os.kill(pid, dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT]))

        found = study_of("disturbed", Beside(runner, disturb))
    assert killed == KILLS
    assert found == study_of("calm", SerialRunner(poison().synthetic))
    assert len(found) > len(jobs)


def test_what_loses_its_worker_alone_again_and_again_has_failed_and_nobody_beside_it() -> None:
    deadly = [poison().job(name, f"kill {name}") for name in ("SIGKILL", "SIGTERM")]
    healthy = [poison().job(f"healthy/{n}", "sleep 0.05", seed=n) for n in range(12)]
    with LocalRunner(2, poison().poisoned) as runner:
        found = measured(runner, [job for pair in zip(deadly, healthy, strict=False) for job in pair] + healthy[len(deadly) :])
    assert text({job.id: found[job.id] for job in healthy}) == text({job.id: poison().synthetic(job) for job in healthy})
    for job in deadly:
        assert found[job.id].status is Status.FAILED
        assert found[job.id].reason == f"its worker was killed by {job.id}, 3 times with no other job beside it"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited where the system gives an account of it")
def test_a_slow_leak_ends_no_other_measurement() -> None:
    jobs = []
    for number in range(LEAKS):
        jobs.append(poison().job(f"leak/{number}", "leak 100_000_000"))
        jobs.append(poison().job(f"large/{number}", "memory 150_000_000"))
    with LocalRunner(1, poison().poisoned, memory_limit=200_000_000) as runner:
        found = measured(runner, jobs)
        assert found.keys() == {job.id for job in jobs}
        assert {outcome.reason for name, outcome in found.items() if name.startswith("large")} == {""}
        assert {found[f"large/{number}"].fitness for number in range(LEAKS)} == {150e6}
        (alone,) = measured(runner, [poison().job("too large", "memory 250_000_000")]).values()
    assert alone.status is Status.FAILED
    assert "MemoryError" in alone.reason


def marked(mark: str) -> list[psutil.Process]:
    """Processes alive that were started with a variable of this name, whoever their parents are by now, and what they forked."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize("rule", ["fork", "double"])
def test_who_forks_without_end_is_named_and_leaves_nothing_behind(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resource_tracker.ensure_running()  # it outlives the runner, so it is to have no mark
    mark = f"OPTEVOLVE_TEST_{uuid.uuid4().hex}"
    monkeypatch.setenv(mark, "1")
    with LocalRunner(1, poison().poisoned) as runner:
        found = measured(runner, [poison().job("fork", rule), poison().job("healthy")])
        (worker,) = runner._workers.values()
        left = [process for process in marked(mark) if process.pid not in (worker.pid, worker.process.pid)]
        assert marked(mark), "the mark reaches no worker"
    assert found["fork"].reason == "started more than 64 processes, which its task or its rule must not"
    assert found["healthy"].status is Status.COMPLETED
    assert left == []
    assert marked(mark) == []


def test_floods_are_clipped(tmp_path: Path) -> None:
    jobs = [poison().job("raised", "raise-long 5_000_000"), poison().job("reason", "reason 5_000_000")]
    talk = [poison().job(f"print/{n}", "print 20_000_000") for n in range(3)]
    for runner in (SerialRunner(poison().poisoned), LocalRunner(1, poison().poisoned, logs=tmp_path / "workers")):
        source = List(jobs + (talk if isinstance(runner, LocalRunner) else []))
        path = tmp_path / f"{type(runner).__name__}.db"
        with Study.create(path, "x") as study, runner:
            drive(source, runner, study, lookahead=2)
        assert all(len(source.told[job.id].reason) < 1100 for job in jobs)
        assert all(len(curve.reason) < 1100 for curve in source.told["reason"].curves)
        assert path.stat().st_size < 10**6
    log = (tmp_path / "workers" / "worker-0.log").read_text(encoding="utf-8")
    assert log.count("--- print/") == 3
    assert "bytes left out" in log
    assert sum(file.stat().st_size for file in (tmp_path / "workers").iterdir()) < 3 * 2**20


def test_a_driver_that_dies_takes_a_deadlocked_worker_along(tmp_path: Path) -> None:
    """The worker holds the interpreter's lock in C, so that no thread of its own can end it."""
    import subprocess
    import sys

    here = str(Path(__file__).parent)
    program = (
        f"import sys; sys.path.insert(0, {here!r})\nimport poison\nfrom optevolve.run.local import LocalRunner\n"
        "runner = LocalRunner(1, poison.poisoned)\nrunner.submit(poison.job('a', 'deadlock'))\n"
        "while not runner._running: runner.collect(0.1)\n"
        "print(*(worker.pid for worker in runner._workers.values()), flush=True)\n"
        "runner.collect(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": search_path()}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True) as driver:
        assert driver.stdout is not None
        worker = psutil.Process(int(driver.stdout.readline()))
        time.sleep(0.5)
        driver.kill()
    gone, alive = psutil.wait_procs([worker], timeout=20)
    for process in alive:
        process.kill()
    assert gone or not sys.platform.startswith("linux")


@pytest.mark.parametrize("rule", ["close", "thread", "chdir", "stop self"])
def test_what_a_candidate_does_to_its_process_reaches_no_other_measurement(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optevolve.run.local._STOPPED", 1.0)
    healthy = [poison().job(f"healthy/{n}", seed=n) for n in range(6)]
    with LocalRunner(2, poison().poisoned, time_limit=30) as runner:
        found = measured(runner, [poison().job("bad", rule), *healthy])
    assert text({job.id: found[job.id] for job in healthy}) == text({job.id: poison().synthetic(job) for job in healthy})
    if rule in ("close", "stop self"):
        assert found["bad"].status is Status.FAILED
        assert found["bad"].reason
    assert threading.active_count() < 50
