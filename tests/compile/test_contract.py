"""What any torch optimizer must honour, for rules of every kind in each check and random ones; all of all: see `selection`."""

from collections.abc import Iterator

import pytest

from optevolve.compile import class_of
from tests.compile import contract_checks, project_checks, torch_checks
from tests.compile.agreement import kernels_from_one_library, random_rules
from tests.compile.selection import NAMED, some, try_each

CHECKS = contract_checks.CHECKS | torch_checks.CHECKS | project_checks.CHECKS
RANDOM = random_rules(200)
FLAGS_ALONE = {"check_configurations_that_torch_tests"}  # slow, and says nothing of rules beyond those of every kind


def rules_for(check: str) -> list:
    number = list(CHECKS).index(check)
    named = [NAMED[name] for name in some(list(NAMED), number, apart=9)]
    return named if check in FLAGS_ALONE else [*named, *some(RANDOM, number, apart=20)]


@pytest.fixture(scope="module")
def kernels() -> Iterator[None]:
    """Those of all rules in the checks that ask for one, or step for so long that rules take one, made at once."""
    rules = [rule for check in contract_checks.FUSED for rule in rules_for(check)]
    others = [rule for check in CHECKS for rule in rules_for(check) if class_of(rule).DRAWS or not class_of(rule).ELEMENTWISE]
    with kernels_from_one_library(dict.fromkeys([*rules, *others])):
        yield


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str, kernels: None) -> None:
    try_each(rules_for(check), lambda rule: CHECKS[check](class_of(rule)))
