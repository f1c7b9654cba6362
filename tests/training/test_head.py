"""Average, dropout and linear layer as one module: the same numbers as the three, up to rounding, from the same random numbers."""

import pytest
import torch
from torch import nn

from optevolve.tasks.networks import GlobalAverage
from optevolve.training import Engine
from optevolve.training.head import Head, available

needs_compiler = pytest.mark.skipif(not available(), reason="needs a C++ compiler")


@needs_compiler
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 5, 4, 4), (3, 32, 1, 7), (1, 1, 1, 1)])
def test_one_module_is_the_three_layers(shape: tuple[int, ...], dtype: torch.dtype, rate: float) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], 3)
    plain, head = nn.Sequential(GlobalAverage(), nn.Dropout(rate), linear), Head(nn.Dropout(rate), linear)
    x = torch.randn(shape).to(dtype)
    gradient = torch.randn(shape[0], 3)
    found = []
    for module in (plain, head):
        torch.manual_seed(1)
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = module(inputs)
        output.float().backward(gradient)
        found.append([output.float(), inputs.grad, linear.weight.grad, linear.bias.grad, torch.rand(1)])
        linear.zero_grad()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for expected, value in zip(*found, strict=True):
        assert expected is not None
        assert value is not None
        torch.testing.assert_close(value, expected, rtol=tolerance, atol=tolerance * float(expected.detach().float().abs().max()))
    torch.testing.assert_close(head.eval()(x.float()), plain.eval()(x.float()))


@needs_compiler
def test_an_input_that_needs_no_gradient_gets_none() -> None:
    head = Head(nn.Dropout(0.5), nn.Linear(2, 3))
    x = torch.randn(4, 2, 2, 2)
    head(x).sum().backward()
    assert x.grad is None
    assert head.weight.grad is not None


@needs_compiler
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Dropout(1.0), nn.Linear(2, 3)],
        [nn.Dropout(0.1), nn.Linear(2, 3, bias=False)],
        [nn.Dropout(0.1), nn.Linear(2, 3).double()],
    ],
)
def test_other_heads_are_left_alone(layers: list[nn.Module]) -> None:
    prepared = Engine(fused=True).prepare(nn.Sequential(GlobalAverage(), *layers))
    assert not any(isinstance(module, Head) for module in prepared.modules())
    fitting = Engine(fused=True).prepare(nn.Sequential(GlobalAverage(), nn.Dropout(0.1), nn.Linear(2, 3)))
    assert sum(isinstance(module, Head) for module in fitting.modules()) == 1
