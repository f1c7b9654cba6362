"""The command line: help, lists and rules work; mistakes are one message and exit code 2, without a traceback."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from optevolve.cli import main
from optevolve.config_text import preset, to_toml
from optevolve.zoo import ZOO

COMMANDS = ["search", "resume", "top", "report", "show", "export", "zoo", "tasks", "config", "evaluate"]


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    code = caught.value.code
    found = capsys.readouterr()
    return (code if isinstance(code, int) else 0), found.out, found.err


def run_json(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> Any:
    code, out, err = run(capsys, [*arguments, "--json"])
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, [command, "--help"])
    assert code == 0
    assert f"optevolve {command}" in out.partition("Example")[2]


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, ["--help"])
    assert code == 0
    assert all(command in out for command in COMMANDS)


def test_help_is_there_at_once() -> None:
    """Nothing heavy is imported before a command needs it."""
    code = "import sys, optevolve.cli; print(sorted({'torch', 'numpy.random', 'sqlalchemy', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() in {"[]", "['numpy.random']"}
    assert time.monotonic() - start < 30


def test_version_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, ["--version"])
    assert code == 0
    done = subprocess.run([sys.executable, "-m", "optevolve", "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == out


def test_zoo(capsys: pytest.CaptureFixture[str]) -> None:
    rows = run_json(capsys, ["zoo"])
    assert [row["name"] for row in rows] == list(ZOO)
    assert next(row for row in rows if row["name"] == "nesterov")["rule"] == "nesterov: g"
    _, out, _ = run(capsys, ["zoo"])
    assert all(name in out for name in ZOO)


def test_show_says_what_a_rule_is(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, ["show", "opt10"])
    assert facts["kind"] == "nesterov"
    assert facts["buffers"] == 1
    assert facts["bytes_per_parameter"] == 4
    assert facts["needs_total_steps"]
    assert facts["integrity"]["ok"]
    assert len(next(iter(facts["decays"].values()))) == 1000
    _, out, _ = run(capsys, ["show", "opt10", "--steps", "50"])
    assert "bessel_i1e(bessel_i1e(" in out
    assert "over 50 steps" in out
    assert "█" in out
    assert "Integrity check: passes" in out


def test_show_counts_what_adam_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, ["show", "adam"])["buffers"] == 2
    assert run_json(capsys, ["show", "sgd"])["buffers"] == 0


@pytest.mark.parametrize(
    ("text", "last"), [("-momentum: g", "w ← w + m"), ("-plain: g", "w ← w + α · g"), ("nesterov: g", "w ← w + μ · m - α · g")]
)
def test_show_takes_rules_that_begin_with_a_minus(capsys: pytest.CaptureFixture[str], text: str, last: str) -> None:
    facts = run_json(capsys, ["show", text])
    assert facts["rule"] == text
    assert facts["sign"] == (-1 if text[0] == "-" else 1)
    assert facts["step"][-1] == last


def test_show_names_why_a_rule_fails(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, ["show", "1e-3 * w"])
    assert "Integrity check: fails" in out


def test_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["name"]: row for row in run_json(capsys, ["tasks"])}
    assert {"digits", "cifar10-convnet"} <= rows.keys()
    assert "width" in rows["cifar10-convnet"]["options"]
    assert run_json(capsys, ["tasks", "--check", "mlp-moons"])["ok"]
    _, out, _ = run(capsys, ["tasks"])
    assert "width=32" in out


def test_config_can_be_read_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, out, _ = run(capsys, ["config", "--preset", "paper"])
    assert out == to_toml(preset("paper"))
    file = tmp_path / "my_run.toml"
    file.write_text(out, encoding="utf-8")
    assert run_json(capsys, ["config", str(file), "--set", "search.particles=3"])["search"]["particles"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "softsgn(g)"], "softsign"),
        (["show", "g +"], "Error: "),
        (["show", "adan"], "Error: "),
        (["tasks", "--check", "digist"], "Did you mean 'digits'?"),
        (["tasks", "--check", "no_such_module:Task"], "no module 'no_such_module'"),
        (["config", "--preset", "quik"], "Unknown preset 'quik'"),
        (["config", "--set", "search.particels=3"], "Did you mean 'search.particles'?"),
        (["config", "none.toml"], "Cannot read the config file 'none.toml'"),
        (["search", "--preset", "quik"], "Unknown preset 'quik'"),
        (["search", "--preset", "quick", "--set", "seed=x", "--out", "nowhere"], "seed: expected a whole number"),
        (["search", "--workers", "0"], "--workers"),
        (["search", "--sede", "0"], "--seed"),
        (["serch"], "search"),
    ],
)
def test_mistakes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_export_writes_a_file_that_needs_only_torch(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "opt6.py"
    code, said, _ = run(capsys, ["export", "opt6", "-o", str(out)])
    assert code == 0
    assert str(out) in said
    text = out.read_text(encoding="utf-8")
    assert "paper, Opt6" in text
    assert "optevolve" not in "".join(line for line in text.splitlines() if "import" in line)


@pytest.mark.parametrize("command", ["show", "export"])
def test_a_folder_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    extra = ["-o", str(tmp_path / "x.py")] if command == "export" else []
    code, out, err = run(capsys, [command, str(tmp_path), *extra])
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert not (tmp_path / "x.py").exists()


def test_places_that_cannot_be_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    code, out, err = run(capsys, ["export", "sgd", "-o", str(tmp_path / "file" / "x.py")])
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert str(tmp_path / "file") in err
