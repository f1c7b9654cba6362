"""Intervals and tests of means over seeds: Student's t, and Holm's correction for several tests at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["holm", "mean_interval", "paired_p", "rank_correlation", "t_quantile"]


@lru_cache(maxsize=256)
def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The two-sided quantile of Student's t: |t| exceeds it with probability 1 - level.

    Args:
        freedom: degrees of freedom, at least 1.
        level: within (0, 1).
    """
    from scipy import special  # slow to import

    return float(special.stdtrit(freedom, (1 + level) / 2))


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of a mean (Student's t); None with fewer than two values, or where one is not finite."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    half = t_quantile(len(values) - 1, level) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    middle = float(np.mean(values))
    return middle - half, middle + half


def paired_p(gaps: Sequence[float]) -> float | None:
    """Two-sided p-value of the paired t-test.

    Args:
        gaps: differences, one per pair.
    Returns:
        None with fewer than two finite differences, or if they are equal up to rounding: then there is no noise to judge them by.
    """
    if len(gaps) < 2 or not np.isfinite(gaps).all():
        return None
    if np.ptp(gaps) <= 1e-12 * max(1.0, float(np.max(np.abs(gaps)))):
        return None
    from scipy import special

    size = abs(float(np.mean(gaps))) * math.sqrt(len(gaps)) / float(np.std(gaps, ddof=1))
    return float(2 * special.stdtr(len(gaps) - 1, -size))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for being several: one of a true null hypothesis is below 0.05 with probability 0.05 at most, among them all.

    Args:
        p_values: of the tests; None for a test that could not be made, which does not count.
    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    made = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for done, (p, place) in enumerate(made):
        largest = max(largest, min(1.0, (len(made) - done) * p))
        corrected[place] = largest
    return corrected


def rank_correlation(x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation along the last axis, ties at their mean rank; 0 where either is constant, for then it ranks nothing.

    Args:
        x, y: shapes (…, n) that broadcast, n at least 1; not NaN.
    Returns:
        Shape (…), in [-1, 1].
    """
    from scipy import stats  # slow to import

    one, other = (stats.rankdata(values, axis=-1) for values in np.broadcast_arrays(x, y))
    varies = (np.ptp(one, axis=-1) > 0) & (np.ptp(other, axis=-1) > 0)
    a, b = (values - values.mean(axis=-1, keepdims=True) for values in (one, other))
    size = np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1))
    found: npt.NDArray[np.float64] = np.where(varies, (a * b).sum(axis=-1) / np.where(varies, size, 1), 0.0)
    return found
