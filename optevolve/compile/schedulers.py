"""Learning-rate schedules as ordinary torch schedulers: warm-up and cosine with hold, and factors that were evolved on top of it.

Needs only torch. Source: method sections 2 and 7.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer

from optevolve.compile.settings import is_within
from optevolve.compile.work import step_count

__all__ = ["FactorSchedule", "WarmupCosine"]


class WarmupCosine(LRScheduler):
    """Linear warm-up, hold, cosine to 0; on top of any optimizer. The learning rate of its groups is the peak.

    Args:
        optimizer: any torch optimizer.
        total_steps: length of the run T, a whole number; step the scheduler after each optimizer step. Past the end the last value holds.
        warmup: steps W during which the learning rate rises as t/W; below 1 a fraction of the run.
        hold: steps H at the peak, likewise; W + H <= T.
        momentum: (high, low) lets the groups' momentum fall linearly from high to low over the warm-up, stay during the hold and return,
            each leg including both its ends, as in the paper with (0.95, 0.85); None leaves it alone.
        first_lr: learning rate of the first step instead of 0, such as the paper's 1e-7; None: what the schedule says.
        last_epoch: as in any torch scheduler.
    Raises:
        TypeError, ValueError: if an argument is unknown; if the legs do not fit, or groups have no momentum to set.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0,
        hold: float = 0,
        momentum: tuple[float, float] | None = None,
        first_lr: float | None = None,
        last_epoch: int = -1,
        **unknown: Any,  # export never
    ) -> None:
        if unknown:  # export never
            takes = ["total_steps", "warmup", "hold", "momentum", "first_lr", "last_epoch"]
            told = f"{type(self).__name__} has no {', '.join(unknown)}. It takes {', '.join(takes)}"
            raise TypeError(f"{told}; warmup and hold are steps, or below 1 fractions of the run.")
        total_steps = step_count(total_steps)
        for name, leg in (("warmup", warmup), ("hold", hold)):
            if not is_within(leg, 0):
                raise ValueError(f"Expected {name} of at least 0, in steps or below 1 as a fraction of the run, got {leg!r}.")
        if sum(leg if leg >= 1 else leg * total_steps for leg in (warmup, hold)) > total_steps:
            raise ValueError(f"Expected warmup + hold within total_steps, got {warmup} + {hold} in {total_steps} steps.")
        steerable = all("momentum" in group or "betas" in group for group in optimizer.param_groups)  # export if momentum
        if momentum is not None and not steerable:  # export if momentum
            raise ValueError("Expected groups with momentum or betas, since momentum is given, got neither. Leave momentum out.")
        self.total_steps = total_steps
        self.warmup = round(float(warmup if warmup >= 1 else warmup * total_steps))
        self.hold = min(round(float(hold if hold >= 1 else hold * total_steps)), total_steps - self.warmup)
        self.momentum = momentum  # export if momentum
        self.first_lr = first_lr
        super().__init__(optimizer, last_epoch)

    def factor(self, t: int) -> float:
        """Learning rate at step t (from 0) over its peak."""
        t = min(t, self.total_steps - 1)
        if t < self.warmup:
            return t / self.warmup
        rest = self.total_steps - self.warmup - self.hold
        return 1.0 if t < self.warmup + self.hold else (1 + math.cos(math.pi * (t - self.warmup - self.hold) / rest)) / 2

    def momentum_at(self, t: int) -> float:  # export if momentum
        """Momentum at step t (from 0); needs `momentum`."""
        assert self.momentum is not None
        high, low = self.momentum
        t = min(t, self.total_steps - 1)
        if t < self.warmup:
            return high + (low - high) * t / max(self.warmup - 1, 1)
        if t < self.warmup + self.hold:
            return low
        rest = self.total_steps - self.warmup - self.hold
        return low + (high - low) * (t - self.warmup - self.hold) / max(rest - 1, 1)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of each group at the current step; sets their momentum on the way.

        Groups that were added to the optimizer later are scheduled from here on; their learning rate is taken as their peak.
        """
        t = self.last_epoch
        for group in self.optimizer.param_groups[len(self.base_lrs) :]:
            lr = group["lr"]
            self.base_lrs.append(group.setdefault("initial_lr", lr.clone() if isinstance(lr, Tensor) else lr))
        if self.momentum is not None:  # export if momentum
            value = self.momentum_at(t)
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (value, *group["betas"][1:])
                else:
                    group["momentum"] = value
        if t == 0 and self.first_lr is not None:
            return [self.first_lr for _ in self.base_lrs]
        factor = self.factor(t)
        return [base * factor for base in self.base_lrs]


class FactorSchedule(WarmupCosine):  # export never
    """Warm-up, hold and cosine times an evolved factor of the step.

    A subclass gives `evolved(t, T)`: the factor at step t (from 0), a float64 tensor, in a run of T steps, as a tuple of one. Arguments
    as in `WarmupCosine`; the first step's learning rate is 1e-7, as in the paper.
    """

    evolved: ClassVar[Callable[..., tuple[Any]]]

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0,
        hold: float = 0,
        momentum: tuple[float, float] | None = None,
        first_lr: float | None = 1e-7,
        last_epoch: int = -1,
        **unknown: Any,
    ) -> None:
        super().__init__(optimizer, total_steps, warmup, hold, momentum, first_lr, last_epoch, **unknown)

    def factor(self, t: int) -> float:
        """Learning rate at step t (from 0) over its peak."""
        t = min(t, self.total_steps - 1)
        value = self.evolved(torch.tensor(float(t), dtype=torch.float64), self.total_steps)
        return super().factor(t) * float(value[0])
