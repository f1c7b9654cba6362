"""What a checkpoint must be to be loaded, and what a parameter's state must be to be stepped with. Needs only torch."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_checkpoint", "check_state", "scalar_step", "tell_changed"]


def check_checkpoint(name: str, rule: str, states: Sequence[str], loaded: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuses the state of another optimizer or rule, of parameters of other shapes, or of these in another order, and what is no state.

    Args:
        name, rule, states: of the optimizer: its class, its rule and the names of the states.
        loaded: what is to be loaded; numbers of groups and parameters that differ are left to torch.
        groups: the optimizer's.
    Raises:
        ValueError: if it is refused.
    """
    for group, saved in zip(groups, loaded["param_groups"], strict=False):
        wrote = saved.get("rule", rule if "total_steps" in saved else "another optimizer")  # older ones of ours do not say their rule
        if wrote != rule:
            raise ValueError(f"Expected a checkpoint of {name} ({rule}), got one of {wrote}. Build the optimizer that wrote it.")
        named, now = saved.get("param_names") or [], group.get("param_names") or []
        if named != now and sorted(named) == sorted(now):
            raise ValueError(f"Expected parameters in the checkpoint's order {named}, got {now}. Give them in that order.")
        for i, (p, index) in enumerate(zip(group["params"], saved["params"], strict=False)):
            if (state := loaded["state"].get(index, {})) != {}:
                check_state(name, states, p, state, f"parameter {index}{f' ({named[i]})' if named[i:] else ''} of the checkpoint")


def check_state(name: str, states: Sequence[str], p: Tensor, state: Any, which: str = "a parameter") -> None:
    """Refuses a state that does not go with its parameter, before anything reads or writes its memory.

    Raises:
        ValueError: if it is refused.
    """
    if not isinstance(state, Mapping) or set(state) != {"step", *states}:
        got = list(state) if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"Expected the states {['step', *states]} of {name} for {which}, got {got}. Build it anew.")
    t = state["step"]
    t = t.item() if isinstance(t, Tensor) and t.numel() == 1 and t.layout == torch.strided and not t.is_meta else t
    if not hasattr(t, "__float__") or hasattr(t, "__iter__") or not (0 <= t < 2**63 and int(t) == t):  # no number, or several
        raise ValueError(f"Expected 'step' for {which} as a whole number of at least 0, got {t!r:.200}. Mend the checkpoint.")
    for key in states:  # export if states
        x = state[key]
        fits = isinstance(x, Tensor) and (x.layout, x.is_meta, x.shape) == (p.layout, p.is_meta, p.shape)
        if not fits or (x.is_complex(), x.is_floating_point()) != (p.is_complex(), p.is_floating_point()):
            got = f"{tuple(x.shape)}, {x.dtype}, {x.layout} on {x.device}" if isinstance(x, Tensor) else f"{x!r:.200}"
            told = f"a dense tensor of shape {tuple(p.shape)}, like {p.dtype}"
            raise ValueError(f"Expected {key!r} for {which} as {told}, got {got}. Load it into the model that it is of, or build anew.")


def scalar_step(step: Any, device: torch.device | str) -> Tensor:
    """A copy of a step count as it is kept, float32 without dimensions: of numbers on the device, of tensors where they are."""
    return torch.as_tensor(step, dtype=torch.float32, device=step.device if isinstance(step, Tensor) else device).reshape(()).clone()


def tell_changed(key: str, group: dict[str, Any], given: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Warns, from `load_state_dict`, where a checkpoint's setting is another than the optimizer was made with, or is not said.

    Args:
        key: name of the setting.
        group, given, saved: the group of parameters as it is now, as it was made, and as it was saved.
    """
    if saved.get(key) is None:
        group[key] = given[key]
        warnings.warn(f"The checkpoint does not say its {key}: {given[key]}, as given here, stands.", stacklevel=3)
    elif group[key] != given[key]:
        told = f"The checkpoint's {key}={group[key]} stands in place of {given[key]}, as given here. For another"
        warnings.warn(f"{told} set param_groups[...][{key!r}] after loading.", stacklevel=3)
