"""The kernel that knows every operator: rules as its programs, where they can be, and the same numbers as torch's operations."""

import pytest
import torch
from torch import Tensor

from optevolve.compile.build import build, class_of
from optevolve.compile.kernel import shared_object
from optevolve.compile.program import program_of
from optevolve.library import ZOO
from optevolve.space.text import parse

needs_compiler = pytest.mark.skipif(shared_object('extern "C" void nothing() {}') is None, reason="needs a C++ compiler")
SIZES = [(3,), (16, 16), (257,), (5, 7, 2)]  # below, at and above a block of 256 together


def stepped(rule: str, steps: int = 30, **options: object) -> list[Tensor]:
    """Parameters after some steps, gradients by seed."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in SIZES]
    optimizer = build(rule, params, lr=0.01, total_steps=40, weight_decay=0.1, **options)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    return [p.detach() for p in params]


@needs_compiler
@pytest.mark.parametrize("name", ["adam", "opt6", "opt10", "lion", "nesterov", "a1"])
def test_a_program_steps_like_torch_s_operations(name: str) -> None:
    rule = str(ZOO[name].rule)
    cls = class_of(parse(rule))
    assert program_of(cls.advance, len(cls.STATES)) is not None
    for found, expected in zip(stepped(rule, flat=True), stepped(rule, flat=True, fused=False), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


@needs_compiler
@pytest.mark.parametrize("rule", ["v_hat / (sqrt(s_hat) + 1e-8)", "normalize(g) + 0.1 * v", "dropout(g, 0.3) + v"])
def test_large_flat_buffers_step_by_the_rule_s_own_kernel_unasked(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def steps(flat: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in (2**20, 7)]
        optimizer = build(rule, params, lr=0.01, weight_decay=0.1, flat=flat, fused=None if flat else False)
        fused = optimizer._step_fused
        monkeypatch.setattr(optimizer, "_step_fused", lambda *given: (called.append(flat), fused(*given)))
        for _ in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        return [p.detach() for p in params]

    torch.testing.assert_close(steps(flat=True), steps(flat=False), rtol=2e-5, atol=2e-6)
    assert called == [True] * 3


@needs_compiler
def test_what_is_not_finite_stays_so() -> None:
    p = torch.nn.Parameter(torch.ones(300))
    optimizer = build("g / sqrt(s)", [p], lr=0.01, total_steps=10, flat=True)
    p.grad = torch.ones(300)
    p.grad[7], p.grad[299] = torch.nan, torch.inf
    optimizer.step()
    assert p.isfinite().sum() == 298


@needs_compiler
def test_rules_that_look_at_whole_parameters_have_no_program() -> None:
    classes = [class_of(ZOO[name].rule) for name in ZOO]
    whole = [cls for cls in classes if not cls.ELEMENTWISE]
    assert whole
    assert all(program_of(cls.advance, len(cls.STATES)) is None for cls in whole)


@needs_compiler
def test_one_kernel_serves_every_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that nobody has seen before costs no compilation."""
    stepped("g", flat=True)  # the kernel is there
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was compiled"))
    for text in ("erf(g) + 0.123 * w", "erfc(v_hat) * exp(g) / abs(w)"):
        stepped(text, flat=True)
