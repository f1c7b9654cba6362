"""Calibration: what is read from a log, which rules are taken, what the numbers mean, and a real run that goes on where it stopped."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from optevolve.calibration import Reference, agreement, calibrate, choose, read_log, told_apart
from optevolve.errors import ConfigError, DataError, StudyError
from optevolve.records import Outcome, Status
from optevolve.space import parse

LOG = """phase,particle,depth,status,acc,time,expr
init,,,ok,0.50,1,None ~ g
particle,0,0,ok,0.80,1,Mom ~ g
mutation,0,1,ok,0.82,1,Mom ~ g
mutation,0,1,ok,0.70,1,None ~ g
mutation,0,1,failed,,,None ~ erf(g^2)
mutation,0,2,ok,0.21,1,None ~ erf(g^2)
mutation,0,2,ok,0.60,1,None ~ sign(g)
"""
TINY = ["trial_steps=6", "full_steps=40", "epoch_steps=40", "learning_rates=[1.0, 0.1, 0.01]"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.csv"
    path.write_text(LOG, encoding="utf-8")
    return path


def test_rows_with_an_accuracy_are_read_in_the_phases_asked_for(log: Path) -> None:
    assert [(r.line, str(r.rule), r.accuracy) for r in read_log(log)] == [
        (3, "momentum: g", 0.8), (4, "momentum: g", 0.82), (5, "g", 0.7), (7, "erf(g ** 2)", 0.21), (8, "sign(g)", 0.6)
    ]  # fmt: skip
    assert [r.line for r in read_log(log, ["init"])] == [2]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "no column 'phase'"), (LOG.replace("sign(g)", "sgn(g)"), "line 8"), ("phase,status,acc,expr\n", "no row")],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_log(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_log(tmp_path / "none.csv")


def test_rules_are_taken_once_each_over_the_whole_range_and_only_if_they_descend(log: Path) -> None:
    chosen = choose(read_log(log), 9)
    assert [r.line for r in chosen] == [3, 5, 8]  # erf(g ** 2) descends with neither sign
    assert [r.line for r in choose(read_log(log), 2)] == [3, 8]


def test_rules_may_be_spread_over_accuracies_or_over_ranks() -> None:
    log = [Reference(n, parse(f"g * {n + 1}"), acc) for n, acc in enumerate((0.1, 0.4, 0.79, 0.80, 0.81, 0.82, 0.83))]
    assert [r.accuracy for r in choose(log, 3)] == [0.1, 0.4, 0.83]
    assert [r.accuracy for r in choose(log, 3, "rank")] == [0.1, 0.80, 0.83]


def test_perfect_agreement_no_agreement_and_what_noise_leaves() -> None:
    rng = np.random.default_rng(0)
    truth = np.linspace(0.5, 0.8, 60)
    chosen = [Reference(n, parse(f"g * {n + 1}"), float(acc)) for n, acc in enumerate(truth)]
    exact = agreement(chosen, np.stack([truth, truth], axis=1), chosen, [], 0)
    assert exact.correlation == pytest.approx(1)
    assert exact.interval == pytest.approx((1, 1))
    assert exact.own_reliability == pytest.approx(1)
    assert exact.log_reliability is None
    assert exact.ceiling is None
    noise = 0.06
    log = [Reference(n, r.rule, r.accuracy + noise * float(rng.normal())) for n, r in enumerate(chosen) for _ in range(2)]
    noisy = agreement(log[::2], truth[:, None] + noise * rng.normal(size=(60, 3)), log, [], 0)
    assert noisy.own_reliability is not None
    assert noisy.log_reliability is not None
    assert noisy.ceiling is not None
    variance = truth.var(ddof=1)
    assert noisy.log_reliability == pytest.approx(variance / (variance + noise**2), abs=0.15)
    assert noisy.own_reliability == pytest.approx(variance / (variance + noise**2 / 3), abs=0.12)
    assert noisy.correlation == pytest.approx(noisy.ceiling, abs=0.15)
    assert noisy.interval[0] < noisy.correlation < noisy.interval[1]
    unrelated = agreement(chosen, rng.normal(size=(60, 2)), chosen, [], 0)
    assert unrelated.interval[0] < 0 < unrelated.interval[1]


def test_what_did_not_complete_ranks_last() -> None:
    chosen = [Reference(n, parse(f"g * {n + 1}"), acc) for n, acc in enumerate([0.1, 0.5, 0.6, 0.7])]
    scores = np.array([[-math.inf, 0.2], [0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    found = agreement(chosen, scores, chosen, [Outcome(Status.COMPLETED, steps=5, seconds=2.0)], 0)
    assert (found.correlation, found.rules, found.completed, found.steps, found.seconds) == (pytest.approx(1), 4, 3, 5, 2.0)


def test_how_often_a_rule_is_told_apart_from_itself() -> None:
    def measured(*intervals: tuple[float, float] | None) -> list[Outcome]:
        return [Outcome(Status.COMPLETED, 0.5, interval=interval) for interval in intervals]

    assert told_apart([measured((0.1, 0.3), (0.3, 0.5)), measured((0.6, 0.7), (0.2, 0.4)), measured((0.6, 0.7), None)]) == 0.5
    assert told_apart([measured((0.1, 0.2), (0.3, 0.4), (0.35, 0.5))]) == pytest.approx(2 / 3)
    assert told_apart([measured(None, None), measured((0.1, 0.2))]) is None


def test_a_calibration_runs_for_real_and_goes_on_where_it_stopped(log: Path, tmp_path: Path) -> None:
    events: list[str] = []
    options = {"task": "mlp-moons", "settings": TINY, "rules": 3, "workers": 1, "on_event": lambda event: events.append(event.kind)}
    first = calibrate(log, tmp_path / "out", **options)  # type: ignore[arg-type]
    assert events.count("measured") == 6
    content = json.loads((tmp_path / "out" / "calibration.json").read_text(encoding="utf-8"))
    assert content["correlation"] == first.correlation
    assert [row["line"] for row in content["measured"]] == [3, 5, 8]
    assert all(0 <= score <= 1 for row in content["measured"] for score in row["fitness"] if score is not None)
    assert all(rate is None or rate > 0 for row in content["measured"] for rate in row["learning_rates"])
    assert all(len(row["learning_rates"]) == 2 for row in content["measured"])
    assert any(rate is not None for row in content["measured"] for rate in row["learning_rates"])
    intervals = [tuple(interval) for row in content["measured"] for interval in row["intervals"] if interval is not None]
    assert intervals
    assert all(low <= high for low, high in intervals)
    assert content["told_apart"] == first.told_apart
    assert first.told_apart is not None
    assert (tmp_path / "out" / "calibration.png").stat().st_size > 5000
    events.clear()
    assert calibrate(log, tmp_path / "out", **options) == first  # type: ignore[arg-type]
    assert "measured" not in events
    with pytest.raises(StudyError, match="another task, seed or protocol"):
        calibrate(log, tmp_path / "out", **(options | {"seed": 1}))  # type: ignore[arg-type]


def test_nonsense_is_refused_before_anything_is_measured(log: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="paper or fast"):
        calibrate(log, tmp_path / "out", protocol="slow")
    with pytest.raises(ConfigError, match="trial_stps"):
        calibrate(log, tmp_path / "out", settings=["trial_stps=3"])
    assert not (tmp_path / "out").exists()
