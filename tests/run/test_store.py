"""The store keeps what it was given, to the last bit, and refuses what it cannot keep in words that help."""

import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st
from places import CONFIG, execute, fresh_place, raw, sample

from optevolve.config import Protocol, Schedule
from optevolve.errors import StudyError
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status, TrainingCurve
from optevolve.run.store import Entry, Study
from optevolve.run.store.tables import METADATA, SCHEMA_TABLE

numbers = st.floats(allow_nan=False).map(lambda x: x + 0.0)  # SQLite forgets the sign of zero
optional = st.none() | numbers
scores = st.sampled_from([math.inf, -math.inf]) | st.floats(-1e150, 1e150).map(lambda x: x + 0.0)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
seeds = st.integers(-(2**63), 2**63 - 1)
protocols = st.builds(
    Protocol,
    learning_rates=st.lists(st.floats(1e-9, 10), min_size=1, unique=True).map(tuple),
    weight_decays=st.lists(st.floats(0, 1), min_size=1, unique=True).map(tuple),
    first_floor=st.none() | st.floats(0, 1),
    schedule=st.builds(Schedule, warmup=st.floats(0, 1e6)),
)


@st.composite
def training_curves(draw: st.DrawFn) -> TrainingCurve:
    size = draw(st.integers(0, 4))
    points = st.lists(st.floats(), min_size=size, max_size=size).map(tuple)
    return TrainingCurve(
        draw(numbers),
        draw(seeds),
        tuple(range(size)),
        draw(points),
        draw(points),
        draw(points),
        draw(st.sampled_from(Status)),
        draw(texts),
        draw(st.sampled_from(["trial", "full"])),
        draw(numbers),
        draw(numbers),
    )


@st.composite
def measurements(draw: st.DrawFn, ident: str) -> Measurement:
    fixed = draw(st.tuples(optional, optional))
    job = Job(ident, draw(texts), draw(texts), draw(protocols), draw(seeds), draw(st.sampled_from(Split)), *fixed)
    status = draw(st.sampled_from(Status))
    outcome = Outcome(
        status,
        draw(scores if status is Status.COMPLETED else st.none() | scores),
        draw(st.none() | numbers),
        draw(texts),
        tuple(draw(st.lists(training_curves(), max_size=3))),
        draw(st.integers(0, 2**40)),
        draw(numbers),
        interval=draw(st.none() | st.tuples(scores, scores)),
        weight_decay=draw(numbers),
        task_scores=tuple(draw(st.lists(scores, max_size=3))),
        device=draw(st.sampled_from(["", "cpu", "cuda"])),
    )
    rejected = st.lists(st.tuples(texts, texts), max_size=3).map(tuple)
    proposal = st.builds(Proposal, st.just(ident), texts, texts, parent=texts, particle=st.integers(-1, 99), rejected=rejected)
    return Measurement(draw(st.sampled_from(["initial", "evolution"])), job, outcome, draw(st.none() | proposal), draw(texts))


def exact(entries: list[Measurement]) -> str:
    """Text in which equal means equal to the last bit, NaN included."""
    return "\n".join(repr((m, m.outcome.curves, m.proposal and m.proposal.rejected)) for m in entries)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@settings(max_examples=12)
@given(entries=st.tuples(*(measurements(f"job/{number}") for number in range(3))))
def test_what_is_stored_comes_back_to_the_last_bit(kind: str, entries: tuple[Measurement, ...]) -> None:
    with fresh_place(kind) as path:
        with Study.create(path, CONFIG) as study:
            for entry in entries:
                study.record(entry)
        with Study.open(path, read_only=True) as study:
            for entry in entries:
                assert exact([entry]) == exact([study.measurement(entry.job.id)])
                assert repr(study.outcome(entry.job.id)) == repr(entry.outcome)
            assert sorted(exact([m]) for m in study.measurements()) == sorted(exact([m]) for m in entries)


def test_a_person_can_query_it(store: str) -> None:
    with Study.create(store, CONFIG, version="1.2") as study:
        study.record(sample("initial/0001"), turn=0, fingerprint="abc")
        study.note("interrupted", after=3, text="bad \0")
        assert study.events()[0].detail == {"after": 3, "text": "bad \\0"}
        assert (study.config_text, study.version, study.finished) == (CONFIG, "1.2", False)
        study.finish()
    query = "select e.status, e.fitness, e.fingerprint, r.rule, c.train_loss from evaluations e join curves c on c.evaluation = e.id "
    query += "join rejections r on r.before = e.proposal and r.study = e.study"
    (found,) = execute(store, query)
    assert found[:4] == ("completed", 0.5, "abc", "g*g")
    assert found[4] in ('[2.0, "Infinity"]', [2.0, "Infinity"])
    with Study.open(store) as study:
        assert study.finished
        assert study.created.tzinfo is not None


def test_a_file_in_write_ahead_mode_that_knows_json(tmp_path: Path) -> None:
    store = str(tmp_path / "deep" / "study.db")
    with Study.create(store, CONFIG) as study:
        study.record(sample("initial/0001"), turn=0, fingerprint="abc")
    assert execute(store, "select json_extract(protocol, '$.schedule.warmup') from evaluations") == [(800,)]
    assert execute(store, "pragma journal_mode") == [("wal",)]


def test_measurements_come_in_the_order_of_asking(store: str) -> None:
    with Study.create(store, CONFIG) as study:
        study.record_all([Entry(sample("c", "one"), 2), Entry(sample("a", "one"), 0), Entry(sample("d", "two"), 0)])
        study.record(sample("b", "one"), turn=1)
        assert [m.job.id for m in study.measurements()] == ["a", "b", "c", "d"]
        assert [m.job.id for m in study.measurements("two")] == ["d"]
        assert study.measurement("e") is None


def test_a_job_is_stored_once_and_several_are_stored_together_or_not_at_all(store: str) -> None:
    with Study.create(store, CONFIG) as study:
        study.record(sample("a"))
        with pytest.raises(ValueError, match="stored already"):
            study.record_all([Entry(sample("b")), Entry(sample("a"))])
        with pytest.raises(ValueError, match="NaN"):
            study.record_all([Entry(sample("c")), Entry(sample("d", fitness=math.nan))])
        assert [m.job.id for m in study.measurements()] == ["a"]


def test_messages_that_no_database_takes_are_kept_readable(store: str) -> None:
    with Study.create(store, CONFIG) as study:
        study.record(sample("a", reason="bad \0 and \ud800"))
        assert study.outcome("a").reason == "bad \\0 and \\ud800"


def test_migrations_make_the_tables_that_the_code_uses(store: str) -> None:
    Study.create(store, CONFIG).close()
    engine = raw(store)
    with engine.connect() as connection:
        opened = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE, "compare_type": True})
        assert compare_metadata(opened, METADATA) == []
    engine.dispose()


def test_paths_and_urls_are_the_same_store(tmp_path: Path) -> None:
    odd = tmp_path / "100% o'dd ?#ü"
    Study.create(odd / "study.db", CONFIG).close()
    with Study.open(odd / "study.db") as study:
        assert study.where == str(odd / "study.db")
    Study.create(f"sqlite:///{tmp_path / 'url.db'}", CONFIG).close()
    with Study.open(str(tmp_path / "url.db")) as study:
        assert study.config_text == CONFIG


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "mysql://user:secret@host/db", "://", "postgresql+asyncpg://h/d", "postgresql://h"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(StudyError, match="Expected a path, 'sqlite:///PATH' or") as caught:
        Study.open(url)
    assert "secret" not in str(caught.value)


def test_what_is_no_study_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_text("this is no database, but long enough to look like a file of some kind\n" * 20)
    other = tmp_path / "other.db"
    handle = sqlite3.connect(other)
    handle.execute("create table addresses (name text)")
    handle.commit()
    handle.close()
    (tmp_path / "empty.db").touch()
    before = {path: path.read_bytes() for path in (text, other)}
    with pytest.raises(StudyError, match="no such file"):
        Study.open(tmp_path / "missing.db")
    with pytest.raises(StudyError, match="no SQLite database"):
        Study.open(text)
    with pytest.raises(StudyError, match="no SQLite database"):
        Study.create(text, CONFIG)
    with pytest.raises(StudyError, match="tables addresses"):
        Study.open(other)
    with pytest.raises(StudyError, match="tables addresses"):
        Study.create(other, CONFIG)
    with pytest.raises(StudyError, match="an empty database"):
        Study.open(tmp_path / "empty.db")
    assert before == {path: path.read_bytes() for path in before}
    Study.create(tmp_path / "empty.db", CONFIG).close()
    with pytest.raises(StudyError, match="Expected no study"):
        Study.create(tmp_path / "empty.db", CONFIG)


def test_a_newer_schema_is_refused(store: str) -> None:
    Study.create(store, CONFIG).close()
    execute(store, f"update {SCHEMA_TABLE} set version_num = '9999'")
    for read_only in (False, True):
        with pytest.raises(StudyError, match=r"newer than this version's .* Update optevolve"):
            Study.open(store, read_only=read_only)


def test_rows_changed_by_hand_are_refused(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study.db", CONFIG) as study:
        study.record(sample("a"))
    for change in ("protocol = '{\"no\": 1}'", "protocol = '[]'", "status = 'excellent'", "split = 'all'"):
        copy = tmp_path / "copy.db"
        shutil.copy(tmp_path / "study.db", copy)
        handle = sqlite3.connect(copy)
        handle.execute(f"update evaluations set {change}")
        handle.commit()
        handle.close()
        with Study.open(copy) as study, pytest.raises(StudyError, match="row of job 'a' cannot be read"):
            study.measurements()


def test_the_second_driver_is_refused_and_readers_are_not(store: str) -> None:
    path = store
    with Study.create(path, CONFIG) as study:
        with pytest.raises(StudyError, match=rf"process {os.getpid()} on .* drives it"):
            Study.open(path)
        study.record(sample("a"))
        with Study.open(path, read_only=True) as reader:
            assert [m.job.id for m in reader.measurements()] == ["a"]
            study.record(sample("b"))
            assert [m.job.id for m in reader.measurements()] == ["a", "b"]
            with pytest.raises(StudyError, match="read-only"):
                reader.note("nothing")
    with Study.open(path) as again:
        assert [m.job.id for m in again.measurements()] == ["a", "b"]


def test_a_driver_that_was_killed_leaves_no_lock(store: str) -> None:
    path = store
    code = f"import os, signal; from optevolve.run.store import Study; s = Study.create({path!r}, 'x'); s.note('alive')\n"
    code += "os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=60, check=False)
    assert done.returncode == -9
    with Study.open(path, read_only=True) as reader:
        assert [event.kind for event in reader.events()] == ["alive"]
    with Study.open(path) as study:
        assert [event.kind for event in study.events()] == ["alive"]


def test_a_database_locked_by_another_program_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, CONFIG, patience=0.1) as study:
        study.record(sample("a"))
        handle = sqlite3.connect(path, isolation_level=None)
        handle.execute("begin immediate")
        with pytest.raises(StudyError, match="locked by another program"):
            study.record(sample("b"))
        handle.execute("rollback")
        handle.close()
        study.record(sample("b"))
        assert [m.job.id for m in study.measurements()] == ["a", "b"]


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study.db", CONFIG) as study:
        study.record(sample("a"))
        with study._engine.connect() as connection:  # SQLite's own way to run out of room; the connection stays in the pool
            pages = connection.exec_driver_sql("pragma page_count").scalar()
            connection.exec_driver_sql(f"pragma max_page_count = {pages}")
        small = sample("b")
        big = replace(small, proposal=replace(small.proposal, genome="x" * 100_000))  # a reason would be cut
        with pytest.raises(StudyError, match="disk is full"):
            study.record(big)
        assert [m.job.id for m in study.measurements()] == ["a"]
    with Study.open(tmp_path / "study.db") as study:
        study.record(big)
        assert [m.job.id for m in study.measurements()] == ["a", "b"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with Study.create(path, CONFIG) as study:
        study.record_all([Entry(sample(f"job/{number}", reason="y" * 3000)) for number in range(50)])
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (size - 4096))
    with pytest.raises(StudyError, match="damaged"), Study.open(path) as study:
        study.measurements()


def test_folders_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StudyError, match="Give a folder"):
        Study.create(tmp_path / "file" / "study.db", CONFIG)


@pytest.fixture
def no_rights() -> Iterator[None]:
    """Permissions do not bind root, so that it acts as another user meanwhile."""
    if os.name != "posix":
        pytest.skip("permissions are POSIX's")
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


def test_a_read_only_folder_can_be_read_but_not_driven(no_rights: None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        with Study.create(path, CONFIG) as study:
            study.record(sample("a"))
        path.chmod(0o444)
        os.chmod(folder, 0o555)
        try:
            with Study.open(path, read_only=True) as study:
                assert [m.job.id for m in study.measurements()] == ["a"]
            with pytest.raises(StudyError, match="cannot be used"):
                Study.open(path)
            with pytest.raises(StudyError, match="cannot be used"):
                Study.create(Path(folder) / "new.db", CONFIG)
            with pytest.raises(StudyError, match="cannot be used"):
                Study.create(Path(folder) / "new" / "study.db", CONFIG)
        finally:
            os.chmod(folder, 0o755)
