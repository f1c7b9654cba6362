"""Optimizers of rules inside torch.compile, CUDA graphs, and the tables of `torch_checks`."""

import copy

import pytest
import torch
import torch._dynamo.testing
from torch.optim import lr_scheduler

from optevolve.compile import build
from optevolve.library import ZOO
from optevolve.space import parse
from tests.compile.agreement import random_rules
from tests.compile.selection import WHOLE, ZOO_NAMES, some
from tests.compile.torch_checks import SCHEDULERS

TOTAL = 50
NAMED = {name: ZOO[name].rule for name in ZOO_NAMES} | {"draws": parse("dropout(qhm(v), 0.3)")}


def test_no_scheduler_of_torch_is_left_out() -> None:
    ours = {"LRScheduler", "_LRScheduler"}
    assert {name for name in lr_scheduler.__all__ if name not in ours} == set(SCHEDULERS)


def compiled_beside_eager(rule, lr) -> None:
    """Six training steps under a scheduler, the optimizer's step compiled in one model; from the fourth on nothing may compile anew."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    compiled = torch.nn.Linear(4, 2)
    eager = copy.deepcopy(compiled)
    first = build(rule, compiled.parameters(), copy.deepcopy(lr), TOTAL)
    second = build(rule, eager.parameters(), copy.deepcopy(lr), TOTAL, fused=False)
    scheduler, twin = lr_scheduler.ExponentialLR(first, 0.9), lr_scheduler.ExponentialLR(second, 0.9)
    frames = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=frames)
    def step() -> None:
        first.step()

    gradients = torch.randn(6, 2, 5)
    for t, g in enumerate(gradients):
        for model in (compiled, eager):
            model.weight.grad, model.bias.grad = g[:, :4].clone(), g[:, 4].clone()
        if t == 3:
            before = frames.frame_count
        with torch._dynamo.config.patch(error_on_recompile=t >= 3, fail_on_recompile_limit_hit=True):
            step()
        second.step()
        scheduler.step()
        twin.step()
    assert 0 < frames.frame_count == before
    torch.testing.assert_close(list(compiled.parameters()), list(eager.parameters()), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("lr", [0.01, torch.tensor(0.01)], ids=["number", "tensor"])
@pytest.mark.parametrize("name", ["opt10", "a5", "draws"])
def test_compiled_training_step_does_not_recompile_as_lr_changes(name: str, lr) -> None:
    compiled_beside_eager(NAMED[name], lr)


@pytest.mark.parametrize("name", some(list(NAMED), 0, 5))
def test_zoo_rules_compile(name: str) -> None:
    """With a tensor as learning rate, which compiles once."""
    compiled_beside_eager(NAMED[name], torch.tensor(0.01))


def test_random_rules_compile() -> None:
    """Every twentieth of the 200 rules of `test_contract`, or all: tracing takes seconds per rule."""
    for rule in random_rules(200)[:: 1 if WHOLE else 20]:
        compiled_beside_eager(rule, torch.tensor(0.01))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["opt6", "a5", "opt10", "adam"])
def test_a_step_in_a_cuda_graph(name: str) -> None:
    """Captured once and replayed, the step goes on as an eager one does: step count and learning rate are read from the device."""
    torch.manual_seed(0)
    start, gradients = torch.randn(7, 5), torch.randn(6, 7, 5)
    there, here = torch.nn.Parameter(start.cuda()), torch.nn.Parameter(start.clone())
    lr = torch.tensor(0.01, device="cuda")
    first, second = build(NAMED[name], [there], lr, TOTAL, capturable=True), build(NAMED[name], [here], 0.01, TOTAL)
    there.grad = gradients[0].cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        first.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        first.step()
    for t, g in enumerate(gradients):
        here.grad = g
        if t > 0:
            lr.fill_(0.01 / t)
            second.param_groups[0]["lr"] = 0.01 / t
            there.grad.copy_(g)
            graph.replay()
        second.step()
    torch.testing.assert_close(there.detach().cpu(), here.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_capturing_needs_capturable() -> None:
    w = torch.nn.Parameter(torch.ones(3, device="cuda"))
    w.grad = torch.ones_like(w)
    optimizer = build("v_hat", [w], 0.01)
    optimizer.step()
    with pytest.raises(RuntimeError, match="Expected capturable=True"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()
