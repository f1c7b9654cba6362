"""`optevolve calibrate` from the command line: a small log measured under both protocols, what is printed, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from optevolve.cli import main
from optevolve.config import FAST

LOG = """phase,particle,depth,status,acc,time,expr
mutation,0,1,ok,0.82,1,Mom ~ g
mutation,0,1,ok,0.70,1,None ~ g
mutation,0,2,ok,0.60,1,None ~ sign(g)
mutation,0,2,ok,0.30,1,None ~ tanh(g)
mutation,0,2,failed,,,None ~ erf(g^2)
"""
TINY = ["--task", "quadratics", "--rules", "3", "--set", "learning_rates=[1.0, 0.1, 0.01]", "--set", "full_steps=40", "--workers", "1"]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "protocols.py"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG, encoding="utf-8")
    return path


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str | Path]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(["calibrate", *map(str, arguments)])
    found = capsys.readouterr()
    return (caught.value.code if isinstance(caught.value.code, int) else 0), found.out, found.err


def test_help_shows_an_example_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, ["--help"])
    assert code == 0
    assert "optevolve calibrate" in out.partition("Examples")[2]
    assert all(option in out for option in ("--reference", "--out", "--task", "--protocol", "--set", "--rules", "--repeats", "--data"))


def test_both_protocols_are_measured_and_compared(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast, paper = tmp_path / "fast", tmp_path / "paper"
    common: list[str | Path] = ["--reference", log, *TINY, "--seed", "3", "--set", "trial_steps=4", "--repeats", "2"]
    code, out, _ = run(capsys, [*common, "--protocol", "fast", "--out", fast])
    assert code == 0
    assert out.startswith("Rank correlation with the log: ")
    assert "of 3 rules completed" in out

    paper_only = ["--set", "schedule.warmup=0.1", "--set", "epoch_steps=20", "--set", "trial_epoch_steps=4"]
    code, out, _ = run(capsys, [*common, *paper_only, "--protocol", "paper", "--out", paper, "--json"])
    assert code == 0
    printed = json.loads(out)
    stored = json.loads((paper / "calibration.json").read_text(encoding="utf-8"))
    assert {key: stored[key] for key in printed} == printed
    assert printed["rules"] == 3
    assert [stored["protocol"]["kind"], stored["seed"], stored["task"]] == ["paper", 3, "quadratics"]
    for folder in (fast, paper):
        assert {"study.db", "calibration.json", "calibration.png"} <= {path.name for path in folder.iterdir()}

    done = subprocess.run([sys.executable, str(SCRIPT), str(fast), str(paper)], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stderr
    assert "3 rules on quadratics, 2 seeds cheap, 2 dear" in done.stdout
    assert "dear with itself" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--protocol", "slow"], "Expected protocol paper or fast"),
        (["--set", "full_stps=3"], "full_stps"),
        (["--task", "no-such-task"], "no-such-task"),
        (["--phase", "final"], "no row with status ok and an accuracy in the phases final"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    given: list[str | Path] = ["--reference", log, "--out", tmp_path / "out", *arguments]
    code, out, err = run(capsys, given)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "study.db").exists()


def test_another_calibration_in_the_folder_is_not_overwritten(log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common: list[str | Path] = ["--reference", log, *TINY, "--set", "trial_steps=4", "--repeats", "1", "--out", tmp_path / "out"]
    code, out, _ = run(capsys, common)
    assert code == 0
    assert "Noise ceiling" not in out  # one seed cannot know its noise
    before = (tmp_path / "out" / "calibration.json").read_bytes()
    code, _, err = run(capsys, [*common, "--set", f"trial_steps={FAST.trial_steps}"])
    assert code == 2
    assert "another task, seed or protocol" in err
    assert (tmp_path / "out" / "calibration.json").read_bytes() == before
