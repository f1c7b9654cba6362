from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optevolve.config import Protocol, RunConfig, Search
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.reporting.tables import by_task, config_rows, deaths, leaderboard, stage_costs


def measured(name, fitness=None, *, rule="", stage="evolution", status=None, same_as="", reason="", rejected=(), steps=100):
    status = status or (Status.COMPLETED if fitness is not None else Status.STOPPED)
    outcome = Outcome(status, fitness, 0.1 if fitness is not None else None, reason, steps=steps, seconds=2.0)
    text = rule or f"g * {name}"
    proposal = Proposal(name, text, stage=stage, parent="root", rejected=rejected)
    return Measurement(stage, Job(name, text, "digits", Protocol(), 0), outcome, proposal, same_as)


def test_leaderboard_ranks_by_fitness_and_puts_failures_last():
    rows = leaderboard([measured("1", 0.2), measured("2"), measured("3", 0.9), measured("4", float("nan")), measured("5", 0.5)])
    assert [row["id"] for row in rows] == ["3", "5", "1", "2", "4"]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[0] == {
        "rank": 1, "rule": "g * 3", "fitness": 0.9, "remeasured": None, "remeasured_in": "", "status": "completed",
        "learning_rate": 0.1, "weight_decay": 0.0, "id": "3", "stage": "evolution", "parent": "root", "seconds": 2.0, "reason": "",
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


def test_costs_count_what_was_trained():
    costs = stage_costs(
        [measured("1", 0.5, stage="initial"), measured("2", stage="initial"), measured("3", 0.5), measured("4", 0.5, same_as="3")]
    )
    assert [(c.stage, c.measured, c.reused, c.completed, c.steps, c.seconds) for c in costs] == [
        ("initial", 2, 0, 1, 200, 4.0),
        ("evolution", 1, 1, 1, 100, 2.0),
        ("total", 3, 1, 2, 300, 6.0),
    ]
    assert stage_costs([]) == []


def test_deaths_fall_together_by_reason():
    found = deaths(
        [
            measured(
                "1", reason="score 0.1 below 0.25", rejected=(("-g", "loss stays at 4.3"), ("w", "loss stays at 5e+10"), ("g2", "NaN"))
            ),
            measured("2", reason="score 0.21 below 0.25"),
            measured("3", reason="score 0.21 below 0.25", same_as="2"),
            measured("4", status=Status.FAILED, reason="bessel_i1e raised"),
            measured("5", status=Status.DIVERGED),
            measured("6", 0.9),
        ]
    )
    assert [(c.what, c.reason, c.count, c.example_rule, c.example_reason) for c in found] == [
        ("refused at the integrity check", "loss stays at …", 2, "-g", "loss stays at 4.3"),
        ("refused at the integrity check", "NaN", 1, "g2", "NaN"),
        ("stopped early", "score … below …", 2, "g * 1", "score 0.1 below 0.25"),
        ("diverged", "no reason given", 1, "g * 5", ""),
        ("failed", "bessel_i1e raised", 1, "g * 4", "bessel_i1e raised"),
    ]


def test_rare_deaths_are_added_up():
    found = deaths([measured(str(i), reason="abcdefgh"[i]) for i in range(8)], limit=3)
    assert [(c.reason, c.count) for c in found] == [("a", 1), ("b", 1), ("c", 1), ("5 rarer reasons", 5)]


def test_by_task_puts_the_best_first(make_study):
    study = make_study()
    tasks = by_task([*study.comparisons, replace(study.comparisons[0], name="lost", mean=None)])
    for rows in tasks.values():
        means = [row.mean for row in rows if row.mean is not None]
        assert means == sorted(means, reverse=True)
    assert tasks[study.comparisons[0].task][-1].name == "lost"


def test_config_rows_mark_what_differs():
    rows = {key: (text, changed) for key, text, changed in config_rows(RunConfig(search=Search(particles=7)))}
    assert rows["search.particles"] == ("7", True)
    assert rows["search.timesteps"] == ("6", False)
    assert rows["initial.protocol.schedule.warmup"] == ("800", False)
    assert rows["evolution.task_options.width"] == ("48", False)
