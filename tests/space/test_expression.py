"""Expression trees: immutable values that compare by structure."""

import math
import pickle

import pytest
from hypothesis import given
from random_expressions import expressions

from optevolve.space import Node, parse_expression
from optevolve.space.expression import NUMBER, number


@given(expressions())
def test_equal_trees_hash_alike_and_survive_pickling(node: Node) -> None:
    again = pickle.loads(pickle.dumps(node))
    assert again is not node
    assert again == node
    assert hash(again) == hash(node)


@given(expressions())
def test_size_depth_and_walk(node: Node) -> None:
    nodes = list(node.walk())
    assert len(nodes) == node.size
    assert nodes[-1] is node
    assert node.depth == 1 + max((arg.depth for arg in node.args), default=0)
    done: list[Node] = []
    for inner in nodes:
        assert all(arg in done for arg in inner.args)
        done.append(inner)


@given(expressions(), expressions())
def test_equality_is_that_of_the_text(a: Node, b: Node) -> None:
    assert (a == b) == (repr(a) == repr(b))


def test_zeros_differ() -> None:
    assert number(0.0) != number(-0.0)
    assert Node("add", (Node("g"), number(0.0))) != Node("add", (Node("g"), number(-0.0)))


def test_a_node_is_no_other_thing() -> None:
    assert Node("g") != "g"
    assert (Node("g") == 1) is False


def test_nodes_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Node("g").name = "w"


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        number(value)


def test_the_value_of_a_number() -> None:
    assert number(3).value == 3.0
    assert number(3).name == NUMBER
    assert Node("g").value is None


def test_substitute_replaces_leaves_and_keeps_the_rest() -> None:
    node = parse_expression("tanh(g) + w * 2")
    assert node.substitute({"g": Node("w")}) == parse_expression("tanh(w) + w * 2")
    assert node.substitute({"noise": Node("w")}) is node
    assert node.substitute({"tanh": Node("w")}) is node
