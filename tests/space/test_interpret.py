"""The numpy reference: each operator's value by an independent formula, state over steps, shapes, signs."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import special

from optevolve.space import OPERANDS, OPERATORS, UpdateRule, parse, parse_expression
from optevolve.space.interpret import Interpreter, ReferenceOptimizer
from optevolve.space.lower import lower

SHAPE = (7,)
GRADIENTS = np.random.default_rng(0).normal(size=(12, *SHAPE)).astype(np.float32)
WEIGHTS = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def run(text: str, steps: int = 12, total_steps: int = 12, dtype: type = np.float64) -> np.ndarray:
    """Updates at each step, shape (steps, 7)."""
    interpreter = Interpreter(lower(parse_expression(text)), SHAPE, total_steps, dtype=dtype)
    values = [interpreter(GRADIENTS[t].astype(dtype), WEIGHTS.astype(dtype), t) for t in range(steps)]
    return np.array([np.broadcast_to(value, SHAPE) for value in values])


G = GRADIENTS.astype(np.float64)
W = WEIGHTS.astype(np.float64)


def averages(x: np.ndarray, beta: float, corrected: bool) -> np.ndarray:
    """Closed form of the moving average: a weighted sum over all steps so far."""
    rows = []
    for t in range(len(x)):
        weights = (1 - beta) * beta ** np.arange(t, -1, -1)
        total = np.tensordot(weights, x[: t + 1], axes=1)
        rows.append(total / weights.sum() if corrected else total)
    return np.array(rows)


V, S, L = averages(G, 0.9, True), averages(G**2, 0.99, True), averages(G**3, 0.999, True)
v, s, l = averages(G, 0.9, False), averages(G**2, 0.99, False), averages(G**3, 0.999, False)  # noqa: E741
MEAN = {"v": (0.9 + 0.999) / 3, "s": (0.99 + 0.999) / 3, "l": (0.999 + 0.9999) / 3}

OPERAND_VALUES: dict[str, np.ndarray | float] = {
    "g": G,
    "g ** 2": G * G,
    "g ** 3": G * G * G,
    "v": v,
    "s": s,
    "l": l,
    "v_hat": V,
    "s_hat": S,
    "l_hat": L,
    "1": 1.0,
    "2": 2.0,
    "1e-6 * w": 1e-6 * W,
    "1e-5 * w": 1e-5 * W,
    "1e-4 * w": 1e-4 * W,
    "1e-3 * w": 1e-3 * W,
    "sign(g)": np.sign(G),
    "sign(v_hat)": np.sign(V),
    "qhm(v)": 0.3 * G + 0.7 * V,
    "qhm(s)": 0.05 * G**2 + 0.95 * S,
    "qhm(l)": 0.01 * G**3 + 0.99 * L,
    "aggmo(v)": MEAN["v"] * v - G,
    "aggmo(s)": MEAN["s"] * s - G**2,
    "aggmo(l)": MEAN["l"] * l - G**3,
}


def test_every_operand_is_checked() -> None:
    assert set(OPERAND_VALUES) == set(OPERANDS)


@pytest.mark.parametrize("name", list(OPERAND_VALUES))
def test_operands(name: str) -> None:
    np.testing.assert_allclose(run(name), np.broadcast_to(OPERAND_VALUES[name], G.shape), rtol=1e-12, atol=1e-15)


def elementwise(function: Callable[[float], float]) -> np.ndarray:
    return np.vectorize(function)(G)


def norm(x: np.ndarray) -> np.ndarray:
    return np.sqrt((x**2).sum(axis=1, keepdims=True))


EPS = 1e-7

# Values by the standard library where it has the function, else from the definition in the method's sections 1 and 2.
OPERATOR_VALUES: dict[str, np.ndarray] = {
    "g + v_hat": G + V,
    "g - v_hat": G - V,
    "g * v_hat": G * V,
    "g / v_hat": G / V,
    "-g": -G,
    "abs(g) ** v_hat": np.abs(G) ** V,
    "identity(g)": G,
    "ln(g)": elementwise(lambda x: math.log(abs(x) + EPS)),
    "sqrt(g)": elementwise(lambda x: math.sqrt(abs(x))),
    "exp(g)": elementwise(math.exp),
    "abs(g)": elementwise(abs),
    "sigmoid(g)": elementwise(lambda x: 1 / (1 + math.exp(-x))),
    "deriv_soft(g)": elementwise(lambda x: 1 / (1 + abs(x))),
    "softplus(g)": elementwise(lambda x: math.log(1 + math.exp(x) + EPS)),
    "erf(g)": elementwise(math.erf),
    "erfc(g)": elementwise(math.erfc),
    "arcsinh(g)": elementwise(math.asinh),
    "tanh(g)": elementwise(math.tanh),
    "arctan(g)": elementwise(math.atan),
    "recip(g)": 1 / (G + EPS),
    "bessel_i1e(g)": np.exp(-np.abs(G)) * special.iv(1, G),
    "relu(g)": np.where(G > 0, G, 0),
    "clip_norm(g)": np.where(norm(G) > 1, G / norm(G), G),
    "clip_norm(0.001 * g)": 0.001 * G,
    "softsign(g)": G / (1 + np.abs(G)),
    "ema(g, 0.95)": averages(G, 0.95, True),
    "moment(g, 0.5)": averages(G, 0.5, False),
    "delta(g)": np.diff(G, axis=0, prepend=0),
    "running_max(g)": np.maximum(np.maximum.accumulate(G), 0),
    "sign(g)": np.sign(G),
    "deriv_tanh(g)": elementwise(lambda x: 1 / math.cosh(x) ** 2),
    "deriv_sig(g)": elementwise(lambda x: math.exp(-x) / (1 + math.exp(-x)) ** 2),
    "max(g, v_hat)": np.where(G > V, G, V),
    "min(g, v_hat)": np.where(G < V, G, V),
    "div(g, v_hat)": G / (V + EPS),
    "clip(g, v_hat)": np.sign(G) * np.minimum(np.abs(G), np.abs(V)),
    "pow(g, v_hat)": np.exp(V * np.log(np.abs(G))),
    "left(g, v_hat)": G,
    "normalize(g)": G / (norm(G) / math.sqrt(7) + EPS),
    "row_normalize(g)": G / (norm(G) / math.sqrt(7) + EPS),  # a vector is one row
    "column_normalize(g)": G / (norm(G) / math.sqrt(7) + EPS),
}
RANDOM_OR_MATRIX = {"dropout", "orthogonalize"}  # tested below


def test_every_operator_is_checked() -> None:
    checked = {node.name for text in OPERATOR_VALUES for node in parse_expression(text).walk()}
    assert set(OPERATORS) - checked == RANDOM_OR_MATRIX


@pytest.mark.parametrize("text", list(OPERATOR_VALUES))
def test_operators(text: str) -> None:
    np.testing.assert_allclose(run(text), OPERATOR_VALUES[text], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("text", [*OPERATOR_VALUES, *OPERAND_VALUES, "dropout(g, 0.3)", "noise"])
def test_single_precision_in_single_precision_out(text: str) -> None:
    interpreter = Interpreter(lower(parse_expression(text)), SHAPE, 12)
    for t in range(3):
        value = interpreter(GRADIENTS[t], WEIGHTS, t)
        assert value.dtype == np.float32
    np.testing.assert_allclose(np.broadcast_to(value, SHAPE), run(text)[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_dropout_zeroes_that_share_and_scales_the_rest(rate: float) -> None:
    shape = (40_000,)
    ones = np.ones(shape, dtype=np.float32)
    masks = [
        Interpreter(lower(parse_expression(f"dropout(g, {rate})")), shape, seed=seed)(ones, ones, t) for seed, t in ((0, 0), (0, 1), (1, 0))
    ]
    for mask in masks:
        assert set(np.unique(mask)) == {0.0, np.float32(1 / (1 - rate))}
        assert np.mean(mask == 0) == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / 40_000))
    assert not np.array_equal(masks[0], masks[1])  # another step
    assert not np.array_equal(masks[0], masks[2])  # another seed


def test_two_dropouts_of_one_rule_draw_apart_and_one_used_twice_draws_once() -> None:
    assert np.any(run("dropout(g, 0.5) - dropout(g + 0, 0.5)") != 0)
    assert not np.any(run("dropout(g, 0.5) - dropout(g, 0.5)"))


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 5)])
def test_orthogonalize_evens_out_singular_values_and_keeps_their_vectors(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(2).normal(size=shape)
    found = Interpreter(lower(parse_expression("orthogonalize(g)")), shape, dtype=np.float64)(matrix, matrix, 0)
    left, _, right = np.linalg.svd(matrix, full_matrices=False)
    inner = left.T @ found @ right.T / math.sqrt(max(1, shape[0] / shape[1]))
    assert 0.5 < np.diag(inner).min() <= np.diag(inner).max() < 1.3
    np.testing.assert_allclose(inner, np.diag(np.diag(inner)), atol=1e-10)


def test_noise_is_standard_normal() -> None:
    draws = np.concatenate(
        [Interpreter(lower(parse_expression("noise")), (10_000,), seed=s)(np.zeros(1), np.zeros(1), 0) for s in range(4)]
    )
    assert abs(draws.mean()) < 4 / 200
    assert draws.std() == pytest.approx(1, abs=0.02)


def test_a_number_is_a_tensor_full_of_it_where_the_whole_tensor_matters() -> None:
    np.testing.assert_allclose(run("clip_norm(2) + 0 * g"), 1 / math.sqrt(7), rtol=1e-12)
    np.testing.assert_allclose(run("clip_norm(a2 * 2) + 0 * g")[11], 1 / math.sqrt(7), rtol=1e-12)
    np.testing.assert_allclose(run("clip_norm(0.1) + 0 * g"), 0.1, rtol=1e-12)


def test_stateful_operators_on_functions_of_time() -> None:
    ramp = np.arange(12) / 12  # a2
    np.testing.assert_allclose(run("delta(a2) + 0 * g")[:, 0], np.diff(ramp, prepend=0), atol=1e-12)
    np.testing.assert_allclose(run("ema(a2, 0.95) + 0 * g")[:, 0], averages(ramp[:, None], 0.95, True)[:, 0], atol=1e-12)
    np.testing.assert_allclose(run("running_max(a9) + 0 * g")[:, 0], 1, atol=1e-12)


def test_decays_keep_their_last_value_past_the_end() -> None:
    values = run("a1 + 0 * g", steps=12, total_steps=5)[:, 0]
    np.testing.assert_allclose(values, [1, 0.8, 0.6, 0.4, *[0.2] * 8], atol=1e-12)


def test_a_stack_of_tensors_is_as_many_runs() -> None:
    rule = parse("nesterov: clip_norm(qhm(v) + delta(g) * a3 + dropout(g, 0.3)) - 1e-3 * w")
    stack = np.stack([WEIGHTS, 2 * WEIGHTS, -WEIGHTS])
    together, apart = ReferenceOptimizer(rule, SHAPE, 12), [ReferenceOptimizer(rule, SHAPE, 12) for _ in range(3)]
    rows = list(stack)
    for t in range(6):
        g = np.stack([GRADIENTS[t], GRADIENTS[t] - 1, 3 * GRADIENTS[t]])
        stack = together.step(stack, g, 0.1, 0.9)
        rows = [one.step(row, g[i], 0.1, 0.9) for i, (one, row) in enumerate(zip(apart, rows, strict=True))]
    np.testing.assert_allclose(stack, rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["plain", "momentum", "nesterov"])
def test_a_negative_sign_steps_the_other_way(kind: str) -> None:
    expression = parse_expression("g")
    there, back = (ReferenceOptimizer(UpdateRule(expression, kind, sign), SHAPE) for sign in (1, -1))
    forward = there.step(WEIGHTS, GRADIENTS[0], 0.5, 0.9) - WEIGHTS
    np.testing.assert_allclose(back.step(WEIGHTS, GRADIENTS[0], 0.5, 0.9) - WEIGHTS, -forward, rtol=1e-5, atol=1e-6)
    assert np.all(forward * GRADIENTS[0] < 0)
