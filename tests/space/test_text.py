"""The native notation: what is printed parses to the same rule, and bad or hostile text is refused with a place and a remedy."""

import random

import pytest
from cpu_time import least_cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st
from random_expressions import expressions, numbers, rules

from optevolve.errors import ParseError
from optevolve.space import KINDS, LEAVES, OPERANDS, OPERATORS, Node, Operator, UpdateRule, parse, parse_expression, register_operator
from optevolve.space.expression import number
from optevolve.space.text import MAX_LENGTH, format_expression, format_number, short_name


@settings(max_examples=500)
@given(rules())
def test_what_is_printed_parses_back(rule: UpdateRule) -> None:
    text = str(rule)
    assert parse(text) == rule
    assert str(parse(text)) == text


@settings(max_examples=200)
@given(expressions())
def test_expressions_too(node: Node) -> None:
    assert parse_expression(format_expression(node)) == node


@given(numbers)
def test_numbers(node: Node) -> None:
    text = format_number(node.params[0])
    again = parse_expression(text)
    assert again == node
    assert len(text) <= len(repr(node.params[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sign", [1, -1])
def test_kinds_and_signs(kind: str, sign: int) -> None:
    rule = UpdateRule(Node("g"), kind, sign)
    assert parse(str(rule)) == rule
    assert parse(f"  {'-' if sign < 0 else ''} {kind} :  g ") == rule


@pytest.mark.parametrize("row", OPERATORS.values(), ids=lambda row: row.name)
def test_every_operator(row) -> None:
    node = Node(row.name, tuple(map(Node, "gw"[: row.arity])), tuple(p.low if p.default is None else p.default for p in row.params))
    assert parse_expression(format_expression(node)) == node


@pytest.mark.parametrize("name", LEAVES)
def test_every_leaf(name: str) -> None:
    assert parse_expression(name) == Node(name)


@pytest.mark.parametrize("row", OPERANDS.values(), ids=lambda row: row.name)
def test_every_operand(row) -> None:
    node = parse_expression(row.name)
    assert node == parse_expression(row.expression)
    assert format_expression(node) == row.name
    assert row.name == row.expression or short_name(node) == row.name


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("g + v * w", "g + (v * w)"),
        ("g - v - w", "(g - v) - w"),
        ("g / v / w", "(g / v) / w"),
        ("g ** v ** w", "g ** (v ** w)"),
        ("-g ** 2", "-(g ** 2)"),
        ("-g * v", "(-g) * v"),
        ("2 ** -1", "2 ** (-1)"),
        ("g - -v", "g - (-v)"),
        ("--g", "-(-g)"),
        ("dropout(g)", "dropout(g, 0.5)"),
        (".5 * g", "0.5 * g"),
        ("1E-3*w", "0.001 * w"),
        ("1. * g", "1 * g"),
        ("\tqhm( v )\n", "qhm(v)"),
        ("v_hat", "ema(g, 0.9)"),
    ],
)
def test_precedence_and_spelling(text: str, same: str) -> None:
    assert parse(text) == parse(same)


@pytest.mark.parametrize(("text", "other"), [("-2", "-(2)"), ("0", "-0"), ("g - 2", "g + -2"), ("-2 ** 2", "(-2) ** 2")])
def test_what_differs(text: str, other: str) -> None:
    assert parse(text) != parse(other)


def test_negative_numbers() -> None:
    assert parse_expression("-2") == number(-2)
    assert parse_expression("-2 * g").args[0] == number(-2)
    assert parse_expression("-2 ** 2").name == "neg"


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("softsgn(g)", 1, ["Unknown operator 'softsgn'", "Did you mean 'softsign'?"]),
        ("g + tnah(g)", 5, ["Did you mean 'tanh'?"]),
        ("g + v_hatt", 5, ["Unknown name 'v_hatt'", "Did you mean 'v_hat'?"]),
        ("nestrov: g", 1, ["Unknown kind 'nestrov'", "Did you mean 'nesterov'?"]),
        ("g + zzzzzz", 5, ["Unknown name"]),
        ("g +", 4, ["Unexpected end", "Expected a number, a name, '-' or '('"]),
        ("", 1, ["Unexpected end"]),
        ("   ", 4, ["Unexpected end"]),
        ("g g", 3, ["Unexpected 'g'", "Expected an operator"]),
        ("(g", 3, ["Expected ')'"]),
        ("g)", 2, ["Unexpected ')'"]),
        ("tanh", 1, ["operator without arguments", "Write tanh(x)"]),
        ("tanh()", 1, ["got 0 arguments", "Write tanh(x)"]),
        ("tanh(g, v)", 1, ["got 2 arguments"]),
        ("max(g)", 1, ["Write max(x, y)"]),
        ("ema(g)", 1, ["Write ema(x, beta)"]),
        ("ema(g, 1)", 8, ["beta", "from 0 to below 1"]),
        ("ema(g, w)", 8, ["beta", "'w'"]),
        ("dropout(tanh(g), 1 + 1) * g", 18, ["is '1 + 1' in"]),
        ("qhm + g", 1, ["qhm(v), qhm(s), qhm(l)"]),
        ("G", 1, ["Did you mean 'g'?"]),
        ("other: g", 1, ["Expected one of plain, momentum, nesterov"]),
        ("dropout(g, -0.1)", 12, ["rate"]),
        ("qhm(g)", 1, ["qhm(v), qhm(s), qhm(l)"]),
        ("g & v", 3, ["Unexpected character '&'"]),
        ("g + é", 5, ["Unexpected character 'é'"]),
        ("__import__('os')", 12, ["Unexpected character"]),
        ("g.__class__", 2, ["Unexpected character '.'"]),
        ("1e999", 1, ["too large", "finite"]),
        ("g + 2x", 6, ["Unexpected 'x'"]),
        ("plain:", 7, ["Unexpected end"]),
        ("plain: plain: g", 13, ["Unexpected character ':'"]),
        ("x + g", 1, ["Unknown name 'x'"]),
    ],
)
def test_errors_say_where_what_and_how(text: str, column: int, words: list[str]) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert caught.value.column == column
    assert text == text.strip() == "" or f"column {column}" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


HOSTILE = {
    "megabytes": "g + " * 2_000_000,
    "brackets": "(" * 5000,
    "closed brackets": "(" * 3000 + "g" + ")" * 3000,
    "chain": "g" + "+g" * 4999,
    "minus signs": "-" * 9999 + "g",
    "powers": "2**" * 3000 + "2",
    "calls": "tanh(" * 1900,
    "a long name": "a" * 9999,
    "a long kind": "k" * 9990 + ": g",
    "digits": "1" * 9999,
    "exponent": "1e" + "9" * 9000,
    "spaces": " " * 9999,
    "spaces and a sign": " " * 5000 + "-" + " " * 4990,
    "commas": "max(" + "g," * 4990,
    "names": "ab+" * 3000,
    "zero bytes": "\0" * 9999,
    "letters beyond ASCII": "γ" * 9999,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused_at_once(text: str) -> None:
    def refused() -> str:
        with pytest.raises(ParseError) as caught:
            parse(text)
        return str(caught.value)

    assert len(refused()) < 700
    assert least_cpu_seconds(refused) < 0.25  # milliseconds, with room for a slow machine


def test_limits_can_be_set() -> None:
    long = "g" + " " * MAX_LENGTH
    with pytest.raises(ParseError, match=f"at most {MAX_LENGTH} characters, got {MAX_LENGTH + 1}"):
        parse(long)
    assert parse(long, max_length=MAX_LENGTH + 1) == parse("g")
    chain = "g" + "+g" * 150
    with pytest.raises(ParseError, match="raise max_depth"):
        parse(chain)
    assert parse(chain, max_depth=200).expression.depth == 151
    with pytest.raises(ParseError, match="more than 3 deep"):
        parse_expression("tanh(tanh(tanh(g)))", max_depth=3)
    with pytest.raises(ParseError, match="lower than 100000"):
        parse("tanh(" * 50_000, max_length=10**6, max_depth=10**5)


def test_an_operator_added_may_be_written_between_its_arguments() -> None:
    register_operator(Operator("remainder_for_test", 2, "x - y", r"{x} \bmod {y}", "rest", infix=("%", 20)))
    try:
        rule = parse("g % w + 1")
        assert rule.expression.args[0].name == "remainder_for_test"
        assert parse(str(rule)) == rule
    finally:
        del OPERATORS["remainder_for_test"]
    with pytest.raises(ParseError, match="Unexpected character '%'"):
        parse("g % w")


def accepted(text: str) -> bool:
    """Whether the text parses; anything but a `ParseError` within the text escapes."""
    try:
        rule = parse(text)
    except ParseError as error:
        if not 1 <= error.column <= len(text) + 1:
            raise AssertionError(f"column {error.column} is not in {text!r}") from error
        return False
    assert parse(str(rule)) == rule
    return True


@settings(max_examples=500)
@given(st.binary(max_size=60))
def test_random_bytes(data: bytes) -> None:
    accepted(data.decode("latin-1"))


@settings(max_examples=500)
@given(st.text(max_size=60) | st.text("gvw_()+-*/, .0123eE:", max_size=40))
def test_random_text(text: str) -> None:
    accepted(text)


def test_mutated_rules() -> None:
    rng = random.Random(0)
    texts = ["nesterov: bessel_i1e(bessel_i1e(a13 * a2 * g))", "v_hat / (sqrt(s_hat) + 1e-8)", "qhm(v) + softsign(clip(1e-5 * w, qhm(s)))"]
    characters = "".join(texts) + "()*,-é\0"
    parsed = 0
    for _ in range(5000):
        text = list(rng.choice(texts))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(text))
            text[at : at + rng.randint(0, 3)] = [rng.choice(characters) for _ in range(rng.randint(0, 2))]
        parsed += accepted("".join(text))
    assert 100 < parsed < 4900
