"""A zoo of tasks that misbehave, with healthy measurements beside them, which come out as they do alone."""

import importlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from listed import List
from places import small_disk

from optevolve import pipeline, surrogate
from optevolve.config import Protocol, Schedule, Workers
from optevolve.errors import StudyError, TaskError
from optevolve.records import Job, Outcome, Status
from optevolve.run.driver import drive
from optevolve.run.local import LocalRunner, SerialRunner
from optevolve.run.session import session
from optevolve.run.store import Study

WHOLE = os.environ.get("OPTEVOLVE_TEST_MISDEEDS") == "all"
SAMPLE = (
    "raises",
    "exits",
    "interrupts",
    "prints without end",
    "fills the disk",
    "stops its parent",
    "takes many threads",
    "patches torch",
    "hooks every module",
    "patches another task",
)
TINY = Protocol(
    trial_steps=2, full_steps=3, epoch_steps=1, trial_epoch_steps=1, learning_rates=(0.1,), first_learning_rates=(0.1,),
    schedule=Schedule(warmup=0, hold=0), first_floor=-1e9, floor=-1e9,
)  # fmt: skip
SAID_OF_PARENT = "its task or its rule killed the parent process of its worker (SIGKILL)"
NAMED = {  # what is said of those that break the rules of this machine
    "kills its parent": re.escape(SAID_OF_PARENT),
    "forks without end": r"started more than 64 processes, which its task or its rule must not",
    "fills the disk": r"wrote 1[0-9.]+ MB until 0 bytes were left on the disk of .*, which its task or its rule must not",
}
REASONS = NAMED | {
    "raises": "ZeroDivisionError: z",
    "exits": "SystemExit: 3",
    "hangs": "took longer than its time limit",
    "kills itself": "its worker was killed by SIGKILL, 3 times with no other job beside it",
    "closes what is open": "",
    "deadlocks in C": "took longer than its time limit",
    "fills the disk and stays": r"wrote .* until 0 bytes were left on the disk of .*, which its task or its rule must not",
    "forks sessions without end": r"started more than 64 processes",
    "doubles without end": r"started more than 64 processes",
    "returns a giant": "",
    "takes all memory": "MemoryError",
}
pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is limited, and processes are adopted, on Linux alone"),
    *([pytest.mark.timeout(7200)] if WHOLE else []),
]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of 16 MiB, where tasks write."""
    folder = tmp_path_factory.mktemp("small") / "disk"
    with small_disk(folder, "16M"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTEVOLVE_TEST_DISK", str(folder))
        yield folder


@pytest.fixture
def room(disk: Path) -> Iterator[Path]:
    """The disk, empty again afterwards."""
    yield disk
    (disk / "filled").unlink(missing_ok=True)


def exact(outcome: Outcome) -> str:
    """All but the clock; NaN equals NaN."""
    return repr((replace(outcome, seconds=0.0), [replace(curve, seconds=0.0) for curve in outcome.curves]))


FLEETING = """
import os
import re
from misdeeds import Line
class Fleeting(Line):
    def loss(self, model, batch):
        if os.path.exists(__file__):
            os.unlink(__file__)
        return super().loss(model, batch)
"""

NEIGHBOUR = """
from optevolve.tasks.synthetic import Quadratics
class Neighbour(Quadratics):
    pass
"""


def test_healthy_measurements_come_out_as_alone(tmp_path: Path, room: Path) -> None:
    zoo = importlib.import_module("misdeeds").MISDEEDS
    assert len(zoo) >= 50
    (tmp_path / "fleeting.py").write_text(FLEETING, encoding="utf-8")
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR, encoding="utf-8")
    bad = [Job(f"bad/{how}", "g", f"misdeeds:Line@how={how}", TINY, seed=1) for how in (zoo if WHOLE else SAMPLE)]
    bad.append(Job("bad/deletes its own file", "g", f"{tmp_path}/fleeting.py:Fleeting", TINY, seed=1))
    share = 200 // len(bad) + 1 if WHOLE else 4
    tasks = ("misdeeds:Line", "quadratics", "misdeeds:Line", f"{tmp_path}/neighbour.py:Neighbour")
    # Four of a task in a row, for a worker measures tasks from one place.
    healthy = [Job(f"healthy/{n:03}", f"{1 + n % 7} * g", tasks[n // 4 % len(tasks)], TINY, seed=n) for n in range(share * len(bad))]
    jobs = [job for number, one in enumerate(bad) for job in (one, *healthy[share * number : share * (number + 1)])]
    alone = List(healthy)
    with Study.create(tmp_path / "alone.db", "x") as study:
        drive(alone, SerialRunner(surrogate.measure), study, lookahead=4)
    together = List(jobs)
    runner = LocalRunner(2, surrogate.measure, time_limit=8, memory_limit=2**33, logs=room / "workers")
    with Study.create(tmp_path / "together.db", "x") as study, runner:
        drive(together, runner, study, lookahead=4)
    for job in bad:
        outcome = together.told[job.id]
        print(f"{job.id:45} {outcome.status:10} {outcome.reason[:130]}")
    assert {alone.told[job.id].status for job in healthy} == {Status.COMPLETED}
    assert [job.id for job in healthy if exact(together.told[job.id]) != exact(alone.told[job.id])] == []
    for job in bad:
        outcome, reason = together.told[job.id], REASONS.get(job.id.removeprefix("bad/"))
        assert outcome.status is Status.COMPLETED or outcome.reason, job.id
        if reason is not None:
            assert outcome.status is Status.FAILED, job.id
            assert re.match(reason, outcome.reason), job.id
    assert sum(file.stat().st_size for file in (room / "workers").iterdir()) < 2 * 2 * 2**20 + 2**18


def test_the_log_says_why_a_worker_is_replaced(tmp_path: Path) -> None:
    left = {
        "patches torch": "torch.Tensor.backward",
        "changes folder": "working folder",
        "leaves a thread that computes": "set of threads",
        "raises on underflow": "numpy.geterr",
    }
    jobs = [Job(how, "g", f"misdeeds:Line@how={how}", TINY, seed=1) for how in left]
    with Study.create(tmp_path / "study.db", "x") as study:
        source = List(jobs)
        with LocalRunner(1, surrogate.measure, logs=tmp_path / "workers") as runner:
            drive(source, runner, study, lookahead=1)
    said = (tmp_path / "workers" / "worker-0.log").read_text(encoding="utf-8")
    for how, what in left.items():
        line = f"optevolve: misdeeds:Line@how={how} left its process with another {what}; a new worker takes the next measurement.\n"
        assert f"--- {how}\n{line}" in said


@pytest.mark.parametrize("how", NAMED if WHOLE else ["kills its parent"])
def test_a_task_that_breaks_this_machine_s_rules_is_named_before_the_run(
    how: str, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(room))
    with pytest.raises(TaskError, match=rf"Task misdeeds:Line@how={how} cannot be trained: .*{NAMED[how]}"):
        pipeline.search(f"misdeeds:Line@how={how}", "quick", out=tmp_path / "run", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_who_kills_its_parent_is_named_and_who_fills_a_disk_also_where_the_store_is_on_it(room: Path) -> None:
    poison = importlib.import_module("poison")
    jobs = [poison.job(name) for name in ("a", "kill-parent", "b", "fill", "c")]
    with Study.create(room / "study.db", "x") as study:
        source = List(jobs)
        with pytest.raises(StudyError) as caught, session(study, poison.poisoned, Workers(), 1, room) as work:
            work(source, 1)
    assert source.told["kill-parent"].reason == f"{SAID_OF_PARENT}, 3 times with no other job beside it"
    assert repr(source.told["a"]) == repr(poison.synthetic(jobs[0]))
    assert re.search(r"the disk is full|No space left on device", str(caught.value))
    assert re.search(r"What filled it is the measurement fill of task synthetic: it wrote 1[0-9.]+ MB until", str(caught.value))


@pytest.mark.parametrize("how", ["allocate", "map"])
def test_who_fills_a_disk_without_writing_is_among_those_that_are_named(how: str, room: Path) -> None:
    poison = importlib.import_module("poison")
    with Study.create(room / how / "study.db", "x") as study:
        source = List([poison.job("a"), poison.job(how), *(poison.job(f"later/{n}") for n in range(200))])
        with pytest.raises(StudyError) as caught, session(study, poison.poisoned, Workers(), 1, room) as work:
            work(source, 1)
    assert re.search(r"the disk is full|No space left on device", str(caught.value))
    assert re.search(rf"No measurement is seen to have written as much; measured last were .*{how} of task synthetic", str(caught.value))
