"""`known_as(rule)`: the published optimizer that a rule behaves as, up to a constant factor on the learning rate.

Found by what rules do, not by how they are written: their updates are compared on fixed streams of gradients and weights, of many sizes,
with zeros, on vectors and on matrices, in runs of two lengths. Two spellings of one function differ by rounding alone; whatever differs by
more, however little, is another rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from optevolve.errors import ParseError
from optevolve.library import NAMED, ZOO
from optevolve.space.explain import explain as words_of
from optevolve.space.expression import Node
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import lower
from optevolve.space.rule import UpdateRule
from optevolve.space.simplify import simplify
from optevolve.space.text import parse

__all__ = ["Known", "explain", "headline", "known_as", "rule_text", "said_of"]

Array = npt.NDArray[np.float64]

_LENGTHS = (17, 6)
_SHAPES = ((6,), (2, 3))
_SCALES = 10.0 ** np.array([-9.0, -6, -3, 0, 3, 6, 10])
_ROUNDING = 1e-10


@dataclass(frozen=True)
class Known:
    """A published optimizer that a rule behaves as.

    Attributes:
        name: its key in `ZOO`; empty for a form that is known by name alone.
        title: what people call it, such as "Nesterov momentum".
        factor: the rule at a learning rate does what that optimizer does at `factor` times this rate; above 0.
    """

    name: str
    title: str
    factor: float

    def __str__(self) -> str:
        """Such as "Nesterov momentum, twice the learning rate"."""
        return f"{self.title}, {_times(self.factor)} the learning rate" if self.factor != 1 else self.title


_WORDS = {
    2.0: "twice",
    0.5: "half",
    0.1: "a tenth of",
    0.01: "a hundredth of",
    0.001: "a thousandth of",
    0.25: "a quarter of",
    0.2: "a fifth of",
}


def _times(factor: float) -> str:
    return _WORDS.get(factor) or f"{factor:.6g} times"


@lru_cache(maxsize=4096)
def known_as(rule: UpdateRule) -> Known | None:
    """The optimizer of the zoo that does the same at another learning rate, the first of several; None if there is none.

    Under any schedules of learning rate and momentum: kinds must agree, and so must decays. Takes some milliseconds.
    """
    rule = simplify(rule)
    if lower(rule.expression).draws:  # none of those draws
        return None
    for name, title, other in _candidates():
        if other.kind == rule.kind and (factor := _proportion(rule, other)) is not None:
            return Known(name, title, factor)
    return None


def headline(rule: UpdateRule) -> str:
    """The rule in its shortest form, with the name that it is known by in brackets: `nesterov: 2 * g (Nesterov momentum, twice the …)`."""
    known = known_as(rule)
    return str(simplify(rule)) if known is None else f"{simplify(rule)} ({known})"


@lru_cache(maxsize=1024)
def rule_text(text: str) -> str:
    """The headline of a rule given as text; what this version cannot read, as it stands."""
    try:
        return headline(parse(text))
    except ParseError:
        return text


def said_of(rule: UpdateRule) -> str:
    """What `known_as` found as a clause: Behaves as Nesterov momentum, twice the learning rate. Empty for a rule without a name."""
    known = known_as(rule)
    return "" if known is None else f"Behaves as {known}"


def explain(rule: UpdateRule) -> str:
    """A few paragraphs of plain text on what the rule does, for someone who knows gradients and no more; its name first, if it has one."""
    return "\n\n".join(filter(None, [said_of(rule) and f"{said_of(rule)}.", words_of(rule)]))


@cache
def _candidates() -> tuple[tuple[str, str, UpdateRule], ...]:
    """Key in the zoo, title and rule of every optimizer that has a name."""
    return (*((name, ZOO[name].title, ZOO[name].rule) for name in ZOO), *(("", title, rule) for title, rule in NAMED.items()))


def _proportion(rule: UpdateRule, other: UpdateRule) -> float | None:
    """The factor above 0 by which a rule's updates are the other's, everywhere; None if they are not."""
    if rule.sign == other.sign and rule.expression == other.expression:
        return 1.0
    factor = None
    for case in range(len(_LENGTHS) * len(_SHAPES)):
        one, two = rule.sign * _updates(rule.expression, case), other.sign * _updates(other.expression, case)
        finite = np.isfinite(one)
        if not np.array_equal(finite, np.isfinite(two)) or not np.array_equal(np.sign(one[~finite]), np.sign(two[~finite]), equal_nan=True):
            return None
        one, two = np.where(finite, one, 0), np.where(finite, two, 0)
        if factor is None:
            at = np.unravel_index(np.argmax(np.abs(two)), two.shape)
            if not (two[at] != 0 and one[at] / two[at] > 0):
                return None
            factor = float(f"{one[at] / two[at]:.12g}")
        # beside the largest element of the step: a stream's rounding is of the size of what is added up in it
        size = np.max(np.abs(two), axis=tuple(range(2, two.ndim)), keepdims=True)
        if not np.all(np.abs(one - factor * two) <= _ROUNDING * factor * size):
            return None
    return factor


@cache
def _streams(case: int) -> tuple[Array, Array]:
    """Gradients and weights, each (steps, streams, *shape): a stream per scale, then with zeros, of zeros, with bursts."""
    length, shape = _LENGTHS[case % 2], _SHAPES[case // 2]
    rng = np.random.default_rng([2404_06679, case])
    scales = np.concatenate([_SCALES, [1e-3, 0.0, 1.0]])
    size = (length, len(scales), *shape)
    gradients = scales.reshape(-1, *[1] * len(shape)) * (rng.normal(size=size) + rng.normal(size=size[1:]))
    gradients[:, len(_SCALES)] *= rng.random((length, *shape)) > 0.4
    gradients[:, -1] *= 10.0 ** rng.integers(-3, 4, size=(length, *shape))
    weights = rng.normal(size=size[1:]) + 0.1 * np.cumsum(rng.normal(size=size), axis=0)
    return gradients, weights


@lru_cache(maxsize=512)
def _updates(expression: Node, case: int) -> Array:
    gradients, weights = _streams(case)
    interpreter = Interpreter(lower(expression), gradients.shape[2:], len(gradients), dtype=np.float64)
    results = np.empty(gradients.shape)
    with np.errstate(all="ignore"):
        for t, (g, w) in enumerate(zip(gradients, weights, strict=True)):
            results[t] = interpreter(g, w, t)
    return results
