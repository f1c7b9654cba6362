"""A PostgreSQL server that goes away under a run, that refuses whoever asks, and studies on it that are looked after."""

import importlib
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from places import CONFIG, execute, sample
from servers import PASSWORD, Server, own_server

from optevolve.errors import StudyError
from optevolve.records import Job
from optevolve.run.driver import Happening, drive
from optevolve.run.local import SerialRunner
from optevolve.run.store import Study
from optevolve.run.upkeep import backup_run, verify_run

RESTARTS = int(os.environ.get("OPTEVOLVE_TEST_RESTARTS", "2"))
TOTAL, SEED, LOOKAHEAD = 15 + 15 * RESTARTS, 3, 6


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as found:
        yield found


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


def module(name: str) -> Any:
    return importlib.import_module(name)


def go(study: Study, on_event: Any = None) -> list[str]:
    """Drives a search to its end; everything stored but clocks."""
    source = module("synthetic_source").SyntheticSource(TOTAL, SEED)
    runner = SerialRunner(module("poison").synthetic)

    def by_rule(job: Job) -> str:
        return job.rule

    drive(source, runner, study, lookahead=LOOKAHEAD, same=by_rule, on_event=on_event)
    return [repr((m, m.outcome.curves, m.proposal and m.proposal.rejected)) for m in study.measurements()]


@pytest.mark.timeout(300 + 20 * RESTARTS)
def test_a_run_whose_server_is_restarted_again_and_again_ends_as_one_that_was_not(server: Server, tmp_path: Path) -> None:
    with Study.create(tmp_path / "expected.db", CONFIG) as study:
        expected = go(study)
    place = server.url(study="restarted")
    Study.create(place, CONFIG).close()
    said: list[str] = []
    restarting: list[threading.Thread] = []
    measured = 0

    def watch(happening: Happening) -> None:
        nonlocal measured
        measured += happening.kind == "measured" and not happening.stored
        if measured == 7 and not restarting:
            way = ("fast", "immediate")[len(said) % 2]
            restarting.append(threading.Thread(target=server.control, args=("-m", way, "restart")))
            restarting[0].start()
            if len(said) % 3:  # else the run meets a server that is going away
                restarting[0].join()

    while len(said) < RESTARTS:
        measured = 0
        with pytest.raises(StudyError) as caught, Study.open(place) as study:
            go(study, watch)
        said.append(str(caught.value))
        restarting.pop().join()
    with Study.open(place) as study:
        assert go(study) == expected
    for text in said:
        assert "everything stored before is kept" in text
        assert PASSWORD not in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"password": "wrong"}, "the server refused the login. Check the user, and the password"),
        ({"username": "nobody_here"}, "the server refused the login"),
        ({"username": "guest", "password": "guest"}, "you may not use it. Ask for the rights to create and write tables"),
        ({"database": "no_such"}, "there is no such database. Create it, or name another"),
    ],
)
def test_a_server_that_refuses_says_why(server: Server, change: dict[str, str], said: str) -> None:
    if change.get("username") == "guest":
        execute(server.url(), "create role guest login password 'guest'")
    url = sa.make_url(server.url(study="mine")).set(**change).render_as_string(hide_password=False)
    with pytest.raises(StudyError, match=rf"cannot be used: {said}") as caught:
        Study.create(url, CONFIG, patience=2)
    assert "wrong" not in str(caught.value)
    assert "cannot be reached" not in str(caught.value)


def test_a_server_that_is_down_is_told_from_one_that_refuses(server: Server) -> None:
    server.control("-m", "fast", "stop")
    try:
        with pytest.raises(StudyError, match="cannot be used: the server cannot be reached"):
            Study.open(server.url(study="mine"), patience=2)
    finally:
        server.control("start")


def test_a_study_on_a_server_is_verified_repaired_and_copied_as_it_is_said(server: Server, tmp_path: Path) -> None:
    place = server.url(study="verified")
    (tmp_path / "store.url").write_text(place, encoding="utf-8")
    with Study.create(place, CONFIG) as study:
        for name in "abc":
            study.record(sample(name))
        assert verify_run(tmp_path).findings == [], "while it is driven"
        with pytest.raises(StudyError, match="its own tools copy it while a run goes on") as caught:
            backup_run(tmp_path, tmp_path / "copy")
        command = shlex.split(str(caught.value).partition("Use: ")[2])
        command = [str(server.binaries / command[0]), *command[1:]]
        subprocess.run([part.replace("COPY.sql", str(tmp_path / "copy.sql")) for part in command], check=True)
    there = ["-h", str(server.folder), "-U", "optevolve"]
    subprocess.run([str(server.binaries / "createdb"), *there, "copied"], check=True)
    subprocess.run([str(server.binaries / "psql"), *there, "-q", "-f", str(tmp_path / "copy.sql"), "copied"], check=True, stdout=-3)
    copied = sa.make_url(place).set(database="copied").render_as_string()
    with Study.open(place, read_only=True) as study, Study.open(copied, read_only=True) as copy:
        assert copy.measurements() == study.measurements()
    execute(place, "update evaluations set protocol = '[]' where job = 'b' and study = (select id from studies where name = 'verified')")
    assert len(verify_run(tmp_path).findings) == 1
    assert verify_run(tmp_path, repair=True).repaired
    assert verify_run(tmp_path).findings == []
    with Study.open(place) as study:
        assert study.jobs() == {"a", "c"}
