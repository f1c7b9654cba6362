"""The README tells the truth: its Python runs, its commands work, its task is the one among the examples. Only budgets are smaller here."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from optevolve.cli import main
from optevolve.cli.app import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIMIZERS, FACE, TASK = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.removeprefix("$ optevolve ").partition("#")[0].strip()
    for block in re.findall(r"^```console\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
TRAINING = {"search", "resume", "evaluate", "compare"}  # minutes each: here their options are read only
SMALL = [
    "search.population=2", "search.particles=1", "search.timesteps=1", "search.children=1", "search.redraws=0", "contenders=1",
    "elimination=[]", 'evaluation.baselines=["adam"]', "evaluation.seeds=1",
    *(f"{part}.protocol.{what}_steps=5" for part in ("initial", "evolution", "evaluation") for what in ("trial", "full")),
]  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], command: str) -> str:
    """Runs a command in this process; what it prints."""
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(command))
    out, err = capsys.readouterr()
    assert not caught.value.code, err
    return out


def test_python_face_and_commands_on_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = 'oe.search(preset="quick", '
    assert FACE.count(asked) == 1
    smaller = f'oe.search(task="logreg-digits", preset="quick", workers=1, settings={SMALL!r}, '
    lines = ["import torch", "model = torch.nn.Linear(2, 1)", FACE.replace(asked, smaller), "print('done')"]
    script = "\n".join(lines)  # as it stands there: workers do not run it again
    (tmp_path / "face.py").write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, "face.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
    assert {"config.toml", "study.db", "report.html", "best_optimizer.py"} <= {path.name for path in (tmp_path / "runs/demo").iterdir()}
    ast.parse((tmp_path / "my_optimizer.py").read_text(encoding="utf-8"))

    monkeypatch.chdir(tmp_path)
    commands = [command for command in COMMANDS if "runs/demo" in command and command.split()[0] not in TRAINING]
    assert [command.split()[0] for command in commands] == ["top", "show", "export", "report"]
    assert all(call(capsys, command) for command in commands)


def test_optimizers() -> None:
    model = torch.nn.Linear(4, 1)
    names: dict[str, Any] = {"model": model}
    exec(OPTIMIZERS, names)
    before = model.weight.detach().clone()
    for _ in range(3):  # the very first learning rate is next to nothing
        model.weight.grad, model.bias.grad = torch.ones(1, 4), torch.ones(1)
        names["optimizer"].step()
        names["scheduler"].step()
    assert isinstance(names["optimizer"], torch.optim.Optimizer)
    assert not torch.equal(model.weight, before)


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[0] in TRAINING])
def test_options_of_commands_that_train(command: str) -> None:
    name, *arguments = shlex.split(command)
    group: Any = typer.main.get_command(app)
    with group.make_context("optevolve", [name, *arguments]) as context:
        assert group.get_command(context, name).make_context(name, arguments).params


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[0] not in TRAINING and "runs/demo" not in c])
def test_commands(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT / "examples" if "my_tasks" in command else tmp_path)
    words, _, target = command.partition(" > ")
    out = call(capsys, words)
    assert "[search]" in out if target else out


def test_task_is_the_example() -> None:
    assert (ROOT / "examples" / "my_tasks.py").read_text(encoding="utf-8").partition("\n\n")[2] == TASK


def test_first_lines_are_the_two_commands() -> None:
    assert TEXT.splitlines()[:5] == ["# optevolve", "", "```", "make demo", "make test"]


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:examples|docs)/[\w./-]+\.\w+|[A-Z]+\.md)`", TEXT))
    assert len(named) >= 6
    assert [file for file in sorted(named) if not (ROOT / file).is_file()] == []
