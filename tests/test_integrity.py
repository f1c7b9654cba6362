"""The integrity check and its trajectories: by hand, then against the positions that the authors' program takes."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optevolve.integrity import LEARNING_RATES, OPTIMUM, START, THRESHOLD, check_integrity, trajectory
from optevolve.schedule import schedule_values
from optevolve.space import UpdateRule, parse
from optevolve.space.paper_notation import parse_paper

CLOSE = 1e-5  # float32 over 35 steps against float64


def descend(update: Any, lr: float, kind: str = "plain", sign: int = 1) -> np.ndarray:
    """The method's section 2 as a loop in float64; `update(g, w, t)` keeps its own state."""
    lrs, momenta = schedule_values(lr, 35, 6)
    positions = [START.astype(np.float64)]
    buffer = np.zeros(5)
    for t in range(35):
        w = positions[-1]
        change = lrs[t] * sign * update(2 * (w - OPTIMUM), w, t)
        buffer = momenta[t] * buffer - change
        positions.append({"plain": w - change, "momentum": w + buffer, "nesterov": w + momenta[t] * buffer - change}[kind])
    return np.array(positions)


@pytest.mark.parametrize("kind", ["plain", "momentum", "nesterov"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_three_kinds_follow_their_equations(kind: str, sign: int) -> None:
    found = trajectory(UpdateRule(parse("g").expression, kind, sign), 0.01)
    np.testing.assert_allclose(found, descend(lambda g, w, t: g, 0.01, kind, sign), rtol=CLOSE, atol=CLOSE)


def test_plain_descent_shrinks_the_distance_by_one_minus_twice_the_learning_rate() -> None:
    distances = trajectory(parse("g"), 0.1) - OPTIMUM
    rates = [0, 0.1 / 6, 0.2 / 6, 0.3 / 6, 0.4 / 6, 0.5 / 6, 0.1]  # linear warm-up over six steps, then the peak
    for t, rate in enumerate(rates):
        np.testing.assert_allclose(distances[t + 1], (1 - 2 * rate) * distances[t], rtol=1e-5)


def test_adam_by_hand() -> None:
    moments = {"v": np.zeros(5), "s": np.zeros(5)}

    def adam(g: np.ndarray, w: np.ndarray, t: int) -> np.ndarray:
        moments["v"] = 0.9 * moments["v"] + 0.1 * g
        moments["s"] = 0.99 * moments["s"] + 0.01 * g**2
        return moments["v"] / (1 - 0.9 ** (t + 1)) / (np.sqrt(moments["s"] / (1 - 0.99 ** (t + 1))) + 1e-7)

    np.testing.assert_allclose(trajectory(parse("div(v_hat, sqrt(s_hat))"), 0.1), descend(adam, 0.1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 35, 60])
def test_shape_start_and_type(steps: int) -> None:
    positions = trajectory(parse("nesterov: a3 * g"), 0.01, steps)
    assert positions.shape == (steps + 1, 5)
    assert positions.dtype == np.float32
    np.testing.assert_array_equal(positions[0], START)


def test_every_trajectory_matches_the_authors_program(shared: Path) -> None:
    reference = json.loads((shared / "reference" / "sphere_trajectories.json").read_text())
    assert reference["tolerance"].startswith("|x - ref| <= 1e-3 * (1 + |ref|)")
    assert len(reference["cases"]) >= 100
    checked = 0
    for case in reference["cases"]:
        rule = parse_paper(case["expr"])
        assert rule.sign == 1
        for run in case["runs"]:
            positions = trajectory(rule, run["lr"], reference["total_steps"])
            for step, expected in zip(reference["steps_recorded"], run["x"], strict=True):
                if expected is not None:
                    np.testing.assert_allclose(positions[step], expected, rtol=1e-3, atol=1e-3, err_msg=f"{case['expr']} at step {step}")
                    checked += 1
    assert checked > 1000


def test_the_printed_qhm_of_the_third_moment_uses_the_third_power(shared: Path) -> None:
    """The authors print g^2 in it; their program takes g^3."""
    reference = json.loads((shared / "reference" / "sphere_trajectories.json").read_text())
    case = next(c for c in reference["cases"] if c["expr"].startswith("None ~ (((1-0.99)*g^2+0.99*lam hat)) / (sqrt(1+(norm(10-6w))^2))"))
    run = next(r for r in case["runs"] if r["lr"] == 1e-3)
    as_printed = trajectory(parse("(0.01 * g ** 2 + 0.99 * l_hat) / sqrt(1 + clip_norm(1e-6 * w) ** 2)"), 1e-3)
    as_meant = trajectory(parse_paper(case["expr"]), 1e-3)
    last = reference["steps_recorded"].index(35)
    assert np.abs(as_meant[35] - run["x"][last]).max() < 1e-5 < np.abs(as_printed[35] - run["x"][last]).max()


@pytest.mark.parametrize("text", ["g", "momentum: g", "nesterov: g", "sign(g)", "v_hat", "div(v_hat, sqrt(s_hat))", "dropout(g, 0.3)"])
def test_optimizers_pass_with_a_positive_sign(text: str) -> None:
    verdict = check_integrity(parse(text))
    assert (verdict.ok, verdict.sign, verdict.reason) == (True, 1, "")


@pytest.mark.parametrize("text", ["-g", "nesterov: 1e-3 * w - g", "aggmo(v)"])
def test_a_rule_that_climbs_passes_with_a_negative_sign(text: str) -> None:
    verdict = check_integrity(parse(text))
    assert (verdict.ok, verdict.sign) == (True, -1)


def test_the_rules_own_sign_does_not_matter() -> None:
    assert check_integrity(UpdateRule(parse("g").expression, "plain", -1)).sign == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 + 1e-3 * w", "does not use the gradient"),
        ("erfc(a4) * w", "does not use the gradient"),
        ("2 + 0 * g", "does not descend"),
        ("momentum: w + 0 * g", "does not descend"),
        ("delta(sign(g)) + 0 * v", "does not descend"),
        ("1 / (g - g)", "becomes non-finite at every learning rate"),
    ],
)
def test_what_cannot_descend_is_refused_with_the_reason(text: str, reason: str) -> None:
    verdict = check_integrity(parse(text))
    assert not verdict.ok
    assert verdict.reason.startswith(reason)


def test_a_constant_shift_comes_no_further_than_the_method_says() -> None:
    assert np.nanmin(check_integrity(parse("1 + 0 * g")).losses) > 4.34 - 0.01


@pytest.mark.parametrize(
    "text", ["nesterov: bessel_i1e(a13 * g)", "momentum: softsign(g) - 1e-3 * w", "clip_norm(g ** 3)", "dropout(g, 0.5)"]
)
def test_losses_are_those_of_the_trajectories_before_the_last_update(text: str) -> None:
    rule = parse(text)
    losses = check_integrity(rule).losses
    assert losses.shape == (2, len(LEARNING_RATES))
    for row, sign in zip(losses, (1, -1), strict=True):
        for loss, lr in zip(row, LEARNING_RATES, strict=True):
            last = trajectory(UpdateRule(rule.expression, rule.kind, sign), lr)[34].astype(np.float64)
            with np.errstate(over="ignore"):
                expected = np.sum((last - OPTIMUM) ** 2)
            assert np.isnan(loss) if not np.isfinite(expected) else loss == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_check_is_deterministic() -> None:
    first, second = (check_integrity(parse("dropout(g, 0.5) + noise")).losses for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_rules_that_the_authors_trained_pass(shared: Path) -> None:
    """Those that do not are moved by what the method repairs (Nesterov's step, the change operator) or draw other random numbers."""
    with open(shared / "reference" / "authors_log.csv", newline="") as lines:
        texts = {row["expr"] for row in csv.DictReader(lines)}
    refused = [text for text in texts if not check_integrity(parse_paper(text)).ok]
    assert [text for text in refused if not text.startswith("Nest") and "deltaChange" not in text and "drop(" not in text] == []
    assert len(refused) < 0.015 * len(texts)


def test_the_threshold_is_the_methods() -> None:
    assert THRESHOLD == 3.5
    assert LEARNING_RATES == (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
