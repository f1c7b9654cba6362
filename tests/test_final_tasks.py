"""Which tasks a finished run is evaluated on, and under which protocol each."""

from dataclasses import replace

import pytest

from optevolve.config import FAST, FinalTask, RunConfig
from optevolve.config_text import from_toml, preset
from optevolve.eliminate import Contestant
from optevolve.errors import ConfigError, StudyError
from optevolve.evaluation import EvaluationSource
from optevolve.final_tasks import asked_tasks, final_tasks
from optevolve.records import Outcome, Status
from optevolve.task_spec import spec_of

CONFIG = from_toml(
    """
preset = "quick"
[[evaluation.tasks]]
task = "digits"
task_options = { width = 3 }
protocol = { full_steps = 300, trial_steps = 30 }
[[evaluation.tasks]]
task = "mlp-moons"
protocol = { weight_decays = [0.0] }
"""
)
BASE = CONFIG.evaluation.protocol
DIGITS, MOONS = final_tasks(CONFIG).values()


def test_without_names_and_settings_it_is_what_the_config_says() -> None:
    assert asked_tasks(CONFIG, [], [], {}) == {"digits@width=3": DIGITS, "mlp-moons": MOONS}
    quick = preset("quick")
    own = spec_of(quick.task, quick.evaluation.task_options)
    assert asked_tasks(quick, [], [], {}) == {own: quick.evaluation.protocol}


def test_a_task_has_its_budget_of_the_config_else_the_evaluations() -> None:
    assert asked_tasks(CONFIG, ["mlp-moons", "quadratics", "digits@width=3", "mlp-moons"], [], {}) == {
        "mlp-moons": MOONS,
        "quadratics": BASE,
        "digits@width=3": DIGITS,
    }
    own = FinalTask("quadratics", {"dimension": 3}, {"full_steps": 9, "schedule": {"warmup": 0}})
    expected = replace(BASE, full_steps=9, schedule=replace(BASE.schedule, warmup=0))
    assert asked_tasks(CONFIG, [own], [], {}) == {"quadratics@dimension=3": expected}


def test_settings_are_for_all_tasks_or_for_the_one_that_they_name() -> None:
    settings = ["trial_steps=20", "digits.full_steps=500", "digits@width=3.judge=best", "schedule.warmup=0.3"]
    found = asked_tasks(CONFIG, ["digits@width=3", "digits@width=4", "my.tasks:Moons"], [*settings, "my.tasks:Moons.floor=0.5"], {})
    warm = replace(BASE.schedule, warmup=0.3)
    assert found == {
        "digits@width=3": replace(DIGITS, trial_steps=20, full_steps=500, judge="best", schedule=warm),
        "digits@width=4": replace(BASE, trial_steps=20, full_steps=500, schedule=warm),
        "my.tasks:Moons": replace(BASE, trial_steps=20, floor=0.5, schedule=warm),
    }
    assert asked_tasks(CONFIG, ["mlp-moons"], ["mlp-moons.preset=fast", "mlp-moons.full_steps=7"], {}) == {
        "mlp-moons": replace(FAST, full_steps=7)
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("digist.full_steps=3", r"^--set digist\.full_steps=3: expected KEY=VALUE for all tasks, or TASK\.KEY=VALUE for one of digits@"),
        ("quadratics.full_steps=3", "expected KEY=VALUE for all tasks"),
        ("digits.full_stepss=3", r"Did you mean 'evaluation\.tasks\.0\.protocol\.full_steps'"),
        ("full_steps=0", "expected a number that is at least 1, got 0"),
        ("full_steps", "expected key=value"),
        ("device=cuda", "expected a device for the whole run"),
    ],
)  # fmt: skip
def test_mistakes_in_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked_tasks(CONFIG, [], [setting], {})


def test_a_task_keeps_the_protocol_under_which_it_was_evaluated() -> None:
    before = {"quadratics": replace(BASE, full_steps=11)}
    assert asked_tasks(CONFIG, ["quadratics"], [], before) == before
    assert asked_tasks(CONFIG, ["quadratics"], ["full_steps=11"], before) == before
    for tasks, settings in ((["quadratics"], ["full_steps=12"]), ([FinalTask("quadratics")], [])):
        with pytest.raises(StudyError, match=r"quadratics was evaluated under another protocol in this run \(full_steps: 11 there, "):
            asked_tasks(CONFIG, tasks, settings, before)


def test_every_measurement_of_a_task_has_the_tasks_protocol() -> None:
    protocols = final_tasks(CONFIG)
    source = EvaluationSource(
        [Contestant("sgd", "g")], list(protocols), RunConfig().evaluation.protocol, seeds=2, seed=0, protocols=protocols
    )
    asked = []
    while (ask := source.ask()) is not None:
        asked.append(ask[1])
        source.tell(ask[1].id, Outcome(Status.COMPLETED, 0.5, 0.1, weight_decay=0.1))
    assert source.done
    assert len(asked) == 6
    assert {job.task: job.protocol for job in asked} == protocols
    assert {job.protocol for job in asked if job.task == "digits@width=3"} == {DIGITS}
    # One weight decay goes without saying, of several the chosen one is fixed.
    assert {(job.task, job.weight_decay) for job in asked if job.learning_rate is not None} == {
        ("digits@width=3", 0.1),
        ("mlp-moons", None),
    }
