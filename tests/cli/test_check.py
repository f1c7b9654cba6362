"""`optevolve tasks --check module:Name`: what is wrong with a task of one's own, as one message before anything is searched."""

import sys
from pathlib import Path

import pytest

from optevolve.cli import main

TASKS = """
import torch
from dataclasses import dataclass
from torch import nn
from torch.nn.functional import mse_loss
from optevolve.tasks import Batch, Task

class Sound(Task):
    def model(self): return nn.Linear(1, 1)
    def batches(self, split, seed): yield Batch(torch.ones(4, 1), torch.zeros(4, 1))
    def loss(self, model, batch): return mse_loss(model(batch.x), batch.y)

class LossOfEach(Sound):
    def loss(self, model, batch): return (model(batch.x) - batch.y) ** 2

ONCE = iter([Batch(torch.ones(4, 1), torch.zeros(4, 1))])

class RunsDry(Sound):
    def batches(self, split, seed): return ONCE

class NothingToTrain(Sound):
    def model(self): return nn.ReLU()

class NoScore(Sound):
    def score(self, model, batch): return torch.tensor(float("nan"))
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "checked_tasks.py").write_text(TASKS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "checked_tasks", raising=False)
    return "checked_tasks"


def check(capsys: pytest.CaptureFixture[str], spec: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["tasks", "--check", spec])
    found = capsys.readouterr()
    return caught.value.code or 0, found.out, found.err


def test_a_sound_task_is_said_to_be(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, f"{module}:Sound")
    assert (code, "is sound" in out) == (0, True)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("LossOfEach", "must return a floating-point scalar tensor; found a tensor of shape (4, 1). Take the mean over the batch"),
        ("RunsDry", "must yield at least one batch at every call; found none"),
        ("NothingToTrain", "must have parameters to train; found none"),
        ("NoScore", "score(model, batch) must be finite for the untrained model; found nan"),
    ],
)
def test_a_broken_task_is_one_message_and_exit_code_2(module: str, capsys: pytest.CaptureFixture[str], name: str, says: str) -> None:
    code, out, err = check(capsys, f"{module}:{name}")
    assert (code, out) == (2, "")
    assert says in " ".join(err.split())
    assert name in err
    assert "Traceback" not in err
