"""What any torch optimizer must honour, for every rule of the zoo, one that draws random numbers, and 200 random rules."""

import pytest

from optevolve.compile import class_of
from optevolve.library import ZOO
from optevolve.space import parse
from tests.compile import contract_checks, project_checks, torch_checks
from tests.compile.agreement import ZOO_NAMES, random_rules

EVERYWHERE = contract_checks.CHECKS | torch_checks.CHECKS
CHECKS = EVERYWHERE | project_checks.CHECKS
NAMED = {name: ZOO[name].rule for name in ZOO_NAMES} | {"draws": parse("dropout(a4 * g, 0.3) + noise")}
RANDOM = random_rules(200)


@pytest.mark.parametrize("rule", NAMED)
@pytest.mark.parametrize("check", CHECKS)
def test_rule_of_the_zoo(check: str, rule: str) -> None:
    CHECKS[check](class_of(NAMED[rule]))


@pytest.mark.parametrize("check", [name for name in CHECKS if name != "check_configurations_that_torch_tests"])  # slow, and of flags alone
def test_random_rules(check: str) -> None:
    failed = {}
    for rule in RANDOM:
        try:
            CHECKS[check](class_of(rule))
        except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001 - reported below, by rule
            failed[str(rule)] = error
    if failed:
        rule, first = next(iter(failed.items()))
        raise AssertionError(f"{len(failed)} of {len(RANDOM)} rules fail; the first is {rule}") from first
