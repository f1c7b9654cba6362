"""What changes over a run's time: the learning-rate and momentum schedule of a config, and the decays within a rule, as numbers to draw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from optevolve.config import Schedule
from optevolve.schedule import schedule_values
from optevolve.space import parse
from optevolve.space.decays import depends_on_time, is_time_only, values_of
from optevolve.space.expression import Node
from optevolve.space.text import format_expression

__all__ = ["decays_of", "schedule_of"]


def schedule_of(plan: Schedule, steps: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Learning rate as a fraction of its peak, and momentum, at t = 0 … steps-1, each of shape (steps,).

    A run shorter than its warm-up and hold (a trial that is cut) sees their first steps only.
    """
    warmup, hold = (round(value if value >= 1 else value * steps) for value in (plan.warmup, plan.hold))
    factor, momentum = schedule_values(1.0, max(steps, warmup + hold), warmup, hold, plan.momentum_high, plan.momentum_low)
    return factor[:steps], momentum[:steps]


def _largest(node: Node) -> Iterator[Node]:
    """Maximal parts of an expression that are functions of the step alone and do depend on it."""
    if is_time_only(node):
        if depends_on_time(node):
            yield node
        return
    for arg in node.args:
        yield from _largest(arg)


def decays_of(rule: str, steps: int = 400) -> dict[str, npt.NDArray[np.float64]]:
    """Every time factor in a rule, by its native notation: values at `steps` even points of t/T, shape (steps,).

    Raises:
        ParseError: if the text is no rule.
    """
    return {format_expression(node): values_of(node, steps) for node in _largest(parse(rule).expression)}
