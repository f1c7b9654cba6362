import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optevolve.errors import ParseError
from optevolve.space import Node, parse, parse_expression
from optevolve.space.genome import HIDDEN, DecayGenome, DecaySlot, Genome, Slot
from optevolve.space.grammar import paper_grammar
from optevolve.space.sample import sample_genome

PAPER = paper_grammar()
DECAY = DecayGenome(DecaySlot("sqrt(x)", ("a5",)), DecaySlot("x * y", ("a13", HIDDEN)))
UNUSED = Slot("identity(x)", ("g",), (None,))


def test_the_expression_follows_the_graph_with_decays_as_factors() -> None:
    slots = (
        Slot("tanh(x)", ("g",), (None,)),
        Slot("clip(x, y)", (0, "v_hat"), (DECAY, None)),
        UNUSED,
        UNUSED,
        UNUSED,
        Slot("x + y", (1, "1e-4 * w"), (None, None)),
    )
    assert Genome(slots, "nesterov", -1).rule == parse("-nesterov: clip(a13 * sqrt(a5) * tanh(g), v_hat) + 1e-4 * w")


def test_inactive_nodes_take_no_part() -> None:
    slots = (Slot("tanh(x)", ("g",), (None,)), *[UNUSED] * 4, Slot("identity(x)", (0,), (None,)))
    drawn = Genome(slots)
    assert drawn.active == (0, 5)
    assert drawn.expression == parse_expression("identity(tanh(g))")


def test_a_cycle_is_found_and_refused() -> None:
    slots = (Slot("tanh(x)", (1,), (None,)), Slot("exp(x)", (0,), (None,)), *[UNUSED] * 3, Slot("identity(x)", (0,), (None,)))
    assert Genome(slots).active is None
    with pytest.raises(ValueError, match="acyclic"):
        _ = Genome(slots).expression


def test_a_shared_node_is_no_cycle() -> None:
    slots = (
        Slot("tanh(x)", ("g",), (None,)),
        Slot("x * y", (0, "v_hat"), (None, None)),
        *[UNUSED] * 3,
        Slot("x + y", (0, 1), (None, None)),
    )
    assert Genome(slots).active == (0, 1, 5)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32))
def test_json_round_trip_and_text_round_trip(seed: int) -> None:
    drawn = sample_genome(np.random.default_rng(seed), PAPER)
    assert Genome.from_json(drawn.to_json()) == drawn
    assert parse(str(drawn.rule)) == drawn.rule
    assert isinstance(drawn.expression, Node)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"kind":"plain","sign":1,"slots":[]}',
        '{"kind":"plain","sign":1,"slots":[["__import__(x)",["g"],[null]]]}',
        '{"kind":"plain","sign":1,"slots":[["tanh(x)",[7],[null]],["identity(x)",[0],[null]]]}',
        '{"kind":"plain","sign":1,"slots":[["x + y",["g"],[null]]]}',
        '{"kind":"odd","sign":1,"slots":[["tanh(x)",["g"],[null]],["identity(x)",[0],[null]]]}',
        '{"kind":"plain","sign":2,"slots":[["tanh(x)",["g"],[null]],["identity(x)",[0],[null]]]}',
        '{"kind":"plain","sign":1,"slots":[["tanh(x)",[0],[null]],["identity(x)",[0],[null]]]}',
        '{"kind":"plain","sign":1,"slots":[["tanh(x)",["g"],[[["sqrt(x)","a1"]]]],["identity(x)",[0],[null]]]}',
    ],
)
def test_text_that_is_no_genome_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        Genome.from_json(text)


def test_json_is_one_line_without_python_in_it() -> None:
    text = sample_genome(np.random.default_rng(0), PAPER).to_json()
    assert "\n" not in text
    assert set(json.loads(text)) == {"kind", "sign", "slots"}


@pytest.mark.parametrize(
    "decay",
    [
        [["identity(x)", "a1"], ["identity(x)", "g"]],
        [["identity(x)", "a1"], ["x + y", "a1", "a2", "a3"]],
        [["identity(x)", "a1"], ["sigmoid(x) * 2", "hidden"]],
        [["identity(x)", "hidden"], ["identity(x)", "hidden"]],
    ],
)
def test_a_decay_from_elsewhere_is_checked(decay: list[list[str]]) -> None:
    text = json.dumps({"kind": "plain", "sign": 1, "slots": [["identity(x)", ["g"], [None]], ["-x", [0], [decay]]]})
    with pytest.raises(ParseError):
        Genome.from_json(text)
