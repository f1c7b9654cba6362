"""The benchmark that trains a calibration's rules at the learning rates chosen there."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "rates.py"


def run(*arguments: Path | str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_rules_are_trained_at_the_rates_of_the_calibration_and_beside_them(tmp_path: Path) -> None:
    rates = {"momentum: g": 0.1, "plain: g": 1e-3, "nesterov: sign(g)": 1e-2, "plain: -g": 0.1, "plain: g * 2": None}
    quality = [0.9, 0.6, 0.8, 0.1, None]
    rows = [
        {"rule": rule, "fitness": [score, score], "learning_rates": [rate, rate]}
        for (rule, rate), score in zip(rates.items(), quality, strict=True)
    ]
    (tmp_path / "calibration.json").write_text(json.dumps({"task": "mlp-moons", "measured": rows}), encoding="utf-8")
    code, out = run(tmp_path, "--set", "full_steps=60", "--set", "epoch_steps=60", "--decades", "-3", "0", "--workers", "1")
    assert code == 0, out
    lines = out.splitlines()
    assert lines[0].startswith("4 rules on mlp-moons, ")
    assert [line[:16].strip() for line in lines[1:]] == ["-3.00 decades", "+0.00 decades", "best"]
    found = [float(line.split("mean")[1].split()[0]) for line in lines[1:]]
    assert found[1] >= 0.8  # at rates a thousand times smaller nothing is learnt, and the order is chance
    assert found[0] < found[1]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert run() == (0, run()[1])
    assert "Nothing to train" in run()[1]
    code, out = run(tmp_path)
    assert (code, out.strip().startswith(f"{tmp_path} has no calibration.json")) == (1, True)
    (tmp_path / "calibration.json").write_text(json.dumps({"task": "mlp-moons", "measured": []}), encoding="utf-8")
    code, out = run(tmp_path, "--set", "full_step=3")
    assert code == 1
    assert "full_step" in out
    assert "Traceback" not in out
