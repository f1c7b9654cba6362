"""A measurement's limit follows its protocol, its tasks and its peers; what a process has for itself is told from what others take."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from optevolve.config import FAST, Protocol, Schedule
from optevolve.records import Job, Outcome, Status, TrainingCurve
from optevolve.run.limits import Steps, TimeLimit, most_steps
from optevolve.run.local import LocalRunner
from optevolve.run.own_time import OwnTime, family
from optevolve.surrogate import measure

PAPER = Protocol(
    trial_steps=4, full_steps=8, trial_epoch_steps=4, epoch_steps=4, schedule=Schedule(warmup=0), first_floor=-1e30, floor=-1e30,
    learning_rates=(1e-3, 1e-2, 1e-1), first_learning_rates=(1e-2,),
)  # fmt: skip
RACE = replace(FAST, trial_steps=4, full_steps=8, epoch_steps=8, schedule=Schedule(warmup=0), learning_rates=(1e-4, 1e-3, 1e-2, 1e-1))
DECAYS = (0.0, 0.01, 0.1)
posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


def job(protocol: Protocol = PAPER, task: str = "quadratics", **changes: object) -> Job:
    return replace(Job("a", "g", task, protocol, 1), **changes)


def spent(outcome: Outcome, purpose: str) -> int:
    return sum(curve.steps[-1] for curve in outcome.curves if curve.purpose == purpose)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (job(), Steps(3 * 4, 8)),
        (job(replace(PAPER, weight_decays=DECAYS)), Steps((3 + 2 + 2) * 4, 8)),
        (job(replace(PAPER, weight_decays=DECAYS), weight_decay=0.1), Steps(3 * 4, 8)),
        (job(learning_rate=0.01), Steps(0, 8)),
        (job(RACE, learning_rate=0.01), Steps(0, 8)),
    ],
)
def test_a_job_that_nothing_ends_early_takes_the_steps_foreseen(asked: Job, expected: Steps) -> None:
    assert most_steps(asked) == {asked.task: expected}
    outcome = measure(asked)
    assert outcome.status is Status.COMPLETED, outcome.reason
    assert (spent(outcome, "trial"), spent(outcome, "full")) == expected


def test_the_steps_of_a_protocol_are_counted_once() -> None:
    """A runner asks for each worker, four times a second."""
    asked = [job(replace(RACE, rungs=3000), learning_rate=None, seed=seed) for seed in range(100)]
    started = time.thread_time()
    most_steps(asked[0])
    once = time.thread_time() - started
    for each in asked:
        most_steps(each)
    assert time.thread_time() - started < 5 * once


@pytest.mark.parametrize(
    "protocol",
    [
        RACE,
        replace(RACE, trial_seeds=3, rungs=3, full_seeds=3),
        replace(RACE, learning_rates=(1e-3,)),
        replace(RACE, learning_rates=(1e-5, 1e-4), weight_decays=DECAYS, trial_judge="end"),  # the best lies beyond: decades are added
        replace(RACE, learning_rates=(1e-3, 1e2), halving=2, rate_slack=0.9),  # a bolder rate may diverge
    ],
)
def test_no_race_takes_more_steps_than_foreseen(protocol: Protocol) -> None:
    asked = job(protocol)
    outcome = measure(asked)
    hidden = protocol.trial_seeds * min(protocol.trial_steps * 2 ** (protocol.rungs - 1), protocol.full_steps)
    (steps,) = most_steps(asked).values()
    assert 0 < spent(outcome, "trial") + hidden <= steps.trial <= 3 * (spent(outcome, "trial") + hidden)
    assert 0 < spent(outcome, "full") <= steps.full <= 6 * spent(outcome, "full")


def test_tasks_are_counted_one_by_one_and_adam_with_each() -> None:
    both = job(task="quadratics;digits")
    assert most_steps(both) == {"quadratics": Steps(2 * 12, 16), "digits": Steps(2 * 12, 16)}


def test_curves_of_several_tasks_say_whose_they_are() -> None:
    quadratics = replace(PAPER, learning_rates=(1e-2, 1e-1), full_steps=40)
    both = job(quadratics, "quadratics;digits", rule="v_hat")
    outcome = measure(both)
    assert outcome.status is Status.COMPLETED, outcome.reason
    assert {curve.task for curve in outcome.curves} == {"quadratics", "digits"}
    assert {curve.task for curve in measure(job()).curves} == {""}


def curve(seconds: float, steps: int, purpose: str = "full", task: str = "") -> TrainingCurve:
    return TrainingCurve(0.1, 0, (steps,), purpose=purpose, seconds=seconds, task=task)


def done(*curves: TrainingCurve) -> Outcome:
    return Outcome(Status.COMPLETED, 0.5, curves=curves, steps=sum(c.steps[-1] for c in curves), seconds=sum(c.seconds for c in curves))


def test_time_limits_follow_the_cost_of_peers() -> None:
    one, two = job(Protocol(), "one"), job(Protocol(), "two")
    limit = TimeLimit(multiple=10, floor=5, first=1000)
    assert limit.seconds(one) == 1000
    for cost in (0.001, 0.002, 0.3):
        limit.learn(one, done(curve(800 * cost, 800, "trial"), curve(8000 * 2 * cost, 8000)))
    limit.learn(one, Outcome(Status.FAILED, steps=0, seconds=1e9))
    assert limit.seconds(one) == pytest.approx(10 * (7 * 800 * 0.002 + 8000 * 0.004))
    assert limit.seconds(two) == 1000
    limit.learn(two, done(curve(0.01, 10**6)))
    assert limit.seconds(two) == 5
    assert TimeLimit(fixed=3).seconds(one) == 3
    untrained = TimeLimit(multiple=10, floor=5)
    untrained.learn(one, Outcome(Status.STOPPED, steps=1000, seconds=2.0))
    assert untrained.seconds(one) == pytest.approx(10 * 0.002 * 13600)


def test_candidates_that_never_come_to_a_full_run_do_not_make_the_limit_of_one_that_does_too_small() -> None:
    asked, limit = job(Protocol()), TimeLimit(multiple=10, floor=5)
    for _ in range(200):
        limit.learn(asked, done(curve(8.0, 800, "trial")))
    assert limit.seconds(asked) >= 10 * (7 * 800 * 0.01 + 8000 * 0.05), "a step of a full run may cost more: it is scored"


def test_a_cheap_task_that_most_do_not_get_beyond_says_nothing_of_the_next() -> None:
    both, limit = job(Protocol(), "cheap;dear"), TimeLimit(multiple=10, floor=5, first=1000)
    for _ in range(200):
        limit.learn(both, done(curve(0.8, 800, "trial", "cheap"), curve(8.0, 8000, "full", "cheap")))
    assert limit.seconds(both) == 1000, "no peer has come to the second task"
    limit.learn(both, done(curve(800.0, 800, "trial", "dear"), curve(8000.0, 8000, "full", "dear")))
    assert limit.seconds(both) == pytest.approx(10 * 2 * (13600 * 0.001 + 13600 * 1.0))


def test_peers_that_shared_their_processor_have_cost_what_was_their_own() -> None:
    asked, limit = job(Protocol()), TimeLimit(multiple=10, floor=5)
    limit.learn(asked, done(curve(80.0, 800, "trial"), curve(800.0, 8000)), share=0.25)
    assert limit.seconds(asked) == pytest.approx(10 * 13600 * 0.1 * 0.25)


@contextmanager
def running(program: str) -> Iterator[tuple[OwnTime, subprocess.Popen[bytes]]]:
    """A Python process that has begun its program."""
    process = subprocess.Popen([sys.executable, "-c", f"import os, signal, subprocess, sys, time\nprint(flush=True)\n{program}"], stdout=-1)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield OwnTime(process.pid), process
    finally:
        for each in family(OwnTime(process.pid).process):
            each.kill()
        process.kill()
        process.communicate()


def watched(own: OwnTime, seconds: float) -> float:
    """Its own time after so long by the clock."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.05)
        own.look()
    return own.seconds


@posix
def test_who_sleeps_or_waits_for_what_it_started_has_the_time_to_itself() -> None:
    for program in ("time.sleep(60)", "signal.pause()", "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"):
        with running(program) as (own, _):
            assert watched(own, 1.0) > 0.6, program


@posix
def test_who_is_stopped_loses_nothing_and_its_processor_time_counts_as_it_is() -> None:
    with running("while True: pass") as (own, process):
        worked = watched(own, 1.0)
        assert 0.05 < worked <= own.clock
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.1)
        own.look()
        before = own.seconds
        assert watched(own, 1.0) == before
        assert own.stopped > 0.8
        process.send_signal(signal.SIGCONT)
        assert watched(own, 1.0) > before
        assert own.stopped == 0


@posix
def test_a_gap_in_which_the_observer_was_away_counts_as_a_second_at_most() -> None:
    with running("time.sleep(60)") as (own, _):
        time.sleep(1.8)
        own.look()
        assert own.clock > 1.7
        assert own.seconds <= 1.0


@posix
def test_a_loaded_machine_takes_nobody_s_time() -> None:
    """Twelve that compute on one processor: each has a twelfth of it to itself, and no more."""
    with running("os.sched_setaffinity(0, {0})\nfor _ in range(11):\n    if not os.fork(): break\nwhile True: pass") as (own, process):
        del own
        time.sleep(0.2)
        one = OwnTime(family(OwnTime(process.pid).process)[-1].pid)
        assert watched(one, 2.0) < 0.5 * one.clock


def poison() -> object:
    folder = str(Path(__file__).parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    import poison

    return poison


@posix
def test_a_worker_that_is_stopped_for_longer_than_any_limit_measures_on() -> None:
    module = poison()
    with LocalRunner(1, module.poisoned, time_limit=1.5) as runner:  # type: ignore[attr-defined]
        runner.submit(module.job("a", "process 1.0"))  # type: ignore[attr-defined]
        while not runner._running:
            assert runner.collect(0.1) == []
        (worker,) = runner._workers.values()
        os.kill(worker.pid, signal.SIGSTOP)
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            assert runner.collect(0.2) == []
        os.kill(worker.pid, signal.SIGCONT)
        found: list[tuple[str, Outcome]] = []
        while not found:
            found = runner.collect(0.2)
    assert found[0][1].status is Status.COMPLETED
    assert found[0][1].reason == str(worker.pid), "it was measured by the worker that was stopped"
