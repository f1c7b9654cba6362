"""Empty places for studies, in a file or on a server, and a person's way into them."""

import math
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from optevolve.config import Protocol
from optevolve.records import Job, Measurement, Outcome, Proposal, Status, TrainingCurve

POSTGRES = os.environ.get("OPTEVOLVE_TEST_POSTGRES")
CONFIG = 'task = "digits"\n'
GENOME = '{"kind":"plain","sign":1,"slots":[["x",["g"],[null]]]}'


@contextmanager
def fresh_place(kind: str) -> Iterator[str]:
    """An empty place for studies, which is gone afterwards: a file in a new folder, or a schema of its own on the server."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield str(Path(folder) / "study.db")
        return
    if POSTGRES is None:
        pytest.skip("OPTEVOLVE_TEST_POSTGRES names no server, such as postgresql+psycopg://me@localhost/test")
    schema = f"optevolve_{uuid.uuid4().hex}"
    engine = sa.create_engine(POSTGRES)
    with engine.begin() as connection:
        connection.execute(sa.text(f"create schema {schema}"))
    url = sa.make_url(POSTGRES).update_query_dict({"options": f"-csearch_path={schema}", "study": "run"})
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            connection.execute(sa.text(f"drop schema {schema} cascade"))
        engine.dispose()


def raw(store: str) -> sa.Engine:
    """Beside the package: what a person has in hand."""
    return sa.create_engine(f"sqlite:///{store}" if "://" not in store else sa.make_url(store).difference_update_query(["study"]))


def execute(store: str, *statements: str) -> list[tuple[object, ...]]:
    engine = raw(store)
    with engine.begin() as connection:
        for statement in statements:
            found = connection.execute(sa.text(statement))
        rows = [tuple(row) for row in found] if found.returns_rows else []
    engine.dispose()
    return rows


def sample(ident: str, stage: str = "initial", **outcome: object) -> Measurement:
    job = Job(ident, "g", "digits", Protocol(), seed=1)
    curve = TrainingCurve(0.1, 1, (1, 2), (2.0, math.inf), (math.nan, 0.5), (0.1, -math.inf))
    proposal = Proposal(ident, "g", GENOME, stage, rejected=(("g*g", "does not descend"),))
    return Measurement(stage, job, replace(Outcome(Status.COMPLETED, 0.5, 0.1, curves=(curve,), steps=2), **outcome), proposal)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk; test_store has the same with a quota of the store")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk here ({mounted.stderr.strip()}); test_store has the same with a quota of the store")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
