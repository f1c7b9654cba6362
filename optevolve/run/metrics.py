"""Callbacks that send a run's numbers to TensorBoard and MLflow. Both are loaded only when one is made."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path
from typing import Any

from optevolve.errors import ConfigError
from optevolve.records import Measurement
from optevolve.run.watch import Callback

__all__ = ["METRICS", "MLflow", "TensorBoard", "metrics"]


class _Scalars:
    """Names and steps of what is sent: fitness, cost and failures by stage, the best child of each timestep by particle.

    Steps count a stage's evaluations in the order of asking, so that a resumed run draws the same curve again, not a second one.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()

    def send(self, name: str, value: float, step: int) -> None:
        raise NotImplementedError

    def on_evaluation(self, measurement: Measurement, stored: bool) -> None:
        """See `Callback`."""
        stage, outcome = measurement.stage, measurement.outcome
        step = self._counts[stage]
        self._counts[stage] += 1
        self._failures[stage] += outcome.fitness is None
        if outcome.fitness is not None:
            self.send(f"{stage}/fitness", outcome.fitness, step)
        self.send(f"{stage}/seconds", outcome.seconds, step)
        self.send(f"{stage}/failures", self._failures[stage], step)

    def on_timestep(self, particle: int, timestep: int, best: Measurement | None) -> None:
        """See `Callback`."""
        if best is not None and best.outcome.fitness is not None:
            self.send(f"particles/{particle:02d}", best.outcome.fitness, timestep)


class TensorBoard(_Scalars):
    """Writes event files for TensorBoard.

    Args:
        folder: where they go.
    Raises:
        ConfigError: if the package `tensorboard` is missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("Metrics for TensorBoard need its package. Install it: pip install tensorboard") from error
        self._writer: Any = SummaryWriter(str(folder))

    def send(self, name: str, value: float, step: int) -> None:
        """One number."""
        self._writer.add_scalar(name, value, step)

    def on_end(self, finished: bool) -> None:
        """See `Callback`."""
        self._writer.close()


class MLflow(_Scalars):
    """Logs to MLflow, at the server that `MLFLOW_TRACKING_URI` names.

    Args:
        name: of the run there.
    Raises:
        ConfigError: if the package `mlflow` is missing.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        try:
            mlflow = importlib.import_module("mlflow")  # by name, since nothing here depends on it
        except ImportError as error:
            raise ConfigError("Metrics for MLflow need its package. Install it: pip install mlflow") from error
        self._mlflow: Any = mlflow
        mlflow.start_run(run_name=name)

    def send(self, name: str, value: float, step: int) -> None:
        """One number."""
        self._mlflow.log_metric(name, value, step=step)

    def on_end(self, finished: bool) -> None:
        """See `Callback`."""
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


METRICS = ("tensorboard", "mlflow")


def metrics(name: str, folder: Path) -> Callback:
    """The callback of that name for the run in a folder.

    Raises:
        ConfigError: if there is none of that name, or its package is missing.
    """
    if name == "tensorboard":
        return TensorBoard(folder / "tensorboard")
    if name == "mlflow":
        return MLflow(folder.resolve().name)
    raise ConfigError(f"Expected metrics for one of {', '.join(METRICS)}, got {name!r}.")
