"""The callbacks with the real packages, where they are installed: what was sent can be read there."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from optevolve.config import Search
from optevolve.records import Measurement
from optevolve.run.driver import drive
from optevolve.run.local import SerialRunner
from optevolve.run.metrics import metrics
from optevolve.run.store import Study
from optevolve.run.watch import Watch

SEARCH = Search(population=8, particles=2, timesteps=2, children=3, redraws=1, lookahead=4)


def searched(name: str, folder: Path) -> list[Measurement]:
    """A small search that sends its numbers; what it measured."""
    module: Any = importlib.import_module("search_source")
    with Study.create(folder / "study.db", "x") as study:
        watch = Watch([metrics(name, folder)])
        drive(module.SearchSource(SEARCH), SerialRunner(module.fitness), study, lookahead=4, on_event=watch)
        watch.end(True)
        return study.measurements()


def expected(measured: list[Measurement], stage: str) -> list[tuple[int, float]]:
    own = [m for m in measured if m.stage == stage]
    return [(step, m.outcome.fitness) for step, m in enumerate(own) if m.outcome.fitness is not None]


def test_tensorboard_has_fitness_cost_failures_and_particles(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    measured = searched("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for stage in ("initial", "evolution"):
        sent = [(event.step, event.value) for event in events.Scalars(f"{stage}/fitness")]
        assert sent == [(step, pytest.approx(fitness)) for step, fitness in expected(measured, stage)]
        count = sum(m.outcome.fitness is None for m in measured if m.stage == stage)
        assert events.Scalars(f"{stage}/failures")[-1].value == count
        assert len(events.Scalars(f"{stage}/seconds")) == sum(m.stage == stage for m in measured)
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("particles/")} == {"particles/00", "particles/01"}


def test_mlflow_has_fitness_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow: Any = pytest.importorskip("mlflow", reason="the package mlflow is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    measured = searched("mlflow", tmp_path)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert (run.info.run_name, run.info.status) == (tmp_path.name, "FINISHED")
    for stage in ("initial", "evolution"):
        sent = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, f"{stage}/fitness")]
        assert sorted(sent) == [(step, pytest.approx(fitness)) for step, fitness in expected(measured, stage)]
