"""Reading grows with what is read and no faster; what is taken up is what would have been drawn."""

import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from places import CONFIG, execute, sample
from search_source import SearchSource, fitness

from optevolve.algorithms import Sameness
from optevolve.config import Search
from optevolve.errors import StudyError
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


SMALL = Search(population=16, particles=2, timesteps=2, children=3, redraws=1, lookahead=4, sameness="spelling")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a search that came to its end, to be copied."""
    store = tmp_path_factory.mktemp("searched") / "study.db"
    with Study.create(store, CONFIG) as study:
        assert _drive(study, SMALL, recalled=False).count > 20
    return store


def _taken_up(store: Path, *edits: str) -> int:
    """How much is measured when the search is taken up after its store was edited."""
    execute(str(store), *edits)
    with Study.open(store) as study:
        return _drive(study, SMALL, recalled=True).count


@pytest.mark.parametrize(
    ("proposal", "change", "said"),
    [
        ("initial/0002", "genome = '{'", "genome"),
        ("initial/0015", "genome = (select genome from proposals where id = 'initial/0001')", "genome"),
        ("particle-00/t1/c0", "genome = '{}'", "genome"),
        ("initial/0000", "parent = 'initial/0001'", "parent"),
        ("particle-01/t1/c1", "parent = 'nowhere'", "parent"),
        ("particle-01/t0", "particle = particle + 1", "particle"),
        ("particle-00/t2/c2", "timestep = timestep + 1", "timestep"),
        ("initial/0003", "stage = 'final'", "stage"),
        ("particle-00/t1/c1", "rule = 'v'", "rule"),
    ],
)
def test_a_search_that_draws_otherwise_than_it_did_is_refused(
    proposal: str, change: str, said: str, searched: Path, tmp_path: Path
) -> None:
    store = Path(shutil.copy(searched, tmp_path))
    with pytest.raises(StudyError, match=rf"holds another proposal under the id '{proposal}' .*: its {said} is .*, expected .*verify"):
        _taken_up(store, f"update proposals set {change} where id = '{proposal}'")


def test_a_rule_that_was_not_refused_before_is_another_drawing(searched: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="its rules refused before is"):
        _taken_up(
            Path(shutil.copy(searched, tmp_path)),
            "insert into rejections (study, before, position, rule, reason) values (1, 'initial/0001', 0, 'w', 'by hand')",
        )


def test_other_words_about_a_proposal_are_no_other_proposal(searched: Path, tmp_path: Path) -> None:
    assert _taken_up(Path(shutil.copy(searched, tmp_path)), "update proposals set mutation = 'as an older version says it'") == 0


@pytest.mark.parametrize(("number", "noticed"), [(0, True), (3, True), (4, False), (6, False), (7, True), (14, False), (15, True)])
def test_one_proposal_in_so_many_is_drawn_again(
    number: int, noticed: bool, searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optevolve.algorithms.base.REDRAWN", 4)
    store = Path(shutil.copy(searched, tmp_path))
    with pytest.raises(StudyError, match="holds another proposal") if noticed else nullcontext():
        _taken_up(store, f"update proposals set genome = replace(genome, 'slots', 'spots') where id = 'initial/{number:04d}'")
