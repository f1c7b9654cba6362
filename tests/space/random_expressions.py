"""Random expressions over the whole language, as hypothesis strategies: every row of the tables, whatever rows there are."""

from hypothesis import strategies as st

from optevolve.space import KINDS, LEAVES, OPERANDS, OPERATORS, Node, UpdateRule, parse_expression
from optevolve.space.expression import number

COMMON_NUMBERS = (0.0, -0.0, 1.0, -1.0, 2.0, 3.0, 0.5, -2.0, 1e-7, 1e-8, 0.95, 0.05)
numbers = st.one_of(st.sampled_from(COMMON_NUMBERS), st.floats(allow_nan=False, allow_infinity=False)).map(number)
LEAF_NODES = [*map(Node, LEAVES), *(parse_expression(row.expression) for row in OPERANDS.values())]


def leaves(draw: st.DrawFn) -> Node:
    return draw(st.sampled_from(LEAF_NODES)) if draw(st.integers(0, 3)) else draw(numbers)


def application(draw: st.DrawFn, name: str, args: tuple[Node, ...]) -> Node:
    params = []
    for p in OPERATORS[name].params:
        common = [value for value in (0.0, 0.5, 0.9, 0.95, p.low) if p.low <= value < p.high]
        floats = st.floats(p.low, p.high, exclude_max=True, allow_nan=False, allow_infinity=False)
        params.append(draw(st.sampled_from(common)) if draw(st.booleans()) else draw(floats))
    return Node(name, args, tuple(params))


def expression(draw: st.DrawFn, operators: int) -> Node:
    """With at most that many operators."""
    if operators <= 0 or draw(st.integers(0, 9)) == 9:
        return leaves(draw)
    name = draw(st.sampled_from(sorted(OPERATORS)))
    arity = OPERATORS[name].arity
    return application(draw, name, tuple(expression(draw, (operators - 1) // arity) for _ in range(arity)))


@st.composite
def expressions(draw: st.DrawFn, operators: int = 16) -> Node:
    return expression(draw, draw(st.integers(0, operators)))


@st.composite
def applications(draw: st.DrawFn, name: str, arguments: st.SearchStrategy[Node]) -> Node:
    return application(draw, name, tuple(draw(arguments) for _ in range(OPERATORS[name].arity)))


@st.composite
def rules(draw: st.DrawFn, operators: int = 16) -> UpdateRule:
    return UpdateRule(draw(expressions(operators)), draw(st.sampled_from(KINDS)), draw(st.sampled_from([1, -1])))
