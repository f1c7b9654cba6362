"""Whole runs from the command line, on a task of a second: search, go on, look, evaluate, export; and what a folder refuses."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from optevolve.cli import main
from optevolve.pipeline import Result
from optevolve.run.store import Study
from optevolve.space import parse
from optevolve.space.simplify import simplify

TINY = [
    "--task=logreg-digits",
    "--preset=quick",
    "--workers=2",
    *(
        f"--set={setting}"
        for setting in (
            "search.population=4",
            "search.particles=2",
            "search.timesteps=1",
            "search.children=1",
            "search.redraws=0",
            "initial.protocol.trial_steps=10",
            "initial.protocol.full_steps=20",
            "evolution.protocol.trial_steps=10",
            "evolution.protocol.full_steps=20",
            "elimination.0.keep=1",
            "elimination.0.protocol.trial_steps=10",
            "elimination.0.protocol.full_steps=20",
            "evaluation.protocol.trial_steps=10",
            "evaluation.protocol.full_steps=20",
            "evaluation.protocol.epoch_steps=10",
            "evaluation.seeds=2",
            'evaluation.baselines=["adam", "sgd"]',
        )
    ),
]


class Command:
    """Runs commands in this process, which is much faster than a process each."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        out, err = self.capsys.readouterr()
        assert (caught.value.code or 0) == code, out + err
        return out, err

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json")[0])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run, and what was printed while it ran."""
    place = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "optevolve", "search", *TINY, "--out=tiny"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "tiny", done.stdout


def test_a_search_ends_with_a_report_and_an_optimizer(finished: tuple[Path, str]) -> None:
    folder, out = finished
    assert {"config.toml", "study.db", "report.html", "best_optimizer.py"} <= {path.name for path in folder.iterdir()}
    assert "done, " in out
    assert out.startswith("Floors: the task's own, a training score of 0.25 in trials and 0.4 in the full run.\n")
    assert "best " in out
    assert "Final evaluation" in out
    assert str(Path("tiny") / "report.html") in out


def test_top_says_rank_rule_fitness_and_status(run: Command, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    rows = run.json("top", str(folder))
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert all({"rank", "rule", "fitness", "status"} <= row.keys() for row in rows)
    again = [row["remeasured"] for row in rows if row["remeasured"] is not None]
    assert again, "the elimination measures the best again"
    assert again == sorted(again, reverse=True)
    assert all(row["remeasured"] is not None for row in rows[: len(again)])  # they stand first
    best = [row["fitness"] for row in rows[len(again) :] if row["fitness"] is not None]
    assert best == sorted(best, reverse=True)
    assert str(simplify(parse(rows[0]["rule"]))) in run("top", str(folder), "-n", "1")[0]


def test_every_door_names_the_same_rule_and_says_how_it_compares(run: Command, finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, out = finished
    top = run.json("top", str(folder))[0]
    assert top["name"].startswith("evolved-")
    assert top["ranked_by"] == "choice"
    shown = run.json("show", str(folder))
    run("export", str(folder), "-o", str(tmp_path / "exported.py"))
    exported, best = (tmp_path / "exported.py").read_text(encoding="utf-8"), (folder / "best_optimizer.py").read_text(encoding="utf-8")
    assert f"\nRule: {top['rule']}\n" in best
    assert f"\nRule: {top['rule']}\n" in exported
    assert (shown["rule"], shown["name"]) == (top["rule"], top["name"])
    result = run.json("resume", str(folder))
    assert result["best"][0] == top
    verdict = Result(folder).verdict
    assert result["verdict"]["text"] == str(verdict)
    assert (verdict.name, verdict.rule) == (top["name"], top["rule"])
    leader = Result(folder).best(1)[0]
    assert (leader.name, str(leader.rule), leader.learning_rate) == (top["name"], top["rule"], top["learning_rate"])
    for text in (best, exported, shown["note"], (folder / "report.html").read_text(encoding="utf-8").replace("\n", " ")):
        assert "AdamW is not among the baselines" in " ".join(text.split()), "this run's baselines are Adam and SGD"
    assert out.strip().splitlines()[-1] == f"Verdict: {verdict}"
    assert f"{top['learning_rate']:g}" in best


def test_the_same_command_shows_the_result_at_once(run: Command, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = (folder / "config.toml").read_bytes()
    assert "finished already" in run("search", *TINY, f"--out={folder}")[0]
    result = run.json("resume", str(folder))
    assert result["best"]
    assert {row["name"] for row in result["comparisons"]} >= {"adam", "sgd"}
    assert (folder / "config.toml").read_bytes() == before


def test_a_run_goes_on_with_another_device_and_says_what_it_was_measured_on(run: Command, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for command in (["search", *TINY, f"--out={folder}"], ["resume", str(folder)]):
        assert "finished already" in run(*command, "--device=auto")[0]
    measured = [line for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if line["event"] == "measured"]
    assert {line["device"] for line in measured if line["steps"]} == {"cpu"}
    assert "<td>cpu</td>" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_one_message_and_costs_nothing(run: Command, finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    log = tmp_path / "log.csv"
    commands = [
        ["search", *TINY, f"--out={tmp_path / 'new'}"],
        ["evaluate", str(folder), "--tasks=mlp-moons"],
        ["compare", "adam", "sgd", "--task=mlp-moons", f"--out={tmp_path / 'duel'}"],
        ["calibrate", f"--reference={log}", f"--out={tmp_path / 'calibration'}"],
    ]
    for command in commands:
        _, err = run(*command, "--device=cuda", code=2)
        assert "Expected a device 'cuda'" in err
        assert "expected one of 'auto', 'cpu', 'cuda' or 'mps', got \"gpu\"" in run(*command, "--device=gpu", code=2)[1]
    assert {row["task"] for row in run.json("evaluate", str(folder), "--device=cpu")["comparisons"]} == {"logreg-digits"}


def test_a_run_is_evaluated_on_tasks_each_with_its_budget(run: Command, finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    command = ["evaluate", str(folder), "--tasks=mlp-moons,quadratics", "--workers=2"]
    settings = ["--seeds=1", "--set=trial_steps=5", "--set=mlp-moons.full_steps=12", "--set=quadratics.full_steps=14"]
    found = run.json(*command, *settings)
    rows = found["comparisons"]
    assert {verdict["task"] for verdict in found["verdicts"]} == {row["task"] for row in rows}
    assert found["verdict"] == found["verdicts"][0]
    assert {row["task"] for row in rows} == {"logreg-digits", "mlp-moons", "quadratics"}
    with Study.open(folder / "study.db", read_only=True) as study:
        lengths = {(m.job.task, m.job.protocol.full_steps, m.job.protocol.trial_steps) for m in study.measurements("evaluate")}
    assert lengths == {("logreg-digits", 20, 10), ("mlp-moons", 12, 5), ("quadratics", 14, 5)}
    assert "mlp-moons was evaluated under another protocol" in run(*command, "--set=mlp-moons.full_steps=13", code=2)[1]
    again = run.json("evaluate", str(folder), "--tasks=mlp-moons", "--workers=2")  # with more seeds, under the budget that it had
    assert {len(row["scores"]) for row in again["comparisons"] if row["task"] == "mlp-moons"} == {2}


def test_the_tables_of_a_page_of_results_come_from_the_run(run: Command, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    script = Path(__file__).parents[2] / "benchmarks" / "run_tables.py"
    done = subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, timeout=120, check=True)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    cells = {line[0]: line[1:] for line in lines}
    rows = run.json("resume", str(folder))["comparisons"]
    assert rows
    for row in rows:
        assert cells[row["name"]][0] == ("" if row["mean"] is None else f"{row['mean']:.4f}")
        assert cells[row["name"]][-1] == f"`{row['rule']}`"
    with Study.open(folder / "study.db", read_only=True) as study:
        measured = [m for m in study.measurements() if not m.same_as]
    assert cells["total"][:3] == [
        str(len(measured)),
        str(sum(m.outcome.fitness is not None for m in measured)),
        f"{sum(m.outcome.steps for m in measured):,}",
    ]


def test_another_config_is_refused_with_the_difference(run: Command, finished: tuple[Path, str]) -> None:
    folder, _ = finished
    _, err = run("search", *TINY, "--seed=7", f"--out={folder}", code=2)
    assert "seed" in err
    assert "7" in err


def test_show_report_and_export_take_the_folder(run: Command, finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    assert run.json("show", str(folder))["rule"] == run.json("top", str(folder))[0]["rule"]
    assert "report.html" in run("report", str(folder), "--figures", str(tmp_path / "figures"))[0]
    assert {"progress.svg", "comparison-1.svg", "curves-1.svg"} <= {path.name for path in (tmp_path / "figures").iterdir()}
    run("export", str(folder), "-o", str(tmp_path / "mine.py"))
    subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert "Expected at least 99 measured rules" in run("show", str(folder), "--rank", "99", code=2)[1]


def test_interrupted_runs_go_on(run: Command, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optevolve", "search", *TINY, "--set=search.population=8", "--out=tiny"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        # Until a rule of the search is measured: what the reference stage measures is no rule of the search, and not in its table.
        while not ("[initial]" in (line := process.stdout.readline()) and "done, " in line):
            assert line, process.stderr.read()
        process.send_signal(signal.SIGINT)
        errors = process.stderr.read()
        assert process.wait(60) == 130, errors
    assert "Go on with: optevolve resume tiny" in errors
    assert "Traceback" not in errors
    folder = str(tmp_path / "tiny")
    measured = {row["rule"] for row in run.json("top", folder)}
    assert measured
    out, _ = run("resume", folder, "--workers=2")
    assert "Final evaluation" in out
    assert measured <= {row["rule"] for row in run.json("top", folder)}


@pytest.mark.parametrize("command", ["top", "resume", "report", "evaluate"])
def test_folders_without_a_run(run: Command, tmp_path: Path, command: str) -> None:
    assert "Error: " in run(command, str(tmp_path / "nowhere"), code=2)[1]
    assert "Error: " in run(command, str(tmp_path), code=2)[1]
    assert list(tmp_path.iterdir()) == []


def test_places_where_no_run_can_be(run: Command, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    assert "Error: " in run("search", *TINY, f"--out={file}", code=2)[1]
    assert "Error: " in run("search", *TINY, f"--out={file / 'run'}", code=2)[1]
    assert file.read_text(encoding="utf-8") == "mine"


def test_a_run_keeps_the_grammar_of_its_file(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text('extends = "extended"\nname = "mine"\nkinds = ["momentum"]\nunary = ["0.5 * x"]\n', encoding="utf-8")
    tiny = [option for option in TINY if not option.startswith("--set=elimination.")]  # there will be none
    short = ["elimination=[]", 'evaluation.baselines=["adam"]', "evaluation.seeds=1", "grammar=mine.toml"]
    command = ["search", *tiny, *(f"--set={setting}" for setting in short), "--out=tiny"]
    run(*command)
    assert {row["rule"].lstrip("-").partition(":")[0] for row in run.json("top", "tiny")} == {"momentum"}
    assert "finished already" in run(*command)[0]
    Path("mine.toml").write_text('extends = "paper"\n', encoding="utf-8")
    assert "grammar" in run(*command, code=2)[1]
    Path("mine.toml").unlink()
    assert run.json("resume", "tiny")["best"]
