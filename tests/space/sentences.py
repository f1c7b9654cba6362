"""What `explain` says, checked against the numbers: every sentence of its last paragraph is measured anew, on other gradients than its own.

`check(rule)` raises where a sentence does not hold, and where one has no check here.
"""

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from optevolve.space import UpdateRule
from optevolve.space.explain import explain
from optevolve.space.interpret import Interpreter
from optevolve.space.lower import lower

STEPS = 17
CHECKS: list[tuple[re.Pattern[str], Callable[..., None]]] = []
NUMBER = r"([\d.e+-]*\d)"


def says(pattern: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(function: Callable[..., None]) -> Callable[..., None]:
        CHECKS.append((re.compile(pattern.replace("#", NUMBER)), function))
        return function

    return register


class Measured:
    """A rule and streams of gradients and weights, (steps, streams, *shape), that `explain` has not seen."""

    def __init__(self, rule: UpdateRule, seed: int) -> None:
        self.rule = rule
        self.program = lower(rule.expression)
        self.rng = np.random.default_rng([seed, 77])
        self.shape = (5,) if self.program.elementwise else (4, 5)
        size = (STEPS, 4, *self.shape)  # other than those behind the sentences
        self.g = self.rng.normal(size=size) + self.rng.normal(size=size[1:])
        self.w = 0.1 * (self.rng.normal(size=size[1:]) + 0.1 * self.rng.normal(size=size))
        self.text = explain(rule).split("\n\n")[-1]

    def u(self, g: Any, w: Any = None, dtype: Any = np.float64, seed: int = 3) -> Any:
        """Updates, signed."""
        w = self.w if w is None else w
        interpreter = Interpreter(self.program, self.shape, STEPS, seed, dtype)
        with np.errstate(all="ignore"):
            rows = [
                np.broadcast_to(interpreter(a.astype(dtype), b.astype(dtype), t), a.shape)
                for t, (a, b) in enumerate(zip(g, w, strict=True))
            ]
        return self.rule.sign * np.stack(rows)

    def answer(self, scale: float) -> Any:
        """What gradients of this size add to the update without any, if the text speaks of that."""
        update = self.u(scale * self.g)
        if "hat the gradients add to the update" not in self.text:
            return update
        zero = self.u(0 * self.g)
        if np.isfinite(zero).all():
            return update - zero
        share = re.search(f"gradients, {NUMBER} times the weights", self.text)
        assert share is not None
        return update - (-1 if "drives" in self.text else 1) * float(share[1]) * self.w


def close(a: Any, b: Any, share: float, rounding: Any = 0.0) -> None:
    """Whether updates differ by at most a share of the largest of their step and stream; what is not finite is so in both."""
    np.testing.assert_array_equal(np.isfinite(a), np.isfinite(b))
    a, b = (np.where(np.isfinite(x), x, 0) for x in (a, b))
    axes = tuple(range(2, a.ndim))
    size = np.maximum(np.max(np.abs(a), axis=axes, keepdims=True), np.max(np.abs(b), axis=axes, keepdims=True))
    assert np.all(np.abs(a - b) <= share * size + rounding), float(np.max(np.abs(a - b) / np.where(size, size, 1)))


def differ(a: Any, b: Any) -> bool:
    return not np.allclose(a, b, rtol=1e-12, atol=0, equal_nan=True)


def apart(a: Any, b: Any, share: float) -> bool:
    """Whether updates differ by more than a share of the largest of their step and stream."""
    try:
        close(a, b, share)
    except AssertionError:
        return True
    return False


@says(r"^It does not look at the gradient at all$")
def _(m: Measured) -> None:
    assert not differ(m.u(m.g), m.u(1e3 * m.g[::-1]))


@says(r"^No gradient of the sizes tried changes the update$")
def _(m: Measured) -> None:
    close(m.u(m.g), m.u(0.01 * m.g[::-1]), 1e-6)


@says(r"^On gradients of ordinary size it can give updates that are not finite$")
def _(m: Measured) -> None:
    rng = np.random.default_rng(9)
    many = rng.normal(size=(STEPS, 4000, *m.shape)) + rng.normal(size=(4000, *m.shape))
    weights = np.broadcast_to(0.1 * rng.normal(size=(1, *many.shape[1:])), many.shape)
    runs = (m.u(scale * many, weights, seed=seed) for scale in (1e-4, 1e-3, 1e-2, 0.1) for seed in (0, 1, 2))
    assert any(not np.isfinite(run).all() for run in runs) or m.program.needs_total_steps


@says(r"^(?:The update|What the gradients add to the update) grows in proportion to the gradients$")
def _(m: Measured) -> None:
    for scale in (3e-9, 2e-5, 0.02, 40.0, 5e5, 1e9):
        close(m.answer(scale), scale / 1e-3 * m.answer(1e-3), 0.05)


@says(r"^Only the signs of the gradients count$")
def _(m: Measured) -> None:
    for scale in (1e-6, 1e-2, 1.0, 1e3):
        close(m.u(scale * m.g), m.u(m.g * np.exp(3 * m.rng.normal(size=m.g.shape))), 1e-9)


@says(r"^Ten times larger gradients leave .*update as it is: their scale hardly matters(?:,(?: from # on)?(?: up to #)?)?$")
def _(m: Measured, low: str | None, high: str | None) -> None:
    first, last = float(low or 1e-12), float(high or 1e12)
    for scale in np.geomspace(first, last / 10, 5):
        close(m.answer(scale), m.answer(10 * scale), 0.1)


@says(r"^Ten times larger gradients make .*update # times as large$")
def _(m: Measured, factor: str) -> None:
    for scale in (2e-8, 3e-4, 0.5, 2e3):
        close(float(factor) * m.answer(scale), m.answer(10 * scale), 0.05)


@says(r"^How .*update answers to ten times larger gradients depends on their size: it becomes (.*)$")
def _(m: Measured, listed: str) -> None:
    parts = re.split(", | and ", listed)
    assert parts
    for part in parts:
        factor, scale = part.rsplit(" at ", 1)
        axes = tuple(range(2, m.g.ndim))
        with np.errstate(all="ignore"):
            one, ten = (np.sqrt(np.sum(m.answer(at) ** 2, axis=axes)) for at in (float(scale), 10 * float(scale)))
            ratio = float(np.nanmedian(np.where(np.isfinite(ten), ten, np.inf) / one))
        if factor == "no larger":
            assert 0.85 < ratio < 1.15, ratio
        elif factor == "more than 100 times as large":
            assert ratio > 50, ratio
        else:
            assert ratio == pytest.approx(float(factor.removesuffix(" times as large")), rel=0.35), part


def extremes(m: Measured, scales: tuple[float, ...]) -> Any:
    """Largest element at each scale, over noise, a burst after silence and an end of it."""
    late = np.zeros((STEPS, *[1] * (m.g.ndim - 1)))
    late[-2:] = 1
    kinds = (m.g, m.g * late, m.g * np.where(late, 1e-7, 1), np.abs(m.g[:1]) * np.ones_like(m.g))
    return np.array([max(float(np.max(np.abs(m.u(scale * g)))) for g in kinds) for scale in scales])


@says(r"^No element of the update exceeds #, however large the gradients$")
def _(m: Measured, bound: str) -> None:
    assert np.all(extremes(m, (1e-8, 1e-3, 0.1, 1.0, 10.0, 1e4, 1e15, 1e30)) <= float(bound) * (1 + 1e-6))


@says(r"^However large the gradients, the elements of the update stay below a bound$")
def _(m: Measured) -> None:
    usual = extremes(m, (1e-9, 1e-6, 1e-4, 1e-2, 0.1, 1.0, 10.0, 1e3, 1e6, 1e9, 1e12))
    assert np.all(extremes(m, (1e13, 1e15, 1e22, 1e32)) <= 1.5 * usual.max())


@says(r"^Larger gradients make larger updates without end$")
def _(m: Measured) -> None:
    found = [np.max(np.abs(m.u(scale * m.g))) for scale in (1e17, 1e22, 1e28, 1e36)]
    assert all(b > a for a, b in itertools.pairwise(found))


@says(r"^Gradients of # and more overflow in float32$")
def _(m: Measured, size: str) -> None:
    for factor in (10, 1e3):
        assert not np.isfinite(m.u(factor * float(size) * m.g, dtype=np.float32)).all()


@says(r"^The sign of the gradients does not matter$")
def _(m: Measured) -> None:
    for scale in (1e-4, 1e-2, 1.0, 5.0):
        close(m.u(scale * m.g), m.u(-scale * m.g), 1e-8)


@says(r"^Positive and negative gradients are treated differently$")
def _(m: Measured) -> None:
    # neither the same nor the mirrored update, and not the mirrored one of mirrored weights. As to max(g * w, 0), which stays as it is if
    # both are mirrored: for every weight the sign of its gradient matters.
    for sign, w in ((1, m.w), (-1, m.w), (-1, -m.w)):
        scales = (1e-6, 1e-3, 0.1, 10.0, 1e3)
        assert any(apart(m.u(scale * m.g), sign * m.u(-scale * m.g, w), 1e-10) for scale in scales), (sign, w is m.w)
    zero = m.u(0 * m.g)
    if np.isfinite(zero).all():  # nor do they add the opposite to an update that is there without any
        sums = [(m.u(scale * m.g) + m.u(-scale * m.g), 2 * zero) for scale in scales]
        assert any(apart(*pair, 1e-13) for pair in sums)


@says(r"^Whatever the gradients, (?:# times the weights|a share of the weights that changes with the step) is part of the update(.*)$")
def _(m: Measured, share: str | None, what: str) -> None:
    for scale, weights in ((1e-5, 0.3), (1e-2, 20.0), (10.0, 300.0)):
        w = weights * m.w
        with_weights, none = m.u(scale * m.g, w), m.u(scale * m.g, 0 * w)
        part = with_weights - none
        axes = tuple(range(1, w.ndim))
        shares = np.sum(part * w, axis=axes) / np.sum(w * w, axis=axes)
        close(part, shares.reshape(-1, *[1] * (w.ndim - 1)) * w, 1e-3, 1e-11 * np.max(np.abs(none)))
        if share is not None:
            np.testing.assert_allclose(np.abs(shares), float(share), rtol=6e-3)
        if what == ": weight decay":
            assert shares.min() >= 0 < shares.max()
        elif what == ", and drives them away from 0":
            assert shares.max() <= 0 > shares.min()
        else:
            assert what == ", which now shrinks them and now drives them away from 0"


@says(r"^The update pulls the weights towards 0, by at most # of their size, as gradients(?: and step|, step and chance) have it$")
def _(m: Measured, most: str) -> None:
    seen = False
    for scale, weights in ((1e-7, 0.3), (1e-3, 3.0), (0.3, 100.0), (1e2, 500.0), (1e7, 1.0), (1e13, 200.0)):
        w = weights * m.w
        with_weights, none = m.u(scale * m.g, w), m.u(scale * m.g, 0 * w)
        rounding = 1e-11 * np.maximum(np.abs(with_weights), np.abs(none))
        part = with_weights - none
        assert np.all((part * w >= 0) | (np.abs(part) <= rounding))
        assert np.all(np.abs(part) <= 1.2 * float(most) * np.abs(w) + rounding)
        seen |= bool(np.any(np.abs(part) > rounding))
    assert seen


@says(r"^The weights themselves have a say in the update(?:: such as are common, of about 0\.1, change it by less than # %)?$")
def _(m: Measured, percent: str | None) -> None:
    changes = [(m.u(scale * m.g, w), m.u(scale * m.g, 0 * w)) for scale in (1e-3, 0.1) for w in (m.w, 100 * m.w)]
    assert any(differ(*pair) for pair in changes)
    if percent is not None:
        one, other = changes[0]
        assert np.linalg.norm(one - other) < float(percent) / 100 * np.linalg.norm(other)


@says(r"^A weight that never has a gradient stays where it is$")
def _(m: Measured) -> None:
    first = (..., *[0] * len(m.shape))
    for scale in (1e-5, 1e-2, 10.0):
        g = scale * m.g
        g[first] = 0
        assert not m.u(g)[first].any()
    assert not m.u(0 * g, 30 * m.w).any()


@says(r"^Weights move even without a gradient$")
def _(m: Measured) -> None:
    assert m.u(0 * m.g).any()


@says(r"^Where there never was a gradient the update is not finite$")
def _(m: Measured) -> None:
    assert not np.isfinite(m.u(0 * m.g)).all()


def past_matters(m: Measured) -> bool:
    """Whether another past changes the update of the last step, whose gradient is the same."""
    found = False
    for scale in (1e-3, 0.1, 10.0):
        for seed in range(3):
            other = np.random.default_rng(seed).normal(0.5, 1.0, size=m.g.shape) * scale
            other[-1] = scale * m.g[-1]
            found |= differ(m.u(scale * m.g)[-1], m.u(other)[-1])
    return found


@says(r"^Earlier gradients count too$")
def _(m: Measured) -> None:
    assert past_matters(m)


@says(r"^Of the gradients, the present one alone makes the update$")
def _(m: Measured) -> None:
    assert not past_matters(m)


@says(r"^The gradient of each weight has a say in the updates of others of its tensor$")
def _(m: Measured) -> None:
    changed = m.g.copy()
    changed[:, :, 0, 0] *= 7
    others = np.ones(m.shape, dtype=bool)
    others[0, 0] = False
    assert any(differ(m.u(scale * m.g)[:, :, others], m.u(scale * changed)[:, :, others]) for scale in (1e-3, 10.0, 100.0))


@says(r"^It draws random numbers at every step$")
def _(m: Measured) -> None:
    assert differ(m.u(1e-3 * m.g, seed=1), m.u(1e-3 * m.g, seed=2))


@says(r"^Between steps it remembers (?:(nothing)|# numbers? per weight)$")
def _(m: Measured, nothing: str | None, count: str | None) -> None:
    assert int(count or 0) == len(m.program.states) + (m.rule.kind != "plain")


def check(rule: UpdateRule, seed: int = 0) -> None:
    measured = Measured(rule, seed)
    sentences = measured.text.removesuffix(".").split(". ")
    for sentence in sentences:
        found = [(match, function) for pattern, function in CHECKS if (match := pattern.match(sentence))]
        assert len(found) == 1, f"{rule}: no check of {sentence!r}"
        match, function = found[0]
        try:
            function(measured, *match.groups())
        except AssertionError as error:
            raise AssertionError(f"{rule}: {sentence!r} does not hold: {error}") from error
