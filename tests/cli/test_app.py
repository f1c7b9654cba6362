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
from optevolve.config_text import about_preset, preset, to_toml
from optevolve.library import SCHEDULES, ZOO
from optevolve.space import LEAVES, OPERATORS, parse_expression
from optevolve.space.latex import latex
from optevolve.space.paper_notation import parse_paper
from optevolve.space.show import describe

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
    assert [row["name"] for row in rows] == [*ZOO, *SCHEDULES]
    assert next(row for row in rows if row["name"] == "nesterov")["rule"] == "nesterov: g"
    _, out, _ = run(capsys, ["zoo"])
    assert all(name in out for name in (*ZOO, *SCHEDULES))


def test_a_schedule_is_shown_as_gradient_descent_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, ["show", "L1"])
    assert facts["rest"] == "g"
    assert parse_expression(facts["schedule"]) == SCHEDULES["L1"]


def test_show_says_what_a_rule_is(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, ["show", "opt10"])
    assert facts["kind"] == "nesterov"
    assert facts["buffers"] == [{"name": "m", "next": "μ * m - α * u"}]
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
    assert len(run_json(capsys, ["show", "adam"])["buffers"]) == 2
    assert run_json(capsys, ["show", "sgd"])["buffers"] == []


@pytest.mark.parametrize(
    ("text", "sign", "last"),
    [
        ("-momentum: g", -1, "w ← w + m"),
        ("-plain: g", -1, "w ← w + α * g"),
        ("nesterov: g", 1, "w ← w + μ * m - α * g"),
        ("-orthogonalize(g)", 1, "w ← w - α * n1"),  # not the option -o
    ],
)
def test_show_takes_rules_that_begin_with_a_minus(capsys: pytest.CaptureFixture[str], text: str, sign: int, last: str) -> None:
    facts = run_json(capsys, ["show", text])
    assert facts["rule"] == text
    assert facts["sign"] == sign
    assert facts["steps"][-1] == last


def test_show_says_all_there_is_about_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    facts = run_json(capsys, ["show", "opt6", "--steps", "20"])
    shown = describe(ZOO["opt6"].rule, 20)
    assert facts["schedule"] == shown.schedule != "1"
    assert facts["schedule_values"] == pytest.approx(shown.schedule_values)
    assert facts["rest"] == "qhm(v) / abs(exp(1e-4 * w))"
    _, out, _ = run(capsys, ["show", "opt6"])
    for text in (
        latex(ZOO["opt6"].rule),
        shown.words,
        shown.schedule,
        shown.rest,
        *shown.steps,
        *shown.decays,
        *dict(shown.buffers).values(),
    ):
        assert text in out
    _, out, _ = run(capsys, ["show", "a1"])
    assert "paper: None ~ clip(v hat, sqrt(|s hat|))" in out


def test_show_simplifies(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, ["show", "-(-min(g, g))"])["simplified"] == "g"
    shown = run(capsys, ["show", "-(-min(g, g))"])[1]
    assert shown.startswith("g\n  behaves as: gradient descent (SGD)\n  as written: --min(g, g)\n")
    assert "as written" not in run(capsys, ["show", "g"])[1]
    assert run(capsys, ["show", "nesterov: 2 * g"])[1].splitlines()[1] == "  behaves as: Nesterov momentum, twice the learning rate"
    assert run_json(capsys, ["show", "nesterov: 2 * g"])["behaves_as"] == {"name": "nesterov", "title": "Nesterov momentum", "factor": 2.0}
    assert "behaves as" not in run(capsys, ["show", "opt6"])[1]


@pytest.mark.parametrize("text", ["Nest ~ bessel_i1e(bessel_i1e([(a13)*(a2)][g]))", "-Mom ~ (v hat)*(sig([(a3)^2][s hat]))", "None ~ g"])
def test_rules_in_the_papers_notation(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    facts = run_json(capsys, ["show", text])
    assert facts["paper"] == text
    assert facts["rule"] == str(parse_paper(text))
    code, _, _ = run(capsys, ["export", text, "-o", str(tmp_path / "x.py")])
    assert code == 0
    assert str(parse_paper(text)) in (tmp_path / "x.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "magic"), [("x.svg", b"<?xml"), ("x.png", b"\x89PNG")])
def test_show_draws_into_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, magic: bytes) -> None:
    code, out, err = run(capsys, ["show", "opt6", "--plot", str(tmp_path / name)])
    assert (code, err) == (0, "")
    assert str(tmp_path / name) in out
    assert (tmp_path / name).read_bytes().startswith(magic)


def test_show_draws_nothing_into_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, ["show", "opt6", "--plot", str(tmp_path / "new" / "x.png")])
    assert (code, out) == (2, "")
    assert "new" in err
    assert not (tmp_path / "new").exists()


def test_show_lists_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    """The list that the parser's messages speak of."""
    _, _, err = run(capsys, ["show", "qqqqqqq(g)"])
    assert "optevolve show --names" in err
    groups = run_json(capsys, ["show", "--names"])
    named = {row["name"].partition("(")[0] for rows in groups.values() for row in rows}
    assert {name for name, row in OPERATORS.items() if not row.infix} | set(LEAVES) | {"v_hat", "qhm"} <= named
    assert all(row["summary"] for rows in groups.values() for row in rows)
    _, out, _ = run(capsys, ["show", "--names"])
    assert "dropout(x, rate)" in out
    assert all(row.summary in out for row in OPERATORS.values())


def test_show_without_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, ["show"])
    assert (code, out) == (2, "")
    assert "Missing RULE" in err


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
    assert out == to_toml(preset("paper"), about_preset("paper"))
    file = tmp_path / "my_run.toml"
    file.write_text(out, encoding="utf-8")
    assert run_json(capsys, ["config", str(file), "--set", "search.particles=3"])["search"]["particles"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "softsgn(g)"], "softsign"),
        (["show", "g +"], "Error: "),
        (["show", "adan"], "Or did you mean 'adam' of the zoo"),
        (["show", "Nst ~ g"], "Expected one of None, Mom, Nest"),
        (["show", "None ~ tan(g)"], "Did you mean"),
        (["show", "adam", "--plot", "x.svg"], "Leave --plot out"),
        (["show", "opt6", "--plot", "x.qq"], "Try x.svg"),
        (["export", "opt6", "-o", "x.py", "--format", "tex"], "latex"),
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


def test_export_writes_other_formats(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "opt6.tex"
    assert run(capsys, ["export", "opt6", "-o", str(out), "--format", "latex"])[0] == 0
    assert latex(ZOO["opt6"].rule) in out.read_text(encoding="utf-8")
    out = tmp_path / "opt6.py"
    assert run(capsys, ["export", "opt6", "-o", str(out), "-f", "optax"])[0] == 0
    assert "optax.GradientTransformation" in out.read_text(encoding="utf-8")


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
