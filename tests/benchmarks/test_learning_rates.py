"""The benchmark that finds a learning rate to start from for each rule of the zoo."""

import json
import math
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    sys.modules.pop("learning_rates", None)
    import learning_rates

    monkeypatch.setattr(learning_rates, "KINDS", {"table": ("table", 12)})
    return learning_rates


def played(rates, score) -> dict[tuple[int, int], float]:
    """The runs that are asked for until none is, with the scores of a function of half decades and seed."""
    scores: dict[tuple[int, int], float] = {}
    while asked := rates.wanted(scores):
        assert not set(asked) & set(scores)
        scores.update({point: score(*point) for point in asked})
    return scores


def test_the_best_rate_and_all_about_it_are_tried(rates) -> None:
    scores = played(rates, lambda key, seed: -abs(key + 3) + 0.001 * seed)
    assert rates.best_rate(scores) == -3
    assert {(key, seed) for key in range(-5, 0) for seed in (0, 1)} <= set(scores)
    assert len(scores) <= 16


def test_the_grid_grows_beyond_its_edges(rates) -> None:
    for best in (-14, 6):
        scores = played(rates, lambda key, seed, best=best: -abs(key - best))
        found = rates.found_in(scores, 0.1)
        assert (found.best, found.low, found.high, found.edge) == (best, best, best, False)
    forever = rates.found_in(played(rates, lambda key, seed: key), 0.1)
    assert forever.best == rates.LIMITS[1]
    assert forever.edge


def test_a_rule_that_diverges_at_first_is_tried_with_smaller_rates(rates) -> None:
    scores = played(rates, lambda key, seed: 1.0 if key < -12 else -math.inf)
    assert rates.best_rate(scores) < -12
    never = played(rates, lambda key, seed: -math.inf)
    assert min(key for key, _ in never) == rates.LIMITS[0]
    assert rates.found_in(never, 0.1) is None


def test_rates_within_the_noise_are_as_good(rates) -> None:
    scores = played(rates, lambda key, seed: 1.0 - 0.03 * (key + 4) ** 2 + (0.01 if seed else -0.01))
    deviation = rates.noise({"rule": scores})
    assert deviation == pytest.approx(math.sqrt(2) * 0.01 / 0.6745)
    found = rates.found_in(scores, deviation)
    assert (found.low, found.best, found.high, found.middle) == (-5, -4, -3, -4)
    assert rates.rounded(0.031) == 0.02 or rates.rounded(0.034) == 0.05
    assert [rates.rounded(value) for value in (0.001, 0.0009, 0.3, 8.0, 1.1e-5)] == [0.001, 0.001, 0.2, 10.0, 1e-5]


def test_runs_are_made_once_and_summed_up(rates, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, written = tmp_path / "runs.jsonl", tmp_path / "rates.json"
    assert rates.main(["momentum", "--out", str(runs), "--processes", "1", "--write", str(written)]) == 0
    lines = runs.read_text(encoding="utf-8").splitlines()
    content = json.loads(written.read_text(encoding="utf-8"))
    row = content["rules"]["momentum"]
    at = row["tasks"]["table"]
    assert row["rule"] == "momentum: g"
    assert 1e-4 < at["low"] <= at["best"] <= at["high"] < 10  # where perceptrons with momentum learn
    assert at["score"] > 0.1
    assert at["low"] / 2 <= row["learning_rate"] <= at["high"] * 2
    runs.write_text("\n".join([*lines, '{"name": "mome']), encoding="utf-8")  # killed while it wrote
    assert rates.main(["momentum", "--out", str(runs), "--processes", "1", "--write", str(written)]) == 0
    assert runs.read_text(encoding="utf-8").count('"score"') == len(lines)
    assert json.loads(written.read_text(encoding="utf-8")) == content
    assert "momentum" in capsys.readouterr().out


def test_what_is_missing_is_said(rates, capsys: pytest.CaptureFixture[str]) -> None:
    assert rates.main([]) == 0
    assert "--out" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="got nesterof"):
        rates.main(["nesterof", "--out", "nowhere.jsonl"])
