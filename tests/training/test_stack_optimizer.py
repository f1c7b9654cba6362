"""The optimizer of a stack does to each model what the optimizer of that model alone does, whatever kind of rule it is."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optevolve.compile import build
from optevolve.library import ZOO
from optevolve.tasks import load
from optevolve.training import Engine, Run
from optevolve.training.stack import Stack
from optevolve.training.stack_optimizer import optimizer_of

STEPS = 6
RATES = (0.3, 1e-3, 0.02)
SEEDS = (4, 4, 9)
DECAYS = (0.0, 0.1, 0.5)

RULES = {
    "elementwise, states and decays": str(ZOO["opt6"].rule),
    "nesterov": "nesterov: v_hat / sqrt(s_hat)",
    "momentum, climbing against its own sign": "momentum: sign(g) * abs(v)",
    "norm": "clip_norm(v_hat)",
    "whole tensors": "normalize(g) + 1e-3 * w",
    "rows and columns": "momentum: row_normalize(v) + column_normalize(g)",
    "matrices": str(ZOO["muon"].rule),
    "random draws": "dropout(v, 0.5) + 1e-2 * noise",
}


def spread(model: nn.Module) -> Stack:
    """Three models of two seeds; the seeds of the rules' draws are others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = load("digits@width=2").model()
    return Stack(load("digits@width=2"), [model, other], [torch.Generator(), torch.Generator()], [0, 0, 1], Engine())


def runs_of(make: Any) -> list[Run]:
    schedule = torch.linspace(1, 0, STEPS).tolist()  # the last learning rate is 0
    return [
        Run(make(rate, seed, decay), [rate * share for share in schedule], [0.9 - 0.1 * share for share in schedule], 0)
        for rate, seed, decay in zip(RATES, SEEDS, DECAYS, strict=True)
    ]


def compare(make: Any, dropped: bool) -> None:
    """Steps a stack, and copies of its models by themselves, on the same gradients."""
    stack = spread(load("digits@width=2").model())
    runs = runs_of(make)
    together = optimizer_of(runs, stack)
    alone = [[nn.Parameter(view.clone()) for view in row] for row in stack.rows()]
    optimizers = [run.optimizer(own) for run, own in zip(runs, alone, strict=True)]
    live = [0, 1, 2]
    generator = torch.Generator().manual_seed(1)
    for t in range(STEPS):
        if dropped and t == 3:
            live = [0, 2]
            stack.keep(live)
            together.keep(live)
        stack.grad.copy_(torch.randn(stack.grad.shape, generator=generator))
        together.step(t)
        for row, replica in enumerate(live):
            for p, piece in zip(alone[replica], stack.split(stack.grad), strict=True):
                p.grad = piece[row].clone()
            for group in optimizers[replica].param_groups:
                group["lr"], group["momentum"] = runs[replica].learning_rates[t], runs[replica].momenta[t]
            optimizers[replica].step()
        for row, replica in zip(stack.rows(), live, strict=True):
            for found, expected in zip(row, alone[replica], strict=True):
                torch.testing.assert_close(found, expected.data, rtol=1e-5, atol=1e-6)
    before: Tensor = spread(load("digits@width=2").model()).parameters
    assert (stack.parameters[-1] - before[-1]).abs().max() > 1e-4


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_on_a_stack_is_the_rule_on_each_model(name: str, dropped: bool) -> None:
    compare(
        lambda rate, seed, decay: lambda p: build(RULES[name], p, lr=rate, total_steps=STEPS, seed=seed, weight_decay=decay, flat=True),
        dropped,
    )


@pytest.mark.parametrize("dropped", [False, True])
def test_other_optimizers_have_one_each(dropped: bool) -> None:
    compare(lambda rate, _, decay: lambda p: torch.optim.SGD(p, lr=rate, momentum=0.5, nesterov=True, weight_decay=decay), dropped)


def test_rules_of_several_kinds_have_one_each() -> None:
    def make(rate: float, seed: int, decay: float) -> Any:
        rule = "g" if rate < 0.1 else "momentum: sign(g)"
        return lambda p: build(rule, p, lr=rate, total_steps=STEPS, seed=seed, weight_decay=decay, flat=True)

    compare(make, dropped=True)
