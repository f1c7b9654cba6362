"""The report's main figures as SVG files of their own, for papers, slides and pages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optevolve.config import RunConfig
from optevolve.errors import StudyError
from optevolve.files import require_folder
from optevolve.records import Measurement
from optevolve.reporting import plots
from optevolve.reporting.drawing import svg
from optevolve.reporting.lineage import lines_of_descent
from optevolve.reporting.page import PARTICLES, curve_groups, latest
from optevolve.reporting.tables import by_task, fitness_of, is_search, reference_level, reference_of

if TYPE_CHECKING:
    from optevolve.final import Comparison

__all__ = ["write_figures"]


def write_figures(
    folder: str | os.PathLike[str], *, config: RunConfig, measurements: Sequence[Measurement], comparisons: Sequence[Comparison]
) -> list[Path]:
    """Writes progress.svg, descent.svg and, for each task of the final evaluation, comparison-N.svg and curves-N.svg.

    Args:
        folder: made if it does not exist; files of these names in it are replaced.
        config, measurements, comparisons: as for `write_report`.
    Returns:
        The files written: fewer where a stage has not been reached.
    Raises:
        StudyError: if the files cannot be written.
    """
    search = [m for m in measurements if is_search(m)]
    own = [m for m in search if not m.same_as]
    scored = any(fitness_of(m) is not None for m in own)
    lines = lines_of_descent(search, elitist=config.search.elitist) if scored else []
    baselines = config.evaluation.baselines
    drawn = {}
    if scored:
        drawn["progress"] = (plots.progress(own, reference_level(measurements)), "Fitness of each measured candidate and the best so far")
    if lines:
        drawn["descent"] = (plots.descent([latest(line) for line in lines[:PARTICLES]]), "Children of the best particles by timestep")
    tasks = by_task(comparisons)
    for number, (task, rows) in enumerate(tasks.items(), start=1):
        if any(row.scores for row in rows):
            drawn[f"comparison-{number}"] = (plots.comparison(rows, reference_of(rows), baselines), f"Scores on the test split of {task}")
    for number, (task, groups) in enumerate(curve_groups(measurements, comparisons), start=1):
        if groups:
            drawing = plots.curves(groups, baselines, reference_of(tasks[task]))
            drawn[f"curves-{number}"] = (drawing, f"Learning curves on {task}")
    folder = Path(folder)
    require_folder(folder)
    try:
        folder.mkdir(exist_ok=True)
        for name, (figure, description) in drawn.items():
            (folder / f"{name}.svg").write_text(svg(figure, name, description, standalone=True), encoding="utf-8")
    except OSError as error:
        raise StudyError(f"Cannot write figures into {folder}: {error.strerror}. Choose a folder that can be written.") from error
    return [folder / f"{name}.svg" for name in drawn]
