"""Evolves neural-network optimizers: update equation, decay functions and learning-rate schedule together.

The method (arXiv 2404.06679), stage by stage, and where each lives:

1. `optevolve.space`: what an update rule is. Random rules, mutation, notations.
2. `optevolve.integrity`: a rule must descend a shifted sphere before it is trained at all.
3. `optevolve.compile`: a rule becomes a `torch.optim.Optimizer`, or one file that needs only torch.
4. `optevolve.tasks`, `optevolve.training`: what is trained, and the one training loop.
5. `optevolve.surrogate`: learning-rate trials, early stopping and a full run give a rule its fitness.
6. `optevolve.algorithms`: particles of mutating rules, and random search beside them.
7. `optevolve.eliminate`: the best rules are measured anew with rising budgets.
8. `optevolve.evaluation`: what is left meets tuned baselines on test data that no earlier stage has seen.
9. `optevolve.run`, `optevolve.reporting`: workers, the study's store, and the report.
10. `optevolve.pipeline`: all of it; `optevolve.comparison`: any rules compared; `optevolve.cli`: the same from a terminal.

Names below are loaded on first use, so that `import optevolve` and the space load neither torch nor the database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optevolve.calibration import calibrate
    from optevolve.comparison import compare
    from optevolve.config import RunConfig
    from optevolve.config_text import load_config, preset
    from optevolve.errors import OptevolveError
    from optevolve.library import zoo
    from optevolve.optim import build
    from optevolve.pipeline import Result, evaluate, report, resume, search
    from optevolve.rules import (
        check_integrity,
        describe,
        explain,
        export,
        latex,
        nearly_same,
        schedule_of,
        simplify,
        to_paper,
        to_sympy,
        trajectory,
    )
    from optevolve.space import UpdateRule, decay_values, parse
    from optevolve.space.paper_notation import parse_paper
    from optevolve.tasks import Batch, Task

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "OptevolveError",
    "Result",
    "RunConfig",
    "Task",
    "UpdateRule",
    "__version__",
    "build",
    "calibrate",
    "check_integrity",
    "compare",
    "decay_values",
    "describe",
    "evaluate",
    "explain",
    "export",
    "latex",
    "load_config",
    "nearly_same",
    "parse",
    "parse_paper",
    "preset",
    "report",
    "resume",
    "schedule_of",
    "search",
    "simplify",
    "to_paper",
    "to_sympy",
    "trajectory",
    "zoo",
]

# Public name → the module that defines it.
_HOMES = {
    "Batch": "optevolve.tasks",
    "OptevolveError": "optevolve.errors",
    "Result": "optevolve.pipeline",
    "RunConfig": "optevolve.config",
    "Task": "optevolve.tasks",
    "UpdateRule": "optevolve.space",
    "build": "optevolve.optim",
    "calibrate": "optevolve.calibration",
    "check_integrity": "optevolve.rules",
    "compare": "optevolve.comparison",
    "decay_values": "optevolve.space",
    "describe": "optevolve.rules",
    "evaluate": "optevolve.pipeline",
    "explain": "optevolve.rules",
    "export": "optevolve.rules",
    "latex": "optevolve.rules",
    "load_config": "optevolve.config_text",
    "nearly_same": "optevolve.rules",
    "parse": "optevolve.space",
    "parse_paper": "optevolve.space.paper_notation",
    "preset": "optevolve.config_text",
    "report": "optevolve.pipeline",
    "resume": "optevolve.pipeline",
    "schedule_of": "optevolve.rules",
    "search": "optevolve.pipeline",
    "simplify": "optevolve.rules",
    "to_paper": "optevolve.rules",
    "to_sympy": "optevolve.rules",
    "trajectory": "optevolve.rules",
    "zoo": "optevolve.library",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'optevolve' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return list(__all__)
