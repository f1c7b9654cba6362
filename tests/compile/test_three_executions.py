"""Numpy reference, eager torch and fused kernel of one rule agree over 100 steps, 40 of them past the end; so do the other ways to run.

For every zoo rule and 50 random ones, of 500 that `selection` says how to run, within the float32 tolerance that `assert_agree` states.
"""

from collections.abc import Iterator

import pytest

from optevolve.space import parse
from tests.compile.agreement import assert_agree, kernels_from_one_library, random_rules, trained
from tests.compile.selection import NAMED, some, try_each

SIGNS = {"ascent": parse("-momentum: v_hat * a4"), "nesterov ascent": parse("-nesterov: sign(qhm(v)) + 0.01 * w")}
RULES = NAMED | SIGNS
RANDOM = some(random_rules(500), 0, apart=10)
WAYS = [{"flat": True}, {"foreach": True}, {"foreach": False}, {"capturable": True}]


@pytest.fixture(scope="module")
def fused() -> Iterator[None]:
    """The kernels of all rules, compiled at once; all have one but those of matrices."""
    rules = [*RULES.values(), *RANDOM]
    with kernels_from_one_library(rules) as made:
        assert made == {rule for rule in rules if not {"orthogonalize", "row_normalize"} & set(str(rule).replace("(", " ").split())}
        yield


@pytest.mark.parametrize("rules", [list(RULES.values()), RANDOM], ids=["named", "random"])
def test_torch(rules: list) -> None:
    try_each(rules, lambda rule: assert_agree(rule, trained(rule, fused=False)))


@pytest.mark.parametrize("rules", [list(RULES.values()), RANDOM], ids=["named", "random"])
def test_fused(rules: list, fused: None) -> None:
    try_each(rules, lambda rule: assert_agree(rule, trained(rule, fused=True)))


@pytest.mark.parametrize("number", range(len(WAYS)), ids=lambda number: next(iter(WAYS[number])))
def test_other_ways_to_run(number: int) -> None:
    rules = [*(RULES[name] for name in some(list(RULES), number, apart=4)), *some(RANDOM, number, apart=10)]
    try_each(rules, lambda rule: assert_agree(rule, trained(rule, **WAYS[number])))


@pytest.mark.parametrize("number", range(3), ids=["{}", "flat", "fused"])
def test_schedules_of_learning_rate_and_momentum(number: int, fused: None) -> None:
    """Warm-up and cosine with the paper's momentum from 0.95 to 0.85 and back, as a scheduler and as numbers for the reference."""
    way = ({}, {"flat": True}, {"fused": True})[number]

    def check(rule) -> None:
        got = trained(rule, scheduled=True, **way)
        assert_agree(rule, got, scheduled=True)
        if rule.kind != "plain":
            with pytest.raises(AssertionError, match="differs by"):
                assert_agree(rule, got)

    try_each([RULES[name] for name in some(list(RULES), number, apart=3)], check)
