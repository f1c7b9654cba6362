"""Sameness of rules, from what they do and not from how they are written: `fingerprint` and the looser `nearly_same`.

A rule is run in float64 on fixed streams of gradients and weights of several scales. Its updates, relative to the largest of their stream,
are rounded to about six digits and hashed. Two spellings of one function differ by some 1e-15 of that, so the odds that a value of one of
them crosses the border of a bin are about one in a billion; the bins' borders lie where no round number falls.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from optevolve.space.expression import Node
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import Program, lower
from optevolve.space.rule import UpdateRule
from optevolve.space.simplify import canonical, random_nodes

__all__ = ["fingerprint", "nearly_same"]

STEPS = 24
ELEMENTS = 8
SCALES = (1e-3, 0.1, 1.0, 1.0, 10.0)
_BINS, _OFFSET = 0.7317e6, 0.3123  # bins per unit, and where in a bin 0 lies

Array = npt.NDArray[np.float64]


def fingerprint(rule: UpdateRule, scale_free: bool = False) -> str:
    """32 hexadecimal digits that rules share if they do the same, up to rounding: same updates on the same gradients, same kind.

    Args:
        rule: any rule. Its random numbers are told apart by what they apply to, not by where they stand.
        scale_free: whether rules that differ by a positive factor, which a learning rate makes up for, share it too.
    """
    text = f"{rule.kind} {_behaviour(canonical(rule.expression, keep_draws=False), rule.sign, scale_free)}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def nearly_same(a: UpdateRule, b: UpdateRule, gradient_scale: float = 1e-3, tolerance: float = 1e-3) -> bool:
    """Whether real training could not tell the rules apart: same kind, and at each step their updates differ by less than a small part.

    Args:
        a, b: rules; a factor or a sign between them counts as a difference.
        gradient_scale: size of the largest elements of a gradient, above 0. Weights have a typical size of 0.1.
        tolerance: largest difference of two updates, as a part of the larger one (L2 norms), at any step.
    Raises:
        ValueError: if gradient_scale or tolerance is not above 0.
    """
    if not (gradient_scale > 0 and tolerance > 0):
        raise ValueError(f"Expected gradient_scale and tolerance above 0, got {gradient_scale} and {tolerance}.")
    if a.kind != b.kind:
        return False
    one, other = (rule.sign * _training_updates(rule.expression, gradient_scale) for rule in (a, b))
    broken = ~(np.isfinite(one) & np.isfinite(other))
    if not np.array_equal(one[broken], other[broken], equal_nan=True):
        return False
    one, other = np.where(broken, 0, one), np.where(broken, 0, other)

    def norm(values: Array) -> Array:
        # relative to the largest, so that squares neither overflow nor underflow
        largest = np.max(np.abs(values), axis=(1, 2), keepdims=True)
        return np.asarray(largest[:, 0, 0] * np.sqrt(np.sum((values / np.where(largest, largest, 1)) ** 2, axis=(1, 2))))

    return bool(np.all(norm(one - other) <= tolerance * np.maximum(norm(one), norm(other))))


@lru_cache(maxsize=8192)
def _training_updates(expression: Node, gradient_scale: float) -> Array:
    """Updates as in training, kept because a search compares each new rule with all that it knows."""
    gradients, weights = _streams((1.0,) * len(SCALES), 0.1)
    gradients = gradients * (gradient_scale / np.abs(gradients).max())
    return _updates(canonical(expression, keep_draws=False), gradients, weights)


@cache
def _streams(scales: tuple[float, ...], weight_scale: float) -> tuple[Array, Array]:
    """Gradients and weights, each (steps, streams, elements): drifting, of either sign, large and small in each stream, zeros in one."""
    rng = np.random.default_rng(2404_06679)
    shape = (STEPS, len(scales), ELEMENTS)
    drift = rng.normal(size=shape[1:]) + np.cumsum(0.3 * rng.normal(size=shape), axis=0)
    spread = np.exp(rng.normal(size=shape[1:]))
    gradients = np.array(scales)[:, None] * spread * (drift + rng.normal(size=shape))
    gradients[:, 2] *= rng.random((STEPS, ELEMENTS)) > 0.25
    weights = weight_scale * (rng.normal(size=shape[1:]) + np.cumsum(0.05 * rng.normal(size=shape), axis=0))
    return gradients, weights


def _updates(expression: Node, gradients: Array, weights: Array) -> Array:
    """Updates of an expression in canonical form, (steps, streams, elements)."""
    interpreter = Interpreter(_program(expression), gradients.shape[2:], len(gradients), dtype=np.float64)
    results = np.empty(gradients.shape)
    with np.errstate(all="ignore"):
        for t, (g, w) in enumerate(zip(gradients, weights, strict=True)):
            results[t] = interpreter(g, w, t)
    return results


def _program(expression: Node) -> Program:
    """The program, each of its draws keyed by what it applies to."""
    program = lower(expression)
    if not program.draws:
        return program
    seen: Counter[str] = Counter()
    draws = []
    for draw, node in zip(program.draws, random_nodes(expression), strict=True):
        applied_to = [_behaviour(arg, 1, False) for arg in node.args]
        key = " ".join([node.name, *map(repr, node.params), *applied_to])
        draws.append(replace(draw, stream=zlib.crc32(f"{key} {seen[key]}".encode())))
        seen[key] += 1
    return replace(program, draws=tuple(draws))


@lru_cache(maxsize=16384)
def _behaviour(expression: Node, sign: int, scale_free: bool) -> str:
    """Hash of an expression's updates, in canonical form; see the module."""
    updates = sign * _updates(expression, *_streams(SCALES, 1.0))
    finite = np.isfinite(updates)
    largest = np.max(np.abs(np.where(finite, updates, 0)), axis=(0, 2))
    relative = np.where(finite, updates, 0) / np.where(largest, largest, 1)[:, None]
    heights = np.log(np.where(largest, largest, 1))
    if scale_free:
        heights -= heights[np.argmax(largest > 0)]
    oddities = np.where(np.isnan(updates), 2, np.where(finite, 0, np.sign(updates))).astype(np.int8)
    digest = hashlib.blake2b(digest_size=16)
    for part in (_binned(relative), _binned(np.where(largest, heights, -1e6)), oddities):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _binned(values: Array) -> npt.NDArray[np.int64]:
    return np.floor(values * _BINS + _OFFSET).astype(np.int64)
