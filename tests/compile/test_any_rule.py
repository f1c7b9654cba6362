"""Any text is a rule or is refused in one message, and every rule can be checked, shown, built and stepped.

The whole, 20,000 texts: OPTEVOLVE_TEST_TEXTS=20000 pytest tests/compile/test_any_rule.py
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch

import optevolve
from optevolve.compile import build
from optevolve.compile.optax import optax_source
from optevolve.errors import OptevolveError, ParseError
from optevolve.library import rule_or_name
from optevolve.library.known import headline, known_as
from optevolve.space import KINDS, LEAVES, OPERANDS, OPERATORS, Node, UpdateRule, parse
from optevolve.space.explain import explain
from optevolve.space.fingerprint import fingerprint
from optevolve.space.latex import latex
from optevolve.space.paper_notation import parse_paper, to_paper
from optevolve.space.show import describe
from optevolve.space.simplify import simplify
from optevolve.space.text import parse_expression

WANTED = os.environ.get("OPTEVOLVE_TEST_TEXTS")
RULES = int(WANTED or "120")
pytestmark = pytest.mark.timeout(0 if WANTED else 300)

NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 2.0, 3.0, -2.0, 0.5, 1e-7, 1e-45, 5e-324, -1e-310, 1e30, 3.4028234663852886e38, 3.4028235e38, 3.5e38, 1e39, -1e39,
    2.0**64, 2.0**31, 1e308, -1e308, 1.7976931348623157e308, 65504.0, 65520.0, 1e5, 700.0, -745.0, 1e17,
)  # fmt: skip
LEAF_NODES = [*map(Node, LEAVES), *(parse_expression(row.expression) for row in OPERANDS.values())]
SHAPES = [(), (3,), (1,), (2, 3), (3, 2), (2, 3, 2, 2), (0,), (0, 3)]
WORDS = [
    *OPERATORS, *LEAVES, *OPERANDS, *KINDS, *"+-*/%@(),:=|^[]~.", "**", "//", "..", "--", "***", "None", "Mom", "Nest", "lam", "hat", "nan",
    "inf", "-inf", "NaN", "1e308", "1e309", "1e-400", "1e39", "0x10", "1_000", "1j", "1e", ".5", "5.", "-.5e-3", "e", "E", "٣", "⑶", "²",
    "½", "Ⅷ", "１", "١e٣", "α", "β1", "g̃", "𝑔", "ｇ", "−", "×", "÷", "…", "\u00a0", "\u2003", "\u200b", "\u202e", "\ufeff", "\x00",
    "\x1b[2J", "\ud800", "\n", "\t", "  ", "9" * 400, "g" * 300, "((((", "))))", "__import__", "lambda", "opt6", "adam",
]  # fmt: skip


def numbered(draw: random.Random) -> Node:
    value = draw.choice(NUMBERS) if draw.random() < 0.8 else draw.choice([-1, 1]) * 10 ** draw.uniform(-330, 308)
    return Node("number", (), (float(value),))


def tree(draw: random.Random, operators: int) -> Node:
    if operators <= 0 or draw.random() < 0.05:
        return draw.choice(LEAF_NODES) if draw.random() < 0.65 else numbered(draw)
    row = OPERATORS[draw.choice(list(OPERATORS))]
    params = tuple(draw.choice([p.low, draw.uniform(p.low, p.high) * 0.999, 1 - 2**-53, 5e-324]) for p in row.params)
    return Node(row.name, tuple(tree(draw, (operators - 1) // row.arity) for _ in range(row.arity)), params)


def texts(count: int, seed: int = 0) -> Iterator[str]:
    """Rules in both notations, the same with a few letters or words changed, and words at random."""
    draw = random.Random(seed)
    for number in range(count):
        kind = number % 6
        rule = UpdateRule(tree(draw, draw.choice([0, 1, 2, 3, 5, 8, 16])), draw.choice(KINDS), draw.choice([1, -1]))
        text = str(rule)
        if kind == 5:
            text = "".join(draw.choice(WORDS) + draw.choice(["", "", " "]) for _ in range(draw.randrange(1, 12)))
        elif kind >= 3:
            if kind == 4:
                with suppress(OptevolveError):
                    text = to_paper(rule)
            for _ in range(draw.randrange(0 if kind == 4 else 1, 3)):
                start = draw.randrange(len(text) + 1)
                text = text[:start] + draw.choice(WORDS) + text[start + draw.randrange(3) :]
        yield text


def parsed(read: Callable[[str], UpdateRule], text: str) -> UpdateRule | None:
    """The rule, or None if it was refused as it should be."""
    refusal = None
    try:
        return read(text)
    except ParseError as error:
        refusal = error
    assert 0 < len(str(refusal)) < 2000
    assert 1 <= refusal.column <= len(text) + 2
    return None


WAYS: list[dict[str, object]] = [{}, {"foreach": False}, {"foreach": True}, {"capturable": True}, {"flat": True}, {"maximize": True}]
TYPES = [torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16]


def step(rule: UpdateRule, number: int) -> None:
    """Takes steps on parameters of several shapes, in one of the ways to do so and one of the number types."""
    way, dtype = WAYS[number % len(WAYS)], TYPES[number // len(WAYS) % len(TYPES)]
    params = [torch.nn.Parameter(torch.linspace(-1, 1, shape.numel(), dtype=dtype).reshape(shape)) for shape in map(torch.Size, SHAPES)]
    optimizer = build(rule, params, lr=0.01, total_steps=3, weight_decay=0.1, **way)  # type: ignore[arg-type]
    scale = (1.0, 1e30, 0.0)[number % 3] if dtype is not torch.float16 else 1.0
    for _ in range(3 if number % 7 else 6):
        for p in params:
            p.grad = torch.linspace(-2, 1, p.numel(), dtype=dtype).reshape(p.shape) * scale
        optimizer.step()


def follow(text: str, number: int) -> UpdateRule | None:
    """All that is done with a rule."""
    rule = parsed(parse, text)
    paper = parsed(parse_paper, text)
    either = parsed(rule_or_name, text)
    rule = rule or paper or either
    if rule is None:
        return None
    assert parse(str(rule)) == rule
    optevolve.check_integrity(rule)
    step(rule, number)
    if number % 4 == 0:
        simplify(rule)
        known_as(rule)
        headline(rule)
        latex(rule)
        explain(rule)
        fingerprint(rule)
        describe(rule, 7)
        optax_source(rule, "found", [])
    return rule


@pytest.mark.filterwarnings("ignore")
def test_any_text_is_refused_or_steps() -> None:
    found = 0
    for number, text in enumerate(texts(RULES)):
        try:
            found += follow(text, number) is not None
        except Exception as error:
            raise AssertionError(f"{number}: {text!r}: {type(error).__name__}: {error}") from error
    assert RULES / 3 < found < RULES
