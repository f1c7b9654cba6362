"""Runs that go on from the command line: extended, on a server, watched from another terminal."""

import io
import json
import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console

from optevolve import pipeline
from optevolve.cli import main
from optevolve.cli.live import picture
from optevolve.config_text import preset
from optevolve.errors import ConfigError, DataError
from optevolve.records import Job, Measurement, Outcome, Status
from optevolve.run.folder import open_run

SETTINGS = {
    "search.population": 3,
    "search.particles": 2,
    "search.timesteps": 1,
    "search.children": 1,
    "search.redraws": 0,
    "elimination.0.keep": 1,
    "evaluation.seeds": 1,
    "evaluation.baselines": '["adam"]',
} | {
    f"{stage}.protocol.{kind}_steps": steps
    for stage in ("initial", "evolution", "elimination.0", "evaluation")
    for kind, steps in (("trial", 5), ("full", 10))
}


def call(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code or 0) == code, out + err
    return out, err


def search(capsys: pytest.CaptureFixture[str], out: Path, *options: str, code: int = 0, **changes: Any) -> tuple[str, str]:
    settings = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    sets = [f"--set={key}={value}" for key, value in settings.items()]
    base = ["--task=logreg-digits", "--preset=quick", "--workers=1", f"--out={out}"]
    return call(capsys, "search", *base, *sets, *options, code=code)


def result(text: str) -> Any:
    """What a run found, without clocks and paths."""
    found = json.loads(text)
    best = [{key: value for key, value in row.items() if key != "seconds"} for row in found["best"]]
    return best, found["comparisons"]


def rows(folder: Path, task: str) -> list[tuple[Any, ...]]:
    """The final evaluation on a task, as it is stored."""
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        query = "select job, fitness from evaluations where stage in ('tune', 'choose', 'evaluate') and task = ? order by job"
        return connection.execute(query, (task,)).fetchall()


def kept(folder: Path) -> list[tuple[Any, ...]]:
    """What is stored of the run as a whole."""
    with closing(sqlite3.connect(folder / "study.db")) as connection:
        studies = connection.execute("select config, version, created, finished from studies").fetchall()
        return studies + connection.execute("select * from events order by id").fetchall()


def unfinish(folder: Path) -> None:
    """As if the driver had been killed while it measured."""
    with closing(sqlite3.connect(folder / "study.db")) as connection, connection:
        connection.execute("update studies set finished = null")
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"event": "start"}\n{"event": "submitted", "job": "initial/0002", "task": "logreg-digits"}\n')


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A finished run, to be copied, and what it found."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    base = ["--task=logreg-digits", "--preset=quick", "--workers=1", f"--out={folder}", "--json"]
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit):
        main(["search", *base, *(f"--set={key}={value}" for key, value in SETTINGS.items())])
    return folder, result(said.getvalue())


def test_an_extended_run_ends_as_the_larger_run_and_what_was_evaluated_beside_it_is_to_be_made_anew(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: tuple[Path, Any]
) -> None:
    large = result(search(capsys, tmp_path / "large", "--json", search__timesteps=2, evaluation__seeds=2)[0])
    shutil.copytree(small[0], tmp_path / "run")
    further = ["evaluate", str(tmp_path / "run"), "--tasks=quadratics", "--seeds=1", "--workers=1"]
    assert "Final evaluation on quadratics" in call(capsys, *further)[0]
    assert rows(tmp_path / "run", "quadratics")
    _, refusal = search(capsys, tmp_path / "run", search__timesteps=2, code=2)
    assert f"optevolve resume {tmp_path / 'run'} --extend search.timesteps=2" in refusal
    grown = ["--extend=search.timesteps=2", "--extend=evaluation.seeds=2"]
    assert result(call(capsys, "resume", str(tmp_path / "run"), *grown, "--workers=1", "--json")[0]) == large
    assert rows(tmp_path / "run", "quadratics") == []
    assert rows(tmp_path / "run", "logreg-digits")
    assert "timesteps = 2" in (tmp_path / "run" / "config.toml").read_text()
    shown, _ = call(capsys, "top", str(tmp_path / "run"), "--follow")
    assert "finished" in shown
    assert "evolution" in shown
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["finished"] for line in lines if line["event"] == "end"] == [True, True, True]


OWN = """
import optevolve.tasks, torch
class Bad(optevolve.tasks.Task):
    def model(self):
        return torch.nn.Linear(1, 1)
    def batches(self, split, seed):
        yield optevolve.tasks.Batch(torch.ones(4, 1), torch.ones(4, 1))
    def loss(self, model, batch):
        raise RuntimeError("broken")
    def score(self, model, batch):
        return torch.tensor(0.0)
"""


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--set=evaluation.tasks=['own.py:Bad']"], "broken"),
        (["--set=evaluation.tasks=['cifar10-convnet']"], "No train split of 'cifar10'"),
        (["--extend=evaluation.seeds=2", "--set=evaluation.tasks=['cifar10-convnet']"], "No train split of 'cifar10'"),
        (["--set=evaluation.tasks=['digitz']"], "digitz"),
        (["--extend=evaluation.seeds=2", "--set=evaluation.baselines=['nope']"], "evaluation.baselines.0: expected"),
        (["--extend=evaluation.seeds=99999999999999999999"], "evaluation.seeds: expected a number that is at most 10,000, got"),
        (["--extend=evaluation.seeds=2", "--extend=search.timesteps=99999999999"], "search.timesteps: expected a number that is at most"),
        (["--extend=search.timesteps=2", "--extend=search.children=2"], "got search.children"),
        (["--extend=evaluation.seeds=2", "--set=seed=3"], "got seed"),
        (["--extend=evaluation.seeds=2", "--set=workers.memory_limit=8589934592"], "at most 1,048,576 GiB"),
    ],
)
def test_nothing_is_stored_before_the_whole_of_it_is_checked(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, small: tuple[Path, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN, encoding="utf-8")
    run = shutil.copytree(small[0], tmp_path / "run")
    before = kept(run), (run / "config.toml").read_text(encoding="utf-8")
    said = call(capsys, "resume", str(run), "--workers=1", *options, code=2)[1]
    assert says in " ".join(said.split())
    assert (kept(run), (run / "config.toml").read_text(encoding="utf-8")) == before
    assert "finished already" in call(capsys, "resume", str(run))[0]


@pytest.mark.parametrize("seeds", [0, 10**4 + 1, 10**20])
def test_an_evaluation_of_seeds_without_end_is_refused(seeds: int, tmp_path: Path, small: tuple[Path, Any]) -> None:
    run = shutil.copytree(small[0], tmp_path / "run")
    with pytest.raises(ConfigError, match=r"evaluation\.seeds: expected a number that is at (least 1|most 10,000), got"):
        pipeline.evaluate(run, "quadratics", seeds)
    assert rows(run, "quadratics") == []


def test_a_folder_in_which_nothing_was_measured_takes_no_config_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("OPTEVOLVE_DATA", str(tmp_path / "data"))
    with open_run(tmp_path / "run", preset("quick")):
        pass
    before = kept(tmp_path / "run")
    with pytest.raises(DataError, match="No train split of 'cifar10'"):
        pipeline.search("cifar10-convnet", "quick", out=tmp_path / "run", workers=1)
    assert kept(tmp_path / "run") == before


def test_a_driver_that_was_killed_says_what_it_was_measuring(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, small: tuple[Path, Any]
) -> None:
    run = shutil.copytree(small[0], tmp_path / "run")
    said = "The last sitting was cut off, killed or with the machine, while it measured initial/0002 of task logreg-digits."
    unfinish(run)
    assert said in " ".join(call(capsys, "resume", str(run), "--workers=1")[0].split())
    assert said not in " ".join(call(capsys, "resume", str(run), "--workers=1")[0].split())
    unfinish(run)
    with pytest.warns(RuntimeWarning, match=said):
        pipeline.resume(run, workers=1, progress=False)


class Stop(Exception):
    """The search is about to begin."""


@pytest.mark.parametrize(
    ("options", "recalled"), [([], True), (["evaluation.seeds=2"], True), (["search.timesteps=2"], False), (["search.particles=3"], False)]
)
def test_what_was_drawn_is_read_again_unless_the_search_was_extended(
    options: list[str], recalled: bool, tmp_path: Path, small: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(small[0], tmp_path / "run")
    unfinish(run)
    found = []

    def stop(search: Any, _: object) -> None:
        found.append(set(search.algorithm.known))
        raise Stop

    monkeypatch.setattr(pipeline, "_hopeful", stop)
    monkeypatch.setattr(pipeline, "write_results", lambda *_: None)
    with pytest.warns(RuntimeWarning), pytest.raises(Stop):
        pipeline.resume(run, workers=1, progress=False, extend=options)
    assert len(found) == 1
    assert {"initial/0000", "initial/0001", "initial/0002"} <= found[0] if recalled else not found[0]


@pytest.fixture
def server() -> Iterator[str]:
    url = os.environ.get("OPTEVOLVE_TEST_POSTGRES")
    if url is None:
        pytest.skip("OPTEVOLVE_TEST_POSTGRES names no server, such as postgresql+psycopg://me@localhost/test")
    schema = f"optevolve_{uuid.uuid4().hex}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text(f"create schema {schema}"))
    yield sa.make_url(url).update_query_dict({"options": f"-csearch_path={schema}"}).render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(sa.text(f"drop schema {schema} cascade"))
    engine.dispose()


def test_a_run_on_a_server_is_found_by_its_folder_and_by_its_url(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, server: str, small: tuple[Path, Any]
) -> None:
    folder = tmp_path / "mine"
    on_server = result(search(capsys, folder, f"--store={server}", "--json")[0])
    assert on_server == small[1]
    assert not (folder / "study.db").exists()
    assert "study=mine" in (folder / "store.url").read_text()
    by_folder = json.loads(call(capsys, "top", str(folder), "--json")[0])
    separator = "&" if "?" in server else "?"
    assert json.loads(call(capsys, "top", f"{server}{separator}study=mine", "--json")[0]) == by_folder
    assert "finished already" in call(capsys, "resume", str(folder))[0]
    _, refusal = search(capsys, folder, f"--store={server}{separator}study=other", code=2)
    assert "Leave --store out" in refusal


def test_what_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "no study.db" in call(capsys, "top", str(tmp_path), code=2)[1]
    assert "as the store" in call(capsys, "top", "mysql://me:secret@host/db", code=2)[1]
    assert "workers.runner" in search(capsys, tmp_path / "run", "--runner=slurm", code=2)[1]
    assert "workers.memory_limit" in search(capsys, tmp_path / "run", "--memory-limit=-1", code=2)[1]
    assert "tensorboard, mlflow" in search(capsys, tmp_path / "run", "--metrics=paper", code=2)[1]
    assert not (tmp_path / "run" / "study.db").exists()


def test_a_look_at_a_run_shows_counts_and_rules() -> None:
    from optevolve.config import Protocol

    outcomes = [Outcome(Status.COMPLETED, 0.5, 0.1), Outcome(Status.DIVERGED), Outcome(Status.DIVERGED)]
    measured = [Measurement("initial", Job(str(n), "g", "digits", Protocol(), 0), outcome) for n, outcome in enumerate(outcomes)]
    rows = [{"rank": 1, "fitness": 0.5, "learning_rate": 0.1, "stage": "[bold]initial[/bold]", "rule": "g", "edge": True}]
    screen = Console(width=100, record=True)
    screen.print(picture("runs/demo", measured, rows, False))
    text = screen.export_text()
    assert "3 measured" in text
    assert [word for word in text.split("\n")[3].split() if word.isdigit()] == ["2", "1"]
    rule, mark = text.splitlines()[-2:]
    assert " ".join(rule.split()) == "1 0.5000 0.1* [bold]initial[/bold] g (gradient descent (SGD))"
    assert mark.strip() == "* at the end of the learning rates that were tried"
