import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optevolve.library import ZOO
from optevolve.space import OPERATORS, Operator, parse, parse_expression, register_operator
from optevolve.space.decays import values_of
from optevolve.space.explain import describe_course, explain, gradient_response
from optevolve.space.grammar import paper_grammar
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


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("g", 10),
        ("nesterov: 3 * g", 10),
        ("g ** 2", 100),
        ("sqrt(g)", 10**0.5),
        ("sign(g)", 1),
        ("v_hat / (sqrt(s_hat) + 1e-8)", 1),
        ("g + 0.01 * w + noise", 10),  # what does not answer to the gradient is taken off
    ],
)
def test_the_answer_to_larger_gradients(text: str, response: float) -> None:
    assert gradient_response(parse(text)) == pytest.approx(response, rel=0.02)


def test_no_gradient_no_answer() -> None:
    assert np.isnan(gradient_response(parse("w")))
    assert "does not look at the gradient" in explain(parse("1e-3 * w"))


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
