"""What may change in a run that goes on: what nothing was measured by yet."""

from dataclasses import replace
from pathlib import Path

import pytest
from places import sample

from optevolve.config_text import preset
from optevolve.errors import ConfigError, StudyError
from optevolve.run.folder import open_run, read_run

CONFIG = preset("quick")


def _run(folder: Path, *stages: str) -> Path:
    jobs = {"tune": "tune/digits/adam", "evaluate": "evaluate/digits/adam/seed-0"}
    with open_run(folder, CONFIG) as (study, _):
        for stage in stages:
            measurement = sample(jobs.get(stage, stage), stage)
            study.record(replace(measurement, proposal=measurement.proposal and replace(measurement.proposal, id=f"of-{stage}")))
        study.finish()
    return folder


def test_what_has_not_begun_can_change_and_stays_changed(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", "initial")
    settings = ["elimination.0.keep=2", "contenders=3", "evaluation.seeds=3", "evolution.protocol.floor=0.1", "workers.retries=7"]
    with open_run(folder, None, settings=settings) as (study, config):
        assert not study.finished
        assert (config.elimination[0].keep, config.contenders, config.workers.retries) == (2, 3, 7)
    with read_run(folder) as (_, config):
        assert (config.elimination[0].keep, config.contenders, config.evaluation.seeds) == (2, 3, 3)
        assert config.evolution.protocol.floor == 0.1
        assert config.workers == CONFIG.workers  # for that time alone
    assert "keep = 2" in (folder / "config.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("begun", "setting"),
    [
        ("initial", "seed=5"),
        ("initial", "initial.protocol.floor=0.5"),
        ("initial", "search.children=2"),
        ("evolution", "evolution.protocol.floor=0.5"),
        ("eliminate/1", "elimination.0.keep=1"),
        ("eliminate/1", "contenders=1"),
        ("tune", "evaluation.protocol.full_steps=7"),
        ("tune", "elimination.0.keep=1"),
        ("evaluate", "evaluation.seeds=1"),
    ],
)
def test_what_was_measured_by_stays(tmp_path: Path, begun: str, setting: str) -> None:
    folder = _run(tmp_path / "run", begun)
    with (
        pytest.raises(StudyError, match=f"nothing was measured by yet, got {setting.partition('=')[0]}"),
        open_run(folder, None, settings=[setting]),
    ):
        pass  # pragma: no cover
    with read_run(folder) as (study, config):
        assert config == CONFIG
        assert study.finished


def test_final_tasks_and_baselines_can_change_at_any_time_but_only_to_what_there_is(tmp_path: Path) -> None:
    folder = _run(tmp_path / "run", "initial", "tune", "evaluate")
    with open_run(folder, None, settings=['evaluation.tasks=["digits", "quadratics"]', 'evaluation.baselines=["adam"]']) as (study, config):
        assert config.evaluation.baselines == ("adam",)
        assert study.extended
        assert not study.redrawn

    def check(config: object) -> None:
        raise ConfigError("no such task")

    misspelt = ['evaluation.tasks=["misspelt"]']
    with pytest.raises(ConfigError, match="no such task"), open_run(folder, None, settings=misspelt, check=check):
        pass  # pragma: no cover
    with read_run(folder) as (_, config):
        assert config.evaluation.tasks == ("digits", "quadratics")
