"""The same search on a Ray cluster, one of whose nodes is lost on the way; skipped, and seen to be, where Ray is not installed."""

import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from optevolve.config import Search
from optevolve.errors import ConfigError, DataError
from optevolve.records import Job, Outcome, Status
from optevolve.run.driver import Happening, drive
from optevolve.run.local import SerialRunner
from optevolve.run.ray import RayRunner
from optevolve.run.store import Study

ray = pytest.importorskip("ray", reason="the extra 'ray' is not installed")
HERE = str(Path(__file__).parent)
SEARCH = Search(population=12, particles=3, timesteps=2, children=3, redraws=2, lookahead=6)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room for jobs and two nodes with one processor each, as processes of this machine."""
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(HERE).parents[1]), HERE])  # what a real cluster has installed
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.lost = found.add_node(num_cpus=1)
    found.add_node(num_cpus=1)
    ray.init(address=found.address, logging_level="ERROR", log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def module(name: str) -> Any:
    sys.path.insert(0, HERE)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(HERE)


def collected(runner: RayRunner, jobs: list[Job], seconds: float = 90) -> dict[str, Outcome]:
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
    }
    reasons = {
        "raise": "ZeroDivisionError: why",
        "dead": "lost 2 times with its worker or node",
        "slow": "longer than its time limit of 4 s",
        "interrupt": "KeyboardInterrupt",
        "custom": "lost on the way",
        "memory": "MemoryError",
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


def test_a_search_that_loses_a_node_ends_as_on_one_machine(cluster: Any, tmp_path: Path) -> None:
    source = module("search_source")

    def stored(study: Study) -> list[object]:
        return [(m, m.outcome.curves) for m in study.measurements()]

    with Study.create(tmp_path / "local.db", "x") as study:
        drive(source.SearchSource(SEARCH), SerialRunner(source.fitness), study, lookahead=6, same=lambda job: job.rule)
        expected = stored(study)
    measured = 0

    def lose_a_node(happening: Happening) -> None:
        nonlocal measured
        measured += happening.kind == "measured"
        if measured == 8 and happening.kind == "measured":
            # From aside: removal waits until the cluster has noticed.
            threading.Thread(target=cluster.remove_node, args=(cluster.lost,), kwargs={"allow_graceful": False}).start()

    with Study.create(tmp_path / "ray.db", "x") as study, RayRunner(source.slow_fitness, retries=5) as runner:
        drive(source.SearchSource(SEARCH), runner, study, lookahead=6, same=lambda job: job.rule, on_event=lose_a_node)
        assert repr(stored(study)) == repr(expected)
        assert measured > 20
        end = time.monotonic() + 30
        while runner.capacity != 1 and time.monotonic() < end:
            time.sleep(0.5)
        assert runner.capacity == 1
        cluster.add_node(num_cpus=2)  # nodes may also come
        while runner.capacity != 3 and time.monotonic() < end:
            time.sleep(0.5)
        assert runner.capacity == 3


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
