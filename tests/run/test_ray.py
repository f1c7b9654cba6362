"""The same search on a Ray cluster, one of whose nodes is lost on the way; skipped, and seen to be, where Ray is not installed."""

import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from search_path import search_path

from optevolve import pipeline
from optevolve.config import Search
from optevolve.errors import ConfigError, DataError
from optevolve.records import Job, Outcome, Status
from optevolve.run.driver import Happening, drive
from optevolve.run.local import SerialRunner
from optevolve.run.ray import RayRunner
from optevolve.run.ray_actors import Actors, SilentError
from optevolve.run.store import Study

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
KILLS = int(os.environ.get("OPTEVOLVE_TEST_KILLS", "4"))  # random moments; more on demand
pytestmark = pytest.mark.timeout(240 + 10 * KILLS)  # a cluster that hangs must not hang the tests
HERE = str(Path(__file__).parent)
SEARCH = Search(population=12, particles=3, timesteps=2, children=3, redraws=2, lookahead=6)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head without room for jobs and two nodes with one processor and one GPU in name each, as processes of this machine.

    Each node has a cache of its own, `caches`, and no data.
    """
    from ray.cluster_utils import Cluster

    mine = psutil.Process()
    others = set(mine.children(recursive=True))
    before = os.environ.get("PYTHONPATH")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a machine with other work takes longer than the usual 30
    os.environ["PYTHONPATH"] = search_path()  # what a real cluster has installed
    found = Cluster()
    try:
        patiently(lambda: found.add_node(num_cpus=0, include_dashboard=False))
        found.caches = [tmp_path_factory.mktemp("node") / "cache" for _ in range(2)]
        found.nodes = [patiently(partial(found.add_node, num_cpus=1, num_gpus=1, env_vars=environment(c))) for c in found.caches]
        ray.init(address=found.address, logging_level="ERROR", log_to_driver=False)
        yield found
    finally:
        ray.shutdown()
        found.shutdown()
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
        left, end = running(mine, others), time.monotonic() + 20
        while left and time.monotonic() < end:
            time.sleep(0.2)
            left = running(mine, others)
        for process in left:
            process.kill()
    assert left == [], "Ray left processes behind, which were killed"


def running(parent: psutil.Process, others: set[psutil.Process]) -> list[psutil.Process]:
    """Ray's processes that this one has started since; what has ended and is merely not yet waited for does not count."""
    found = []
    for process in set(parent.children(recursive=True)) - others:
        with suppress(psutil.NoSuchProcess):
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and ("/ray/" in command or "ray::" in command):
                found.append(process)
    return found


def patiently(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 seconds to start, which a machine with other work may not keep."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:  # Ray's own has no kind
            if not any(words in str(error) for words in ("timed out during startup", "registration may not be complete yet")):
                raise
    return start()


def environment(cache: Path) -> dict[str, str]:
    """Of a node whose disk nobody else sees."""
    return {"OPTEVOLVE_CACHE": str(cache), "OPTEVOLVE_DATA": str(cache.parent / "data")}


def module(name: str) -> Any:
    sys.path.insert(0, HERE)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(HERE)


def collected(runner: RayRunner, jobs: list[Job], seconds: float = 200) -> dict[str, Outcome]:
    for job in jobs:
        runner.submit(job)
    found: dict[str, Outcome] = {}
    end = time.monotonic() + seconds
    while len(found) < len(jobs) and time.monotonic() < end:
        found |= dict(runner.collect(0.5))
    return found


def test_poison_on_a_cluster_costs_its_own_measurement_alone(cluster: Any) -> None:
    poison = module("poison")
    rules = {
        "raise": "raise why",
        "dead": "os._exit 3",
        "slow": "sleep 60",
        "interrupt": "interrupt",
        "custom": "lock",
        "memory": "memory 100_000_000_000",
        "deadlock": "deadlock",
        "killed": "kill SIGKILL",
    }
    reasons = {
        "raise": "ZeroDivisionError: why",
        "dead": "its worker exited with code 3",
        "slow": "longer than its time limit of 4 s",
        "interrupt": "KeyboardInterrupt",
        "custom": "its outcome cannot be sent",
        "memory": "MemoryError",
        "deadlock": "longer than its time limit of 4 s",
        "killed": "its worker was killed by SIGKILL, 2 times with no other job beside it",
    }
    jobs = [poison.job(name, rule) for name, rule in rules.items()] + [poison.job(f"healthy/{n}") for n in range(4)]
    with RayRunner(poison.poisoned, retries=1, time_limit=4, memory_limit=2**31) as runner:
        assert runner.capacity == 2
        found = collected(runner, jobs)
        assert set(found) == {job.id for job in jobs}
        for name, reason in reasons.items():
            assert found[name].status is Status.FAILED
            assert reason in found[name].reason
        for job in jobs[-4:]:
            assert repr(found[job.id]) == repr(poison.synthetic(job))
        runner.submit(poison.job("data", "data"))
        with pytest.raises(DataError, match="Expected data, found none"):  # noqa: PT012 - when it comes is not ours to say
            while not runner.collect(1.0):
                pass


def test_actors_stay_for_many_jobs_and_lost_ones_are_replaced(cluster: Any) -> None:
    poison = module("poison")
    with RayRunner(poison.poisoned, gpus=1, retries=1, time_limit=60) as runner:
        assert runner.capacity == 2
        jobs = [poison.job(f"process/{n}", "process 0.2", seed=n) for n in range(8)]
        before = {outcome.reason for outcome in collected(runner, jobs).values()}  # the process ids of workers
        assert len(before) == 2
        dead = poison.job("dead", "os._exit 3")
        slow = poison.job("slow", "raise again")
        found = collected(runner, [dead, slow, *jobs])
        assert found["dead"].status is Status.FAILED
        assert found["dead"].reason == "its worker exited with code 3"
        assert "ZeroDivisionError: again" in found["slow"].reason
        assert {found[job.id].status for job in jobs} == {Status.COMPLETED}
        after = {outcome.reason for outcome in collected(runner, jobs).values()}
        assert 1 <= len(after) <= 2
        assert after != before
        runner.submit(poison.job("data", "data"))
        with pytest.raises(DataError, match="Expected data, found none"):  # noqa: PT012 - when it comes is not ours to say
            while not runner.collect(1.0):
                pass


def actors(kind: str) -> list[psutil.Process]:
    """Those of a class that live."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if f"ray::{kind}" in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_workers_and_actors_killed_and_stopped_at_random_moments_change_no_row(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker is killed by a signal, an actor is killed, or stopped for good, which its silence tells."""
    monkeypatch.setattr("optevolve.run.ray_actors._SILENT", 4.0)
    poison, dice, due, kills = module("poison"), random.Random(9), 0.0, 0
    waiting = [poison.job(f"{n:03}", f"sleep 0.{n % 3}", seed=n) for n in range(8 * KILLS)]
    expected = {job.id: repr(poison.synthetic(job)) for job in waiting}
    found: dict[str, Outcome] = {}
    with RayRunner(poison.poisoned, retries=KILLS, time_limit=60) as runner:
        at_hand = 0
        while len(found) < len(expected):
            while waiting and at_hand < runner.capacity:
                runner.submit(waiting.pop())
                at_hand += 1
            arrived = dict(runner.collect(0.1))
            at_hand -= len(arrived)
            found |= arrived
            living = actors("Measurer")
            if kills == KILLS or time.monotonic() < due or not found or not living:
                continue
            actor = dice.choice(living)
            with suppress(psutil.Error, IndexError):
                if kills % 3 == 0:
                    actor.send_signal(dice.choice([signal.SIGKILL, signal.SIGSTOP]))
                else:
                    actor.children(recursive=True)[-1].send_signal(dice.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGABRT]))
                kills += 1
            due = time.monotonic() + dice.uniform(0.3, 2.0)
    assert kills == KILLS
    assert {name: repr(outcome) for name, outcome in found.items()} == expected


@pytest.mark.parametrize("answers", [False, True])
def test_an_actor_that_hangs_is_ended_by_force_whether_it_answers_or_not(
    cluster: Any, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in C with the interpreter's lock; or its measuring thread alone hangs, and its jobs never come to an end."""
    monkeypatch.setattr("optevolve.run.ray_actors._SILENT", 1e9 if answers else 3.0)
    monkeypatch.setattr("optevolve.run.ray_actors._GRACE", 1.0 if answers else 1e9)

    class Stuck:
        def ready(self) -> int:
            return os.getpid()

        def alive(self) -> None:
            pass

        def measure(self, answers: bool) -> None:
            import ctypes

            (ctypes.CDLL if answers else ctypes.PyDLL)(None).pause()

    hands: Actors[str] = Actors(ray, Stuck, (), {"num_cpus": 0.5}, lambda: 1)
    hands.start("job", (answers,), 0.5)
    while not (stuck := actors("Stuck")):
        assert hands.wait(0.2) == []
    while not (ended := hands.wait(0.2)):
        pass
    hands.close()
    assert [(end.job, end.found, type(end.error)) for end in ended] == [("job", None, SilentError)]
    assert ("no end" if answers else "no answer") in str(ended[0].error)
    assert psutil.wait_procs(stuck, timeout=20)[1] == []


def test_what_tasks_print_on_a_node_is_bounded(cluster: Any) -> None:
    poison, folder = module("poison"), Path(cluster.head_node.get_logs_dir_path())

    def size() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    before = size()
    with RayRunner(poison.poisoned) as runner:
        collected(runner, [poison.job(f"print/{n}", "print 20_000_000") for n in range(4)])
    assert size() - before < 2**20
    texts = [path.read_text(encoding="utf-8") for path in folder.glob("optevolve-*/worker-0.log")]
    assert sum(text.count("--- print/") for text in texts) == sum(text.count("bytes left out") for text in texts) == 4


def test_actors_that_never_come_to_work_are_given_up(cluster: Any) -> None:
    class Broken:
        def ready(self) -> None:
            os._exit(1)

    hands: Actors[str] = Actors(ray, Broken, (), {"num_cpus": 0.5}, lambda: 2)
    hands.start("job", ())
    with pytest.raises(ConfigError, match="ended 5 times in a row before they were ready"):  # noqa: PT012
        while not hands.wait(1.0):
            pass
    hands.close()


def test_a_node_without_data_takes_the_driver_s_once(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = module("data_source")
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OPTEVOLVE_CACHE", str(tmp_path / "cache"))
    sets.write(tmp_path / "data")
    expected = sets.total()
    jobs = [sets.job(f"data/{n}") for n in range(12)]
    with RayRunner(sets.measure, cpus=0.5, share=sets.share) as runner:
        assert runner.capacity == 4
        found = collected(runner, jobs)
    assert {outcome.fitness for outcome in found.values()} == {expected}, found
    where = [json.loads(outcome.reason) for outcome in found.values()]
    assert {place["cache"] for place in where} <= {str(cache) for cache in cluster.caches}
    assert len({place["process"] for place in where}) > len({place["cache"] for place in where}), "one worker a node shares nothing"
    assert len({place["file"] for place in where}) == len({place["cache"] for place in where}), "workers of a node map one file"
    with RayRunner(sets.measure, cpus=0.5) as runner, pytest.raises(DataError, match="does not exist"):  # noqa: PT012
        runner.submit(sets.job("absent", "other"))
        while not runner.collect(1.0):
            pass


def test_a_whole_run_on_the_cluster_finds_what_it_finds_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    steps = [f"{stage}.protocol.{kind}_steps=5" for stage in ("initial", "evolution") for kind in ("trial", "full")]
    sizes = ["search.population=4", "search.particles=2", "search.timesteps=1", "search.children=2", "search.redraws=0"]
    ends = ["elimination=[]", "evaluation.seeds=1", "evaluation.baselines=[]", "evaluation.protocol.full_steps=5"]

    def found(place: str) -> Any:
        base = [*steps, *sizes, *ends, "evaluation.protocol.trial_steps=5", f"workers.runner={place}"]
        result = pipeline.search("quadratics", "quick", out=tmp_path / place, workers=2, settings=base)
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in pipeline.leaderboard(tmp_path / place)]
        return rows, result.comparisons()

    assert repr(found("ray")) == repr(found("local"))


@pytest.mark.parametrize("gpus", [0, 1])
def test_a_search_that_loses_a_node_ends_as_on_one_machine(cluster: Any, tmp_path: Path, gpus: int) -> None:
    source = module("search_source")

    def stored(study: Study) -> list[object]:
        return [(m, m.outcome.curves) for m in study.measurements()]

    with Study.create(tmp_path / "local.db", "x") as study:
        drive(source.SearchSource(SEARCH), SerialRunner(source.fitness), study, lookahead=6, same=lambda job: job.rule)
        expected = stored(study)
    measured = 0
    node, smaller = cluster.nodes.pop(), 1

    def lose_a_node(happening: Happening) -> None:
        nonlocal measured
        measured += happening.kind == "measured"
        if measured == 8 and happening.kind == "measured":
            # From aside: removal waits until the cluster has noticed.
            threading.Thread(target=cluster.remove_node, args=(node,), kwargs={"allow_graceful": False}).start()

    with Study.create(tmp_path / "ray.db", "x") as study, RayRunner(source.slow_fitness, gpus=gpus, retries=5) as runner:
        drive(source.SearchSource(SEARCH), runner, study, lookahead=6, same=lambda job: job.rule, on_event=lose_a_node)
        assert repr(stored(study)) == repr(expected)
        assert measured > 20
        end = time.monotonic() + 60
        while runner.capacity != smaller and time.monotonic() < end:
            time.sleep(0.5)
        assert runner.capacity == smaller
        cluster.nodes.append(cluster.add_node(num_cpus=2, num_gpus=2, env_vars=environment(tmp_path / "cache")))  # nodes may also come
        while runner.capacity != smaller + 2 and time.monotonic() < end:
            time.sleep(0.5)
        assert runner.capacity == smaller + 2


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    poison = module("poison")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def unreachable(**options: object) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", unreachable)
    with pytest.raises(ConfigError, match="Cannot reach a Ray cluster at auto: Could not find"):
        RayRunner(poison.synthetic, address="auto")


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'optevolve\[ray\]'"):
        RayRunner(module("poison").synthetic)
