"""Checkpoints: a resumed run is the uninterrupted one to the bit however it steps, and every way of stepping reads every other's."""

import io
from itertools import permutations

import pytest
import torch

from optevolve.compile import build
from optevolve.library import rule_or_name
from optevolve.schedule import schedule_values

RULES = ["opt6", "a5", "nesterov", "dropout(a4 * g, 0.3) + noise + v_hat"]
WAYS = {
    "plain": {"flat": False, "fused": False, "foreach": False},
    "foreach": {"flat": False, "fused": False, "foreach": True},
    "flat": {"flat": True, "fused": False, "foreach": None},
    "fused": {"flat": False, "fused": True, "foreach": None},
    "flat and fused": {"flat": True, "fused": True, "foreach": None},
}
TOTAL = 20


@pytest.fixture(autouse=True)
def quick_compiler(monkeypatch):
    monkeypatch.setenv("CXXFLAGS", "-O1")


def start(rule: str, way: str):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in ((33, 5), (7,), ())]
    return params, build(rule_or_name(rule), params, 0.01, TOTAL, momentum=0.9, seed=3, **WAYS[way])


def run(params, optimizer, first: int, last: int) -> list[torch.Tensor]:
    """The parameters after steps first … last - 1, each with its own gradients and learning rate."""
    rates, _ = schedule_values(0.01, TOTAL, 2)
    for t in range(first, last):
        torch.manual_seed(100 + t)
        for p in params:
            p.grad = torch.randn(p.shape)
        for group in optimizer.param_groups:
            group["lr"] = float(rates[t])
        optimizer.step()
    return [p.detach().clone() for p in params]


def resumed(rule: str, saved: bytes, way: str):
    """New parameters and a new optimizer that steps this way, from what a file holds."""
    loaded = torch.load(io.BytesIO(saved), weights_only=True)
    params, optimizer = start(rule, way)
    for p, value in zip(params, loaded["params"], strict=True):
        p.data.copy_(value)
    optimizer.load_state_dict(loaded["optimizer"])
    for group in optimizer.param_groups:
        group.update({key: value for key, value in WAYS[way].items() if key != "flat"})
    return params, optimizer


def saved_after(rule: str, way: str, steps: int) -> bytes:
    params, optimizer = start(rule, way)
    values = run(params, optimizer, 0, steps)
    file = io.BytesIO()
    torch.save({"params": values, "optimizer": optimizer.state_dict()}, file)
    return file.getvalue()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(rule: str, way: str) -> None:
    expected = run(*start(rule, way), 0, 9)
    got = run(*resumed(rule, saved_after(rule, way, 5), way), 5, 9)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_every_way_of_stepping_reads_every_others_checkpoint(rule: str) -> None:
    expected = run(*start(rule, "plain"), 0, 9)
    saved = {way: saved_after(rule, way, 5) for way in WAYS}
    for before, after in permutations(WAYS, 2):
        got = run(*resumed(rule, saved[before], after), 5, 9)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=lambda told, way=(before, after): f"{way}: {told}")


def test_the_way_of_stepping_is_read_with_the_rest_but_for_where_parameters_lie() -> None:
    params, optimizer = start("opt6", "plain")
    loaded = torch.load(io.BytesIO(saved_after("opt6", "flat and fused", 2)), weights_only=True)
    loaded["optimizer"]["param_groups"][0]["flat"] = True  # as older versions wrote it
    optimizer.load_state_dict(loaded["optimizer"])
    assert optimizer.param_groups[0]["fused"]
    assert "flat" not in optimizer.param_groups[0]
    run(params, optimizer, 2, 3)
    assert len({p.untyped_storage().data_ptr() for p in params}) == len(params)
