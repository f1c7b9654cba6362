"""Schemas that grow, studies that are extended, and what only a server has: several studies in one database, locks, lost connections."""

import math
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from places import CONFIG, execute, raw, sample

from optevolve.cli import main
from optevolve.config import Protocol, Schedule
from optevolve.errors import StudyError
from optevolve.records import Job
from optevolve.run import migrations
from optevolve.run.folder import store_of
from optevolve.run.store import Entry, Study
from optevolve.run.store.tables import METADATA, SCHEMA_TABLE


def make_old(store: str) -> None:
    """A study as schema 0001 kept it, with a row in each table."""
    engine = raw(store)
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    execute(
        store,
        "insert into studies values (1, 'run', 'task = \"digits\"', '0.0.1', '2024-01-02 03:04:05', null, 'process 1 on host')",
        "insert into proposals values (1, 'a', 'g', '{}', 'initial', '', -1, 0, '')",
        "insert into rejections values (1001, 1, 'a', 0, 'g*g', 'does not descend')",
        "insert into evaluations values (1001, 1, 'a', 0, 'a', 'initial', 'g', '', 'digits', "
        '\'{"trial_steps": 7, "device": "cuda", "schedule": {"warmup": 3}}\', '
        "9, 'valid', null, 'completed', '', 0.5, 0.1, 2000000000, 1.5, '', '2024-01-02 03:04:06')",
        "insert into curves values (1001, 1001, 0, 'full', 0.1, 9, 'completed', '', 1.5, '[1]', '[0.5]', '[null]', '[\"Infinity\"]')",
    )


def test_an_older_schema_is_migrated_on_opening_and_keeps_everything(store: str) -> None:
    make_old(store)
    with pytest.raises(StudyError, match=r"older schema '0001'.*`optevolve resume` on its folder migrates it"):
        Study.open(store, read_only=True)
    with Study.open(store) as study:
        (found,) = study.measurements()
        study.record(sample("b", steps=2**40))
        assert study.outcome("b").steps == 2**40
    assert found.job == Job("a", "g", "digits", Protocol(trial_steps=7, schedule=Schedule(warmup=3)), 9)
    assert found.outcome.steps == 2_000_000_000
    assert found.outcome.task_scores == ()
    assert found.outcome.device == "cuda"  # of the protocol, as long as each had one
    assert (found.outcome.weight_decay, found.outcome.curves[0].weight_decay) == (0.0, 0.0)
    assert found.outcome.curves[0].score == (math.inf,)
    assert found.proposal.rejected == (("g*g", "does not descend"),)
    engine = raw(store)
    with engine.connect() as connection:
        opened = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE, "compare_type": True})
        assert compare_metadata(opened, METADATA) == []
    engine.dispose()
    Study.open(store, read_only=True).close()


def test_a_study_can_be_extended_corrected_and_renumbered(store: str) -> None:
    with Study.create(store, CONFIG) as study:
        study.record_all([Entry(sample(name), turn) for turn, name in enumerate("abc")])
        study.finish()
        assert not study.extended
        study.forget(["b", "unknown"])
        assert "b" not in study
        study.record(sample("b", fitness=0.25), turn=5)
        study.renumber({"c": 0, "a": 2})
        assert [(m.job.id, m.outcome.fitness) for m in study.measurements()] == [("c", 0.5), ("a", 0.5), ("b", 0.25)]
        study.extend("x = 1", key="search.timesteps", new=9)
        assert (study.config_text, study.finished, study.extended) == ("x = 1", False, True)
        assert study.jobs() == {"a", "b", "c"}
    assert execute(store, "select count(*) from curves") == [(3,)]
    assert execute(store, "select count(*) from rejections") == [(3,)]
    with Study.open(store, read_only=True) as study:
        assert study.config_text == "x = 1"
        assert "a" in study
        assert "z" not in study
        assert [m.outcome.curves for m in study.measurements(with_curves=False)] == [()] * 3


def test_studies_of_one_database_are_apart(postgres: str) -> None:
    other = postgres.replace("study=run", "study=other")
    nameless = postgres.replace("study=run", "")
    with pytest.raises(StudyError, match="found an empty database"):
        Study.open(nameless)
    with pytest.raises(StudyError, match="Expected a name for the new study"):
        Study.create(nameless, CONFIG)
    with Study.create(postgres, CONFIG) as one, Study.open(nameless, read_only=True) as same:
        one.record(sample("a"))
        assert [m.job.id for m in same.measurements()] == ["a"]
        with Study.create(other, "y = 2") as two:  # while the first one is driven
            two.record_all([Entry(sample("a", fitness=0.75)), Entry(sample("b"))])
            assert one.outcome("a").fitness == 0.5
            assert two.outcome("a").fitness == 0.75
            with pytest.raises(StudyError, match="drives it"):
                Study.open(other)
            two.forget(["a"])
        assert "a" in one
    with pytest.raises(StudyError, match=r"Expected the name of a study .* found 'other', 'run'"):
        Study.open(nameless)
    with pytest.raises(StudyError, match=r"Expected a study 'third' in .*, found 'other', 'run'"):
        Study.open(postgres.replace("study=run", "study=third"))
    with pytest.raises(StudyError, match="Expected no study 'run'"):
        Study.create(postgres, CONFIG)


def test_a_database_of_others_takes_a_study_unless_names_clash(postgres: str) -> None:
    execute(postgres, "create table addresses (name text)")
    Study.create(postgres, CONFIG).close()
    execute(postgres, f"drop table {SCHEMA_TABLE}")
    with pytest.raises(StudyError, match="found a database with tables curves, evaluations"):
        Study.create(postgres.replace("study=run", "study=two"), CONFIG)


def test_a_driver_whose_connection_is_lost_writes_no_more(postgres: str) -> None:
    with Study.create(postgres, CONFIG) as study:
        study.record(sample("a"))
        with study._engine.connect() as connection:
            own = connection.execute(sa.text("select pg_backend_pid()")).scalar()
        execute(postgres, f"select pg_terminate_backend({own}, 5000)")
        with Study.open(postgres) as second:
            second.record(sample("b"))
            with pytest.raises(StudyError, match="cannot be used: the server"):
                study.record(sample("c"))
            with pytest.raises(StudyError, match="was lost, and with it the right to write"):
                study.record(sample("c"))
            assert [m.job.id for m in second.measurements()] == ["a", "b"]


def test_tables_locked_by_another_program_are_waited_for_and_then_refused(postgres: str) -> None:
    engine = raw(postgres)
    with Study.create(postgres, CONFIG, patience=0.1) as study:
        with engine.begin() as connection:
            connection.execute(sa.text("lock table evaluations"))
            with pytest.raises(StudyError, match="locked by another program"):
                study.record(sample("a"))
        study.record(sample("a"))
        assert "a" in study
    engine.dispose()


def test_a_server_that_cannot_be_reached_is_named_without_its_password() -> None:
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    url = "postgresql+psycopg://me:secret@127.0.0.1:1/d?study=x&password=secret"
    with pytest.raises(
        StudyError, match=r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/d cannot be used: the server cannot be reached"
    ) as caught:
        Study.open(url, patience=2)
    assert "secret" not in str(caught.value)


NO_STORES = [
    "post-gresql+psycopg://u:secret@h/d",
    "my postgres://u:secret@h/d",
    "postgresql+psycopg://u:secret@h:abc/d",
    "postgresql+psycopg://u:sec/secret@ret@h:abc/d",
    "postgresql+nope://u:secret@h/d",
    "postgresql+psycopg://u:secret@h",
    "oracle://u:secret@h/d?password=secret&x=1",
    "oracle://h/d?sslpassword=secret",
    "postgresql+nope://u:sec secret@h",
]


@pytest.mark.parametrize("url", NO_STORES)
def test_what_is_no_store_is_refused_without_its_password(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StudyError, match="Expected a path") as caught:
        Study.open(url)
    assert "secret" not in str(caught.value)
    assert "***" in str(caught.value)
    (tmp_path / "store.url").write_text(url)
    for arguments in (["top", url], ["top", str(tmp_path)], ["resume", url], ["verify", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        assert ended.value.code == 2
        assert said.err.startswith("Error: ")
        assert " secret" in url or "secret" not in said.err + said.out  # a path with a blank in it is two words


@pytest.mark.parametrize("held", [b"\xff\xfe", b"postgresql://\x80"])
def test_a_folder_whose_note_is_no_text(held: bytes, tmp_path: Path) -> None:
    (tmp_path / "store.url").write_bytes(held)
    with pytest.raises(StudyError, match="Expected the URL of the run's study"):
        store_of(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"username": "nobody_here"}, "refused the login"), ({"database": "no_such"}, "there is no such database")],
)
def test_a_server_that_refuses_says_why(postgres: str, change: dict[str, str], said: str) -> None:
    url = sa.make_url(postgres).set(**change).render_as_string(hide_password=False)
    with pytest.raises(StudyError, match=rf"cannot be used: .*{said}"):
        Study.open(url, patience=2)
