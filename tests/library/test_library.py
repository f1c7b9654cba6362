"""The zoo: every rule parses, prints and descends; the formulas are those of their sources, written out anew in plain numpy."""

import json
from collections.abc import Callable
from importlib import resources
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import special

from optevolve import library
from optevolve.compile import build
from optevolve.errors import ParseError
from optevolve.integrity import check_integrity
from optevolve.library import SCHEDULES, ZOO, rule_or_name
from optevolve.space import parse
from optevolve.space.decays import values_of
from optevolve.space.interpret import Interpreter, ReferenceOptimizer
from optevolve.space.lower import lower
from optevolve.space.paper_notation import parse_paper

Array = npt.NDArray[np.float64]
STEPS = 50
SIZE = 6
EPS = 1e-7

PAPERS = [*(f"opt{i}" for i in range(1, 11)), *(f"opt{i}_static" for i in range(4, 11)), *(f"a{i}" for i in range(1, 6))]
BASELINES = ["sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "lion", "powersign", "addsign", "qhm", "adabelief", "muon"]


def test_everything_that_was_published_is_there() -> None:
    assert set(PAPERS) | set(BASELINES) <= set(ZOO)
    assert list(SCHEDULES) == [f"L{i}" for i in range(1, 10)]


@pytest.mark.parametrize("name", list(ZOO))
def test_every_rule_round_trips_and_descends(name: str) -> None:
    entry = ZOO[name]
    assert entry.name == name
    assert parse(str(entry.rule)) == entry.rule
    assert entry.summary
    assert entry.source
    assert entry.recommended is None or 0 < entry.recommended < 1
    assert entry.learning_rate == (entry.recommended or (entry.measured and entry.measured.learning_rate))
    verdict = check_integrity(entry.rule)
    assert verdict.ok
    assert verdict.sign == entry.rule.sign


# What section 7 of the method and the sources state, from gradients alone: one function of (g, w, t) per rule, with state of its own.


class Moments:
    """Bias-corrected and plain averages as a textbook writes them."""

    def __init__(self) -> None:
        self.raw: dict[str, Array] = {}

    def __call__(self, key: str, x: Array, beta: float) -> Any:
        self.raw[key] = beta * self.raw.get(key, np.zeros_like(x)) + (1 - beta) * x
        return self.raw[key]

    def corrected(self, key: str, x: Array, beta: float, t: int) -> Any:
        return self(key, x, beta) / (1 - beta ** (t + 1))


def decays(t: int) -> dict[str, float]:
    r, c = t / STEPS, (2 * t % STEPS) / STEPS
    b = 0.95 * (1 - (t + 1) / STEPS)
    cosine = {"a4": (1 - np.cos(np.pi * r)) / 2, "a6": (1 - np.cos(2 * np.pi * r)) / 2, "a8": (1 - np.cos(np.pi * c)) / 2}
    return {"a1": 1 - r, "a2": r, **cosine, "a10": c, "a11": 0.01**r, "a12": 1 - 0.01**r, "a13": b / (0.05 + b), "b": b}


def bessel(x: Array) -> Any:
    return np.exp(-np.abs(x)) * special.iv(1, x)


def softsign(x: Array) -> Any:
    return x / (1 + np.abs(x))


def clipped(x: Any, y: Any) -> Any:
    return np.clip(x, -np.abs(y), np.abs(y))


def schedule_1(d: dict[str, float]) -> float:
    return float(special.erfc(special.erfc(d["a4"])) / (1 - np.tanh(d["a8"]) ** 2))


Update = Callable[[Array, Array, int, Moments, dict[str, float]], Any]


def qhm_v(g: Array, t: int, m: Moments) -> Any:
    return 0.3 * g + 0.7 * m.corrected("v", g, 0.9, t)


def qhm_s(g: Array, t: int, m: Moments) -> Any:
    return 0.05 * g**2 + 0.95 * m.corrected("s", g**2, 0.99, t)


def qhm_l(g: Array, t: int, m: Moments) -> Any:
    return 0.01 * g**3 + 0.99 * m.corrected("l", g**3, 0.999, t)


def opt1(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return qhm_v(g, t, m) + softsign(clipped(1e-5 * w, 1e-5 * w - qhm_s(g, t, m)))


def opt2(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return qhm_v(g, t, m) + softsign(1e-5 * w / np.sqrt(1 + (1e-5 * w - qhm_s(g, t, m)) ** 2))


def opt3(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return qhm_v(g, t, m) + softsign(1e-5 * w / np.sqrt(1 + (1e-5 * w - qhm_l(g, t, m)) ** 2))


def opt4(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    v_hat = m.corrected("v", g, 0.9, t)
    return schedule_1(d) * ((0.3 * g + 0.7 * v_hat) / (clipped(2.0, np.arctan(d["a13"]) * np.exp(v_hat)) + EPS))


def opt6(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return schedule_1(d) * qhm_v(g, t, m) / np.abs((1 - np.tanh(d["a4"]) ** 2) * np.exp(1e-4 * w))


def opt7(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return np.tanh(max(d["a6"], d["a10"]) * np.arcsinh(qhm_v(g, t, m)))


def opt8(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return np.arcsinh(max(d["a6"], d["a10"]) * np.arcsinh(qhm_v(g, t, m)))


def opt9(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return special.erfc(d["a11"]) * g * np.exp(np.arctan(qhm_s(g, t, m)))


def opt10(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return bessel(bessel(d["a13"] * d["a2"] * g))


def adam_like(bound: Callable[[Array], Any]) -> Update:
    """A1 … A4: the first moment clipped to a function of the second."""

    def update(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
        return clipped(m.corrected("v", g, 0.9, t), bound(m.corrected("s", g**2, 0.99, t)))

    return update


def a5(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    u = adam_like(np.sqrt)(g, w, t, m, d)
    return u / max(1.0, float(np.linalg.norm(u)))


def powersign(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return np.exp(np.sign(g) * np.sign(m("v", g, 0.9))) * g


def addsign(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return (1 + np.sign(g) * np.sign(m("v", g, 0.9))) * g


def qhm(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return (1 - 0.7) * g + 0.7 * m("v", g, 0.999)


def adam(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return m.corrected("v", g, 0.9, t) / (np.sqrt(m.corrected("s", g**2, 0.999, t)) + 1e-8)


def adamw(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    """Its weight decay is beside the rule."""
    return adam(g, w, t, m, d)


def rmsprop(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return g / (np.sqrt(m("s", g**2, 0.99)) + 1e-8)


def lion(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    """The sign of the interpolation is taken with the momentum of before, which is updated afterwards."""
    before = m.raw.get("m", np.zeros_like(g))
    m.raw["m"] = 0.99 * before + 0.01 * g
    return np.sign(0.9 * before + 0.1 * g)


def adabelief(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    """With the authors' later default epsilon, 1e-16 within the average as well, which is nothing beside any (g - m)^2 here."""
    v = m("v", g, 0.9)
    m.raw["s"] = 0.999 * m.raw.get("s", np.zeros_like(g)) + 0.001 * (g - v) ** 2 + 1e-16
    return v / (1 - 0.9 ** (t + 1)) / (np.sqrt(m.raw["s"] / (1 - 0.999 ** (t + 1))) + 1e-8)


def opt5(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    return schedule_1(d) * opt5_static(g, w, t, m, d)


def opt5_static(g: Array, w: Array, t: int, m: Moments, d: dict[str, float]) -> Any:
    v_hat = m.corrected("v", g, 0.9, t)
    return (0.3 * g + 0.7 * v_hat) / (clipped(2.0, np.exp(v_hat)) + EPS)


def ln(x: Array) -> Any:
    return np.log(np.abs(x) + EPS)


FORMULAS: dict[str, Update] = {
    "opt1": opt1,
    "opt2": opt2,
    "opt3": opt3,
    "opt4": opt4,
    "opt5": opt5,
    "opt6": opt6,
    "opt7": opt7,
    "opt8": opt8,
    "opt9": opt9,
    "opt10": opt10,
    # Without decays and factor: what stood for them is 1.
    "opt4_static": opt5_static,
    "opt5_static": opt5_static,
    "opt6_static": lambda g, w, t, m, d: qhm_v(g, t, m) / np.exp(1e-4 * w),
    "opt7_static": lambda g, w, t, m, d: np.tanh(np.arcsinh(qhm_v(g, t, m))),
    "opt8_static": lambda g, w, t, m, d: np.arcsinh(np.arcsinh(qhm_v(g, t, m))),
    "opt9_static": lambda g, w, t, m, d: g * np.exp(np.arctan(qhm_s(g, t, m))),
    "opt10_static": lambda g, w, t, m, d: bessel(bessel(g)),
    "a1": adam_like(np.sqrt),
    "a2": adam_like(lambda s: np.abs(ln(s))),
    "a3": adam_like(lambda s: np.sqrt(np.abs(ln(s)))),
    "a4": adam_like(lambda s: 1 / (1 + np.exp(-s))),
    "a5": a5,
    "powersign": powersign,
    "addsign": addsign,
    "qhm": qhm,
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "lion": lion,
    "adabelief": adabelief,
}


def gradient(w: Array, t: int) -> Any:
    """Of a valley with noise, so that signs change and averages differ from gradients."""
    return np.linspace(0.2, 3, SIZE) * w + np.sin(1.7 * np.arange(SIZE) + 2.3 * t)


@pytest.mark.parametrize("name", list(FORMULAS))
def test_formula(name: str) -> None:
    """Fifty steps in float64, each computation on the weights that it has reached itself."""
    rule = ZOO[name].rule
    update = Interpreter(lower(rule.expression), (SIZE,), STEPS, dtype=np.float64)
    formula, moments = FORMULAS[name], Moments()
    mine = theirs = np.cos(np.arange(SIZE, dtype=np.float64))
    for t in range(STEPS):
        u: Any = update(cast(Any, gradient(mine, t)), cast(Any, mine), t)
        expected = formula(gradient(theirs, t), theirs, t, moments, decays(t))
        np.testing.assert_allclose(u, expected, rtol=1e-6, atol=1e-12, err_msg=f"step {t}")
        mine, theirs = mine - 0.01 * u, theirs - 0.01 * expected
    assert np.abs(theirs - np.cos(np.arange(SIZE))).max() > 1e-5


def test_the_tenth_is_nesterov_and_so_is_the_ninth() -> None:
    """Fifty steps of the kind with its momentum, by hand: m <- mu m - lr u, w <- w + mu m - lr u."""
    assert {name for name in PAPERS if ZOO[name].rule.kind != "plain"} == {"opt9", "opt9_static", "opt10", "opt10_static"}
    optimizer = ReferenceOptimizer(ZOO["opt10"].rule, (SIZE,), STEPS)
    w = np.cos(np.arange(SIZE))
    mine = w.astype(np.float32)
    m = np.zeros(SIZE)
    for t in range(STEPS):
        u = opt10(gradient(w, t), w, t, Moments(), decays(t))
        m = 0.9 * m - 0.05 * u
        w = w + 0.9 * m - 0.05 * u
        mine = optimizer.step(mine, gradient(mine.astype(np.float64), t).astype(np.float32), np.float32(0.05), np.float32(0.9))
    np.testing.assert_allclose(mine, w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in PAPERS if name.endswith("_static")])
def test_what_has_no_decays_needs_no_length_of_the_run(name: str) -> None:
    static, moving = ZOO[name].rule, ZOO[name.removesuffix("_static")].rule
    assert not lower(static.expression).needs_total_steps
    assert lower(moving.expression).needs_total_steps
    assert static.kind == moving.kind


D = {key: np.array([decays(t)[key] for t in range(STEPS)]) for key in decays(0)}


def deriv_tanh(x: Array) -> Any:
    return 1 - np.tanh(x) ** 2


def sigmoid(x: Array) -> Any:
    return 1 / (1 + np.exp(-x))


def deriv_soft(x: Array) -> Any:
    return 1 / (1 + np.abs(x))


L = {
    "L1": special.erfc(special.erfc(D["a4"])) / deriv_tanh(D["a8"]),
    "L2": special.erfc(special.erfc(D["a4"])) / (deriv_tanh(D["a8"]) * deriv_tanh(D["a4"])),
    "L3": np.arctan(D["a2"]) / (deriv_tanh(D["a10"]) * np.sqrt(deriv_soft((0.95 - D["b"]) / (0.05 + D["b"])))),
    "L4": sigmoid(D["a2"]) ** 2 / sigmoid(2 * softsign(D["a1"])),
    "L5": 1 / np.sqrt(special.erf(D["a11"])),
    "L6": np.arctan(D["a2"]) * special.erfc(D["a6"]) / np.sqrt(deriv_soft(D["a6"])),
    "L7": 1 / np.sqrt(deriv_soft(D["a10"])),
    "L8": 1 / (np.sqrt(softsign(np.arctan(D["a12"]))) + 1e-7),
    "L9": np.tanh(np.maximum(D["a10"], D["a6"])),
}


@pytest.mark.parametrize("name", list(L))
def test_schedules(name: str) -> None:
    np.testing.assert_allclose(values_of(SCHEDULES[name], STEPS), L[name], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("shape", [(8, 8), (6, 10), (12, 5)])
def test_muon_is_torchs_but_for_its_bfloat16(shape: tuple[int, int]) -> None:
    """torch's Muon orthogonalises in bfloat16, this in float32: steps agree to that rounding, carried through five iterations."""
    torch.manual_seed(0)
    start = torch.randn(shape)
    theirs, mine = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    muon: Any = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.0, momentum=0.95)
    rule = build(ZOO["muon"].rule, [mine], lr=0.1)
    reference = ReferenceOptimizer(ZOO["muon"].rule, shape)
    w: Any = start.numpy()
    for _ in range(20):
        g = torch.randn(shape)
        theirs.grad, mine.grad = g, g.clone()
        before = theirs.detach().clone(), mine.detach().clone()
        muon.step()
        rule.step()
        w = reference.step(w, cast(Any, g.numpy()), np.float32(0.1))
        steps = theirs.detach() - before[0], mine.detach() - before[1]
        assert (steps[0] - steps[1]).norm() < 0.05 * steps[0].norm()
    np.testing.assert_allclose(mine.detach().numpy(), w, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("text", ["opt6", " Opt6 ", "OPT6"])
def test_names_in_any_case(text: str) -> None:
    assert rule_or_name(text) == ZOO["opt6"].rule


def test_rules_in_either_notation() -> None:
    assert rule_or_name("momentum: g") == parse("momentum: g")
    assert rule_or_name("Mom ~ (v hat)*(g)") == parse_paper("Mom ~ (v hat)*(g)")


@pytest.mark.parametrize(("text", "near"), [("adan", "adam"), ("optt6", "opt6"), ("nestrov", "nesterov"), ("powersgn", "powersign")])
def test_a_name_that_is_near(text: str, near: str) -> None:
    with pytest.raises(ParseError, match=f"Or did you mean '{near}' of the zoo"):
        rule_or_name(text)


def test_what_is_near_no_name_is_told_by_the_parser_alone() -> None:
    with pytest.raises(ParseError) as caught:
        rule_or_name("softsgn(g)")
    assert "zoo" not in str(caught.value)


MEASURED = json.loads(resources.files("optevolve.library").joinpath("learning_rates.json").read_text(encoding="utf-8"))


def test_what_was_measured_is_of_the_rules_as_they_are() -> None:
    for name, row in MEASURED["rules"].items():
        assert row["rule"] == str(ZOO[name].rule), f"{name} has changed: measure it anew by benchmarks/learning_rates.py"
        entry = ZOO[name].measured
        assert entry is not None
        assert set(entry.tasks) <= set(MEASURED["tasks"])
        assert all(0 < at.low <= at.best <= at.high for at in entry.tasks.values())
        assert min(at.low for at in entry.tasks.values()) <= entry.learning_rate * 2
        assert entry.learning_rate <= 2 * max(at.high for at in entry.tasks.values())


def test_what_was_measured_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    task = {"best": 0.3, "low": 0.1, "high": 1.0, "score": 0.9, "edge": True}
    rows = {name: {"learning_rate": rate, "tasks": {"images": task}} for name, rate in (("opt6", 0.2), ("lion", 2e-3))}
    monkeypatch.setattr(library, "_rates", lambda: {"rules": rows})
    assert ZOO["opt6"].learning_rate == 0.2
    assert ZOO["opt6"].measured is not None
    assert ZOO["opt6"].measured.edge
    assert ZOO["lion"].learning_rate == 1e-4  # the source's own
    assert ZOO["adam"].measured is None
