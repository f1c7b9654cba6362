"""The authors' notation: hand-written cases, then every expression that they published."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from cpu_time import least_cpu_seconds
from hypothesis import assume, given
from hypothesis import strategies as st

from optevolve.errors import ExportError, ParseError
from optevolve.space import OPERANDS, OPERATORS, Operator, UpdateRule, decay_values, parse, parse_expression, register_operator
from optevolve.space.grammar import paper_grammar, template
from optevolve.space.paper_notation import parse_paper, parse_paper_decay, to_paper, to_paper_decay
from optevolve.space.sample import sample_genome

PAPER = paper_grammar()

# (authors' spelling, native notation), read off by hand
PAIRS = [
    ("None ~ tanh(g)/(1+|tanh(g)|)", "softsign(tanh(g))"),
    ("Nest ~ bessel_i1e([(a13)*(a2)][g])", "nesterov: bessel_i1e(a13 * a2 * g)"),
    ("Nest ~ (g)-(max(10-5w, 10-6w))", "nesterov: g - max(1e-5 * w, 1e-6 * w)"),
    ("Mom ~ (mean(beta*v-g))-(max([arctan(a12)][v hat], 0))", "momentum: aggmo(v) - relu(arctan(a12) * v_hat)"),
    ("None ~ min(norm(s hat), 0)", "min(clip_norm(s_hat), 0)"),
    ("None ~ (1) / (id(sign(v hat)))", "div(1, identity(sign(v_hat)))"),
    ("Nest ~ bessel_i1e(1/(g))", "nesterov: bessel_i1e(recip(g))"),
    ("Nest ~ 1/(1+|s hat|)", "nesterov: deriv_soft(s_hat)"),
    ("None ~ sqrt(|[tanh(a14)][norm(bessel_i1e(1))]|)", "sqrt(tanh(a14) * clip_norm(bessel_i1e(1)))"),
    ("None ~ [1/(1+exp(-a4)][tanh(10-5w)]", "sigmoid(a4) * tanh(1e-5 * w)"),
    ("None ~ [1/(1+exp(-a11/(1+|a11|))][g]", "sigmoid(softsign(a11)) * g"),
    ("None ~ [sqrt(1/(1+exp(-a8))][g]", "sqrt(sigmoid(a8)) * g"),
    ("None ~ [(a2) / (sqrt(1+((a12) / (a9))^2))][g]", "a2 / sqrt(1 + div(a12, a9) ** 2) * g"),
    ("None ~ [deriv_sig((a6)^2)][1]", "deriv_sig(a6 ** 2) * 1"),
    ("None ~ (0.95*(g)+0.05*(drop(((1-0.95)*g^2+0.95*s hat), 0.1)))", "0.95 * g + 0.05 * dropout(qhm(s), 0.1)"),
    ("None ~ ((1-0.99)*g^2+0.99*lam hat)", "0.01 * g ** 3 + 0.99 * l_hat"),
    ("None ~ (|g^2|)^(mean(beta*s-g^2)/(1+|mean(beta*s-g^2)|))", "pow(g ** 2, softsign(aggmo(s)))"),
    ("None ~ (|g|)-(||g||)", "abs(g) - abs(abs(g))"),
    ("None ~ ln(|1+exp(|ln(|10-5w|)|)|)", "softplus(abs(ln(1e-5 * w)))"),
    ("None ~ -(clip(sig(g), deltaChange(1)))", "-clip(sigmoid(g), delta(1))"),
    ("Mom ~ (expMovAvg(10-4w))-(MaxValue(g^3))", "momentum: ema(1e-4 * w, 0.95) - running_max(g ** 3)"),
    ("None ~ (v hat)+(g)/(1+|(v hat)+(g)|)", "softsign(v_hat + g)"),
    ("None ~ (v hat)+(g/(1+|g|))", "v_hat + softsign(g)"),
    ("-Nest ~ g", "-nesterov: g"),
]


@pytest.mark.parametrize(("paper", "native"), PAIRS)
def test_hand_written_pairs(paper: str, native: str) -> None:
    assert parse_paper(paper) == parse(native)
    assert to_paper(parse(native)) == paper


def test_no_kind_means_plain_and_spacing_is_free() -> None:
    assert parse_paper("(v  hat)/( sqrt(1+(g)^2) )") == parse("v_hat / sqrt(1 + g ** 2)")


def test_the_same_number_under_two_names_is_read_as_one() -> None:
    assert parse_paper("1/(1+|1|)") == parse("deriv_soft(1)")
    with pytest.raises(ExportError, match="reads as"):
        to_paper(parse("softsign(1)"))


@pytest.mark.parametrize("native", ["v_hat / s_hat", "moment(g, 0.99)", "ema(g, 0.8)", "w * g", "max(g, 0)", "noise"])
def test_what_the_notation_lacks_is_refused(native: str) -> None:
    with pytest.raises(ExportError, match="Use the native notation"):
        to_paper(parse(native))


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 1, "an expression"),
        ("Nope ~ g", 1, "Expected one of None, Mom, Nest"),
        ("None ~ tanhh(g)", 8, "Did you mean 'tanh'"),
        ("None ~ (g)+(v", 14, "'hat'"),
        ("(g)+(g)+(g)", 8, "Unexpected '\\+'"),
        ("drop(g, 1.5)", 9, "Expected a number from 0 to below 1"),
        ("[g][g]", 2, "a decay"),
        ("g/(1+|v hat|)", 12, "Expected one of"),
        ("1e999", 1, "too large"),
        ("(" * 500, 101, "Nested more than 100 deep"),
        ("g" * 20_000, 10_001, "Expected at most 10000 characters"),
    ],
)
def test_errors_name_the_column(text: str, column: int, message: str) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        parse_paper(text)
    assert caught.value.column == column


FRAGMENTS = [
    "g",
    "v hat",
    "(",
    ")",
    "[",
    "]",
    "|",
    "/(1+|",
    "|)",
    "1/(1+|",
    "1/(1+exp(-",
    "a3",
    ")+(",
    ") / (",
    "sqrt(1+(",
    "^2",
    "0",
    " ~ ",
]


def refusal(text: str) -> ParseError | None:
    try:
        parse_paper(text)
    except ParseError as error:
        return error
    return None


@pytest.mark.parametrize("text", ["\n" * 9999, "g" + " " * 9000, "1" * 9999, "None ~ " + "a" * 9900, "k" * 9990 + " ~ g", "." * 9999])
def test_hostile_text_is_refused_at_once(text: str) -> None:
    assert least_cpu_seconds(lambda: refusal(text)) < 0.3
    error = refusal(text)
    assert error is None or len(str(error)) < 400


@given(st.lists(st.sampled_from([*FRAGMENTS, "None", "é", "\n"]), max_size=40).map("".join))
def test_any_text_is_read_or_refused_with_a_column(text: str) -> None:
    error = refusal(text)
    assert error is None or 1 <= error.column <= len(text) + 1


@given(st.integers(0, 2**32 - 1))
def test_random_rules_of_the_papers_grammar_return(seed: int) -> None:
    rule = sample_genome(np.random.default_rng(seed), PAPER).rule
    assume("softsign(1)" not in str(rule))  # the one that shares a spelling
    assert parse_paper(to_paper(rule)) == rule


def test_every_form_of_the_grammar_has_a_spelling() -> None:
    for form in (*PAPER.unary, *PAPER.binary):
        rule = UpdateRule(template(form).substitute({"x": parse_expression("v_hat"), "y": parse_expression("g")}))
        assert parse_paper(to_paper(rule)) == rule
    for form in (*PAPER.decay_unary, *PAPER.decay_binary):
        node = template(form).substitute({"x": parse_expression("a3"), "y": parse_expression("a12")})
        assert parse_paper_decay(to_paper_decay(node)) == node
    assert all(OPERANDS[name].paper for name in PAPER.operands)


def test_a_new_row_is_read_and_written() -> None:
    row = Operator("cube_root_for_test", 1, "sign(x) * power(abs(x), 1 / 3)", r"\sqrt[3]{{{x}}}", "cube root", paper="cbrt({x})")
    register_operator(row)
    try:
        assert to_paper(parse("cube_root_for_test(g) + 1")) == "None ~ (cbrt(g))+(1)"
        assert parse_paper("None ~ (cbrt(g))+(1)") == parse("cube_root_for_test(g) + 1")
    finally:
        del OPERATORS[row.name]


def published(shared: Path) -> list[str]:
    with open(shared / "reference" / "authors_log.csv", newline="") as lines:
        return [row["expr"] for row in csv.DictReader(lines)]


def test_every_rule_of_the_authors_log_is_read_and_written_back_letter_by_letter(shared: Path) -> None:
    texts = published(shared)
    assert len(texts) > 1000
    assert [text for text in texts if to_paper(parse_paper(text)) != text] == []


def test_every_rule_of_the_authors_log_survives_the_native_notation(shared: Path) -> None:
    rules = [parse_paper(text) for text in published(shared)]
    assert [str(rule) for rule in rules if parse(str(rule)) != rule] == []


def test_every_decay_matches_the_authors_program(shared: Path) -> None:
    reference = json.loads((shared / "reference" / "decay_values.json").read_text())
    assert len(reference["cases"]) > 100
    for case in reference["cases"]:
        values = decay_values(case["expr"], reference["total_steps"], notation="paper")
        assert values.shape == (reference["total_steps"],)
        np.testing.assert_allclose(values[reference["at_steps"]], case["values"], rtol=0, atol=1e-5, err_msg=case["expr"])
        assert to_paper_decay(parse_paper_decay(case["expr"])) == case["expr"]


@pytest.mark.parametrize("text", ["⑶", "²", "½", "Nest ~ ⑶", "norm(²)", "1²", "-⑶", ".⑶", "Ⅷ", "[⑶][g]"])
def test_digits_that_are_no_decimals_are_refused(text: str) -> None:
    with pytest.raises(ParseError):
        parse_paper(text)
