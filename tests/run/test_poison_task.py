"""Tasks and candidates that go wrong in every way, measured for real: said before a search begins, or the loss of one measurement."""

import importlib
import itertools
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from listed import List

from optevolve import pipeline, surrogate
from optevolve.config import Protocol, Schedule
from optevolve.errors import OptevolveError, TaskError
from optevolve.records import Job, Outcome, Status
from optevolve.run.driver import drive
from optevolve.run.local import LocalRunner, SerialRunner
from optevolve.run.store import Study
from optevolve.tasks import check_task, load

TINY = Protocol(
    trial_steps=2, full_steps=3, epoch_steps=1, trial_epoch_steps=1, learning_rates=(0.1,), first_learning_rates=(0.1,),
    schedule=Schedule(warmup=0, hold=0),
)  # fmt: skip


def tasks() -> ModuleType:
    return importlib.import_module("poison_task")


def job(ident: str, rule: str = "g", task: str = "Line", **changes: object) -> Job:
    return Job(ident, rule, f"poison_task:{task}", replace(TINY, **changes), seed=sum(map(ord, ident)))


def exact(outcome: Outcome) -> str:
    """All but the clock; NaN equals NaN."""
    return repr((replace(outcome, seconds=0.0), [replace(curve, seconds=0.0) for curve in outcome.curves]))


@pytest.mark.parametrize("how", importlib.import_module("poison_task").BROKEN)
def test_a_task_that_breaks_the_protocol_is_named_before_the_search(how: str) -> None:
    if how == "loss interrupt":
        pytest.skip("a Ctrl-C while the task is checked is the user's own")
    with pytest.raises(TaskError) as caught:
        check_task(load(f"poison_task:Line@how={how}"))
    assert "Line" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_search_on_a_broken_task_ends_before_it_measures(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Task Line breaks the task protocol: score"):
        pipeline.search("poison_task:Line@how=score nan", "quick", out=tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []  # and leaves the folder free


@pytest.mark.parametrize("where", ["loss", "score"])
def test_a_candidate_that_makes_a_sound_task_raise_fails_alone(where: str) -> None:
    spec = f"Touchy@where={where}"
    check_task(load(f"poison_task:{spec}"))
    wild = surrogate.measure(job("wild", "1000 * g", spec, max_loss_ratio=1e30))
    assert wild.status is Status.FAILED
    assert wild.reason.startswith(f"ArithmeticError: too far out for {where}")
    calm = surrogate.measure(job("calm", "0.01 * g", spec))
    assert calm.status in {Status.COMPLETED, Status.STOPPED}
    assert exact(calm) == exact(surrogate.measure(job("calm", "0.01 * g")))


def unfit(how: str) -> bool:
    """Whether a measurement says that the task must be mended, which ends a search rather than failing a candidate."""
    try:
        surrogate.measure(job("x", task=f"Line@how={how}"))
    except OptevolveError:
        return True
    except BaseException:  # noqa: BLE001 - what a worker makes of it is what is tested
        pass
    return False


def test_two_hundred_measurements_one_in_five_on_a_poisoned_task_give_the_same_healthy_results_as_without(tmp_path: Path) -> None:
    hows = [how for how in tasks().BROKEN if how != "has_examples" and not unfit(how)]  # which a measurement does not look at
    assert len(hows) >= 16, "too few are left to a candidate"
    poison = [*tasks().DEADLY, *itertools.islice(itertools.cycle(hows), 40 - len(tasks().DEADLY))]
    jobs = []
    for number in range(200):
        bad = number % 5 == 0
        jobs.append(job(f"{number:03}", f"{1 + number % 7} * g", f"Line@how={poison.pop()}" if bad else "Line"))
    healthy = [each for each in jobs if each.task == "poison_task:Line"]
    assert len(healthy) == 160
    without = List(healthy)
    with Study.create(tmp_path / "healthy.db", "x") as study:
        drive(without, SerialRunner(surrogate.measure), study, lookahead=4)
    mixed = List(jobs)
    with Study.create(tmp_path / "mixed.db", "x") as study, LocalRunner(2, surrogate.measure, time_limit=600, memory_limit=2**31) as runner:
        drive(mixed, runner, study, lookahead=4)
    assert {without.told[each.id].status for each in healthy} <= {Status.COMPLETED, Status.STOPPED}
    for each in jobs:
        if each in healthy:
            assert exact(mixed.told[each.id]) == exact(without.told[each.id])
        else:
            assert mixed.told[each.id].status in {Status.FAILED, Status.DIVERGED}, each.task
            assert mixed.told[each.id].reason
