"""Simplification keeps every bit of every result, lengthens nothing, and is done after one go."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_expressions import applications, rules

from optevolve.integrity import trajectory
from optevolve.space import KINDS, OPERANDS, Node, UpdateRule, parse, parse_expression
from optevolve.space.grammar import grammar
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import lower
from optevolve.space.rewrites import EVEN, ODD, REWRITES
from optevolve.space.sample import sample_genome
from optevolve.space.simplify import HOLES, canonical, simplify

STEPS = 20
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-38, 3e38, -3e38, 1.0, -1.0], dtype=np.float32)


def streams(shape: tuple[int, ...] = (16,)) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
    """Gradients and weights: ordinary ones; some zeros; and all the special values, which also enter midway and leave again."""
    rng = np.random.default_rng(0)
    ordinary = rng.normal(size=(2, STEPS, *shape)) * 10.0 ** rng.integers(-6, 3, size=(2, STEPS, *shape))
    some_zero = np.where(rng.random(ordinary.shape) < 0.3, 0.0, ordinary)
    special = np.where(rng.random(ordinary.shape) < 0.3, rng.choice(SPECIAL, ordinary.shape), ordinary)
    late = np.where(np.arange(STEPS)[None, :, None] == 10, special, ordinary)
    return [tuple(values.astype(np.float32)) for values in (ordinary, some_zero, special, late)]


STREAMS = streams()


def updates(rule: UpdateRule) -> npt.NDArray[np.float32]:
    """Signed updates on every stream, shape (streams, steps, elements)."""
    results = []
    for gradients, weights in STREAMS:
        interpreter = Interpreter(lower(rule.expression), gradients.shape[1:], STEPS)
        with np.errstate(all="ignore"):
            results.append(
                [
                    np.broadcast_to(rule.sign * interpreter(g, w, t), g.shape)
                    for t, (g, w) in enumerate(zip(gradients, weights, strict=True))
                ]
            )
    return np.array(results)


def assert_same_behaviour(rule: UpdateRule, other: UpdateRule) -> None:
    assert rule.kind == other.kind
    before, after = updates(rule), updates(other)
    np.testing.assert_array_equal(before, after, f"{rule} became {other}")


def check(rule: UpdateRule) -> None:
    simple = simplify(rule)
    assert_same_behaviour(rule, simple)
    assert len(str(simple)) <= len(str(rule))
    assert simplify(simple) == simple, f"{rule} -> {simple} -> {simplify(simple)}"
    bare = simplify(rule.expression)
    assert simplify(bare) == bare
    assert_same_behaviour(UpdateRule(rule.expression), UpdateRule(bare))


@settings(max_examples=400)
@given(rules())
def test_random_rules(rule: UpdateRule) -> None:
    check(rule)


def test_rules_of_the_papers_grammar() -> None:
    rng = np.random.default_rng(1)
    shorter = 0
    for _ in range(200):
        rule = sample_genome(rng, grammar("paper")).rule
        check(rule)
        shorter += len(str(simplify(rule))) < len(str(rule))
    assert shorter > 40


@pytest.mark.parametrize("row", REWRITES, ids=lambda row: row.name)
@given(data=st.data())
@settings(max_examples=15)
def test_every_row_keeps_every_bit(row, data: st.DataObject) -> None:
    # Simple operands, so that rows meet the special values themselves.
    simple = st.sampled_from(
        [parse_expression(t) for t in ("g", "w", "sign(g)", "exp(g)", "a1", "-g", "2", "-3", "0.5", "abs(w)", "s_hat", "a11", "0")]
    )
    bindings = {hole: data.draw(simple) for hole in HOLES}
    check(UpdateRule(parse_expression(row.pattern, holes=HOLES).substitute(bindings), data.draw(st.sampled_from(KINDS))))


@pytest.mark.parametrize("name", sorted(ODD | EVEN))
@given(data=st.data())
@settings(max_examples=10)
def test_parities(name: str, data: st.DataObject) -> None:
    arguments = st.sampled_from([parse_expression(t) for t in ("-g", "-w", "abs(g)", "-sign(g)", "-exp(g)")])
    check(UpdateRule(data.draw(applications(name, arguments))))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("identity(g)", "g"),
        ("-(-g)", "g"),
        ("min(v_hat, v_hat)", "v_hat"),
        ("abs(abs(g))", "abs(g)"),
        ("g * 1 + 0", "g"),
        ("v_hat + g", "g + v_hat"),
        ("max(a1, 1) * g", "g"),
        ("(a3 - a3) + g", "g"),
        ("sign(a11) * g", "g"),
        ("2 * 3 * g", "6 * g"),
        ("erf(2) * g", "erf(2) * g"),
        ("g + (sign(g) - sign(g))", "g"),
        ("momentum: -tanh(-g)", "momentum: tanh(g)"),
        ("-momentum: g - w", "momentum: w - g"),
        ("-nesterov: -g", "nesterov: g"),
        ("-plain: g", "-g"),
        ("ema(-g, 0.9)", "-v_hat"),
        ("relu(exp(g))", "exp(g)"),
        ("clip(tanh(g), 2)", "tanh(g)"),
        ("g / (1 + abs(g))", "softsign(g)"),
        ("div(1, g)", "recip(g)"),
        ("g * sign(g)", "abs(g)"),
        ("-2 * g - 3 * v", "-2 * g - 3 * v"),
        ("max(-g, -w)", "-min(g, w)"),
        ("left(g, w)", "g"),
        ("dropout(g, 0)", "g"),
        ("g * g * g", "g ** 3"),
        ("v_hat ** 2 * v_hat", "v_hat ** 3"),
        ("(a1 + a2) * g", "g"),
        ("(a13 + a14) * g", "0.95 * g"),
        ("nesterov: g * (a5 + a6) * (a3 + a4)", "nesterov: g"),
    ],
)
def test_what_carries_nothing_goes(text: str, expected: str) -> None:
    assert str(simplify(parse(text))) == expected


@pytest.mark.parametrize(
    "text",
    [
        "g - g",  # NaN where g is infinite
        "0 * g",
        "div(g, g)",  # the guard's 1e-7
        "recip(recip(g))",
        "exp(ln(g))",
        "g - v_hat + v_hat",  # rounds
        "1 / (0 * sign(g) + 0)",  # the sign of zero decides
        "dropout(g, 0.5) - dropout(g * 1, 0.5)",  # two draws
        "w + (sign(g) - sign(g))",  # NaN where g is
        "relu(softsign(g)) * 2",
        "min(a1, 1e-4) * g",  # flat in short runs alone
        "(1 - a1 - a2) * g",  # rounds
    ],
)
def test_what_only_seems_to_carry_nothing_stays(text: str) -> None:
    rule = parse(text)
    assert simplify(rule).expression.size >= rule.expression.size - 2
    check(rule)


def test_operands_keep_their_names() -> None:
    for row in OPERANDS.values():
        node = parse_expression(row.expression)
        assert simplify(node) == node
        assert canonical(node) == node


def test_random_numbers_stay_with_their_operator() -> None:
    rule = parse("dropout(v_hat, 0.5) + dropout(identity(g), 0.5)")
    assert_same_behaviour(rule, simplify(rule))
    assert canonical(rule.expression, keep_draws=False) == canonical(
        parse_expression("dropout(g, 0.5) + dropout(v_hat, 0.5)"), keep_draws=False
    )


def test_trajectories_are_those_of_the_original() -> None:
    rule = parse("-nesterov: -(bessel_i1e(-identity(g)) + 0) * max(a11, 1)")
    np.testing.assert_array_equal(trajectory(rule, 0.1), trajectory(simplify(rule), 0.1))


def test_deep_expressions() -> None:
    node = parse_expression("g")
    for _ in range(90):
        node = Node("neg", (Node("tanh", (node,)),))
    assert simplify(node).depth == 91
