"""Curves drawn with characters, and into a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from optevolve.errors import ExportError
from optevolve.files import require_folder

__all__ = ["curve", "draw"]

_BLOCKS = " ▁▂▃▄▅▆▇█"


def curve(values: Sequence[float] | npt.NDArray[np.float64], width: int = 60, height: int = 3) -> list[str]:
    """Lines of text that draw a function of the step as filled columns, from its least value (or 0, if that is lower) to its greatest.

    Args:
        values: shape (steps,), at least one; what is not finite is left blank.
        width: columns at most.
        height: lines.
    """
    found = np.asarray(values, dtype=np.float64)
    columns = found[np.linspace(0, len(found) - 1, min(width, len(found))).round().astype(int)]
    finite = columns[np.isfinite(columns)]
    if not finite.size:
        return ["(not finite)"]
    low, high = min(0.0, float(finite.min())), float(finite.max())
    span = high - low if high > low else 1.0
    # In eighths of a line; what is not nought shows at least one eighth.
    filled = np.where(np.isfinite(columns), np.ceil((columns - low) / span * height * 8), 0)
    lines = ["".join(_BLOCKS[int(np.clip(eighths - 8 * line, 0, 8))] for eighths in filled) for line in reversed(range(height))]
    lines[0] += f"  {high:.4g}"
    lines[-1] += f"  {low:.4g}"
    return lines


def draw(curves: Mapping[str, npt.NDArray[np.float64]], path: Path) -> None:
    """Functions of the step over t/T, in one picture.

    Args:
        curves: values by title, each of shape (steps,).
        path: of the picture; its ending says in which format.
    Raises:
        ExportError: if there is nothing to draw, the ending is unknown, or the file cannot be written.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    from optevolve.reporting.plots import decays

    if not curves:
        raise ExportError("Expected a rule with decays to draw, got one that is the same at every step. Leave --plot out.")
    figure = decays(curves)
    if path.suffix.lstrip(".").lower() not in FigureCanvasBase(figure).get_supported_filetypes():
        raise ExportError(f"Expected a picture's name that ends in .svg, .png, .pdf or .jpg, got {str(path)!r}. Try {path.stem}.svg.")
    require_folder(path)
    try:
        figure.savefig(path, facecolor="white", dpi=160)
    except OSError as error:
        raise ExportError(f"Expected to write {path}, got: {error.strerror}. Choose a path that can be written.") from error
