"""Which rules meet which checks: each check meets a rule of every kind, and each rule some of the checks.

All rules in all checks and ways, for minutes: OPTEVOLVE_TEST_RULES=all pytest tests/compile
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pytest

from optevolve.library import ZOO
from optevolve.space import parse
from optevolve.space.rule import UpdateRule

Item = TypeVar("Item")

WHOLE = os.environ.get("OPTEVOLVE_TEST_RULES") == "all"
ZOO_NAMES = list(ZOO)
NAMED: dict[str, UpdateRule] = {name: ZOO[name].rule for name in ZOO_NAMES} | {
    "draws": parse("dropout(a4 * g, 0.3) + noise"),
    "norms_and_draws": parse("-momentum: clip_norm(v_hat + dropout(g, 0.3)) + 0.01 * noise + normalize(g) * sigmoid(w)"),
    "matrices": parse("nesterov: row_normalize(v) + column_normalize(g) + sign(g)"),
    "no_tensor": parse("a1"),
}
# Nothing but the gradient, a momentum buffer, moments, decays, both, a norm, a matrix as a whole, random draws.
KINDS = ("sgd", "nesterov", "adam", "opt6", "opt10", "a5", "muon", "draws")


def some(items: Sequence[Item], number: int, apart: int) -> list[Item]:
    """Of the items each `apart`-th, others for each number, with one of every kind; all where the whole is asked for."""
    return [item for i, item in enumerate(items) if WHOLE or item in KINDS or (i + number) % apart == 0]


def try_each(items: Iterable[Item], check: Callable[[Item], object]) -> None:
    """Runs a check on every item; fails with how many fail, and with the first."""
    failed, tried = {}, 0
    for item in items:
        tried += 1
        try:
            check(item)
        except (Exception, pytest.fail.Exception) as error:
            if "Timeout" in str(error):  # of the whole test, and no item's fault
                raise
            failed[str(item)] = error
    assert tried
    if failed:
        name, first = next(iter(failed.items()))
        raise AssertionError(f"{len(failed)} of {tried} fail; the first is {name}") from first
