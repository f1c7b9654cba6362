"""What any torch optimizer must honour, for every rule of the zoo, one that draws random numbers, and 200 random rules."""

import importlib.util
import sys

import pytest

from optevolve.compile import class_of, export
from optevolve.space import parse
from optevolve.zoo import ZOO
from tests.compile import contract_checks, project_checks
from tests.compile.agreement import ZOO_NAMES, random_rules

CHECKS = contract_checks.CHECKS | project_checks.CHECKS
NAMED = {name: ZOO[name].rule for name in ZOO_NAMES} | {"draws": parse("dropout(a4 * g, 0.3) + noise")}
RANDOM = random_rules(200)
EXPORTED = ["opt6", "a5", "opt10"]


@pytest.mark.parametrize("rule", NAMED)
@pytest.mark.parametrize("check", CHECKS)
def test_rule_of_the_zoo(check: str, rule: str) -> None:
    CHECKS[check](class_of(NAMED[rule]))


@pytest.mark.parametrize("check", CHECKS)
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


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Classes as they come out of exported files."""
    folder, classes = tmp_path_factory.mktemp("exported"), {}
    for name in EXPORTED:
        path = export(ZOO[name].rule, folder / f"exported_{name}.py", name="Exported")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        classes[name] = module.Exported
    return classes


@pytest.mark.parametrize("rule", EXPORTED)
@pytest.mark.parametrize("check", contract_checks.CHECKS)
def test_exported_file(check: str, rule: str, exported) -> None:
    contract_checks.CHECKS[check](exported[rule])
