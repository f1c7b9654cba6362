"""Runners outlive what they run."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from optevolve.config import Compute
from optevolve.errors import DataError, OptevolveError
from optevolve.records import Job, Outcome, Status
from optevolve.run.limits import TimeLimit
from optevolve.run.local import LocalRunner, SerialRunner


@pytest.fixture(scope="module")
def poison() -> Iterator[ModuleType]:
    """The module of measure functions, found by this process and, through its search path, by workers."""
    folder = str(Path(__file__).parent)
    sys.path.insert(0, folder)
    yield importlib.import_module("poison")
    sys.path.remove(folder)


def measured(runner: LocalRunner | SerialRunner, *jobs: Job, seconds: float = 60) -> dict[str, Outcome]:
    """Outcomes of all jobs, as many at once as the runner takes; what is not there in time is missing."""
    end = time.monotonic() + seconds
    waiting, submitted = list(jobs), 0
    found: dict[str, Outcome] = {}
    while len(found) < len(jobs) and time.monotonic() < end:
        while waiting and submitted - len(found) < runner.capacity:
            runner.submit(waiting.pop(0))
            submitted += 1
        found |= dict(runner.collect(0.2))
    return found


def test_serial_and_local_runners_measure_the_same(poison: ModuleType) -> None:
    jobs = [poison.job(f"job/{number}", seed=number) for number in range(8)]
    with SerialRunner(poison.synthetic) as serial, LocalRunner(2, poison.synthetic) as local:
        assert serial.capacity == 1
        assert local.capacity == 2
        expected = measured(serial, *jobs)
        found = measured(local, *jobs)
    assert [repr((expected[j.id], expected[j.id].curves)) for j in jobs] == [repr((found[j.id], found[j.id].curves)) for j in jobs]
    assert {outcome.status for outcome in found.values()} == {Status.COMPLETED, Status.DIVERGED}


def test_a_poisoned_candidate_costs_only_its_own_measurement(poison: ModuleType) -> None:
    rules = {
        "raise": "raise why not",
        "interrupt": "interrupt",
        "nothing": "nothing",
        "sys.exit": "sys.exit now",
        "os._exit": "os._exit 3",
        "zero": "os._exit 0",
        "segfault": "segfault",
        "hang": "hang",
        "memory": "memory 100_000_000_000",
        "unpicklable": "unpicklable",
        "fine": "memory 1000",
    }
    reasons = {
        "raise": "ZeroDivisionError: why not (poison.py:",
        "interrupt": "KeyboardInterrupt",
        "nothing": "TypeError: expected an Outcome, found NoneType",
        "sys.exit": "SystemExit: now",
        "os._exit": "its worker exited with code 3",
        "segfault": "its worker was killed by SIGSEGV, 3 times with no other job beside it",
        "hang": "took longer than its time limit of 4 s",
        "memory": "MemoryError",
        "zero": "its worker exited with code 0",
        "unpicklable": "its outcome cannot be sent: ",
    }
    jobs = [poison.job(name, rule) for name, rule in rules.items()] + [poison.job(f"healthy/{number}") for number in range(6)]
    with LocalRunner(2, poison.poisoned, time_limit=4.0, memory_limit=2**30) as runner:
        found = measured(runner, *jobs)
    assert set(found) == {job.id for job in jobs}
    for name, reason in reasons.items():
        assert found[name].status is Status.FAILED
        assert reason in found[name].reason
    assert found["fine"].fitness == 1000
    for job in jobs[-6:]:
        assert repr(found[job.id]) == repr(poison.synthetic(job))


def test_a_user_s_error_is_raised_after_the_outcomes_that_came_with_it(poison: ModuleType) -> None:
    with LocalRunner(2, poison.poisoned) as runner:
        runner.submit(poison.job("a"))
        runner.submit(poison.job("b", "data"))
        with pytest.raises(ValueError, match="2 jobs are at hand already"):
            runner.submit(poison.job("c"))
        found: dict[str, Outcome] = {}
        with pytest.raises(DataError, match="Expected data, found none"):  # noqa: PT012 - when it comes is not ours to say
            while True:
                found |= dict(runner.collect(1.0))
        assert list(found) == ["a"]
    with LocalRunner(1, poison.poisoned) as runner, pytest.raises(OptevolveError, match="own error 1 2"):
        measured(runner, poison.job("c", "own"))
    with SerialRunner(poison.poisoned) as serial:
        serial.submit(poison.job("b", "data"))
        with pytest.raises(DataError):
            serial.collect(1.0)


def test_workers_have_one_thread_and_the_driver_s_environment(poison: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTEVOLVE_DATA", "/some/where")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    names = "OPTEVOLVE_DATA OMP_NUM_THREADS MKL_NUM_THREADS TORCHINDUCTOR_COMPILE_THREADS"
    with LocalRunner(1, poison.poisoned) as runner:
        found = measured(runner, poison.job("a", f"environment {names}"))
    expected = "OPTEVOLVE_DATA=/some/where OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1"
    assert found["a"].reason == expected
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_a_pool_whose_idle_workers_die_is_mended(poison: ModuleType) -> None:
    with LocalRunner(1, poison.synthetic) as runner:
        assert set(measured(runner, poison.job("a"))) == {"a"}
        for worker in list(runner._workers.values()):
            os.kill(worker.process.pid, signal.SIGKILL)
        time.sleep(0.5)
        assert set(measured(runner, poison.job("b"))) == {"b"}
        for worker in list(runner._workers.values()):
            os.kill(worker.process.pid, signal.SIGKILL)
        assert set(measured(runner, poison.job("c"))) == {"c"}


def test_what_a_function_is_given_beside_its_jobs_reaches_the_workers(poison: ModuleType) -> None:
    measure = partial(poison.answers, compute=Compute("mps"))
    with SerialRunner(measure) as serial, LocalRunner(1, measure) as local:
        for runner in (serial, local):
            assert measured(runner, poison.job("a"))["a"].device == "mps"


def test_a_function_that_workers_cannot_import_is_refused() -> None:
    def inner(job: object) -> Outcome:
        return Outcome(Status.FAILED)

    for measure in (inner, lambda job: Outcome(Status.FAILED), partial(inner, None), partial(inner, job=None)):
        with pytest.raises(ValueError, match="no function of a module"):
            LocalRunner(1, measure)
    with pytest.raises(ValueError, match="at least 1"):
        LocalRunner(0, inner)


def test_a_hanging_job_is_ended_once_its_peers_are_known(poison: ModuleType) -> None:
    limit = TimeLimit(multiple=0.1, floor=0.5)
    with LocalRunner(2, poison.poisoned, time_limit=limit) as runner:
        found = measured(runner, poison.job("hang", "hang"), poison.job("fine"))
    assert "time limit of" in found["hang"].reason
    assert found["fine"].status is Status.COMPLETED


def test_a_worker_keeps_the_memory_that_it_frees() -> None:
    """Without it, every activation of some megabytes is fetched from the system anew."""
    if sys.platform != "linux":
        pytest.skip("glibc alone has mallopt")
    program = (
        "import resource\n"
        "from optevolve.run.worker import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(20):\n"
        "        a, b = (bytes([byte]) * 2**24 for byte in (1, 2))\n"
        "        del a, b\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "faults(); print(faults())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # of two times 16 MiB each, that is 160,000 pages
