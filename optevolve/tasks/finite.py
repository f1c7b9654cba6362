"""A wrapper that passes over batches which no optimizer can learn from: their loss is not finite before anything is trained."""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import nn

from optevolve.errors import TaskError
from optevolve.records import Split
from optevolve.tasks.base import Batch
from optevolve.tasks.conditions import Wrapper

__all__ = ["Finite"]


@dataclass(frozen=True)
class Finite(Wrapper):
    """Batches whose loss (in training) or score (elsewhere) is not finite on an untrained model are passed over, in every split.

    One such batch, as of a sensor that failed, turns all weights into NaN whatever the rule, and every rule would seem to diverge. Whether
    a batch is sound is asked of one untrained model that never changes, in evaluation mode, so that all rules see the same batches; asking
    costs a forward pass.

    Attributes:
        value: the largest share of the batches of a pass that may be passed over, from 0 to 1.
    Raises:
        TaskError: at the end of a pass that had to leave out a larger share, or all of it.
    """

    name: ClassVar[str] = "finite"
    high: ClassVar[float] = 1.0

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        total = kept = 0
        for batch in self.task.batches(split, seed):
            total += 1
            if self._is_sound(split, batch):
                kept += 1
                yield batch
        if total and (not kept or total - kept > self.value * total):
            raise TaskError(
                f"Wrapper 'finite' may pass over {self.value:.0%} of the {split} batches of {type(self.task).__name__}; the loss of "
                f"{total - kept} of {total} is not finite on the untrained model. Mend the data, or allow more."
            )

    def _is_sound(self, split: Split, batch: Batch) -> bool:
        ask = self.task.loss if split == Split.TRAIN else self.task.score
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            return math.isfinite(ask(self._untrained, batch).item())

    @cached_property
    def _untrained(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.task.model().eval()
