"""What a person reads, and which exit code they get, when nothing can come of a run."""

import json
from pathlib import Path
from typing import Any

import pytest

from optevolve.cli.app import main

TASKS = """
from dataclasses import dataclass
import torch
from torch import nn
import optevolve as oe

@dataclass(frozen=True)
class Line(oe.Task):
    '''A regression scored by minus its loss; it may fail where the check before a search does not look.'''
    fails_from: int = 1000
    spoilt: float = 0.0
    still: bool = False
    def model(self):
        return Counted()
    def batches(self, split, seed):
        g = torch.Generator().manual_seed({"train": seed % 1000 + 2, "valid": 0, "test": 1}[split])
        for _ in range(4):
            x = torch.randn(8, 3, generator=g)
            yield oe.Batch(x, x.sum(1, keepdim=True) - 3)
    def loss(self, model, batch):
        model.calls += model.training
        if model.calls > self.fails_from:
            raise RuntimeError(f"call {model.calls} was one too many")
        loss = nn.functional.mse_loss(model(batch.x), batch.y)
        return loss.detach() + 0 * loss if self.still else loss

class Counted(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)
        self.calls = 0
"""
SMALL = [
    "search.population=3", "search.particles=1", "search.timesteps=1", "search.children=2", "search.redraws=0", "contenders=2",
    "elimination=[{keep = 1}]", 'evaluation.baselines=["sgd", "adam"]', "evaluation.seeds=1",
]  # fmt: skip
LENGTHS = ["trial_steps=20", "full_steps=20", "epoch_steps=10", "trial_epoch_steps=10"]
STAGES = ["initial", "evolution", "elimination.0", "evaluation"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "line_tasks.py").write_text(TASKS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def search(capsys: pytest.CaptureFixture[str], task: str, *settings: str) -> tuple[int, str, str]:
    lengths = [f"{stage}.protocol.{length}" for stage in STAGES for length in LENGTHS]
    said = [part for setting in (*SMALL, *lengths, *settings) for part in ("--set", setting)]
    return run(capsys, "search", "--task", task, "--preset", "quick", "--out", "r", "--workers", "1", *said)


@pytest.mark.parametrize(
    ("task", "settings", "says"),
    [
        ("line_tasks:Line", ["initial.protocol.first_floor=0.0"], "3 rules of the initial population"),
        ("line_tasks:Line@fails_from=15", [], "all 3 rules of the initial population failed (with one and the same error: RuntimeError"),
        ("line_tasks:Line", ["evolution.protocol.first_floor=0.0"], "rules of the evolution were stopped early"),
        ("line_tasks:Line", ["elimination.0.protocol.first_floor=0.0"], "contenders in round 1 of the elimination were stopped early"),
        ("line_tasks:Line", ["evaluation.protocol.first_floor=0.0"], "all 2 baselines were stopped early"),
        ("line_tasks:Line@still=True", [], "3 rules of the initial population were stopped early"),
    ],
)
def test_a_run_that_cannot_succeed_says_why_and_so_does_everything_that_is_asked_of_it(
    here: Path, capsys: pytest.CaptureFixture[str], task: str, settings: list[str], says: str
) -> None:
    code, _, err = search(capsys, task, *settings)
    assert code == 2
    (why,) = [line.removeprefix("Error: ") for line in err.splitlines() if line.startswith("Error: ")]
    assert says in why
    assert why.startswith("The run ended early: ")
    assert ("Lower the floors" in why) == any("floor" in setting for setting in settings)
    assert "count as the worst" not in why

    code, _, err = run(capsys, "resume", "r", "--workers", "1")
    assert (code, err.splitlines()[-1]) == (2, f"Error: {why}")
    code, out, err = run(capsys, "top", "r", "--json")
    rows: list[dict[str, Any]] = json.loads(out)
    assert rows
    any_completed = any(row["fitness"] is not None for row in rows)
    assert (code, why in err) == (0 if any_completed else 2, True)
    for command in (["top", "r"], ["top", "r", "--follow"], ["show", "r"], ["export", "r", "-o", "rule.py"]):
        code, _, err = run(capsys, *command)
        assert (code, why in err) == (0 if any_completed else 2, True)
    code, _, err = run(capsys, "report", "r")
    assert (code, err.strip()) == (0, why)
    assert "The run ended early: " in (here / "r" / "report.html").read_text(encoding="utf-8")


def test_a_regression_scored_by_its_loss_runs_to_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = search(capsys, "line_tasks:Line")
    assert code == 0, err
    code, out, _ = run(capsys, "top", "r", "--json")
    assert code == 0
    assert any(row["status"] == "completed" and row["fitness"] < 0 for row in json.loads(out))


def test_a_comparison_in_which_everybody_fails_says_why(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = [part for length in ["trial_steps=20", "full_steps=20", "epoch_steps=20"] for part in ("--set", length)]
    command = ["compare", "sgd", "adam", "--task", "line_tasks:Line@fails_from=15", "--out", "c", "--seeds", "1", "-w", "1", *lengths]
    for _ in range(2):  # the second time from what is stored
        code, _, err = run(capsys, *command)
        assert code == 2
        assert "all 2 contestants failed (with one and the same error: RuntimeError: call 16 was one too many" in err
