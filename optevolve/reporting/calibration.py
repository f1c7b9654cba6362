"""The figure of a calibration: the log's accuracies against ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from optevolve.reporting.drawing import MUTED, SERIES, new_figure, tidy

__all__ = ["write_plot"]


def write_plot(
    path: Path, accuracies: Sequence[float], scores: Sequence[Sequence[float]], correlation: float, interval: tuple[float, float]
) -> None:
    """Writes the figure; its format follows from the name.

    Args:
        path: of the file.
        accuracies: of the log, one per rule.
        scores: fitness by rule and seed; -inf for what did not complete, drawn as a cross at the foot.
        correlation, interval: the rank correlation, for the title.
    """
    figure = new_figure(6, 4.2)
    axes = figure.subplots()
    tidy(axes, x="accuracy in the log", y="fitness measured")
    values = np.array(scores, dtype=float)
    means = values.mean(axis=1)
    x, whole = np.array(accuracies), np.isfinite(means)
    if whole.any():
        spread = np.stack([means[whole] - values[whole].min(axis=1), values[whole].max(axis=1) - means[whole]])
        axes.errorbar(x[whole], means[whole], yerr=spread, fmt="o", markersize=4, linewidth=1, color=SERIES[0])
    if not whole.all():
        foot = float(means[whole].min()) if whole.any() else 0.0
        axes.plot(x[~whole], np.full(int((~whole).sum()), foot), "x", markersize=5, color=MUTED)
    axes.set_title(f"Spearman {correlation:.2f} [{interval[0]:.2f}, {interval[1]:.2f}], {len(x)} rules", fontsize=10, loc="left")
    figure.savefig(path, dpi=150)
