"""One ranking for everybody who asks which rule leads."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optevolve.config import Protocol, RunConfig
from optevolve.delivery import delivered
from optevolve.records import Job, Measurement, Outcome, Status
from optevolve.standing import basis, leaderboard, ranking
from tests.finals import final, measured


def test_leaderboard_ranks_by_fitness_and_puts_failures_last():
    rows = leaderboard([measured("1", 0.2), measured("2"), measured("3", 0.9), measured("4", float("nan")), measured("5", 0.5)])
    assert [row["id"] for row in rows] == ["3", "5", "1", "2", "4"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0] == {
        "rank": 1, "name": "", "rule": "g * 3", "fitness": 0.9, "remeasured": None, "remeasured_in": "", "choice": None,
        "choice_seeds": 0, "choice_lost": 0, "ranked_by": "search", "status": "completed", "learning_rate": 0.1,
        "weight_decay": 0.0, "id": "3", "stage": "evolution", "parent": "root", "seconds": 2.0, "reason": "", "edge": False,
        "decay_edge": False,
    }  # fmt: skip


def test_leaderboard_lists_a_rule_once():
    twice = [
        measured("1", 0.9, rule="g", stage="initial"),
        measured("2", 0.7, rule="g"),
        measured("3", 0.7, same_as="2"),
        measured("4", rule="g"),
    ]
    assert [row["id"] for row in leaderboard(twice)] == ["2"]
    # The other's measurement is not among those given, so this one stands for itself.
    assert [row["id"] for row in leaderboard(twice[2:])] == ["3", "4"]


def again(name, fitness, *, rule, round=1, tasks=()):
    outcome = Outcome(Status.COMPLETED, fitness, 0.1, task_scores=tasks) if fitness is not None else Outcome(Status.DIVERGED)
    return Measurement(f"eliminate/{round}", Job(f"eliminate/{round}/{name}", rule, "digits", Protocol(), 1), outcome)


def test_what_was_measured_again_stands_first_by_its_fresh_fitness():
    search = [measured(str(i), fitness) for i, fitness in enumerate([0.99, 0.9, 0.8, 0.7, 0.6])]
    fresh = [
        again("a", 0.5, rule="g * 0"),
        again("a/seed-1", 0.7, rule="g * 0"),
        again("b", 0.75, rule="g * 1"),
        again("b/seed-1", 0.75, rule="g * 1"),
        again("c", 0.99, rule="g * 2"),
        again("c/seed-1", None, rule="g * 2"),
        again("d", 0.1, rule="g * 3"),
        again("d", 0.05, rule="g * 3", round=2),
    ]
    rows = leaderboard([*search, *fresh])
    assert [(row["id"], row["remeasured_in"]) for row in rows] == [
        ("3", "eliminate/2"), ("1", "eliminate/1"), ("0", "eliminate/1"), ("2", ""), ("4", ""),
    ]  # fmt: skip
    assert [row["remeasured"] for row in rows] == [0.05, 0.75, pytest.approx(0.6), None, None]
    assert [row["fitness"] for row in rows] == [0.7, 0.9, 0.99, 0.8, 0.6]


def test_over_several_tasks_the_mean_rank_may_decide():
    entries = []
    for name, tasks in (("1", (9.0, 0.1)), ("2", (0.5, 0.6)), ("3", (0.4, 0.5))):
        found = measured(name, sum(tasks) / 2)
        entries.append(replace(found, outcome=replace(found.outcome, task_scores=tasks)))
    assert [row["id"] for row in leaderboard(entries)] == ["1", "2", "3"]
    assert [row["id"] for row in leaderboard(entries, over_tasks="rank")] == ["2", "1", "3"]
    fresh = [again(name, 0.5, rule=f"g * {name}", tasks=tasks) for name, tasks in (("1", (9.0, 0.1)), ("2", (0.5, 0.6)), ("3", (0.6, 0.7)))]
    assert [row["id"] for row in leaderboard([*entries, *fresh], over_tasks="rank")] == ["3", "1", "2"]


def test_leaderboard_passes_over_other_stages():
    survivor = replace(measured("1", 0.9), stage="eliminate/1")
    baseline = replace(measured("2", 0.9), stage="tune", proposal=None)
    assert leaderboard([survivor, baseline]) == []


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=30), st.integers(0, 40))
def test_leaderboard_is_a_sorted_head(fitnesses, n):
    rows = leaderboard([measured(str(i), fitness) for i, fitness in enumerate(fitnesses)], n)
    known = sorted((f for f in fitnesses if f is not None), reverse=True)
    assert [row["fitness"] for row in rows] == (known + [None] * (len(fitnesses) - len(known)))[:n]


SEARCH = [measured(str(i), fitness) for i, fitness in enumerate([0.99, 0.9, 0.8, 0.7])]
FRESH = [again(f"evolved-0{i + 1}", 0.5 + 0.1 * i, rule=f"g * {i}") for i in range(3)]


def finals(valid: dict[int, list[float | None]], test: dict[int, list[float | None]]) -> list[Measurement]:
    """Of the rules with these numbers, beside AdamW."""
    found = final(
        {f"evolved-0{i + 1}": scores for i, scores in test.items()} | ({"adamw": [0.5, 0.4]} if test else {}),
        {f"evolved-0{i + 1}": scores for i, scores in valid.items()} | {"adamw": [0.6, 0.6]},
    )
    return [replace(m, job=replace(m.job, rule=f"g * {int(m.job.rule[9]) - 1}")) if m.job.rule.startswith("evolved") else m for m in found]


def test_the_choice_leads_and_neither_fitness_nor_test_scores_change_that() -> None:
    found = [*SEARCH, *FRESH, *finals({0: [0.6, 0.6], 2: [0.7, 0.9], 1: [0.9, None]}, {0: [0.99, 0.98], 2: [0.1, 0.2], 1: [0.5, 0.5]})]
    rows = ranking(found)
    assert [(row.name, row.rule, row.ranked_by) for row in rows] == [
        ("evolved-03", "g * 2", "choice"),
        ("evolved-02", "g * 1", "choice"),
        ("evolved-01", "g * 0", "choice"),
        ("", "g * 3", "search"),
    ]
    assert (rows[0].choice, rows[0].choice_seeds, rows[0].choice_lost) == (pytest.approx(0.8), 2, 0)
    assert (rows[1].choice, rows[1].choice_lost) == (pytest.approx(0.75), 1), "the lost run counts as the worst of all, 0.6"
    assert (rows[0].learning_rate, rows[0].weight_decay) == (0.1, 0.01), "as the final evaluation tuned them"


def test_a_run_that_goes_on_is_ranked_by_what_is_known_and_says_so() -> None:
    stages = [SEARCH[:0], SEARCH, [*SEARCH, *FRESH], [*SEARCH, *FRESH, *finals({0: [0.6], 2: [0.7]}, {})]]
    said = [basis(ranking(found), finished=False) for found in stages]
    assert said[0] == ""
    for text, words in zip(said[1:], ("nothing is measured again", "measured again under fresh seeds", "under 1 fresh seed;"), strict=True):
        assert words in text
        assert "The run is not finished" in text
        assert "not finished" not in basis(ranking(stages[2]), finished=True)
    assert [ranking(found)[0].rule for found in stages[1:]] == ["g * 0", "g * 2", "g * 2"]


def test_what_is_delivered_is_the_ranking_s_first_with_its_words() -> None:
    found = [*SEARCH, *FRESH, *finals({0: [0.6, 0.6], 2: [0.7, 0.9]}, {0: [0.9, 0.8], 2: [0.1, 0.3]})]
    first = delivered(found, RunConfig(task="digits"), finished=True)
    assert first is not None
    assert first.standing == ranking(found)[0]
    assert "evolved-03" in first.provenance
    assert "the best of 2 survivors by mean validation score under 2 fresh seeds, before the test split was opened" in first.provenance
    assert "evolved-03 does not beat tuned AdamW" in first.notes[0]
    assert first.scores == {"t, test split": pytest.approx(0.2)}
    second = delivered(found, RunConfig(task="digits"), finished=True, rank=2)
    assert second is not None
    assert "not the rule that the run hands over, which is evolved-03" in second.notes[0]
    assert delivered(found, RunConfig(), finished=True, rank=5) is None
    early = delivered(SEARCH, RunConfig(task="digits"), finished=False)
    assert early is not None
    assert "not measured again yet" in early.provenance
    assert "No verdict yet" in early.notes[0]


def test_what_is_delivered_says_what_it_behaves_as_and_which_numbers_end_their_grid() -> None:
    found = finals({0: [0.6, 0.6]}, {0: [0.9, 0.8]})
    grids = Protocol(learning_rates=(0.1, 0.01), weight_decays=(0.0, 0.01))
    ends = [replace(m, job=replace(m.job, rule="nesterov: 2 * g" if m.job.rule == "g * 0" else m.job.rule, protocol=grids)) for m in found]
    told = delivered([measured("1", 0.9, rule="nesterov: 2 * g"), *ends], RunConfig(task="digits"), finished=True)
    assert told is not None
    assert told.provenance.endswith("test split was opened. Behaves as Nesterov momentum, twice the learning rate.")
    assert told.notes[1:] == (
        "Its learning rate, 0.1, is at the end of those that were tried: others may be better.",
        "Its weight decay, 0.01, is the largest that was tried: more may be better.",
    )
