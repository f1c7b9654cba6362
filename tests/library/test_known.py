"""Rules that behave as a published one are called by its name; those that nearly do are not."""

import numpy as np
import pytest

from optevolve.library import NAMED, ZOO
from optevolve.library.known import known_as
from optevolve.space import Node, UpdateRule, parse
from optevolve.space.expression import number
from optevolve.space.grammar import grammar
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.sample import sample_genome

SAME = [
    ("nesterov: 2 * g", "Nesterov momentum, twice the learning rate"),
    ("nesterov: g", "Nesterov momentum"),
    ("-nesterov: -g", "Nesterov momentum"),
    ("momentum: g / 2", "heavy-ball momentum, half the learning rate"),
    ("momentum: 0.4 * g + 0.6 * g", "heavy-ball momentum"),
    ("3 * g - 0.5 * g", "gradient descent (SGD), 2.5 times the learning rate"),
    ("0.1 * v_hat / (sqrt(ema(g ** 2, 0.999)) + 1e-8)", "Adam, a tenth of the learning rate"),
    ("v_hat / (10 * sqrt(ema(g ** 2, 0.999)) + 1e-7)", "Adam, a tenth of the learning rate"),
    ("v_hat * recip(sqrt(s_hat))", "Adam with beta2 = 0.99 and epsilon = 1e-7"),
    ("sign(3 * g)", "signSGD"),
    ("sign(v_hat)", "signSGD with momentum (Signum)"),
    ("2 * sign(g + 10 * moment(g, 0.99))", "Lion, twice the learning rate"),
    ("sign(g) * abs(g)", "gradient descent (SGD)"),
    ("g + g * sign(g) * sign(v_hat)", "AddSign"),
    ("3 * orthogonalize(0.95 * moment(g, 0.95) + 0.05 * g)", "Muon, 3 times the learning rate"),
    ("qhm(v) * exp(-1e-4 * w)", "Opt6 without its decays"),
]
NOT = [
    "nesterov: g + 1e-6 * w",
    "g + 1e-12 * w",
    "g + 1e-30 * w",
    "1e6 * tanh(1e-6 * g)",
    "clip(g, 1e8)",
    "softsign(1e-9 * g)",
    "g + 1e-7",
    "-g",
    "abs(g)",
    "max(g, 0)",
    "g * exp(1e-9 * w)",
    "a3 * g",
    "(1 - 1e-6 * a1) * g",
    "10 * v",  # momentum of 0.9, whatever the run's momentum does
    "dropout(g, 0.1)",
    "g + 1e-9 * noise",
    "clip_norm(g)",
    "normalize(v)",
    "orthogonalize(0.1 * g + 1.9 * moment(g, 0.95))",  # but for the 1e-7 that keeps it from dividing by 0
    "orthogonalize(v)",
    "v_hat / (sqrt(ema(g ** 2, 0.999)) + 1e-7)",
    "v_hat / sqrt(ema(g ** 2, 0.999))",
    "0 * g",
    "w",
    "sign(g) + 1e-12 * g",
    "ema(g, 1e-12)",
]


@pytest.mark.parametrize(("text", "name"), SAME)
def test_a_known_rule_is_called_by_its_name(text: str, name: str) -> None:
    found = known_as(parse(text))
    assert found is not None
    assert str(found) == name


@pytest.mark.parametrize("text", NOT)
def test_what_nearly_is_one_is_not(text: str) -> None:
    assert known_as(parse(text)) is None


@pytest.mark.parametrize("name", list(ZOO))
def test_the_zoo_knows_itself(name: str) -> None:
    found = known_as(ZOO[name].rule)
    assert found is not None
    assert found.factor == 1
    assert ZOO[found.name].rule.expression == ZOO[name].rule.expression
    assert ZOO[name].title


def test_the_learning_rate_is_the_factor() -> None:
    """What the name says, tried: the known rule at that many times the learning rate takes the same path."""
    rule = parse("nesterov: 3 * (v_hat / (sqrt(ema(g ** 2, 0.999)) + 1e-8)) * 0 + 3 * g")
    found = known_as(rule)
    assert found is not None
    rng = np.random.default_rng(1)
    one, two = ReferenceOptimizer(rule, (4,)), ReferenceOptimizer(ZOO[found.name].rule, (4,))
    w = v = np.ones(4, dtype=np.float32)
    for _ in range(10):
        g = rng.normal(size=4).astype(np.float32)
        w, v = one.step(w, g, 0.01, 0.9), two.step(v, g, 0.01 * found.factor, 0.9)
    np.testing.assert_allclose(w, v, rtol=1e-5)


def test_any_factor_is_found() -> None:
    rng = np.random.default_rng(3)
    for name in ("sgd", "adabelief", "opt8", "powersign", "opt10", "a5", "muon"):
        factor = float(f"{10 ** rng.uniform(-6, 6):.5g}")
        rule = ZOO[name].rule
        found = known_as(UpdateRule(Node("mul", (rule.expression, number(factor))), rule.kind, rule.sign))
        assert found is not None
        assert (found.name, found.factor) == (name, pytest.approx(factor, rel=1e-9))


def test_random_rules_hardly_ever_are_known() -> None:
    names = {rule.fingerprint(scale_free=True) for rule in [*(row.rule for row in ZOO.values()), *NAMED.values()]}
    for seed in range(60):
        rule = sample_genome(np.random.default_rng([seed, 8]), grammar("paper")).rule
        assert (known_as(rule) is not None) == (rule.fingerprint(scale_free=True) in names)
