"""The comparison of two calibrations: what it computes from folders made here, and what it refuses."""

import importlib.util
import io
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "protocols.py"


def write(folder: Path, scores: np.ndarray, *, steps: int, seconds: float, seed: int = 0, rates: Sequence[float] = ()) -> Path:
    """A folder as of a calibration; the rules' learning rates are 0.1 unless given, and none where no score is finite."""
    folder.mkdir()
    rates = rates or [0.1] * len(scores)
    measured = [
        {
            "line": n,
            "rule": f"g * {n + 1}",
            "accuracy": 0.5,
            "fitness": [None if np.isneginf(score) else float(score) for score in row],
            "learning_rates": [None if np.isneginf(score) else rate for score in row],
        }
        for n, (row, rate) in enumerate(zip(scores, rates, strict=True))
    ]
    content = {"task": "digits", "seed": seed, "steps": steps * scores.size, "seconds": seconds * scores.size, "measured": measured}
    (folder / "calibration.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@cache
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_protocols", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(*folders: Path | str) -> tuple[int, str]:
    """Exit code and what is printed, as of the script as a process."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            code = script().main([str(folder) for folder in folders])
        except SystemExit as ended:
            code = 1
            said.write(str(ended.code))
    return code, said.getvalue()


def noisy(seed: int, seeds: int, noise: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = np.linspace(0.2, 0.8, 40)[:, None] + noise * rng.normal(size=(40, seeds))
    scores[:2] = -np.inf
    return scores


def test_a_cheap_protocol_that_ranks_alike_meets_the_goals(tmp_path: Path) -> None:
    cheap = write(tmp_path / "cheap", noisy(1, 1, 0.03), steps=100, seconds=1.0)
    dear = write(tmp_path / "dear", noisy(2, 2, 0.03), steps=1000, seconds=9.0)
    code, out = compare(cheap, dear)
    assert code == 0, out
    assert "40 rules on digits, 1 seeds cheap, 2 dear" in out
    assert "38 cheap, 38 dear" in out
    assert "ratio 1/10.0" in out
    assert "ratio 1/9.0" in out
    ratio = float(out.split("  ratio  ")[1].split(",")[0])
    low, high = (float(number) for number in out.split("interval ")[1].split(" over")[0].split(" to "))
    assert 0.9 <= ratio <= 1.1
    assert low < ratio < high


@pytest.mark.parametrize(("noise", "steps"), [(10.0, 100), (0.03, 200)], ids=["ranks by chance", "costs too much"])
def test_a_missed_goal_is_said_by_the_exit_code(tmp_path: Path, noise: float, steps: int) -> None:
    cheap = write(tmp_path / "cheap", noisy(1, 1, noise), steps=steps, seconds=1.0)
    dear = write(tmp_path / "dear", noisy(2, 2, 0.03), steps=1000, seconds=9.0)
    assert compare(cheap, dear)[0] == 1


def test_agreement_is_told_apart_by_whether_the_learning_rates_are_alike(tmp_path: Path) -> None:
    scores = noisy(1, 2, 0.0)
    reversed_half = scores.copy()
    reversed_half[20:] = scores[:19:-1]  # the protocols disagree about the upper half of the rules, and only there
    cheap = write(tmp_path / "cheap", scores, steps=100, seconds=1.0)
    dear = write(tmp_path / "dear", reversed_half, steps=1000, seconds=9.0, rates=[0.1] * 10 + [0.03] * 10 + [10.0] * 20)
    out = compare(cheap, dear)[1]
    assert "-2.00 decades, median of 38 rules" in out
    assert "within 0.5 decades     8 rules, means agree to  1.000" in out
    assert "further apart         30 rules, means agree to  0.408" in out  # 1 - 2 (20³ - 20) / (30³ - 30)
    old = tmp_path / "old"
    old.mkdir()
    text = (cheap / "calibration.json").read_text(encoding="utf-8")
    (old / "calibration.json").write_text(text.replace("learning_rates", "rates"), encoding="utf-8")
    code, out = compare(old, dear)
    assert code == 1
    assert "Give the same command again" in out


def test_rules_that_contain_a_text_are_left_out_and_the_cost_stays(tmp_path: Path) -> None:
    scores = noisy(2, 2, 0.0)
    wrong = scores.copy()
    wrong[18] = scores.max() + 1  # rule "g * 19"
    cheap = write(tmp_path / "cheap", wrong, steps=100, seconds=1.0)
    dear = write(tmp_path / "dear", scores, steps=1000, seconds=9.0)
    assert "on average     1.000" not in compare(cheap, dear)[1]
    out = compare(cheap, dear, "--without", "g * 19")[1]
    assert "39 rules on digits" in out
    assert "at least 3 are needed" in compare(cheap, dear, "--without", "g * ")[1]
    assert "on average     1.000" in out
    assert "ratio 1/9.0" in out


def test_only_calibrations_that_can_be_compared_are(tmp_path: Path) -> None:
    cheap = write(tmp_path / "cheap", noisy(1, 2, 0.1), steps=100, seconds=1.0)
    once = write(tmp_path / "once", noisy(2, 1, 0.1), steps=1000, seconds=9.0)
    others = write(tmp_path / "others", noisy(2, 2, 0.1)[:-1], steps=1000, seconds=9.0)
    assert "needs two" in compare(cheap, once)[1]
    assert "other rules" in compare(cheap, others)[1]
    assert "let it come to its end" in compare(cheap, tmp_path)[1]
    code, out = compare()
    assert code == 0
    assert "Nothing to compare" in out


@pytest.mark.parametrize(
    ("task", "share"),
    [("digits", "ratio 1/20.0"), ("cifar10-convnet@width=8", "ratio 1/40.0"), ("cifar10-convnet@resolution=8", "ratio 1/20.0")],
)
def test_steps_on_parts_of_batches_or_images_count_for_what_they_are(tmp_path: Path, task: str, share: str) -> None:
    cheap = write(tmp_path / "cheap", noisy(1, 1, 0.03), steps=100, seconds=1.0)
    dear = write(tmp_path / "dear", noisy(2, 2, 0.03), steps=1000, seconds=9.0)
    for folder, protocol in ((cheap, {"batch_share": 0.5, "resolution_share": 0.5}), (dear, {})):
        content = json.loads((folder / "calibration.json").read_text(encoding="utf-8"))
        (folder / "calibration.json").write_text(json.dumps({**content, "task": task, "protocol": protocol}), encoding="utf-8")
    _, out = compare(cheap, dear)
    assert share in next(line for line in out.splitlines() if line.startswith("batches of a measurement"))
