"""Reading grows with what is read and no faster; what is taken up is what would have been drawn."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from places import CONFIG, execute, sample
from search_source import SearchSource, fitness

from optevolve.algorithms import Sameness
from optevolve.config import Search
from optevolve.records import Job, Outcome
from optevolve.run.driver import drive
from optevolve.run.store import Entry, Study


def processor_seconds(call: Callable[[], object]) -> float:
    """The least of several: the first compiles the query, and any may have to collect the garbage of other tests."""
    seconds = []
    for _ in range(5):
        started = time.thread_time()
        call()
        seconds.append(time.thread_time() - started)
    return min(seconds)


def test_reading_is_linear(tmp_path: Path) -> None:
    """Quadratic reading took sixteen times as long for four times as much."""
    seconds = []
    for count in (200, 800):
        with Study.create(tmp_path / f"{count}.db", CONFIG) as study:
            study.record_all([Entry(sample(f"initial/{number:05d}"), number) for number in range(count)])
            assert len(study.measurements()) == count
            seconds.append(processor_seconds(study.measurements))
    assert seconds[1] < 8 * seconds[0]


def test_a_join_of_evaluations_and_proposals_has_its_index(tmp_path: Path) -> None:
    store = str(tmp_path / "study.db")
    Study.create(store, CONFIG).close()
    plan = "explain query plan select * from evaluations where study = 1 and proposal = 'a'"
    assert any("ix_evaluations_study_proposal" in str(row) for row in execute(store, plan))


class _Instant:
    """Measures at once; counts."""

    capacity = 4

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.count = 0

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.count += 1

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        arrived, self.jobs = [(job.id, fitness(job)) for job in self.jobs], []
        return arrived

    def close(self) -> None:
        """Nothing to do."""


class _Stop(Exception):
    """The run is cut off."""


def _drive(study: Study, search: Search, recalled: bool, most: int | None = None) -> _Instant:
    source, same, runner = SearchSource(search), Sameness(search.sameness), _Instant()
    if recalled:
        source.algorithm.recall(study.proposals())
        same.recall(study.fingerprints())

    def watch(_: object) -> None:
        if most is not None and runner.count >= most:
            raise _Stop

    try:
        drive(source, runner, study, lookahead=search.lookahead, same=lambda job: same(job.rule), on_event=watch)
    except _Stop:
        assert most is not None
    return runner


@pytest.mark.parametrize("algorithm", ["particle", "regularized", "random"])
def test_a_search_taken_up_from_its_proposals_ends_as_an_uninterrupted_one(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optevolve.algorithms.base.REDRAWN", 4)
    search = Search(algorithm=algorithm, population=16, particles=3, timesteps=2, children=4, redraws=2, tournament=3, lookahead=4)
    with Study.create(tmp_path / "whole.db", CONFIG) as study:
        _drive(study, search, recalled=False)
        whole = study.measurements()
    with Study.create(tmp_path / "cut.db", CONFIG) as study:
        _drive(study, search, recalled=False, most=22)
        stored = len(study.measurements())
        assert 10 < stored < len(whole)
        _drive(study, search, recalled=True, most=6)
        runner = _drive(study, search, recalled=True)
        assert study.measurements() == whole
        assert runner.count < len(whole) - stored
