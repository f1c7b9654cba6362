"""Learning-rate and momentum schedules as numbers: linear warm-up, hold, cosine. Source: method section 2."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["schedule_values"]


def schedule_values(
    peak: float, total_steps: int, warmup: int, hold: int = 0, momentum_high: float = 0.95, momentum_low: float = 0.85
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Learning rate and momentum at t = 0 … total_steps-1, each of shape (total_steps,).

    Args:
        peak: learning rate after warm-up.
        total_steps: length of the run T, at least 1.
        warmup: steps W during which the learning rate rises as t/W.
        hold: steps H at the peak; W + H <= T.
        momentum_high, momentum_low: momentum falls linearly from high to low over the warm-up, stays during the hold, returns; each leg
            includes both its ends.
    Raises:
        ValueError: if the legs do not fit into total_steps.
    """
    rest = total_steps - warmup - hold
    if total_steps < 1 or warmup < 0 or hold < 0 or rest < 0:
        raise ValueError(f"Expected warmup + hold within total_steps, got {warmup} + {hold} in {total_steps} steps.")
    t = np.arange(total_steps, dtype=np.float64)
    rise = t / max(warmup, 1)
    fall = (1 + np.cos(np.pi * (t - warmup - hold) / max(rest, 1))) / 2
    factor = np.where(t < warmup, rise, np.where(t < warmup + hold, 1.0, fall))
    momentum = np.concatenate(
        [np.linspace(momentum_high, momentum_low, warmup), np.full(hold, momentum_low), np.linspace(momentum_low, momentum_high, rest)]
    )
    return peak * factor, momentum
