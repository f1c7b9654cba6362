import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser

from optevolve.space import OPERANDS, OPERATORS, Node, Operator, parse, parse_expression, register_operator
from optevolve.space.grammar import paper_grammar
from optevolve.space.latex import latex, latex_expression
from optevolve.space.sample import sample_genome

PAPER = paper_grammar()
MATHTEXT = MathTextParser("path")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("g", r"w \leftarrow w - \alpha \, g"),
        ("-plain: g", r"w \leftarrow w + \alpha \, g"),
        ("g + w", r"w \leftarrow w - \alpha \, \left(g + w\right)"),
        ("momentum: v_hat", r"u = \hat v, \quad m \leftarrow \mu m - \alpha u, \quad w \leftarrow w + m"),
        ("-nesterov: g", r"u = g, \quad m \leftarrow \mu m + \alpha u, \quad w \leftarrow w + \mu m + \alpha u"),
    ],
)
def test_rules(text: str, expected: str) -> None:
    assert latex(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("v_hat / (sqrt(s_hat) + 1e-8)", r"\frac{\hat v}{\sqrt{\left|\hat s\right|} + 10^{-8}}"),
        ("(g + w) * g", r"\left(g + w\right) \, g"),
        ("g * (g * w)", r"g \, \left(g \, w\right)"),
        ("g - (g - w)", r"g - \left(g - w\right)"),
        ("g - w - g", "g - w - g"),
        ("g + -w", r"g + \left(-w\right)"),
        ("-(g + w)", r"-\left(g + w\right)"),
        ("(g * w) ** 2", r"\left(g \, w\right)^{2}"),
        ("g ** (w + 1)", "g^{w + 1}"),
        ("(g ** w) ** g", r"\left(g^{w}\right)^{g}"),
        ("exp(g) ** 2", r"\left(e^{g}\right)^{2}"),
        ("(1 / w) ** 2", r"\left(\frac{1}{w}\right)^{2}"),
        ("0.5 * 2 * g", r"0.5 \cdot 2 \, g"),
        ("2.5e-9 * g", r"2.5 \cdot 10^{-9} \, g"),
        ("1e-4 * w", "10^{-4} w"),
        ("qhm(s)", r"\operatorname{QHM}(s)"),
        ("delta(g + w) * 2", r"\left(\Delta \left(g + w\right)\right) \cdot 2"),
        ("ema(g, 0.95)", r"\operatorname{EMA}_{0.95}(g)"),
        ("identity(g + w) * g", r"\left(g + w\right) \, g"),
        ("clip(g, a10)", r"\operatorname{clip}(g, \pm\left|a_{10}\right|)"),
    ],
)
def test_brackets_stand_where_the_meaning_needs_them(text: str, expected: str) -> None:
    assert latex_expression(parse_expression(text)) == expected


def well_formed(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0 and text.count(r"\left") - text.count(r"\leftarrow") == text.count(r"\right")


def every_row() -> list[str]:
    calls = []
    for row in OPERATORS.values():
        args = [parse_expression("g + w"), parse_expression("-v_hat")][: row.arity]
        calls.append(Node(row.name, tuple(args), tuple(0.5 for _ in row.params)))
    return [latex_expression(node) for node in calls] + [row.latex for row in OPERANDS.values()]


@pytest.mark.parametrize("text", every_row())
def test_every_row_is_typeset(text: str) -> None:
    assert well_formed(text)
    MATHTEXT.parse(f"${text}$")


@given(st.integers(0, 2**32 - 1))
def test_random_rules_are_well_formed(seed: int) -> None:
    text = latex(sample_genome(np.random.default_rng(seed), PAPER).rule)
    assert well_formed(text)
    assert "{x}" not in text


def test_templates_that_repeat_their_argument_do_not_explode() -> None:
    assert len(latex(parse("softsign(" * 80 + "g" + ")" * 80))) < 5000


def test_a_new_row_is_typeset() -> None:
    row = Operator("log2_for_test", 1, "log(abs(x))", r"\log_2 {x}", "binary logarithm")
    register_operator(row)
    try:
        assert latex_expression(parse_expression("log2_for_test(g + w) * g")) == r"\left(\log_2 \left(g + w\right)\right) \, g"
    finally:
        del OPERATORS[row.name]
