"""Decay functions: factors of the step alone. Source: method section 1.

A decay is an expression over the base decays a1 … a14 (rows of `LEAVES`) and numbers. Its values depend on the step t and the run's
length T; past the end (t >= T) it keeps its value at T-1.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from optevolve.errors import ParseError
from optevolve.space.expression import NUMBER, Node
from optevolve.space.functions import TIME_NAMES, leaf_function, operator_function
from optevolve.space.operators import LEAVES, OPERATORS

__all__ = ["decay_values", "depends_on_time", "is_time_only", "is_valid_decay", "values_of"]

VALIDITY_STEPS = 100


@lru_cache(maxsize=65536)
def is_time_only(node: Node) -> bool:
    """Whether the expression is a function of the step alone: no tensor, no state and no randomness in it."""
    if not node.args:
        return node.name == NUMBER or not LEAVES[node.name].tensor
    return OPERATORS[node.name].pointwise_in_time and all(map(is_time_only, node.args))


@lru_cache(maxsize=65536)
def depends_on_time(node: Node) -> bool:
    """Whether a base decay occurs in the expression, so that a run's length must be known."""
    if not node.args:
        return node.name != NUMBER and not LEAVES[node.name].tensor
    return any(map(depends_on_time, node.args))


def time_variables(steps: npt.NDArray[np.float64], total_steps: int) -> dict[str, npt.NDArray[np.float64]]:
    """The variables that the formulas of base decays are written in, each of the shape of `steps`; see `Leaf.formula`."""
    t = np.minimum(steps, total_steps - 1)
    return dict(
        zip(TIME_NAMES, (t, np.full_like(t, total_steps), t / total_steps, (2 * t % total_steps) / total_steps,
                         0.95 * (1 - (t + 1) / total_steps)), strict=True)
    )  # fmt: skip


def values_of(node: Node, total_steps: int) -> npt.NDArray[np.float64]:
    """Values of a time-only expression at t = 0 … total_steps-1, shape (total_steps,), in float64.

    Raises:
        ValueError: if the expression is not a function of the step alone.
    """
    if not is_time_only(node):
        raise ValueError(f"Expected a function of the step alone, got {node!r}.")
    variables = time_variables(np.arange(total_steps, dtype=np.float64), total_steps)
    with np.errstate(all="ignore"):
        return _evaluate(node, variables)


def _evaluate(node: Node, variables: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    if node.name == NUMBER:
        return np.full_like(variables["t"], node.params[0])
    if not node.args:
        return np.asarray(leaf_function(node.name)(*variables.values()))
    args = [_evaluate(arg, variables) for arg in node.args]
    return np.asarray(operator_function(OPERATORS[node.name])(*args, *node.params))


def is_valid_decay(node: Node) -> bool:
    """Whether all values at t = 0 … 99 with T = 100 are finite and within [0, 1]. Source: method section 1."""
    values = values_of(node, VALIDITY_STEPS)
    return bool(np.all(np.isfinite(values)) and values.min() >= 0 and values.max() <= 1)


def decay_values(text: str, total_steps: int, notation: str = "native") -> npt.NDArray[np.float64]:
    """Values of a decay at t = 0 … total_steps-1, shape (total_steps,).

    Args:
        text: the decay, such as `erfc(erfc(a4)) / deriv_tanh(a8)`.
        total_steps: length of the run T, at least 1.
        notation: "native", or "paper" for the authors' spelling.
    Raises:
        ParseError: if the text is no function of the step alone.
        ValueError: if total_steps or notation is out of range.
    """
    if total_steps < 1 or total_steps != int(total_steps):
        raise ValueError(f"Expected total_steps to be a whole number of at least 1, got {total_steps}.")
    if notation == "native":
        from optevolve.space.text import parse_expression

        node = parse_expression(text)
    elif notation == "paper":
        from optevolve.space.paper_notation import parse_paper_decay

        node = parse_paper_decay(text)
    else:
        raise ValueError(f"Expected the notation 'native' or 'paper', got {notation!r}.")
    if not is_time_only(node):
        raise ParseError(f"Expected a function of the step alone (a1 … a14 and numbers), got {text!r}, which is a tensor.")
    return values_of(node, total_steps)
