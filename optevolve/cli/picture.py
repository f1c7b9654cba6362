"""Curves drawn with characters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["curve"]

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
