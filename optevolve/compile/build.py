"""`build`: any update rule as a `torch.optim.Optimizer`, by running the text that `emit_class` writes."""

from __future__ import annotations

import copyreg
import hashlib
import linecache
import math
import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from optevolve.compile.bessel import bessel_i1e
from optevolve.compile.contract import RuleOptimizer
from optevolve.compile.emit import emit_class
from optevolve.compile.flat import lay_flat
from optevolve.compile.schedulers import FactorSchedule
from optevolve.space.expression import Node
from optevolve.space.rule import UpdateRule
from optevolve.space.text import format_expression, parse

__all__ = ["build", "class_of", "schedule_of"]


def build(
    rule: UpdateRule | str,
    params: Iterable[Any],
    lr: float | Tensor,
    total_steps: int | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    *,
    flat: bool = False,
    **options: Any,
) -> RuleOptimizer:
    """An optimizer that follows the rule.

    Args:
        rule: an update rule, or its native notation. `optevolve.build` also takes names of the zoo and the paper's notation.
        params: as for any torch optimizer.
        lr, total_steps, momentum, weight_decay: see `RuleOptimizer`.
        flat: keep the parameters in one buffer, which is for the project's training loop alone, see `optevolve.compile.flat.lay_flat`.
        options: maximize, foreach, fused, capturable, differentiable and seed, see `RuleOptimizer`.
    Raises:
        ParseError: if the text is no rule.
        ValueError, RuntimeError: see `RuleOptimizer`.
    """
    made = class_of(parse(rule) if isinstance(rule, str) else rule)
    optimizer = made(params, lr, total_steps=total_steps, momentum=momentum, weight_decay=weight_decay, **options)
    return lay_flat(optimizer) if flat else optimizer


@lru_cache(maxsize=4096)
def class_of(
    rule: UpdateRule, name: str = "", module: str = "", summary: str = "", learning_rate: float | None = None, weight_decay: float = 0.0
) -> type[RuleOptimizer]:
    """The optimizer class of a rule.

    Args:
        rule: what it follows.
        name: of the class, an identifier; "": one made from the rule.
        module: the importable module that the class is an attribute of, so that pickles name it; "": pickles hold the rule instead.
        summary: first line of its docstring.
        learning_rate: default of its lr; None: none.
        weight_decay: default of its weight decay.
    """
    digest = hashlib.sha256(str(rule).encode()).hexdigest()[:12]
    name = name or f"Rule_{digest}"
    source = emit_class(rule, name, summary, learning_rate, weight_decay)
    # A module and a file name of its own: tracebacks show the text, and torch.compile counts recompilations per rule.
    filename = f"<optevolve {name} {digest}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    namespace = ModuleType(f"optevolve.compile.generated.{re.sub(r'[^A-Za-z0-9_]', '_', name)}_{digest}")
    sys.modules[namespace.__name__] = namespace
    vars(namespace).update(math=math, torch=torch, bessel_i1e=bessel_i1e, RuleOptimizer=RuleOptimizer)
    exec(compile(source, filename, "exec"), vars(namespace))  # noqa: S102 - text that emit_class wrote from a parsed rule
    cls: type[RuleOptimizer] = vars(namespace)[name]
    cls.SOURCE = source
    if module:
        cls.__module__ = module
    else:
        copyreg.pickle(cls, _reduce)
    return cls


def schedule_of(factor: Node, name: str, module: str) -> type[FactorSchedule]:
    """The scheduler class of an evolved factor on warm-up and cosine.

    Args:
        factor: a function of the step alone.
        name, module: of the class; it must become an attribute of the module, so that pickles find it.
    """
    numbers = class_of(UpdateRule(factor)).numbers
    docstring = f"Warm-up, hold and cosine times {format_expression(factor)}.\n\n    See `FactorSchedule` for arguments.\n    "
    init = FactorSchedule.__init__
    start = FunctionType(init.__code__, init.__globals__, init.__name__, init.__defaults__, init.__closure__)
    start.__annotations__ = init.__annotations__
    start.__qualname__ = f"{name}.__init__"  # by which Python calls it where arguments are missing
    return type(name, (FactorSchedule,), {"evolved": staticmethod(numbers), "__init__": start, "__module__": module, "__doc__": docstring})


def _reduce(optimizer: RuleOptimizer) -> tuple[Any, ...]:
    return _restore, (optimizer.RULE, type(optimizer).__name__), optimizer.__getstate__()


def _restore(rule: str, name: str) -> RuleOptimizer:
    cls = class_of(parse(rule), name)
    return cls.__new__(cls)
