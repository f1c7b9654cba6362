"""Straight-line programs: one computation per value, one buffer per average, time outside the tensor code, formulas as source text."""

import re

import pytest
from hypothesis import given
from random_expressions import expressions

from optevolve.space import OPERATORS, Node, parse_expression
from optevolve.space.decays import depends_on_time, is_time_only
from optevolve.space.lower import SPELLINGS, Program, lower, render_formula


def program(text: str) -> Program:
    return lower(parse_expression(text))


def test_common_subexpressions_are_computed_once() -> None:
    assert len(program("tanh(g) * exp(tanh(g)) + tanh(g)").instructions) == len(program("tanh(g) * exp(w) + w").instructions)


def test_operators_that_keep_the_same_average_share_a_buffer() -> None:
    assert len(program("v_hat + v").states) == 1
    assert len(program("v_hat / sqrt(s_hat)").states) == 2
    assert len(program("ema(g, 0.9) + ema(g, 0.95)").states) == 2
    assert len(program("ema(g, 0.9) + ema(w, 0.9)").states) == 2


@pytest.mark.parametrize(("text", "states"), [("g", 0), ("v", 1), ("delta(g)", 1), ("delta(running_max(g))", 2), ("qhm(s) + qhm(l)", 2)])
def test_number_of_buffers(text: str, states: int) -> None:
    assert len(program(text).states) == states


def test_functions_of_the_step_are_no_tensor_code() -> None:
    lowered = program("erfc(erfc(a4)) / deriv_tanh(a8) * g")
    assert [instruction.formula for instruction in lowered.instructions] == ["x * y"]
    assert [scalar.node for scalar in lowered.scalars] == [parse_expression("erfc(erfc(a4)) / deriv_tanh(a8)")]
    assert lowered.needs_total_steps
    assert not program("2 * tanh(3) * g").needs_total_steps


def test_corrections_are_shared() -> None:
    corrections = [scalar for scalar in program("ema(g, 0.9) + ema(w, 0.9) + ema(g, 0.5)").scalars if scalar.node is None]
    assert [scalar.parameters for scalar in corrections] == [(("beta", 0.9),), (("beta", 0.5),)]


@pytest.mark.parametrize(
    ("text", "draws"),
    [
        ("g", 0),
        ("dropout(g, 0.5)", 1),
        ("dropout(g, 0.5) * dropout(g, 0.5)", 1),
        ("dropout(g, 0.5) * dropout(g, 0.3)", 2),
        ("noise + noise", 1),
    ],
)
def test_a_draw_per_random_value(text: str, draws: int) -> None:
    lowered = program(text)
    assert [draw.stream for draw in lowered.draws] == list(range(draws))


@pytest.mark.parametrize(
    ("text", "uses", "elementwise"),
    [("g", {"g"}, True), ("1e-4 * w", {"w"}, True), ("clip_norm(g) + w", {"g", "w"}, False), ("2", set(), True), ("a1", set(), True)],
)
def test_what_is_read(text: str, uses: set[str], elementwise: bool) -> None:
    assert program(text).uses == uses
    assert program(text).elementwise == elementwise


@given(expressions())
def test_programs_are_well_formed(node: Node) -> None:
    lowered = lower(node)
    known = {"g", "w", *(s.name for s in lowered.scalars), *(s.name for s in lowered.states), *(d.name for d in lowered.draws)}
    for instruction in lowered.instructions:
        assert {value for _, value in instruction.bindings if isinstance(value, str)} <= known
        assert instruction.target not in known
        known.add(instruction.target)
    assert {state.next for state in lowered.states} <= known
    assert isinstance(lowered.result, float) or lowered.result in known
    assert lowered.needs_total_steps == depends_on_time(node)
    assert {leaf.name for leaf in node.walk() if leaf.name in ("g", "w")} <= lowered.uses | ({"g", "w"} if is_time_only(node) else set())
    # a state's next value is never another state's old one, so that states may be replaced one after the other
    assert not {state.next for state in lowered.states} & {state.name for state in lowered.states}


def test_small_powers_are_products() -> None:
    assert program("g ** 2").instructions[0].formula == "x * x"
    assert program("g ** 3").instructions[0].formula == "x * x * x"
    assert program("g ** 4").instructions[0].formula == "power(x, y)"


@pytest.mark.parametrize("library", SPELLINGS)
@pytest.mark.parametrize("row", OPERATORS.values(), ids=lambda row: row.name)
def test_formulas_as_source_text(row, library: str) -> None:
    words = set(re.findall(r"[A-Za-z_]\w*", row.formula)) - set(SPELLINGS[library]) - {"EPS"}
    variables = {"x", "y", "old", "new", "correction", "draw", *(p.name for p in row.params)} & words
    text = render_formula(row.formula, {name: f"<{name}>" for name in variables}, library)
    assert all(f"<{name}>" in text for name in variables)
    assert "EPS" not in text
    for spelling in SPELLINGS[library].values():
        assert "." in spelling or spelling.isidentifier()


def test_negative_numbers_are_bracketed() -> None:
    assert render_formula("x - y", {"x": "n0", "y": -2.0}, "torch") == "n0 - (-2)"
    assert render_formula("power(x, y)", {"x": "n0", "y": 0.5}, "jax") == "jnp.power(n0, 0.5)"
