"""The integrity check: can this rule minimise anything at all? Source: method section 3.

A shifted sphere in five dimensions is descended for 35 steps at six learning rates and both signs. A constant shift of the weights
reaches a loss of 4.34, the best rule that sees only the weights 3.97; passing (below 3.5) takes the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optevolve.schedule import schedule_values
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.lower import lower
from optevolve.space.rule import UpdateRule

__all__ = ["LEARNING_RATES", "OPTIMUM", "START", "THRESHOLD", "Verdict", "check_integrity", "trajectory"]

START = np.array([1.1, 0.9, 1.1, 0.9, 1.0], dtype=np.float32)
OPTIMUM = np.array([0.5, 1.5, -0.3, -1.2, 0.75], dtype=np.float32)
STEPS = 35
WARMUP = 6
THRESHOLD = 3.5
LEARNING_RATES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
SIGNS = (1, -1)


@dataclass(frozen=True)
class Verdict:
    """What the integrity check found.

    Attributes:
        ok: whether the rule passes.
        sign: the sign that passes; the rule's own if none does.
        reason: why it fails; empty if it passes.
        losses: loss at w_34 for each sign (+1, -1) and learning rate, shape (2, 6); NaN where it became non-finite.
    """

    ok: bool
    sign: int
    reason: str
    losses: npt.NDArray[np.float64]


def trajectory(rule: UpdateRule, lr: float, steps: int = STEPS) -> npt.NDArray[np.float32]:
    """Positions on the shifted sphere, shape (steps+1, 5), the start first.

    Args:
        rule: what descends, with its own sign.
        lr: peak learning rate.
        steps: steps to take, at least 1; also the run's length T, with a warm-up of 6 steps (35: the check's own run).
    Raises:
        ValueError: if steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"Expected at least 1 step, got {steps}.")
    positions = np.empty((steps + 1, START.size), dtype=np.float32)
    positions[0] = START
    optimizer = ReferenceOptimizer(rule, START.shape, steps)
    lrs, momenta = schedule_values(lr, steps, min(WARMUP, steps))
    with np.errstate(all="ignore"):  # diverging is an answer
        for t in range(steps):
            positions[t + 1] = optimizer.step(positions[t], 2 * (positions[t] - OPTIMUM), lrs[t], momenta[t])
    return positions


def check_integrity(rule: UpdateRule) -> Verdict:
    """Whether the rule passes, and with which sign: +1 is tried first, the first that passes becomes the rule's. Ignores `rule.sign`."""
    if "g" not in lower(rule.expression).uses:
        return Verdict(False, rule.sign, "does not use the gradient", np.full((len(SIGNS), len(LEARNING_RATES)), np.nan))
    losses = _losses(rule)
    for sign, row in zip(SIGNS, losses, strict=True):
        if np.any(row < THRESHOLD):
            return Verdict(True, sign, "", losses)
    if not np.any(np.isfinite(losses)):
        return Verdict(False, rule.sign, "becomes non-finite at every learning rate", losses)
    return Verdict(False, rule.sign, f"does not descend: loss {np.nanmin(losses):.2f}, needed below {THRESHOLD}", losses)


# Learning rate times sign at each step, for a stack of twelve parameter vectors: six learning rates with either sign.
_SHAPES, _MOMENTA = schedule_values(1.0, STEPS, WARMUP)
_STARTS = np.tile(START, (len(SIGNS) * len(LEARNING_RATES), 1))
_OPTIMA = np.tile(OPTIMUM, (len(_STARTS), 1))
_RATES = [
    np.repeat(np.outer(SIGNS, np.array(LEARNING_RATES) * shape).astype(np.float32).ravel(), START.size).reshape(_STARTS.shape)
    for shape in _SHAPES[:-1]
]
_MOMENTUM_AT = [np.array(momentum, dtype=np.float32) for momentum in _MOMENTA[:-1]]


def _losses(rule: UpdateRule) -> npt.NDArray[np.float64]:
    """Loss at w_34, before the last update, shape (2, 6): all signs and learning rates at once."""
    optimizer = ReferenceOptimizer(rule, START.shape, STEPS)
    w = _STARTS
    with np.errstate(all="ignore"):
        for rates, momentum in zip(_RATES, _MOMENTUM_AT, strict=True):
            half = w - _OPTIMA
            w = optimizer.advance(w, half + half, rates, momentum)
        losses = np.sum((w.astype(np.float64) - OPTIMUM) ** 2, axis=1).reshape(len(SIGNS), len(LEARNING_RATES))
        return np.where(np.isfinite(losses), losses, np.nan)
