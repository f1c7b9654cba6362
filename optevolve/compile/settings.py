"""What the settings of an optimizer may be, and what is said of those that it does not have. Needs only torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from optevolve.compile.work import step_count

__all__ = ["check_settings", "is_within", "unknown_keys", "unknown_settings"]

# Keys of a group of parameters that are no settings: torch's own, those of its schedulers, and what users tell groups apart by.
_KEYS = {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr", "lr_scale"}


def is_within(value: Any, low: float, high: float = math.inf) -> bool:
    """Whether something is a finite number in the range, both its ends included."""
    try:
        return bool(low <= value <= high) and math.isfinite(value)
    except (TypeError, ValueError, RuntimeError):  # text, nothing, several numbers
        return False


def unknown_keys(group: Iterable[str], defaults: Iterable[str]) -> list[str]:
    """What a group of parameters has that is no setting, and that torch, its schedulers and users do not put there either."""
    return sorted(set(group) - set(defaults) - _KEYS)


def unknown_settings(name: str, defaults: Mapping[str, Any], unknown: Iterable[str]) -> str:
    """What is said of settings that an optimizer does not have.

    Args:
        name: the optimizer's class.
        defaults: what it has.
        unknown: what was given.
    """
    return (
        f"{name} has no {', '.join(unknown)}. It takes {', '.join(key for key in defaults if key != 'rule')}; averages and constants "
        f"are part of its rule, {defaults['rule']}: leave the argument out, or build a rule with other numbers."
    )


def check_settings(name: str, group: Mapping[str, Any], needs_total_steps: bool) -> None:
    """Refuses settings that no step can be done with.

    Args:
        name: the optimizer's class.
        group: every setting.
        needs_total_steps: whether the rule has decays.
    Raises:
        ValueError: if one is out of range, or total_steps is missing.
        RuntimeError: if two ways to run the step exclude each other.
    """
    lr, total = group["lr"], group["total_steps"]
    if lr is None:  # export never
        raise ValueError(f"Expected lr, since no learning rate is recommended for {name}, got None.")
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element. Expected a number or one element, got shape {tuple(lr.shape)}.")
        if group["foreach"] and not group["capturable"]:
            raise ValueError("Expected a number as lr, got a tensor with foreach=True. Set capturable=True or foreach=False.")
    for key, high in (("lr", math.inf), ("momentum", 1), ("weight_decay", math.inf)):
        if not isinstance(group[key], Tensor) and not is_within(group[key], 0, high):
            allowed = "in [0, 1]" if high == 1 else "of at least 0"
            raise ValueError(f"Expected {key} {allowed}, a number, got {group[key]!r}.")
    if total is None and needs_total_steps:  # export if decays
        raise ValueError(
            f"Expected total_steps, since the rule has decays ({group['rule']}), got None. Give the number of steps of the run."
        )
    if total is not None:
        step_count(total)
    for other in ("foreach", "differentiable"):
        if group["fused"] and group[other]:
            raise RuntimeError(f"Expected at most one of fused and {other}, got both.")
    if group["differentiable"] and group["foreach"]:
        raise RuntimeError("Expected differentiable without foreach, which writes in place.")
