"""The figure of a comparison: for each task the scores of every rule, and how its validation score rose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes

from optevolve.final import lost_text
from optevolve.number_text import p_text
from optevolve.records import TrainingCurve
from optevolve.reporting.drawing import INK, MUTED, SERIES, SURFACE, labelled, new_figure, tidy
from optevolve.reporting.plots import draw_scores
from optevolve.reporting.tables import by_task

if TYPE_CHECKING:
    from optevolve.final import Comparison

__all__ = ["write_plot"]


def write_plot(
    path: Path, comparisons: Sequence[Comparison], curves: Mapping[tuple[str, str], Sequence[TrainingCurve]], reference: str
) -> None:
    """Writes the figure; its format follows from the name.

    Args:
        path: of the file.
        comparisons: of all tasks; rules without a score are left out, and so are tasks where none has one.
        curves: by task and name the full runs of the tuning, which validation data judge.
        reference: name of the rule that the others are tested against.
    """
    tasks = {task: [row for row in rows if row.scores] for task, rows in by_task(comparisons).items()}
    tasks = {task: rows for task, rows in tasks.items() if rows}
    if not tasks:
        return
    heights = [max(2.6, 0.9 + 0.38 * len(rows)) for rows in tasks.values()]
    figure = new_figure(11, sum(heights))
    figure.set_facecolor(SURFACE)
    panels = figure.subplots(len(tasks), 2, squeeze=False, height_ratios=heights)
    for (scores, rises), (task, rows) in zip(panels, tasks.items(), strict=True):
        draw_scores(scores, rows, reference, ())
        _note_tests(scores, rows)
        scores.set_title(labelled(task, 120), color=INK, fontsize=10, loc="left", parse_math=False)
        tidy(rises, x="step", y="validation score")
        for number, row in enumerate(rows):
            colour = INK if row.name == reference else SERIES[number % len(SERIES)]
            for curve in curves.get((task, row.name), ()):
                marker = "o" if len(curve.steps) == 1 else None
                rises.plot(curve.steps, curve.score, color=colour, linewidth=1.2, marker=marker, markersize=4)
            rises.plot([], [], color=colour, label=labelled(row.name))
        rises.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def _note_tests(axes: Axes, rows: Sequence[Comparison]) -> None:
    """Writes the corrected p-value of each row, and how many of its runs were lost, at the right edge."""
    for place, row in enumerate(rows):
        notes = [*([f"corrected {p_text(row.p_corrected, 'p')}"] if row.p_corrected is not None else []), lost_text(row)]
        text = ", ".join(filter(None, notes))
        axes.text(
            1, place - 0.3, text, transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7, color=MUTED, parse_math=False
        )
