"""Checks of what optimizers within the project do beyond what exported ones do: flat buffers, and only the state that a rule uses.

As in `contract_checks`, every check takes `make(params, lr=…, total_steps=…, **options)`, here a class that `class_of` made.
"""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from optevolve.compile.flat import lay_flat
from tests.compile.contract_checks import (
    TOTAL,
    Make,
    assert_equal,
    assert_near,
    needs_total_steps,
    parameters,
    resume_from_file,
    run,
    set_gradients,
    stepped,
    values,
)


def check_only_the_states_of_the_rule_are_kept(make: Make) -> None:
    params = parameters()
    optimizer = make(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 1)
    assert all(set(optimizer.state[p]) == {"step", *optimizer.STATES} for p in params)
    read = make.SOURCE.split("def advance(")[1].split(":\n", 1)[1]
    assert all(name in read for name in optimizer.STATES)


def check_decays_hold_past_the_end(make: Make) -> None:
    """What depends on the step through decays stays; bias corrections, which do not know the end, go on."""
    last, later, other = (make.numbers(torch.tensor(t, dtype=torch.float64), total) for t, total in ((4.0, 5), (9.0, 5), (9.0, 1000)))
    assert needs_total_steps(make) == make.NEEDS_TOTAL_STEPS
    if make.NEEDS_TOTAL_STEPS:
        held = [float(x) == float(y) or x != x for x, y in zip(last, later, strict=True)]
        changed = [float(x) != float(y) for x, y in zip(later, other, strict=True)]
        assert all(same or not by_total for same, by_total in zip(held, changed, strict=True))
        assert any(held)
    else:
        assert [float(x) for x in later] == [float(x) for x in other]


# Flat buffers


def flat(make: Make) -> Make:
    """What makes the same optimizers for the project's training loop, which keeps parameters in one buffer."""
    return lambda params, **options: lay_flat(make(params, **options))


def check_flat_buffers_copy(make: Make) -> None:
    """A checkpoint in the middle of a run goes on bit for bit; so does a copy that is laid flat again."""
    params = parameters()
    optimizer = flat(make)(params, lr=0.01, total_steps=TOTAL)
    run(optimizer, params, 0, 2)
    copied, other = copy.deepcopy((params, optimizer))
    resumed = [resume_from_file(flat(make), params, optimizer), (copied, lay_flat(other))]
    run(optimizer, params, 2, 4)
    for other_params, other in resumed:
        run(other, other_params, 2, 4)
        assert_equal(values(other_params), values(params))


def check_flat_is_the_same_as_tensor_by_tensor(make: Make) -> None:
    for options in ({}, {"weight_decay": 0.1, "maximize": True}, {"lr": torch.tensor(0.01)}, {"foreach": True}):
        assert_near(stepped(flat(make), parameters(), **options), stepped(make, parameters(), **options))


def check_checkpoints_pass_between_ways_to_run(make: Make) -> None:
    """Tensor by tensor, flat, on lists: each goes on from the checkpoint of another."""
    ways = (partial(make, foreach=False), flat(make), partial(make, foreach=True))
    for i, way in enumerate(ways):
        params = parameters()
        optimizer = way(params, lr=0.01, total_steps=TOTAL)
        run(optimizer, params, 0, 2)
        resumed, again = resume_from_file(ways[i - 1], params, optimizer)
        for group in again.param_groups:
            group["foreach"] = (None, True, False)[i]
        run(optimizer, params, 2, 3)
        run(again, resumed, 2, 3)
        assert_near(values(resumed), values(params))


def check_flat_takes_any_tensors(make: Make) -> None:
    """Empty, half-precision, complex and turned ones step as they do by themselves; sparse gradients are refused."""
    torch.manual_seed(0)
    turned = torch.randn(4, 3)
    for start in (
        [torch.empty(0, 3), torch.ones(2), torch.empty(0)],
        [torch.empty(0)],
        [torch.randn(3).bfloat16(), torch.randn(2).bfloat16()],
        [torch.randn(3, dtype=torch.complex64), torch.randn(2)],
        [turned.t(), torch.randn(2)],
    ):
        laid, plain = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
        assert_near(stepped(flat(make), laid), stepped(make, plain))
        assert [p.shape for p in laid] == [p.shape for p in start]
    w = torch.nn.Parameter(torch.ones(3))
    w.grad = torch.sparse_coo_tensor([[0]], [1.0], (3,), check_invariants=True)
    with pytest.raises(RuntimeError, match="sparse"):
        flat(make)([w], lr=0.1, total_steps=TOTAL).step()


def check_flat_leaves_alone_what_it_should(make: Make) -> None:
    """Gradients; parameters without gradients; all parameters where lr = 0, even where the rule divides by zero."""
    params = parameters()
    before = values(params)
    optimizer = flat(make)(params, lr=0.0, total_steps=TOTAL, weight_decay=0.1)
    optimizer.step()
    assert optimizer.state_dict()["state"] == {}
    for p in params:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert_equal(values(params), before)
    assert optimizer.state[params[0]]["step"] == 1
    optimizer.param_groups[0]["lr"] = 0.1
    set_gradients(params, 0)
    params[1].grad = None
    gradients = values([params[0].grad, params[2].grad])
    optimizer.step()
    assert_equal(values(params[1:2]), before[1:2])
    assert_equal([params[0].grad, params[2].grad], gradients)


class Calls(TorchDispatchMode):
    """Counts operations on tensors, but for those that only look at one in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def check_a_flat_step_is_a_handful_of_calls(make: Make) -> None:
    """However many tensors there are: 3 or 30 cost the same calls where the rule works element by element."""
    if not make.ELEMENTWISE:
        return
    counts = []
    for tensors in (3, 30):
        params = [torch.nn.Parameter(torch.ones(2)) for _ in range(tensors)]
        optimizer = flat(make)(params, lr=0.01, total_steps=TOTAL)
        run(optimizer, params, 0, 2)
        set_gradients(params, 2)
        with Calls() as calls:
            optimizer.step()
        counts.append(calls.count)
    assert counts[0] == counts[1]


CHECKS: dict[str, Callable[[Make], None]] = {
    name: check for name, check in list(globals().items()) if name.startswith("check_") and check.__module__ == __name__
}
