"""What a rule does as a whole, found by running it on gradients and weights of many sizes: never by how it is spelled.

The numpy reference is run in float64 on stacks of gradient streams that differ in one respect (a scale, a sign, the past, the weights), and
the updates are compared. What holds for all of them within a tolerance becomes a fact of `Behaviour`; what does not, does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from optevolve.space.expression import Node
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import Program, lower
from optevolve.space.ranges import range_of
from optevolve.space.rule import UpdateRule

__all__ = ["Behaviour", "Growth", "WeightTerm", "behaviour"]

Array = npt.NDArray[np.float64]

STEPS = 24
STREAMS = 6
ORDINARY = 1e-3  # typical size of a gradient in the training of a network
WEIGHTS = 0.1  # and of a weight
SCALES = 10.0 ** np.arange(-12, 13)
_SURELY = range(8, 12)  # of SCALES: 1e-4 … 0.1, which training meets
_POWER = range(9, 12)  # of SCALES: 1e-3 … 0.1, for which a power holds at least
_GROWTH = (8, 10, 12, 14)  # of SCALES: 1e-4, 0.01, 1 and 100, where the growth of rules without a power is told
_MIDDLE = 9  # of SCALES: ORDINARY
_HUGE = 10.0 ** np.array([16.0, 20, 25, 30, 40])
_TINY = 10.0 ** np.array([-40.0, -30, -20, -16])
_WEIGHT_SCALES, _GRADIENT_SCALES = (0.01, 1.0, 100.0), (1e-6, 1e-3, 1.0, 1e3, 1e9, 1e18)
_FREE_FROM = 4  # kinds of gradients and weights for which a share is seen beside the rest, before it is told
_NOTHING = 1e-12  # relative to the largest update of a stream: rounding
_ALIKE = 0.02  # relative difference of updates that count as one
_STEADY = 1.25  # a factor that streams and steps tell apart by less than this can be told as a number
_EXPLOSIVE = 100.0
_SIZES = {"small ": 1e-5, "": 1.0, "large ": 1e4}  # times an ordinary gradient, where changes of other kinds are tried
_ALL_THE_UPDATE = 100.0  # times the update on ordinary gradients: what zeros alone give, as 1/(g + 1e-7) does


@dataclass(frozen=True)
class Growth:
    """Ten times larger gradients than `scale` make the update `factor` times as large; infinite: more than a hundred times."""

    scale: float
    factor: float


@dataclass(frozen=True)
class WeightTerm:
    """A part of the update that pulls the weights towards 0, or drives them away.

    Attributes:
        low, high: smallest and largest share of a weight that it adds to the update, times the sign of the rule: positive shares shrink.
        free: whether it is that share of the weights whatever the gradients; else `low` is 0 and gradients decide.
        constant: whether the share is the same at every step.
    """

    low: float
    high: float
    free: bool
    constant: bool


@dataclass(frozen=True)
class Behaviour:
    """What was found; "update" is the rule's u, before learning rate and momentum.

    Attributes:
        finite: whether every update on gradients of ordinary size (1e-4 to 0.1) is finite; if not, all that follows says nothing.
        answers: whether any gradient changes the update.
        offset: whether there is an update without gradients, from which the next ones count what gradients add.
        power: p where gradients c times larger make the update c**p times larger; None if there is no such p.
        holds_from, holds_to: sizes of gradients between which that was found; 0 and infinity where it holds at all sizes tried.
        growth: where no power holds at all sizes: the factors at some.
        rests: whether the update of a weight that never had a gradient is 0, whatever gradients the others have.
        drifts: whether there are updates where no weight ever had a gradient.
        zero_finite: whether updates are finite there.
        bounded: whether huge gradients leave every element of the update below a bound; None if that was not found out.
        bound: a bound that holds for all gradients and weights; None if none is known.
        signs_only: whether sizes of gradients do not matter at all, element by element.
        symmetry: 1: mirrored gradients mirror what they add to the update, or mirrored gradients and weights the update; 0: the sign of the
            gradients does not matter; None: neither.
        weights_matter: whether weights change the update.
        weights_change: how much weights of 0.1 change the update on ordinary gradients, relative to it; NaN where there is none without.
        weight_term: what pulls at the weights, if it does so in a way that can be told.
        remembers: whether earlier gradients change the update; None if hardly.
        random: whether the update differs from one seed to another.
        couples: whether the gradient of one weight changes the update of others.
        overflows_at: size of gradients from which on updates overflow in float32; None up to 1e6.
    """

    finite: bool
    answers: bool = False
    offset: bool = False
    power: float | None = None
    holds_from: float = 0.0
    holds_to: float = np.inf
    growth: tuple[Growth, ...] = ()
    rests: bool = False
    drifts: bool = False
    zero_finite: bool = True
    bounded: bool | None = None
    bound: float | None = None
    signs_only: bool = False
    symmetry: int | None = None
    weights_matter: bool = False
    weights_change: float = np.nan
    weight_term: WeightTerm | None = None
    remembers: bool | None = False
    random: bool = False
    couples: bool = False
    overflows_at: float | None = None


@lru_cache(maxsize=1024)
def behaviour(rule: UpdateRule) -> Behaviour:
    """Everything that can be said of the rule; takes some tens of milliseconds."""
    with np.errstate(all="ignore"):
        return _Probe(rule).behaviour()


class _Stack:
    """Streams that run together: gradients and weights, each (steps, streams, *shape), and where the parts of it lie."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.gradients: list[Array] = []
        self.weights: list[Array] = []
        self.places: dict[str, slice] = {}
        self.length = 0

    def add(self, name: str, gradients: Array, weights: Array) -> None:
        gradients, weights = np.broadcast_arrays(gradients, weights)
        self.gradients.append(gradients)
        self.weights.append(weights)
        self.places[name] = slice(self.length, self.length + gradients.shape[1])
        self.length += gradients.shape[1]

    def run(self, program: Program, sign: int, seed: int = 0) -> dict[str, Array]:
        """The updates of each part."""
        updates = _updates(program, np.concatenate(self.gradients, 1), np.concatenate(self.weights, 1), seed)
        return {name: sign * updates[:, place] for name, place in self.places.items()}


def _updates(program: Program, gradients: Array, weights: Array, seed: int = 0, dtype: npt.DTypeLike = np.float64) -> Array:
    interpreter = Interpreter(program, gradients.shape[2:], len(gradients), seed, dtype)
    results = np.empty(gradients.shape)
    with np.errstate(all="ignore"):
        for t, (g, w) in enumerate(zip(gradients.astype(dtype), weights.astype(dtype), strict=True)):
            results[t] = interpreter(g, w, t)
    return results


@cache
def _streams(shape: tuple[int, ...], seed: int) -> tuple[Array, Array]:
    """Gradients with a steady part and noise about it, as mini-batches have, and weights that move, each (steps, streams, *shape)."""
    rng = np.random.default_rng(seed)
    size = (STEPS, STREAMS, *shape)
    gradients = rng.normal(size=size[1:]) + rng.normal(size=size)
    weights = rng.normal(size=size[1:]) + 0.1 * np.cumsum(rng.normal(size=size), axis=0)
    return gradients, weights


class _Probe:
    """The runs that the facts come from, and the facts one by one."""

    def __init__(self, rule: UpdateRule) -> None:
        self.rule = rule
        self.program = lower(rule.expression)
        self.shape = (8,) if self.program.elementwise else (3, 4)
        self.gradients, weights = _streams(self.shape, 0)
        self.weights = WEIGHTS * weights
        stack = _Stack(self.shape)
        for k, scale in enumerate(SCALES):
            stack.add(f"scale {k}", scale * self.gradients, self.weights)
        ordinary, other = ORDINARY * self.gradients, _streams(self.shape, 1)
        stack.add("zero", 0 * ordinary, self.weights)
        for name, size in _SIZES.items():
            stack.add(f"{name}same", size * ordinary, self.weights)
            stack.add(f"{name}mirrored", -size * ordinary, -self.weights)
            stack.add(f"{name}sizes", size * ordinary * np.exp(5 * other[0]), self.weights)
            stack.add(f"{name}turned", -size * ordinary, self.weights)
            stack.add(f"{name}one changed", size * ordinary * self._except_one(3.0), self.weights)
        stack.add("other past", np.concatenate([ORDINARY * other[0][:-1], ordinary[-1:]]), self.weights)
        stack.add("one silent", ordinary * self._except_one(0.0), self.weights)
        stack.add("without weights", ordinary, 0 * self.weights)
        for i, size in enumerate(_GRADIENT_SCALES):
            stack.add(f"decay {i} none", size * self.gradients, 0 * self.weights)
            for k, scale in enumerate(_WEIGHT_SCALES):
                stack.add(f"decay {i} {k}", size * self.gradients, scale * weights)
        self._add_extremes(stack)
        self.updates = stack.run(self.program, rule.sign)
        self.stack = stack

    def _except_one(self, factor: float) -> Array:
        """1 for all elements but the first, which is multiplied."""
        factors = np.ones(self.shape)
        factors.flat[0] = factor
        return factors

    def _add_extremes(self, stack: _Stack) -> None:
        """Gradients that stay, alternate, burst and die, at every scale from tiny to huge."""
        g = self.gradients[:, :2]
        last, t = np.zeros((STEPS, *([1] * (g.ndim - 1)))), np.arange(STEPS).reshape(-1, *([1] * (g.ndim - 1)))
        last[-1] = 1
        patterns = [
            g,
            np.broadcast_to(g[:1], g.shape),
            g[:1] * (-1.0) ** t,
            g * last,
            g * np.where(last, 1, 1e-9),
            g * np.where(t < 8, 1, 1e-9),
        ]
        for name, scales in (("tiny", _TINY), ("usual", SCALES[::2]), ("huge", _HUGE)):
            for k, scale in enumerate(scales):
                stack.add(f"{name} {k}", scale * np.concatenate(patterns, 1), self.weights[:, :1])

    def behaviour(self) -> Behaviour:
        self.ordinary = self.updates[f"scale {_MIDDLE}"]
        if not all(np.all(np.isfinite(self.updates[f"scale {k}"])) for k in _SURELY):
            return Behaviour(finite=False)
        zero, without = self.updates["zero"], self.updates["without weights"]
        zero_finite = bool(np.all(np.isfinite(zero)))
        term = self._weight_term()
        self.base = self._base(zero, zero_finite, term)
        others = [*(self.updates[f"scale {k}"] for k in range(len(SCALES))), self.updates["sizes"], self.updates["turned"]]
        answers = not all(_same(part, self.ordinary) for part in others)
        power, low, high = self._power() if answers else (None, 0.0, np.inf)
        told = power is not None and low == 0 and high == np.inf
        random = bool(self.program.draws) and not _same(self.ordinary, self._other_seed())
        silent = self.updates["one silent"].reshape(STEPS, STREAMS, -1)[..., 0]
        return Behaviour(
            finite=True,
            answers=answers,
            offset=bool(np.any(self.base)),
            power=power,
            holds_from=low,
            holds_to=high,
            growth=() if told or random or not answers else self._growth(),
            rests=zero_finite and not np.any(zero) and not np.any(silent),
            drifts=zero_finite and bool(np.any(zero)),
            zero_finite=zero_finite,
            bounded=self._bounded() if answers else None,
            bound=self._bound(),
            signs_only=answers and self._alike("sizes"),
            symmetry=None if random else self._symmetry(),
            weights_matter=not _same(self.ordinary, without) or term is not None,
            weights_change=self._weights_change(),
            weight_term=term,
            remembers=self._remembers(),
            random=random,
            couples=not self.program.elementwise and self._couples(),
            overflows_at=self._overflows_at(),
        )

    def _alike(self, name: str, sign: int = 1) -> bool:
        """Whether a change of gradients, of ordinary size, small and large, does nothing, or turns the update."""
        return all(_same(self.updates[f"{size}{name}"], sign * self.updates[f"{size}same"]) for size in _SIZES)

    def _base(self, zero: Array, zero_finite: bool, term: WeightTerm | None) -> Array:
        """The update that there is without gradients, from which the answer to them is counted."""
        if zero_finite and np.linalg.norm(zero) <= _ALL_THE_UPDATE * np.linalg.norm(self.ordinary):
            return zero
        if term is not None and term.free:
            return self._shares().reshape(-1, *([1] * (zero.ndim - 1))) * self.weights
        return np.zeros_like(zero)

    def _answer(self, k: int) -> Array:
        """What gradients of one scale add to that."""
        return self.updates[f"scale {k}"] - self.base

    def _power(self) -> tuple[float | None, float, float]:
        """The power by which the answer grows, and from where to where."""
        middle = self._answer(_MIDDLE)
        one, ten = (float(np.linalg.norm(self._answer(k))) for k in (_MIDDLE, _MIDDLE + 1))
        if not (one > 0 and ten > 0):
            return None, 0.0, np.inf
        power = round(float(np.log10(ten / one)), 3) + 0.0  # never -0

        def holds(k: int) -> bool:
            expected = (SCALES[k] / SCALES[_MIDDLE]) ** power * middle
            away = np.abs(self._answer(k) - expected)
            # beside the largest element all, and by themselves most: a few huge ones must not hide the others
            return bool(np.all(away <= _ALIKE * _largest(expected)) and np.mean(away <= 5 * _ALIKE * np.abs(expected)) > 0.9)

        low = high = _MIDDLE
        while low > 0 and holds(low - 1):
            low -= 1
        while high < len(SCALES) - 1 and holds(high + 1):
            high += 1
        if low > _POWER.start or high < _POWER.stop - 1:
            return None, 0.0, np.inf
        return power, 0.0 if low == 0 else float(SCALES[low]), np.inf if high == len(SCALES) - 1 else float(SCALES[high])

    def _growth(self) -> tuple[Growth, ...]:
        found = []
        for k in _GROWTH:
            with np.errstate(all="ignore"):
                one, ten = (np.sqrt(np.sum(self._answer(at) ** 2, axis=tuple(range(2, self.base.ndim)))) for at in (k, k + 1))
                ratios = ten / one
            low, high = np.quantile(ratios, (0.1, 0.9)) if np.all(np.isfinite(ratios)) else (0.0, np.inf)
            if np.all(ratios > _EXPLOSIVE):
                found.append(Growth(float(SCALES[k]), np.inf))
            elif 0 < high <= _STEADY * low:
                found.append(Growth(float(SCALES[k]), float(np.median(ratios))))
        return tuple(found)

    def _bounded(self) -> bool | None:
        def largest(name: str, count: int) -> Array:
            return np.array([np.max(np.abs(self.updates[f"{name} {k}"])) for k in range(count)])

        tiny, usual, huge = largest("tiny", len(_TINY)), largest("usual", len(SCALES[::2])), largest("huge", len(_HUGE))
        # on noise alone, at each step: at most of them, for a factor of the step may be 0 at one
        plain = np.array(
            [np.max(np.abs(self.updates[f"huge {k}"][:, :2]), axis=tuple(range(1, self.ordinary.ndim))) for k in range(len(_HUGE))]
        )
        if np.all(np.isfinite(plain)) and np.mean(np.all(np.diff(plain, axis=0) > 0.02 * plain[:-1], axis=0)) > 0.75:
            return False
        reached = np.max(usual)
        if not np.all(np.isfinite([*tiny, *usual, *huge])) or max(np.max(tiny), np.max(huge)) > 1.001 * reached:
            return None
        return True if self._bound() is not None or not _has_poles(self.rule.expression) else None

    def _bound(self) -> float | None:
        found = range_of(self.rule.expression)
        return max(-found.low, found.high) if found.finite else None

    def _weights_change(self) -> float:
        axes = (0, *range(2, self.ordinary.ndim))
        without = self.updates["without weights"]
        change, size = (np.sqrt(np.sum(part**2, axis=axes)) for part in (self.ordinary - without, without))
        return float(np.max(change / size)) if np.all(size > 0) else np.nan

    def _symmetry(self) -> int | None:
        if self._alike("turned"):
            return 0
        return 1 if self._alike("mirrored", -1) or self._odd() else None

    def _odd(self) -> bool:
        """Whether mirrored gradients mirror what gradients add to the update, of ordinary size, small and large."""
        return all(_opposite(self.updates[f"{size}same"], self.updates[f"{size}turned"], self.base) for size in _SIZES)

    def _remembers(self) -> bool | None:
        last, other = self.ordinary[-1:], self.updates["other past"][-1:]
        if _same(last, other) and not self.program.states:
            return False
        return True if np.max(np.abs(last - other)) > 1e-3 * np.max(np.abs(last)) else None

    def _couples(self) -> bool:
        """At one of the sizes, and not once in a while only."""

        def changed(size: str) -> float:
            one, other = (self.updates[size + name].reshape(STEPS, STREAMS, -1)[..., 1:] for name in ("one changed", "same"))
            return float(np.mean(np.abs(one - other) > 1e-6 * np.abs(other)))

        return any(changed(size) > 0.1 for size in _SIZES)

    def _other_seed(self) -> Array:
        return self.rule.sign * _updates(self.program, ORDINARY * self.gradients, self.weights, seed=1)

    def _overflows_at(self) -> float | None:
        scales = 10.0 ** np.arange(0, 7)
        g = self.gradients[:, :2]
        stacked = np.concatenate([scale * g for scale in scales], 1)
        updates = _updates(
            self.program, stacked, np.tile(self.weights[:, :2], (1, len(scales), *([1] * len(self.shape)))), dtype=np.float32
        )
        broken = ~np.isfinite(updates).all(axis=(0, *range(2, updates.ndim))).reshape(len(scales), 2)
        if not broken[-1].all() or broken[0].any():
            return None
        return float(scales[int(np.argmax(broken.all(axis=1)))]) if np.all(np.diff(broken.all(axis=1).astype(int)) >= 0) else None

    def _shares(self) -> Array:
        """Share of the weights in the update at each step, shape (steps,), by least squares at the largest weights."""
        weights = self.stack.weights[self._index("decay 1 2")]
        with_weights, none = self.updates["decay 1 2"], self.updates["decay 1 none"]
        axes = tuple(range(1, weights.ndim))
        return np.asarray(np.sum((with_weights - none) * weights, axis=axes) / np.sum(weights**2, axis=axes))

    def _index(self, name: str) -> int:
        return list(self.stack.places).index(name)

    def _weight_term(self) -> WeightTerm | None:
        if "w" not in self.program.uses:
            return None
        shares = self._shares()
        if not np.all(np.isfinite(shares)):
            return None
        free, pulls, seen_at = True, True, 0
        most = np.zeros((len(_GRADIENT_SCALES), len(_WEIGHT_SCALES)))  # share at each size of gradients and weights
        for i in range(len(_GRADIENT_SCALES)):
            none = self.updates[f"decay {i} none"]
            for k in range(len(_WEIGHT_SCALES)):
                weights, update = self.stack.weights[self._index(f"decay {i} {k}")], self.updates[f"decay {i} {k}"]
                if not (np.all(np.isfinite(update)) and np.all(np.isfinite(none))):
                    return None
                part = update - none
                rounding = _NOTHING * np.maximum(np.max(np.abs(update)), np.max(np.abs(none)))
                if np.max(np.abs(part)) <= 10 * rounding:  # too small beside these gradients to be seen
                    continue
                seen_at += 1
                expected = shares.reshape(-1, *([1] * (part.ndim - 1))) * weights
                free &= bool(np.all(np.abs(part - expected) <= 1e-6 * np.max(np.abs(expected)) + rounding))
                seen = np.abs(part) > rounding
                pulls &= bool(np.all((part * weights)[seen] > 0))
                most[i, k] = float(np.max(np.abs(part)[seen] / np.abs(weights)[seen], initial=0))
        if free and seen_at >= _FREE_FROM:
            low, high = float(shares.min()), float(shares.max())
            return WeightTerm(low, high, True, high - low <= 1e-6 * max(abs(low), abs(high)))
        share, grows = most.max(), most[-1].max() > 1.001 * most[:-1].max()  # with the gradients, for ever
        told = pulls and not grows and self.program.elementwise and 0 < share <= _STEADY * most.max(axis=0).min()
        return WeightTerm(0.0, float(share), False, False) if told else None


def _same(a: Array, b: Array) -> bool:
    """Whether updates agree up to rounding, at each step of each stream beside its largest."""
    if not np.all(np.isfinite(a) & np.isfinite(b)):
        return bool(np.array_equal(a, b, equal_nan=True))
    return bool(np.all(np.abs(a - b) <= 1e-9 * np.maximum(_largest(a), _largest(b))))


def _opposite(a: Array, b: Array, base: Array) -> bool:
    """Whether updates lie on opposite sides of a base, equally far, up to rounding of all three."""
    if not np.all(np.isfinite(a) & np.isfinite(b)):
        return bool(np.array_equal(a, 2 * base - b, equal_nan=True))
    rounding = 1e-9 * np.maximum(_largest(a - base), _largest(b - base)) + _NOTHING * _largest(base)
    return bool(np.all(np.abs(a + b - 2 * base) <= rounding))


def _largest(updates: Array) -> Array:
    """Of each stream at each step, with axes to broadcast."""
    return np.asarray(np.max(np.abs(updates), axis=tuple(range(2, updates.ndim)), keepdims=True))


def _has_poles(expression: Node) -> bool:
    """Whether something divides by what may pass through 0, so that a rare gradient could give any update."""
    for node in expression.walk():
        if node.name in ("truediv", "div", "recip") and range_of(node.args[-1]).low < 0:
            return True
        if node.name in ("power", "pow"):
            exponent = node.args[1].value
            if exponent is None or exponent < 0:
                return True
    return False
