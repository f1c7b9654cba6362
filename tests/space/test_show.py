import json

import numpy as np
import pytest

from optevolve.integrity import check_integrity
from optevolve.library import SCHEDULES, ZOO
from optevolve.space import parse
from optevolve.space.decays import decay_values
from optevolve.space.explain import explain
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.latex import latex
from optevolve.space.show import describe, step_lines


def test_adam() -> None:
    shown = describe(ZOO["adam"].rule)
    assert shown.native == str(ZOO["adam"].rule)
    assert shown.latex == latex(ZOO["adam"].rule)
    assert shown.paper == ""  # exact division has no spelling there
    assert shown.bytes_per_parameter == 8
    assert [following for _, following in shown.buffers] == ["0.9 * m0 + (1 - 0.9) * g", "0.999 * m1 + (1 - 0.999) * n2"]
    assert not shown.needs_total_steps
    assert shown.words == explain(ZOO["adam"].rule)


def test_steps_follow_the_program() -> None:
    assert step_lines(parse("-nesterov: a3 * v_hat + dropout(g, 0.3)")) == (
        "d0 = a3",
        "c0 = 1 - 0.9 ** (t + 1)",
        "r0 = a fresh random tensor (uniform)",
        "m0_next = 0.9 * m0 + (1 - 0.9) * g",
        "n1 = m0_next / c0",
        "n2 = d0 * n1",
        "n3 = where(r0 >= 0.3, g / (1 - 0.3), 0)",
        "n4 = n2 + n3",
        "m0 ← m0_next",
        "m ← μ * m + α * n4",
        "w ← w + μ * m + α * n4",
    )


@pytest.mark.parametrize("name", ["momentum", "rmsprop", "adabelief", "opt1", "opt4", "opt8", "a2"])
def test_the_steps_are_what_runs(name: str) -> None:
    """The lines, read as Python, move the weights as the reference does."""
    rule = ZOO[name].rule
    steps, shape = 6, (5,)
    rng = np.random.default_rng(0)
    w = rng.normal(size=shape).astype(np.float32)
    names = {"sqrt": np.sqrt, "abs": np.abs, "exp": np.exp, "log": np.log, "maximum": np.maximum, "minimum": np.minimum}
    names |= {"arcsinh": np.arcsinh, "α": 0.1, "μ": 0.9, "w": w.astype(np.float64), "m": 0.0}
    names |= {buffer: np.zeros(shape) for buffer, _ in describe(rule).buffers}
    reference = ReferenceOptimizer(rule, shape, steps)
    for t in range(steps):
        g = rng.normal(size=shape).astype(np.float32)
        names |= {"g": g.astype(np.float64), "t": t}
        for line in step_lines(rule):
            target, formula = line.replace(" ← ", " = ").split(" = ")
            with np.errstate(divide="ignore"):
                names[target] = decay_values(formula, steps)[t] if target[0] == "d" else eval(formula, dict(names))
        w = reference.step(w, g, 0.1, 0.9)
        np.testing.assert_allclose(names["w"], w, rtol=1e-4, atol=1e-5)


def test_decays_schedule_and_rest() -> None:
    shown = describe(ZOO["opt4"].rule, total_steps=50)
    assert list(shown.decays) == ["erfc(erfc(a4)) / deriv_tanh(a8)", "arctan(a13)"]
    np.testing.assert_array_equal(shown.decays["arctan(a13)"], decay_values("arctan(a13)", 50))
    np.testing.assert_allclose(shown.schedule_values, decay_values(shown.schedule, 50))
    assert parse(shown.schedule).expression == SCHEDULES["L1"]
    assert shown.rest == "div(qhm(v), clip(2, arctan(a13) * exp(v_hat)))"
    assert shown.needs_total_steps
    assert describe(parse("g")).rest == "g"


def test_the_authors_notation_where_there_is_one() -> None:
    assert describe(parse("nesterov: a3 * g")).paper == "Nest ~ [a3][g]"


def test_the_verdict_is_passed_through_and_all_of_it_is_json() -> None:
    verdict = check_integrity(parse("exp(exp(g ** 2))"))
    shown = describe(parse("a3 * g"), 10, {"ok": verdict.ok, "sign": verdict.sign, "reason": verdict.reason, "losses": verdict.losses})
    facts = json.loads(json.dumps(shown.as_dict(), allow_nan=False))
    assert facts["integrity"]["ok"] == verdict.ok
    assert np.shape(facts["integrity"]["losses"]) == (2, 6)
    assert facts["decays"]["a3"] == pytest.approx(decay_values("a3", 10).tolist())


def test_a_run_has_steps() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        describe(parse("g"), total_steps=0)
