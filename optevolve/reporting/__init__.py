"""The report of a run: one HTML file that opens offline.

`tables` turns measurements into rows, `lineage` finds each particle's line of descent, `summary` says in words what came out, `factors`
gives schedules and decays as numbers, `drawing` and `plots` draw, `page` puts everything into the template. Nothing here opens a store
or trains: it reads `Measurement` and `Comparison` values.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optevolve.reporting.page import write_report
    from optevolve.reporting.tables import leaderboard

__all__ = ["CURVES", "leaderboard", "write_report"]

CURVES = 6  # rules of the search whose learning curves are drawn before there is a final evaluation

# Loaded on first use: a leaderboard on a terminal needs no matplotlib.
_HOMES = {"leaderboard": "optevolve.reporting.tables", "write_report": "optevolve.reporting.page"}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'optevolve.reporting' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
