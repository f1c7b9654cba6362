"""Ranges hold for every value that an expression takes, special inputs included."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from random_expressions import expressions

from optevolve.space import Node, parse_expression
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import lower
from optevolve.space.ranges import nan_carriers, nan_sources, range_of

STEPS = 12
RNG = np.random.default_rng(0)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, -1.0])
ORDINARY = RNG.normal(size=(2, STEPS, 24)) * 10.0 ** RNG.integers(-8, 8, size=(2, STEPS, 24))
INPUTS = np.where(RNG.random(ORDINARY.shape) < 0.4, RNG.choice(SPECIAL, ORDINARY.shape), ORDINARY)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=400)
@given(node=expressions())
def test_every_value_lies_in_the_range(node: Node, dtype: type) -> None:
    bounds = range_of(node)
    with np.errstate(all="ignore"):
        gradients, weights = INPUTS.astype(dtype)
        interpreter = Interpreter(lower(node), gradients.shape[1:], STEPS, dtype=dtype)
        values = np.array([np.broadcast_to(interpreter(g, w, t), g.shape) for t, (g, w) in enumerate(zip(gradients, weights, strict=True))])
    missing = np.isnan(values)
    assert bounds.nan or not missing.any()
    known = values[~missing]
    assert np.all((known >= bounds.low) & (known <= bounds.high))
    assert bounds.minus_zero or not np.any(np.signbit(known) & (known == 0))


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("g", -math.inf, math.inf),
        ("abs(g)", 0, math.inf),
        ("s_hat", 0, math.inf),
        ("sign(g)", -1, 1),
        ("clip(g, 2)", -2, 2),
        ("clip(2, a11)", 0.0099, 1),
        ("max(a1, a2)", 0, 1),
        ("sign(a11)", 1, 1),
        ("running_max(g)", 0, math.inf),
    ],
)
def test_known_ranges(text: str, low: float, high: float) -> None:
    bounds = range_of(parse_expression(text))
    assert bounds.low == pytest.approx(low)
    assert bounds.high == pytest.approx(high)


def test_where_nan_comes_from_and_goes_to() -> None:
    g, w = Node("g"), Node("w")
    assert nan_sources(parse_expression("sign(g) * a1 + exp(w)")) == {g, w}
    assert nan_sources(parse_expression("v + g")) == {parse_expression("v"), g}
    assert {g, w} <= nan_carriers(parse_expression("tanh(g) + max(w, 2)"))
    assert g not in nan_carriers(parse_expression("dropout(g, 0.5)"))
    assert g not in nan_carriers(parse_expression("pow(g, w)"))
