"""Fused layers in a row: one step of autograd, the gradients of the layers by themselves, and only where every layer takes the input."""

import copy

import pytest
import torch
from torch import nn

from optevolve.tasks import load
from optevolve.training import Engine
from optevolve.training.chain import Chain
from optevolve.training.convolution import available

needs_compiler = pytest.mark.skipif(not available(), reason="needs a C++ compiler")


@needs_compiler
@pytest.mark.parametrize("flattened", [False, True])
def test_a_chain_gives_the_gradients_of_its_layers(flattened: bool) -> None:
    """Also for weights that lie in memory as a flat optimizer leaves them."""
    torch.manual_seed(0)
    plain = load("digits@width=5").model().train()
    if flattened:
        for p in plain.parameters():
            p.data = p.data.clone(memory_format=torch.contiguous_format)
    fused = Engine(fused=True).prepare(copy.deepcopy(plain))
    assert next(type(module) for module in fused) is Chain
    x = torch.randn(6, 1, 8, 8)
    found = []
    for model in (plain, fused):
        torch.manual_seed(1)  # of the dropout
        inputs = x.clone().requires_grad_()
        output = model(inputs)
        output.square().sum().backward()
        found.append([output, inputs.grad, *(p.grad for p in model.parameters()), *(b for b in model.buffers() if b.is_floating_point())])
    assert len(found[0]) == len(found[1])
    for expected, value in zip(*found, strict=True):
        assert expected is not None
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4 * float(expected.detach().abs().max()))


@needs_compiler
def test_a_chain_asks_every_layer_and_evaluates_layer_by_layer() -> None:
    model = Engine(fused=True).prepare(load("digits@width=4").model())
    nodes = []
    for mode, size in ((True, 8), (True, 16), (False, 8)):  # 16x16 is left to torch's convolution
        output = model.train(mode)(torch.randn(3, 1, size, size))
        nodes.append(output.grad_fn.name())
    assert nodes[0] == nodes[1] == "_ApplyBackward"  # of the whole, and of the head alone
    assert nodes[2] == "AddmmBackward0"
    first = model.train()(torch.randn(3, 1, 8, 8)).grad_fn
    assert all(name == "torch::autograd::AccumulateGrad" or name is None for name in (f[0] and f[0].name() for f in first.next_functions))


@needs_compiler
def test_layers_with_something_between_them_are_no_chain() -> None:
    layers: list[nn.Module] = []
    for inputs in (1, 4):
        layers += [nn.Conv2d(inputs, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.SiLU(), nn.Tanh()]
    model = Engine(fused=True).prepare(nn.Sequential(*layers))
    assert not any(isinstance(module, Chain) for module in model.modules())
    assert isinstance(model[3], nn.Tanh)
