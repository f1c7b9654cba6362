"""Published optimizers and schedules as importable classes: `from optevolve.optim import Opt6, Lion, L1`.

Every rule of the zoo is a `torch.optim.Optimizer`, made when first asked for; its docstring states the equation. `WarmupCosine` and the
evolved schedules `L1` … `L9` are torch schedulers for any optimizer.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from optevolve.compile.build import class_of, schedule_of
from optevolve.compile.contract import RuleOptimizer
from optevolve.compile.schedulers import WarmupCosine
from optevolve.library import SCHEDULES, ZOO, AnyRule, rule_of

_SPELLINGS = {
    "sgd": "SGD", "adamw": "AdamW", "rmsprop": "RMSprop", "powersign": "PowerSign", "addsign": "AddSign", "qhm": "QHM",
    "adabelief": "AdaBelief",
}  # fmt: skip


def class_name(key: str) -> str:
    """Name of the class of a rule of the zoo: `PowerSign` for `powersign`, `Opt4Static` for `opt4_static`."""
    return _SPELLINGS.get(key) or "".join(word[:1].upper() + word[1:] for word in key.split("_"))


_RULES = {class_name(key): key for key in ZOO}

__all__ = ["RuleOptimizer", "WarmupCosine", "build", "class_name"]
__all__ += list(_RULES)
__all__ += list(SCHEDULES)


def build(
    rule: AnyRule,
    params: Iterable[Any],
    lr: float | Tensor,
    total_steps: int | None = None,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    **options: Any,
) -> RuleOptimizer:
    """An optimizer that follows the rule.

    Args:
        rule: an update rule or an entry of the zoo, or what commands take for one: a name of the zoo (`opt6`), native notation
            (`v_hat / sqrt(s_hat)`), or the paper's (`Nest ~ bessel_i1e(g)`).
        params: as for any torch optimizer.
        lr, total_steps, momentum, weight_decay: see `RuleOptimizer`; without weight_decay the rule's own default holds, AdamW's 0.01.
        options: maximize, foreach, fused, capturable, differentiable and seed, see `RuleOptimizer`.
    Raises:
        ParseError: if the text is neither a name nor a rule; names near it are suggested.
        ValueError, RuntimeError: see `RuleOptimizer`.
    """
    found = rule_of(rule)
    weight_decay = found.weight_decay if weight_decay is None else weight_decay
    return class_of(found)(params, lr, total_steps=total_steps, momentum=momentum, weight_decay=weight_decay, **options)


def __getattr__(name: str) -> Any:
    """Makes the class of a rule or schedule on first use (PEP 562)."""
    made: Any
    if name in _RULES:
        row = ZOO[_RULES[name]]
        summary = f"{row.summary[:1].upper()}{row.summary[1:]}. Source: {row.source}."
        made = class_of(row.rule, name, __name__, summary, row.learning_rate, row.weight_decay)
    elif name in SCHEDULES:
        made = schedule_of(SCHEDULES[name], name, __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made
    return made


def __dir__() -> list[str]:
    """All names, made or not."""
    return sorted(__all__)
