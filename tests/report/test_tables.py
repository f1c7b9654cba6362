from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from optevolve.config import Protocol, RunConfig, Search
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.report.tables import by_task, config_rows, deaths, leaderboard, stage_costs


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
        "rank": 1, "rule": "g * 3", "fitness": 0.9, "status": "completed", "learning_rate": 0.1, "weight_decay": 0.0, "id": "3",
        "stage": "evolution", "parent": "root", "seconds": 2.0, "reason": "",
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
