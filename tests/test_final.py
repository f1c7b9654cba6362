"""The table of the final evaluation: who is chosen by what, what a lost run counts as, and which tests are corrected together."""

import math
from dataclasses import replace
from statistics import fmean

import pytest
from scipy import stats

from optevolve.final import choices, compare, lost_text
from optevolve.records import Split
from tests.finals import final

NOISE = [0.01, -0.02, 0.015, -0.005, 0.0]


def around(level: float, shift: int = 0) -> list[float]:
    return [level + NOISE[(k + shift) % 5] for k in range(5)]


def test_the_rule_is_chosen_on_validation_and_the_test_split_has_no_say() -> None:
    test = {"evolved-01": around(0.99), "evolved-02": around(0.6, 1), "adamw": around(0.7, 2), "sgd": around(0.9, 3)}
    valid = {"evolved-01": [0.5, 0.5], "evolved-02": [0.6, 0.72], "adamw": [0.65, 0.65], "sgd": [0.1, 0.2]}
    rows = {row.name: row for row in compare(final(test, valid))}
    assert {name: row.role for name, row in rows.items()} == {
        "evolved-01": "survivor", "evolved-02": "chosen", "adamw": "baseline", "sgd": "baseline",
    }  # fmt: skip
    assert list(choices(final(test, valid))) == ["evolved-02", "adamw", "evolved-01", "sgd"]
    assert rows["evolved-02"].best is None, "AdamW is the best of the baselines on validation, though not on test"
    assert rows["evolved-02"].reference == "adamw"
    valid["sgd"] = [0.8, 0.8]
    chosen = next(row for row in compare(final(test, valid)) if row.role == "chosen")
    assert chosen.best is not None
    assert chosen.best.name == "sgd"
    assert chosen.best.difference == pytest.approx(fmean(test["evolved-02"]) - fmean(test["sgd"]))


def test_a_seed_that_diverged_counts_as_the_worst_in_the_choice() -> None:
    valid = {"evolved-01": [0.9, 0.9, None], "evolved-02": [0.85, 0.85, 0.85], "adamw": [0.4, 0.8, 0.8]}
    found = choices(final({}, valid))
    assert found["evolved-01"].score == pytest.approx((0.9 + 0.9 + 0.4) / 3)
    assert (found["evolved-01"].lost, found["evolved-01"].seeds) == (1, 3)
    assert max((n for n in found if n.startswith("evolved")), key=lambda n: found[n].score) == "evolved-02"
    lower = choices(final({}, valid, untrained={Split.VALID: 0.1, Split.TEST: -5.0}))
    assert lower["evolved-01"].score == pytest.approx((0.9 + 0.9 + 0.1) / 3), "the untrained model is worse than any contestant"
    higher = choices(final({}, valid, untrained={Split.VALID: 0.7}))
    assert higher["evolved-01"].score == pytest.approx((0.9 + 0.9 + 0.4) / 3)


@pytest.mark.parametrize("bad", [None, math.inf, -math.inf])
def test_a_lost_run_stays_in_means_differences_and_tests(bad: float | None) -> None:
    rows = {row.name: row for row in compare(final({"adamw": [0.5, 0.6, 0.4, 0.5], "x": [0.8, bad, 0.9, 0.7]}), "adamw")}
    row = rows["x"]
    assert row.scores == (0.8, 0.4, 0.9, 0.7)
    assert row.mean == pytest.approx(0.7)
    assert row.difference == pytest.approx(0.2)
    assert row.p_value == pytest.approx(stats.ttest_1samp([0.3, -0.2, 0.5, 0.2], 0).pvalue)
    assert (row.lost, row.seeds) == ((1,), (0, 1, 2, 3))
    assert lost_text(row) == ("1 of 4 diverged" if bad is None else "1 of 4 did not complete")
    assert "1 of 4 seeds did not complete" in row.reason


def test_one_who_lost_every_seed_has_the_worst_mean_and_no_wrong_test() -> None:
    rows = {row.name: row for row in compare(final({"adamw": [0.5, 0.6], "x": [None, None]}), "adamw")}
    assert (rows["x"].mean, rows["x"].lost) == (0.5, (0, 1))
    nobody = compare(final({"adamw": [None, None], "x": [None, None]}), "adamw")
    assert all(row.mean is None and row.p_value is None for row in nobody)
    assert {lost_text(row) for row in nobody} == {"2 of 2 diverged"}


def test_every_test_of_a_comparison_is_corrected_by_holm() -> None:
    test = {"a": around(0.5), "b": around(0.52, 1), "c": around(0.55, 2), "d": around(0.6, 3)}
    rows = [row for row in compare(final(test), "a") if row.name != "a"]
    raw = sorted(row.p_value for row in rows)
    expected = [min(1.0, 3 * raw[0])]
    expected += [max(expected[0], min(1.0, 2 * raw[1]))]
    expected += [max(expected[1], raw[2])]
    assert sorted(row.p_corrected for row in rows) == pytest.approx(expected)
    assert all(row.p_corrected >= row.p_value for row in rows)


def test_what_was_settled_before_the_test_split_is_corrected_apart() -> None:
    test = {
        "evolved-01": around(0.7),
        "evolved-02": around(0.6, 1),
        "adamw": around(0.55, 2),
        "sgd": around(0.5, 3),
        "lion": around(0.58, 4),
    }
    valid = {"evolved-01": [0.7], "evolved-02": [0.6], "adamw": [0.5], "sgd": [0.4], "lion": [0.55]}
    rows = {row.name: row for row in compare(final(test, valid))}
    chosen = rows["evolved-01"]
    assert chosen.best is not None
    assert chosen.best.name == "lion"
    pair = sorted([(chosen.p_value, chosen.p_corrected), (chosen.best.p_value, chosen.best.p_corrected)])
    assert pair[0][1] == pytest.approx(2 * pair[0][0])
    assert pair[1][1] == pytest.approx(max(pair[0][1], pair[1][0]))
    others = sorted((row.p_value, row.p_corrected) for name, row in rows.items() if name not in ("evolved-01", "adamw"))
    assert others[0][1] == pytest.approx(min(1.0, 3 * others[0][0]))


def test_without_adamw_the_best_of_the_baselines_on_validation_is_the_reference() -> None:
    test = {"evolved-01": around(0.7), "sgd": around(0.5, 3), "lion": around(0.58, 4)}
    rows = compare(final(test, {"evolved-01": [0.7], "sgd": [0.9], "lion": [0.55]}))
    assert {row.reference for row in rows} == {"sgd", ""}


def test_a_run_of_before_there_was_a_choice_is_chosen_by_its_tunings() -> None:
    test = {"evolved-01": around(0.9), "evolved-02": around(0.6, 1), "adamw": around(0.7, 2)}
    found = final(test, tuned={"evolved-01": 0.3, "evolved-02": 0.4, "adamw": 0.5})
    assert {row.name for row in compare(found) if row.role == "chosen"} == {"evolved-02"}
    assert {choice.seeds for choice in choices(found).values()} == {0}
    assert choices(final({}, tuned={"evolved-01": 0.3, "adamw": 0.5})) == {}, "tuning goes on: nothing is chosen yet"


def test_a_tuning_that_failed_is_out_and_said() -> None:
    rows = {row.name: row for row in compare(final({"adamw": [0.5, 0.6]}, tuned={"evolved-01": None, "adamw": 0.5}))}
    assert (rows["evolved-01"].mean, rows["evolved-01"].reason) == (None, "tuning: the loss is nan")
    assert rows["evolved-01"].role == "survivor"


def test_a_choice_among_those_that_nobody_tuned_is_passed_over() -> None:
    """As a store has it in which another hand changed the task of a row."""
    found = final({"adamw": [0.5], "evolved-01": [0.6]}, {"adamw": [0.5, 0.5], "evolved-01": [0.6, 0.6]})
    moved = [replace(m, job=replace(m.job, task="[]")) if m.stage == "choose" and m.job.id.endswith("1") else m for m in found]
    assert moved != found
    assert {row.task for row in compare(moved)} == {row.task for row in compare(found)}
    assert set(choices(moved)) == set(choices(found))
