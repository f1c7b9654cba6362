import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentences import check

from optevolve.library import ZOO
from optevolve.space import OPERATORS, Operator, parse, parse_expression, register_operator
from optevolve.space.behaviour import behaviour
from optevolve.space.decays import values_of
from optevolve.space.explain import describe_course, explain
from optevolve.space.grammar import grammar, paper_grammar
from optevolve.space.sample import sample_genome

PAPER = paper_grammar()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a3", "falls from 1 to 0"),
        ("a4", "rises from 0 to 1"),
        ("a5", "falls from 1 to 0 at 50 % of the run, then rises to 1"),
        ("a6", "rises from 0 to 1 at 50 % of the run, then falls to 0"),
        ("a3 - a3 + 0.25", "stays at 0.25"),
        ("a7 * a1", "starts at 1, moves between 0 and 1 with 2 turns, and ends at 0"),
        ("1 / (a3 - a3)", "is not finite everywhere"),
    ],
)
def test_the_course_of_a_decay(text: str, words: str) -> None:
    assert describe_course(values_of(parse_expression(text), 1000)) == words


# Rules whose words were wrong, or could be, and the words that must and must not be there.
WORDS = [
    ("nesterov: erf(g)", "No element of the update exceeds 1", "in proportion"),
    ("tanh(g)", "No element of the update exceeds 1", "in proportion"),
    ("arctan(g)", "exceeds 1.58", "in proportion"),
    ("g / (1 + abs(g))", "below a bound", "in proportion"),
    ("clip(g, 1)", "exceeds 1,", "in proportion"),
    ("clip_norm(g)", "below a bound", "in proportion"),
    ("arcsinh(g)", "without end", "bound"),
    ("ln(g)", "without end", "bound"),
    ("sqrt(g)", "3.16 times as large", "in proportion"),
    ("g ** 3", "1000 times as large", "in proportion"),
    ("exp(g)", "overflow", "in proportion"),
    ("max(w, g)", "pulls the weights towards 0", "in proportion"),
    ("g", "in proportion", "the weights"),
    ("sqrt(g) * sqrt(g) * sign(g)", "in proportion", "no larger"),
    ("v_hat / sqrt(s_hat)", "leave the update as it is", "in proportion"),
    ("g / (abs(g) + 0.5)", "below a bound", "leave the update"),
    ("exp(ln(g)) * sign(g)", "10 times as large at 0.01", "in proportion"),  # but for the 1e-7 within ln
    ("sign(g)", "Only the signs", "in proportion"),
    ("sign(v_hat)", "scale hardly matters", "Only the signs"),
    ("g + 1e-3 * w", "0.001 times the weights is part of the update: weight decay", "drives"),
    ("momentum: 2 * (g + 1e-4 * w)", "0.0002 times the weights is part of the update: weight decay", "pulls"),
    ("g - 1e-3 * w", "drives them away from 0", "weight decay"),
    ("-plain: g + 1e-3 * w", "drives them away from 0", "weight decay"),
    ("a3 * (g + 1e-3 * w)", "changes with the step is part of the update: weight decay", "drives"),
    ("1e-3 * w", "weight decay", "in proportion"),
    ("1e-3 * w * g", "have a say", "weight decay"),
    ("g * exp(1e-4 * w)", "have a say", "weight decay"),
    ("exp(w)", "have a say", "weight decay"),
    ("g + tanh(1e-3 * w)", "pulls the weights towards 0, by at most 0.001", "weight decay"),
    ("g + 1e-3 * abs(w)", "have a say", "weight decay"),
    ("g + 1e-3 * ema(w, 0.9)", "have a say", "weight decay"),
    ("g + w - w", "in proportion", "weights is part"),
    ("noise * w + g", "have a say", "weight decay"),
    # a pull that gradients make as large as they like has no largest share
    ("w * g ** 2", "have a say", "pulls"),
    ("g + w * abs(g)", "have a say", "pulls"),
    ("w * sqrt(s_hat)", "have a say", "pulls"),
    ("g + w * deriv_soft(g)", "by at most 1 of their size", "have a say"),
    ("w * tanh(1e-5 * abs(g))", "by at most 1 of their size", "have a say"),
    ("dropout(w, 0.5) + g", "as gradients, step and chance have it", "have a say"),
    # odd in the gradients with the weights as they are, in both together, in neither; even in the gradients
    ("nesterov: g * exp(1e-4 * w)", "have a say", "differently"),
    ("nesterov: g * 1e-4 * w", "have a say", "differently"),
    ("v_hat / (1 + abs(w + 1))", "have a say", "differently"),
    ("erf(v) * max(w, 0.01)", "have a say", "differently"),
    ("orthogonalize(g) * sigmoid(w)", "have a say", "differently"),
    ("g * w + tanh(g) * exp(w)", "have a say", "differently"),
    ("g + 1e-3 * w", "weight decay", "differently"),
    ("g + 1e-3 * abs(w)", "have a say", "differently"),
    ("g * w + w", "have a say", "differently"),
    ("tanh(v) + a3", "without a gradient", "differently"),
    ("g * exp(w) + w ** 2", "have a say", "differently"),
    ("max(w, g)", "differently", "does not matter"),
    ("max(g * w, 0)", "differently", "does not matter"),
    ("relu(g)", "differently", "does not matter"),
    ("g + 0.1 * g ** 2", "differently", "does not matter"),
    ("g * exp(w) + exp(g)", "differently", "does not matter"),
    ("abs(g) * w", "does not matter", "differently"),
    ("abs(g) * exp(w)", "does not matter", "differently"),
]


@pytest.mark.parametrize(("text", "there", "absent"), WORDS)
def test_words_that_stand_and_words_that_do_not(text: str, there: str, absent: str) -> None:
    found = explain(parse(text))
    assert there in found
    assert absent not in found.split("\n\n")[-1]
    assert absent not in found or absent not in ("in proportion", "weight decay")
    check(parse(text))


@pytest.mark.parametrize("name", list(ZOO))
def test_what_is_said_of_a_rule_of_the_zoo_holds(name: str) -> None:
    check(ZOO[name].rule, seed=1)


@pytest.mark.parametrize("name", ["paper", "bello2017", "extended"])
def test_what_is_said_of_random_rules_holds(name: str) -> None:
    rules = grammar(name)
    for number in range(200):
        check(sample_genome(np.random.default_rng([number, 5]), rules).rule, seed=number)


def test_inside_an_exponential_nothing_decays() -> None:
    assert "weight decay" not in explain(ZOO["opt6"].rule).lower()
    assert "change it by less than 0.1 %" in explain(ZOO["opt6"].rule)
    assert "differently" not in explain(ZOO["opt6"].rule)


def test_no_gradient_no_answer() -> None:
    assert "does not look at the gradient" in explain(parse("1e-3 * w"))
    assert "No gradient of the sizes tried" in explain(parse("max(w, 1e30 + 0 * g)"))


def test_probing_is_quick() -> None:
    behaviour(parse("g"))  # streams are made once
    rule = parse("tanh(max(a6, a10) * arcsinh(qhm(v))) + erf(qhm(s)) * bessel_i1e(v_hat + 1e-4 * w)")
    started = time.thread_time()
    behaviour(rule)
    assert time.thread_time() - started < 0.3


def test_adam_in_words() -> None:
    text = explain(ZOO["adam"].rule)
    assert text.startswith("Each step moves the weights against the update u")
    assert "v_hat   bias-corrected first moment" in text
    assert "B = sqrt(A)             square root of |A|" in text
    assert "u = v_hat / C" in text
    assert "Ten times larger gradients leave the update as it is" in text
    assert text.endswith("Between steps it remembers 2 numbers per weight.")


def test_kinds_and_signs_in_words() -> None:
    assert "along the update" in explain(parse("-plain: g"))
    assert "gather speed" in explain(parse("momentum: g"))
    assert "Nesterov" in explain(parse("nesterov: g"))
    assert "remembers nothing" in explain(parse("g"))
    assert "remembers 1 number per weight" in explain(parse("momentum: g"))
    assert "random" in explain(parse("dropout(g, 0.5)"))
    assert "weight decay" in explain(parse("g + 1e-3 * w"))


def test_hidden_schedules_in_words() -> None:
    text = explain(parse("erfc(a11) * g"))
    assert "erfc(a11)  rises from 0.157 to" in text
    assert "learning-rate schedule of its own" in text
    assert text.count("Without it the rule is g.") == 1
    assert "schedule" not in explain(parse("tanh(a3 * g)"))


def test_values_take_the_place_of_the_summarys_letters() -> None:
    text = explain(parse("clip(g, sqrt(s_hat)) * dropout(g, 0.3)"))
    assert "g clipped to between -|A| and |A|" in text
    assert "probability 0.3, the others divided by 1 - 0.3" in text


def test_shared_subexpressions_are_told_once() -> None:
    assert explain(parse("tanh(g) * tanh(g) + tanh(g)")).count("tanh(g)") == 1


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_any_rule_is_explained(seed: int) -> None:
    rule = sample_genome(np.random.default_rng(seed), PAPER).rule
    text = explain(rule)
    assert "per weight" in text or "remembers nothing" in text
    assert text.count("\n  u = ") <= 1


def test_a_new_row_brings_its_words() -> None:
    register_operator(Operator("halve_for_test", 1, "x / 2", "{x}/2", "half of x"))
    try:
        assert "half of g" in explain(parse("halve_for_test(g)"))
    finally:
        del OPERATORS["halve_for_test"]
