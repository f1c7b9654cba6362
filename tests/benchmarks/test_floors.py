"""A calibration read again as if runs had ended at their floor: from a real one, made here, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from optevolve.calibration import calibrate
from optevolve.records import Outcome, Status, TrainingCurve
from optevolve.run.store import Study

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "floors.py"
LOG = """phase,status,acc,expr
particle,ok,0.80,Mom ~ g
mutation,ok,0.70,None ~ g
mutation,ok,0.60,None ~ sign(g)
"""
SETTINGS = ["trial_steps=8", "full_steps=60", "epoch_steps=10", "trial_epoch_steps=4", "schedule.warmup=10"]


def read(folder: Path, *more: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), str(folder), *more], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floors")
    (folder / "log.csv").write_text(LOG, encoding="utf-8")
    calibrate(
        folder / "log.csv", folder / "out", task="digits@width=2", protocol="paper", rules=3, repeats=2, workers=1,
        settings=[*SETTINGS, "first_floor=0.0", "floor=0.0"],
    )  # fmt: skip
    return folder / "out"


def test_without_a_floor_the_calibration_is_as_it_was(measured: Path) -> None:
    code, text = read(measured)
    assert code == 0, text
    found = json.loads((measured / "calibration.json").read_text(encoding="utf-8"))["correlation"]
    assert f"floor 0.00:   0 runs end early, correlation {found:6.3f}" in text


def test_a_run_ends_at_the_first_epoch_below_the_floor(measured: Path) -> None:
    with Study.open(measured / "study.db") as study:
        scores = [curve.train_score for m in study.measurements() for curve in m.outcome.curves if curve.purpose == "full"]
    for first in (1, 3):
        ended = sum(any(score < 0.4 for score in curve[first - 1 :]) for curve in scores)
        assert ended > 0 or first > 1
        assert f"floor 0.40: {ended:3d} runs end early" in read(measured, "--first", str(first))[1]


def test_what_a_run_had_until_then_is_its_fitness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import floors

    trial = TrainingCurve(0.1, 0, (1,), (1.0,), (0.1,), (0.1,), purpose="trial")
    full = TrainingCurve(0.1, 0, (1, 2, 3, 4), (1.0,) * 4, (0.1, 0.6, 0.3, 0.8), (0.2, 0.5, 0.4, 0.9))
    outcome = Outcome(Status.COMPLETED, 0.9, curves=(trial, full))
    assert floors.cut_short(outcome, 0.0, 1) == (0.9, False)
    assert floors.cut_short(outcome, 0.4, 1) == (0.2, True)
    assert floors.cut_short(outcome, 0.4, 2) == (0.5, True)
    assert floors.cut_short(outcome, 0.4, 4) == (0.9, False)


def test_other_folders_are_refused(measured: Path, tmp_path: Path) -> None:
    code, text = read(tmp_path)
    assert code == 1
    assert "has no calibration.json" in text
    content = json.loads((measured / "calibration.json").read_text(encoding="utf-8"))
    content["protocol"]["floor"] = None
    (tmp_path / "calibration.json").write_text(json.dumps(content), encoding="utf-8")
    code, text = read(tmp_path)
    assert code == 1
    assert "measured under paper without floors" in text
