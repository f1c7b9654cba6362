"""Numpy reference, eager torch and fused kernel of one rule agree over 100 steps, 40 of them past the end; so do the other ways to run.

For every zoo rule and 500 random ones, within the float32 tolerance that `assert_agree` states.
"""

import pytest

from optevolve.compile import class_of, contract
from optevolve.library import ZOO
from optevolve.space import parse
from tests.compile.agreement import ZOO_NAMES, assert_agree, compiled_together, random_rules, trained

NAMED = [*(ZOO[name].rule for name in ZOO_NAMES), parse("-momentum: v_hat * a4"), parse("-nesterov: sign(qhm(v)) + 0.01 * w")]
RANDOM = random_rules(500)
WAYS = [{"flat": True}, {"foreach": True}, {"foreach": False}, {"capturable": True}]


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
    """Makes `fused=True` take its kernels from one library instead of compiling each by itself, and fail on rules without one."""

    def install(rules, optimization: str) -> None:
        monkeypatch.setenv("CXXFLAGS", optimization)
        kernels = compiled_together(rules)
        # All rules but those of matrices, whose kernels are torch's own.
        assert set(kernels) == {class_of(rule).advance for rule in rules if "orthogonalize" not in str(rule)}
        monkeypatch.setattr(contract, "fused_step", lambda advance, *_: kernels.get(advance))

    return install


def test_zoo_rules_fused(fused_together) -> None:
    fused_together(NAMED, "-O1")
    for rule in NAMED:
        assert_agree(rule, trained(rule, fused=True))


@pytest.mark.parametrize("start", range(0, 500, 100))
def test_random_rules_fused(fused_together, start: int) -> None:
    """Compiled without optimization, which is quick and does the same arithmetic: contraction is off at every level."""
    rules = RANDOM[start : start + 100]
    fused_together(rules, "-O0")
    for rule in rules:
        assert_agree(rule, trained(rule, fused=True))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: next(iter(way)))
def test_other_ways_to_run(way: dict) -> None:
    for rule in NAMED + RANDOM[:20]:
        assert_agree(rule, trained(rule, **way))


@pytest.mark.parametrize("way", [{}, {"flat": True}, {"fused": True}], ids=str)
def test_schedules_of_learning_rate_and_momentum(fused_together, way: dict) -> None:
    """Warm-up and cosine with the paper's momentum from 0.95 to 0.85 and back, as a scheduler and as numbers for the reference."""
    fused_together(NAMED, "-O1")
    for rule in NAMED:
        assert_agree(rule, trained(rule, scheduled=True, **way), scheduled=True)
        if rule.kind != "plain":
            with pytest.raises(AssertionError, match="differs by"):
                assert_agree(rule, trained(rule, scheduled=True, **way))
