"""The engine: the same training up to rounding, in less time; nothing but rounding, and only where asked for."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from optevolve.config import Compute, Protocol, Schedule
from optevolve.records import Job, Split
from optevolve.surrogate import measure
from optevolve.tasks import load
from optevolve.training import Engine, evaluate, norm_swish, precision_of
from optevolve.training.norm_swish import NormSwish, available

needs_compiler = pytest.mark.skipif(not available(), reason="needs a C++ compiler")
SHORT = Protocol(
    learning_rates=(0.1,), first_learning_rates=(0.1,), trial_steps=10, full_steps=60, epoch_steps=30, first_floor=0.0, floor=0.0,
    schedule=Schedule(warmup=0.1),
)  # fmt: skip


@needs_compiler
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(8, 16, 8, 8), (5, 3, 7, 5), (2, 600, 3, 3), (33, 1, 9, 9)])
def test_norm_and_swish_in_one_are_norm_and_swish(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    norms = [nn.BatchNorm2d(shape[1]) for _ in range(2)]
    for norm in norms:
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 2, shape[1]))
            norm.bias.copy_(torch.linspace(1, -1, shape[1]))
    x = (torch.randn(shape, generator=generator) * 3 + 5).to(dtype)
    gradient = torch.randn(shape, generator=generator).to(dtype)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    fused = NormSwish(norms[1])
    outputs = [nn.functional.silu(norms[0](inputs[0])), fused(inputs[1])]
    for output in outputs:
        output.backward(gradient)
    pairs = [outputs, [i.grad for i in inputs], [n.weight.grad for n in norms], [n.bias.grad for n in norms]]
    pairs += [[n.running_mean for n in norms], [n.running_var for n in norms]]
    for expected, found in pairs:
        assert expected is not None
        assert found is not None
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.detach().float().abs().max()))
    expected = nn.functional.silu(norms[1].eval()(x))
    assert torch.equal(fused.eval()(x), expected)
    taken = Mock(wraps=norm_swish._infer)
    monkeypatch.setattr(norm_swish, "_infer", taken)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), expected, rtol=tolerance, atol=tolerance * float(expected.detach().float().abs().max()))
    taken.assert_called_once()


@needs_compiler
def test_what_is_not_finite_stays_so() -> None:
    for place in ((0, 0, 0, 0), (2, 0, 1, 2)):
        x = torch.randn(4, 2, 3, 3)
        x[place] = torch.nan
        layer = NormSwish(nn.BatchNorm2d(2))
        y = layer(x)
        assert y[:, 0].isnan().all()
        assert y[:, 1].isfinite().all()
        evaluated = NormSwish(nn.BatchNorm2d(2)).eval()
        with torch.no_grad():
            assert evaluated(x)[place].isnan()
            assert evaluated(x).isnan().sum() == 1
            assert torch.equal(evaluated(torch.full((2, 2, 1, 1), 1e4)) > 9.9e3, torch.ones(2, 2, 1, 1, dtype=torch.bool))
            assert evaluated(torch.full((2, 2, 1, 1), -1e4)).abs().max() < 1e-20


@needs_compiler
def test_preparing_a_model_keeps_parameters_and_their_order_and_leaves_other_models_alone() -> None:
    model = load("digits@width=4").model()
    before = list(model.parameters())
    prepared = Engine(fused=True).prepare(model)
    assert sum(isinstance(module, NormSwish) for module in prepared.modules()) == 2
    after = list(prepared.parameters())
    assert len(after) == len(before)
    assert all(a is b for a, b in zip(after, before, strict=True))
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.SiLU(), nn.BatchNorm2d(2), nn.ReLU())
    assert not any(isinstance(module, NormSwish) for module in Engine(fused=True).prepare(other).modules())


@pytest.mark.parametrize("change", [{"compile": True}, {"precision": "bf16"}, {"compile": True, "precision": "bf16"}])
@pytest.mark.parametrize("rule", ["momentum: g", "v_hat / sqrt(s_hat)"])
def test_a_faster_engine_measures_the_same_to_within_noise(rule: str, change: dict[str, object]) -> None:
    rate = 0.1 if rule.startswith("momentum") else 0.01
    job = Job("one", rule, "digits@width=8", SHORT, seed=0, learning_rate=rate)
    plain = measure(job)
    fast = measure(replace(job, protocol=replace(SHORT, **change)))  # type: ignore[arg-type]
    assert plain.fitness is not None
    assert fast.fitness == pytest.approx(plain.fitness, abs=0.04)
    tolerance = 0.05 if "precision" in change else 0.02
    assert fast.curves[0].train_loss == pytest.approx(plain.curves[0].train_loss, rel=tolerance, abs=tolerance)
    assert plain.fitness > 0.6
    again = measure(replace(job, protocol=replace(SHORT, **change)))  # type: ignore[arg-type]
    assert again.curves[0].train_loss == fast.curves[0].train_loss


def test_precision_is_float32_unless_asked_for() -> None:
    assert precision_of(Protocol()) == "float32"
    assert precision_of(Protocol(precision="bf16")) == "bf16"
    assert precision_of(Protocol(precision="auto")) in {"float32", "bf16"}
    assert precision_of(Protocol(precision="auto"), "mps") == "float32"
    assert Engine.of(Protocol()) == Engine()


def test_random_states_are_put_back() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with Engine.of(Protocol(), Compute("auto")).forked_rng():
        torch.manual_seed(2)
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_runs_in_the_engines_precision() -> None:
    seen = []
    task = load("mlp-moons")
    model = task.model()
    model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    evaluate(task, model, Split.VALID, Engine("bf16"))
    evaluate(task, model, Split.VALID)
    assert seen == [torch.bfloat16, torch.float32]
