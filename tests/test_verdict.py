"""The verdict says who beats whom, by how much and how sure, and never more than the numbers do."""

import json

import pytest

from optevolve.final import compare
from optevolve.verdict import Verdict, verdicts
from tests.finals import final
from tests.test_final import around

LEVELS = {"evolved-01": 0.7, "evolved-02": 0.6, "adamw": 0.6, "sgd": 0.5}


def verdict(test: dict[str, list[float | None]], valid: dict[str, float] | None = None) -> Verdict:
    valid = {name: [level] for name, level in (valid or LEVELS).items() if name in test}
    return verdicts(compare(final(test, valid)))[0]


@pytest.mark.parametrize(("level", "outcome", "said"), [
    (0.8, "better", "evolved-01 beats tuned AdamW, the best of the baselines"),
    (0.601, "equal", "evolved-01 does not beat tuned AdamW, the best of the baselines: there is no clear difference"),
    (0.4, "worse", "evolved-01 does not beat tuned AdamW, the best of the baselines: it is worse"),
])  # fmt: skip
def test_outcomes(level: float, outcome: str, said: str) -> None:
    found = verdict({"evolved-01": around(level), "adamw": around(0.6, 2), "sgd": around(0.5, 1)})
    assert (found.outcome, found.than, found.name) == (outcome, "adamw", "evolved-01")
    assert str(found).startswith(said)
    assert "5 paired seeds" in str(found)
    assert "corrected p" in str(found)
    assert found.best is not None
    assert found.difference == pytest.approx(level - 0.6, abs=1e-9)
    assert (found.best.p_corrected < 0.05) == (outcome != "equal")


def test_the_best_of_the_baselines_decides_and_adamw_stands_beside_it() -> None:
    test = {"evolved-01": around(0.7), "adamw": around(0.6, 2), "lion": around(0.8, 1)}
    found = verdict(test, {"evolved-01": 0.7, "adamw": 0.6, "lion": 0.65})
    assert (found.outcome, found.than) == ("worse", "lion")
    assert found.reference is not None
    assert (found.reference.name, found.reference.outcome) == ("adamw", "better")
    assert "does not beat the best of the baselines, lion: it is worse" in str(found)
    assert "it beats tuned AdamW" in str(found)


def test_a_run_without_adamw_says_so() -> None:
    found = verdict({"evolved-01": around(0.7), "sgd": around(0.5, 1)})
    assert (found.outcome, found.than, found.reference) == ("better", "sgd", None)
    assert "AdamW is not among the baselines" in str(found)


def test_lost_seeds_are_told() -> None:
    found = verdict({"evolved-01": [0.7, None, 0.7, None, 0.71], "adamw": around(0.6, 2)})
    assert "2 of 5 diverged" in str(found)
    assert found.outcome != "better"


@pytest.mark.parametrize("test", [{"evolved-01": [0.7], "adamw": [0.6]}, {"evolved-01": [0.7, 0.7], "adamw": [0.6, 0.6]}])
def test_without_a_test_nothing_is_known(test: dict[str, list[float | None]]) -> None:
    found = verdict(test)
    assert (found.outcome, found.difference) == ("unknown", pytest.approx(0.1))
    assert "at least two paired seeds" in str(found)


def test_the_same_scores_are_equal() -> None:
    assert verdict({"evolved-01": around(0.6), "adamw": around(0.6)}).outcome == "equal"


@pytest.mark.parametrize(("comparisons", "finished", "said"), [
    ([], True, "No verdict: the run has no final evaluation."),
    ([], False, "No verdict yet"),
    (compare(final({"adamw": [0.5, 0.6]}, {"adamw": [0.5]}, {"evolved-01": None})), True, "no evolved rule finished its tuning"),
    (compare(final({}, {"evolved-01": [0.5], "adamw": [0.5]})), False, "not finished"),
    (compare(final({"evolved-01": [0.5, 0.6]}, {"evolved-01": [0.5]}, {"evolved-01": 0.4, "sgd": None})), True, "no baseline has a score"),
])  # fmt: skip
def test_runs_without_a_verdict_say_why(comparisons, finished: bool, said: str) -> None:
    found = verdicts(comparisons, finished)[0]
    assert found.outcome == "unknown"
    assert said in str(found)


def test_it_travels_as_json() -> None:
    found = verdict({"evolved-01": around(0.8), "adamw": around(0.6, 2)})
    read = json.loads(json.dumps(found.as_dict()))
    assert read["text"] == str(found)
    assert (read["outcome"], read["than"], read["best"]["seeds"]) == ("better", "adamw", 5)
    assert read["best"]["p_value"] <= read["best"]["p_corrected"]
