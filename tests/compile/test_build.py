"""Optimizers built from rules follow the numpy reference, however they run."""

import warnings

import numpy as np
import pytest
import torch

from optevolve.compile import build, class_of, export
from optevolve.errors import ParseError
from optevolve.space import parse
from optevolve.space.interpret import ReferenceOptimizer

RULES = [
    "g",
    "momentum: g",
    "-nesterov: g",
    "v_hat / (sqrt(s_hat) + 1e-8)",
    "erfc(erfc(a4)) / deriv_tanh(a8) * qhm(v) / abs(deriv_tanh(a4) * exp(1e-4 * w))",
    "clip_norm(clip(v_hat, sqrt(s_hat)))",
    "nesterov: bessel_i1e(bessel_i1e(a13 * a2 * g))",
    "dropout(g, 0.3) + noise",
    "delta(running_max(g)) + aggmo(s)",
    "a1",
    "2",
    "-momentum: clip(ema(a3, 0.9) * clip_norm(2), a4) + g * a7",
    "-plain: pow(g, a1) + delta(a2) + running_max(a3)",
    "clip_norm(ema(a1, 0.9)) + g",
    "max(0.3, clip_norm(g)) + dropout(a1)",
]
SIZE, STEPS, TOTAL, LR = 37, 100, 60, 0.01


@pytest.mark.filterwarnings("ignore:.*goes on past its")
@pytest.mark.parametrize("text", RULES)
def test_follows_the_reference(text: str) -> None:
    """100 steps on random tensors, the last 40 past the end; a second tensor beside the first; per tensor and flat."""
    rule = parse(text)
    torch.manual_seed(0)
    start, gradients = torch.randn(SIZE), torch.randn(STEPS, SIZE)
    reference, w = ReferenceOptimizer(rule, (SIZE,), TOTAL), start.numpy().copy()
    models = [[torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[:12].clone().view(3, 4))] for _ in range(2)]
    optimizers = [build(rule, models[0], LR, TOTAL), build(rule, models[1], LR, TOTAL, flat=True)]
    for g in gradients:
        w = reference.step(w, g.numpy(), LR, 0.9)
        for model, optimizer in zip(models, optimizers, strict=True):
            model[0].grad, model[1].grad = g, g[12:24].view(3, 4)
            optimizer.step()
    np.testing.assert_allclose(models[0][0].detach().numpy(), w, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(models[0], models[1], rtol=1e-6, atol=1e-7)


def test_missing_total_steps_is_said() -> None:
    with pytest.raises(ValueError, match=r"Expected total_steps, since .* has decays"):
        build("a1 * g", [torch.nn.Parameter(torch.zeros(1))], 0.1)


def test_text_that_is_no_rule_is_refused() -> None:
    with pytest.raises(ParseError):
        build("no_such(g)", [torch.nn.Parameter(torch.zeros(1))], 0.1)


def test_past_the_end_is_said_once() -> None:
    w = torch.nn.Parameter(torch.zeros(1))
    optimizer = build("a1 * g", [w], 0.1, 2)
    w.grad = torch.ones(1)
    optimizer.step()
    optimizer.step()
    with pytest.warns(UserWarning, match="goes on past its 2 total_steps"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_a_rule_has_one_class_with_readable_source() -> None:
    cls = class_of(parse("v_hat"))
    assert cls is class_of(parse("v_hat"))
    assert "m0_next = 0.9 * m0 + (1 - 0.9) * g" in cls.SOURCE


def test_exported_file_tests_itself(tmp_path) -> None:
    path = export(parse("dropout(a4 * g) + noise"), tmp_path / "my_optimizer.py")
    namespace = {"__name__": "exported"}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    namespace["self_test"]()
    namespace["RECORDED"][-1][0] += 0.01
    with pytest.raises(AssertionError):
        namespace["self_test"]()
    assert "optevolve" not in path.read_text()
