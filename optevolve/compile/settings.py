"""What the settings of an optimizer may be, and what is said of those that it does not have. Needs only torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from optevolve.compile.work import step_count

__all__ = ["GROUP_KEYS", "check_settings", "is_within", "unknown_settings"]

# What a group of parameters may hold beside settings: torch's own, what its schedulers put there, and what users tell groups apart by.
GROUP_KEYS = {"params", "param_names", "name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr", "lr_scale"}


def is_within(value: Any, low: float, high: float = math.inf) -> bool:
    """Whether something is a finite number in the range, both its ends included."""
    try:
        return bool(low <= value <= high) and math.isfinite(value)
    except (TypeError, ValueError, RuntimeError):  # text, nothing, several numbers
        return False


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
    lr = group["lr"]
    if lr is None:  # export never
        raise ValueError(f"Expected lr, since no learning rate is recommended for {name}, got None.")
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"Tensor lr must be 1-element. Expected a number or one element, got shape {tuple(lr.shape)}.")
    if isinstance(lr, Tensor) and group["foreach"] and not group["capturable"]:
        raise ValueError("Expected a number as lr, got a tensor with foreach=True. Set capturable=True or foreach=False.")
    for key, high in (("lr", math.inf), ("momentum", 1), ("weight_decay", math.inf)):
        if not isinstance(group[key], Tensor) and not is_within(group[key], 0, high):
            raise ValueError(f"Expected {key} {'in [0, 1]' if high == 1 else 'of at least 0'}, a number, got {group[key]!r}.")
    try:  # export never
        step_count(1 if (total := group["total_steps"]) is None else total)
    except ValueError as error:  # what torch's optimizers take in its place: betas, momentum, alpha
        own = {key: value for key, value in group.items() if key not in GROUP_KEYS}
        hint = unknown_settings(name, own, ["betas"]) if isinstance(total, tuple | list) else "Name what is meant for another setting."
        meant = isinstance(total, tuple | list) or (isinstance(total, float) and 0 < total < 1)
        raise ValueError(f"{error} It is the third argument of {name}. {hint}" if meant else str(error)) from None
    if needs_total_steps and group["total_steps"] is None:  # export if decays
        raise ValueError(f"Expected total_steps, since the rule has decays ({group['rule']}), got None. Give the steps of the run.")
    ways = [way for way in ("fused", "foreach", "differentiable") if group[way]]
    if len(ways) > 1:
        raise RuntimeError(f"Expected at most one of fused, foreach and differentiable, got {' and '.join(ways)}. Leave the others out.")
