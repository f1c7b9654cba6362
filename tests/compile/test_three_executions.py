"""Numpy reference, eager torch and fused kernel of one rule agree over 100 steps, 40 of them past the end; so do the other ways to run.

`OPTEVOLVE_LONG_TESTS=1` runs all 500 random rules through the kernel, in about three minutes.
"""

import pytest
import torch

from optevolve.compile import contract
from optevolve.zoo import ZOO
from tests.compile.agreement import LONG, ZOO_NAMES, assert_agree, compiled_together, random_rules, trained

RANDOM = random_rules(500)
WAYS = [{"flat": True}, {"foreach": True}, {"capturable": True}]


@pytest.mark.parametrize("name", ZOO_NAMES)
def test_zoo_rule_in_torch(name: str) -> None:
    rule = ZOO[name].rule
    assert_agree(rule, trained(rule))


@pytest.mark.parametrize("start", range(0, 500, 50))
def test_random_rules_in_torch(start: int) -> None:
    for rule in RANDOM[start : start + 50]:
        assert_agree(rule, trained(rule))


@pytest.fixture
def fused_together(monkeypatch):
    """Makes `fused=True` take its kernels from one library instead of compiling each by itself."""

    def install(rules):
        monkeypatch.setenv("CXXFLAGS", "-O1")
        kernels = compiled_together(rules)
        monkeypatch.setattr(contract, "fused_step", lambda advance, *_: kernels.get(advance))
        return kernels

    return install


@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability(), reason="no vector instructions")
def test_fused_kernels(fused_together) -> None:
    rules = [ZOO[name].rule for name in ZOO_NAMES] + RANDOM[:20]
    kernels = fused_together(rules)
    assert len(kernels) == len({str(rule) for rule in rules}) - 1  # without muon, whose matrices are torch's own
    for rule in rules:
        assert_agree(rule, trained(rule, fused=True))


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="takes three minutes: set OPTEVOLVE_LONG_TESTS=1")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("start", range(0, 500, 50))
def test_random_rules_fused(fused_together, start: int) -> None:
    rules = RANDOM[start : start + 50]
    fused_together(rules)
    for rule in rules:
        assert_agree(rule, trained(rule, fused=True))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: next(iter(way)))
def test_other_ways_to_run(way: dict) -> None:
    for rule in [ZOO[name].rule for name in ZOO_NAMES] + RANDOM[:20]:
        assert_agree(rule, trained(rule, **way))
