"""What a training run is, apart from the task: a value, so that many can be handed over together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from optevolve.records import Split
from optevolve.training.engine import PLAIN, Engine
from optevolve.training.halves import Part
from optevolve.training.loop import OptimizerFactory
from optevolve.training.record import Floor, Record

__all__ = ["Run", "Terms"]


@dataclass(frozen=True, eq=False)
class Run:
    """What is the run's own; see `optevolve.training.train` for each.

    Attributes:
        optimizer: makes the optimizer from the model's trainable parameters.
        learning_rates, momenta: of each step, shape (steps,).
        seed: of everything random.
        learning_rate: what the curve reports as its peak; the largest of `learning_rates` if not given.
    """

    optimizer: OptimizerFactory
    learning_rates: Sequence[float] | npt.NDArray[np.float64]
    momenta: Sequence[float] | npt.NDArray[np.float64]
    seed: int
    learning_rate: float | None = None

    @property
    def peak(self) -> float:
        """The learning rate that the curve reports."""
        return float(max(self.learning_rates)) if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class Terms:
    """What runs that are compared share; see `optevolve.training.train` for each."""

    epoch_steps: int
    split: Split | None = Split.VALID
    floor: Floor | float | None = None
    floor_epoch: int = 1
    max_loss_ratio: float = 1e4
    purpose: str = "full"
    engine: Engine = PLAIN
    part: Part = "all"

    def record(self, steps: int) -> Record:
        """The empty record of a run of so many steps."""
        return Record(steps, self.epoch_steps, self.floor, self.floor_epoch, self.max_loss_ratio)
