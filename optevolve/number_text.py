"""Numbers as people read them, on a terminal as in a report."""

from __future__ import annotations

import math

__all__ = ["duration", "interval", "number", "p_text"]


def number(value: float | None, digits: int = 4) -> str:
    """A number with `digits` significant digits; a dash where there is none."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    return f"{value:.{digits}g}"


def interval(pair: tuple[float, float] | None, digits: int = 4) -> str:
    """Two ends of an interval with as many decimals each as give the larger one `digits` significant digits."""
    if pair is None:
        return "–"
    largest = max(map(abs, pair))
    if not math.isfinite(largest) or not 1e-4 <= largest < 1e6:
        return f"{number(pair[0], digits)} to {number(pair[1], digits)}"
    decimals = max(0, digits - 1 - math.floor(math.log10(largest)))
    return f"{pair[0]:.{decimals}f} to {pair[1]:.{decimals}f}"


def p_text(p: float | None, name: str = "") -> str:
    """A p-value as it is commonly printed, after `name` and the fitting sign if one is given; never 0."""
    if p is None or math.isnan(p):
        return "–"
    if p < 1e-4:
        return f"{name} < 0.0001".strip()
    text = f"{p:.4f}" if p < 1e-3 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"{name} = {text}" if name else text


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
