"""A run that was extended ends as one that was large from the beginning; anything else that differs is refused, with the difference."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

from optevolve.config import RunConfig, Search
from optevolve.config_text import apply_settings, preset
from optevolve.errors import StudyError
from optevolve.records import Job, Measurement, Outcome, Status
from optevolve.run.driver import drive
from optevolve.run.folder import config_of, open_run, read_run
from optevolve.run.local import SerialRunner
from optevolve.run.session import Session
from optevolve.run.store import Study

SMALL = Search(population=12, particles=3, timesteps=2, children=3, redraws=2, lookahead=5)


def go(study: Study, search: Search, seed: int = 0) -> Session:
    module = importlib.import_module("search_source")
    work = Session(SerialRunner(module.fitness), study, [])
    work(module.SearchSource(search, seed), search.lookahead, same=lambda job: job.rule)
    return work


def begin(study: Study, config: RunConfig) -> None:
    """A first measurement."""
    job = Job("initial/0000", "g", config.task, config.initial.protocol, 0)
    study.record(Measurement("initial", job, Outcome(Status.COMPLETED, 0.5, 0.1)))


def stored(study: Study) -> list[tuple[object, ...]]:
    """Everything but clocks, in the order of asking."""
    return [(m, m.outcome.curves, m.proposal and m.proposal.rejected) for m in study.measurements()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("algorithm", "growth"),
    [
        ("particle", {"timesteps": 4}),
        ("particle", {"particles": 6}),
        ("particle", {"timesteps": 3, "particles": 5}),
        ("random", {"timesteps": 3, "particles": 4}),
        ("regularized", {"timesteps": 4}),
    ],
)
def test_an_extended_search_ends_as_one_that_was_large_from_the_beginning(
    tmp_path: Path, algorithm: str, growth: dict[str, int], seed: int
) -> None:
    small = replace(SMALL, algorithm=algorithm, tournament=2)
    large = replace(small, **growth)
    with Study.create(tmp_path / "large.db", "x") as study:
        go(study, large, seed)
        expected = stored(study)
    with Study.create(tmp_path / "grown.db", "x") as study:
        go(study, small, seed)
        before = {m.job.id for m in study.measurements()}
        study.finish()
        study.extend("y")
        work = go(study, large, seed)
        work.drop_others()
        found = stored(study)
        kept = before & study.jobs()
    assert repr(found) == repr(expected)
    assert len(kept) > 0.5 * len(before), "hardly anything of the smaller run was of use"


def test_what_belongs_to_the_smaller_run_alone_goes_and_only_then(tmp_path: Path) -> None:
    with Study.create(tmp_path / "study.db", "x") as study:
        go(study, SMALL)
        stale = study.measurements()[0]
        study.record(Measurement("eliminate/1", replace(stale.job, id="eliminate/1/opt-00"), stale.outcome))
        go(study, SMALL).drop_others()
        assert "eliminate/1/opt-00" in study, "the run was not extended"
        study.extend("y")
        work = go(study, SMALL)
        work.drop_others("initial", "evolution")
        assert "eliminate/1/opt-00" in study
        work.drop_others()
        assert "eliminate/1/opt-00" not in study
        assert len(study.jobs()) == len(study.measurements()) > 12


def test_a_config_grows_only_where_the_smaller_run_is_part_of_the_larger(tmp_path: Path) -> None:
    config = preset("quick")
    folder = tmp_path / "run"
    with open_run(folder, config) as (study, _):
        study.finish()
    steps = config.search.timesteps
    for text in (f"search.timesteps={steps - 1}", "search.population=5000", "seed=3", "search.children=50"):
        with (
            pytest.raises(StudyError, match=r"Expected to extend a run by larger search.timesteps, .*, got"),
            open_run(folder, None, extend=[text]),
        ):
            pass
    with read_run(folder) as (study, stored_config):
        assert study.finished
        assert stored_config == config
    with open_run(folder, None, extend=[f"search.timesteps={steps + 2}", "evaluation.seeds=9"]) as (study, larger):
        assert not study.finished
        assert (larger.search.timesteps, larger.evaluation.seeds) == (steps + 2, 9)
        assert config_of(study) == larger
    assert f"timesteps = {steps + 2}" in (folder / "config.toml").read_text()
    with open_run(folder, None, extend=[f"search.timesteps={steps + 2}"]) as (study, same):  # again: nothing to extend
        assert same == larger
        assert [event.kind for event in study.events()] == ["extended"]


def test_more_particles_are_refused_where_all_particles_share_a_population(tmp_path: Path) -> None:
    config = apply_settings(preset("quick"), ["search.algorithm=regularized"])
    with open_run(tmp_path, config):
        pass
    more = config.search.particles + 1
    with pytest.raises(StudyError, match=r"by larger search\.timesteps, evaluation\.seeds, got search\.particles"):  # noqa: SIM117
        with open_run(tmp_path, None, extend=[f"search.particles={more}"]):
            pass


def test_another_config_is_refused_with_the_difference_and_what_to_do(tmp_path: Path) -> None:
    config = preset("quick")
    with open_run(tmp_path, replace(config, seed=5)):
        pass
    with open_run(tmp_path, config) as (study, found):  # nothing was measured: the folder is free
        assert found == config == config_of(study)
        begin(study, config)

    def refusal(other: RunConfig) -> str:
        with pytest.raises(StudyError) as caught, open_run(tmp_path, other):
            pass
        return str(caught.value)

    assert "seed: 0 there, 7 here" in refusal(replace(config, seed=7))
    assert "--extend" not in refusal(replace(config, seed=7))
    larger = replace(config, search=replace(config.search, timesteps=99))
    assert f"optevolve resume {tmp_path} --extend search.timesteps=99" in refusal(larger)


def test_workers_and_data_may_differ_from_one_sitting_to_the_next(tmp_path: Path) -> None:
    config = preset("quick")
    with open_run(tmp_path, config) as (study, _):
        begin(study, config)
    other = apply_settings(config, ["workers.runner=ray", "workers.memory_limit=2.0", "data=elsewhere"])
    with open_run(tmp_path, other) as (_, found):
        assert found == other
    with open_run(tmp_path, None, settings=["workers.time_limit=60"]) as (_, found):
        assert found.workers == replace(config.workers, time_limit=60)
    with pytest.raises(StudyError, match="got seed"), open_run(tmp_path, None, settings=["seed=4"]):
        pass


def test_an_unextended_study_that_holds_another_job_is_refused(tmp_path: Path) -> None:
    module = importlib.import_module("search_source")
    with Study.create(tmp_path / "study.db", "x") as study:
        go(study, SMALL, seed=0)
        with pytest.raises(StudyError, match="holds another job under the id 'initial/0000'"):
            drive(module.SearchSource(SMALL, 1), SerialRunner(module.fitness), study, lookahead=5)
