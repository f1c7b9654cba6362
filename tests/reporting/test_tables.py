from dataclasses import replace

from optevolve.config import RunConfig, Search
from optevolve.records import Status
from optevolve.reporting.tables import by_task, config_rows, deaths, stage_costs
from tests.finals import measured


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
