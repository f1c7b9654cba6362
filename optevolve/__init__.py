"""Evolves neural-network optimizers: update equation, decay functions and learning-rate schedule together.

The method (arXiv 2404.06679), stage by stage, and where each lives:

1. `optevolve.space`: what an update rule is. Random rules, mutation, notations.
2. `optevolve.integrity`: a rule must descend a shifted sphere before it is trained at all.
3. `optevolve.compile`: a rule becomes a `torch.optim.Optimizer`, or one file that needs only torch.
4. `optevolve.tasks`, `optevolve.training`: what is trained, and the one training loop.
5. `optevolve.surrogate`: learning-rate trials, early stopping and a full run give a rule its fitness.
6. `optevolve.search`: particles of mutating rules, and random search beside them.
7. `optevolve.eliminate`: the best rules are measured anew with rising budgets.
8. `optevolve.evaluate`: what is left meets tuned baselines on test data that no earlier stage has seen.
9. `optevolve.run`, `optevolve.report`: workers, the study's store, and the report.
10. `optevolve.pipeline`: all of it; `optevolve.comparison`: any rules compared; `optevolve.cli`: the same from a terminal.

Names below are loaded on first use, so that `import optevolve` and the space load neither torch nor the database.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optevolve.comparison import compare
    from optevolve.compile import export
    from optevolve.config import RunConfig
    from optevolve.config_text import load_config, preset
    from optevolve.errors import OptevolveError
    from optevolve.integrity import check_integrity, trajectory
    from optevolve.optim import build
    from optevolve.pipeline import Result, resume
    from optevolve.space import UpdateRule, decay_values, parse
    from optevolve.space.explain import explain
    from optevolve.space.fingerprint import nearly_same
    from optevolve.space.latex import latex
    from optevolve.space.paper_notation import parse_paper, to_paper
    from optevolve.space.schedule_split import schedule_of
    from optevolve.space.show import describe
    from optevolve.space.simplify import simplify
    from optevolve.space.symbolic import to_sympy
    from optevolve.tasks import Batch, Task

    zoo: Mapping[str, UpdateRule]

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
    "check_integrity": "optevolve.integrity",
    "compare": "optevolve.comparison",
    "decay_values": "optevolve.space",
    "describe": "optevolve.space.show",
    "explain": "optevolve.space.explain",
    "export": "optevolve.compile",
    "latex": "optevolve.space.latex",
    "load_config": "optevolve.config_text",
    "nearly_same": "optevolve.space.fingerprint",
    "parse": "optevolve.space",
    "parse_paper": "optevolve.space.paper_notation",
    "preset": "optevolve.config_text",
    "resume": "optevolve.pipeline",
    "schedule_of": "optevolve.space.schedule_split",
    "simplify": "optevolve.space.simplify",
    "to_paper": "optevolve.space.paper_notation",
    "to_sympy": "optevolve.space.symbolic",
    "trajectory": "optevolve.integrity",
}


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562)."""
    if name in _FACES:
        return importlib.import_module(f"optevolve.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'optevolve' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted({*globals(), *_HOMES})


class _CallableModule(ModuleType):
    """A module that is also the function of `optevolve.pipeline` with its name: `optevolve.search(...)`, `optevolve.search.ALGORITHMS`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        pipeline = importlib.import_module("optevolve.pipeline")
        return getattr(pipeline, self.__name__.rpartition(".")[2])(*args, **options)


class _RulesByName(ModuleType):
    """A module that is also the mapping from names to rules: `optevolve.zoo["opt6"]`."""

    def __getitem__(self, name: str) -> UpdateRule:
        rule: UpdateRule = self.ZOO[name].rule
        return rule

    def __iter__(self) -> Iterator[str]:
        return iter(self.ZOO)


_FACES: dict[str, type[ModuleType]] = {
    "evaluate": _CallableModule,
    "report": _CallableModule,
    "search": _CallableModule,
    "zoo": _RulesByName,
}


class _Package(ModuleType):
    """The package, which gives a face to the submodules that share their names with a public function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FACES and type(value) is ModuleType:
            value.__class__ = _FACES[name]
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
