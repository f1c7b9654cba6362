import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optevolve.library import SCHEDULES, ZOO
from optevolve.space import Node, UpdateRule, parse, parse_expression
from optevolve.space.decays import depends_on_time, is_time_only, values_of
from optevolve.space.expression import number
from optevolve.space.grammar import paper_grammar
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.sample import sample_genome
from optevolve.space.schedule_split import decay_factors, schedule_of

PAPER = paper_grammar()
STEPS = 30
GRADIENTS = np.random.default_rng(0).normal(size=(STEPS, 8)).astype(np.float32)


@pytest.mark.parametrize(
    ("text", "factor", "rest"),
    [
        ("g", "1", "g"),
        ("a3 * g", "a3", "g"),
        ("g * a3", "a3", "g"),
        ("-momentum: a3 * g", "a3", "-momentum: g"),
        ("a3 * (a2 * g) / a1", "a3 * a2 / a1", "g"),
        ("g / (a1 / a2)", "a2 / a1", "g"),
        ("1 / (a1 * g)", "1 / a1", "1 / g"),
        ("div(a3 * g, a2)", "a3 * recip(a2)", "g"),
        ("div(g, a2 * w)", "1", "div(g, a2 * w)"),
        ("-identity(a3 * g)", "a3", "-identity(g)"),
        ("dropout(a3 * g, 0.3)", "a3", "dropout(g, 0.3)"),
        ("abs(a3 * g)", "a3", "abs(g)"),
        ("abs((a1 - 0.5) * g)", "abs(a1 - 0.5)", "abs(g)"),
        ("sqrt(a4 * g)", "sqrt(a4)", "sqrt(g)"),
        ("relu(a3 * g)", "a3", "relu(g)"),
        ("relu((a1 - 0.5) * g)", "1", "relu((a1 - 0.5) * g)"),
        ("min(a5 * g, 0)", "a5", "min(g, 0)"),
        ("clip(a1 * g, a1 * w)", "a1", "clip(g, w)"),
        ("a1 * g + a1 * w", "a1", "g + w"),
        ("a1 * g + a2 * w", "1", "a1 * g + a2 * w"),
        ("(a1 * g) ** 2", "a1 ** 2", "g ** 2"),
        ("tanh(a3 * g)", "1", "tanh(a3 * g)"),
        ("ema(a3 * g, 0.9)", "1", "ema(a3 * g, 0.9)"),
        ("2 * (a3 * g)", "a3", "2 * g"),
        ("a3", "a3", "1"),
    ],
)
def test_what_comes_out(text: str, factor: str, rest: str) -> None:
    assert schedule_of(parse(text)) == (parse_expression(factor), parse(rest))


@pytest.mark.parametrize(("name", "schedule"), [("opt4", "L1"), ("opt5", "L1"), ("opt6", "L2")])
def test_the_papers_schedules_are_found_in_its_rules(name: str, schedule: str) -> None:
    factor, rest = schedule_of(ZOO[name].rule)
    np.testing.assert_allclose(values_of(factor, 200), values_of(SCHEDULES[schedule], 200), rtol=1e-12)
    assert "a4" not in str(rest)
    assert "a8" not in str(rest)


def positions(rule: UpdateRule, factor: Node) -> np.ndarray:
    rates = values_of(factor, STEPS)
    optimizer = ReferenceOptimizer(rule, (8,), STEPS, seed=3)
    rows = [np.linspace(-1, 1, 8, dtype=np.float32)]
    for t in range(STEPS):
        rows.append(optimizer.step(rows[-1], GRADIENTS[t], np.float32(0.01 * rates[t]), 0.9))
    return np.array(rows)


@given(st.integers(0, 2**32 - 1))
def test_factor_times_rest_is_the_rule(seed: int) -> None:
    rule = sample_genome(np.random.default_rng(seed), PAPER).rule
    factor, rest = schedule_of(rule)
    assert is_time_only(factor)
    assert (rest.kind, rest.sign) == (rule.kind, rule.sign)
    whole, apart = positions(rule, number(1)), positions(rest, factor)
    with np.errstate(all="ignore"):
        sane = np.all(np.isfinite(whole)) and np.abs(whole).max() < 100 and np.all(np.isfinite(apart))
    if sane:
        np.testing.assert_allclose(apart, whole, rtol=1e-3, atol=1e-3)


def test_every_decay_is_listed_once_and_whole() -> None:
    rule = parse("erfc(a11) * g + tanh(max(a6, a10) * g) * (2 * erfc(a11)) + 3 * erfc(a11) + 0.5")
    assert list(decay_factors(rule)) == ["erfc(a11)", "max(a6, a10)", "2 * erfc(a11)", "3 * erfc(a11)"]
    assert all(depends_on_time(node) for node in decay_factors(rule).values())
    assert decay_factors(parse("2 * g + erf(1)")) == {}
