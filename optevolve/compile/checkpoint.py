"""What a checkpoint must be to be loaded, and what a parameter's state must be to be stepped with. Needs only torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optevolve.compile.settings import GROUP_KEYS
from optevolve.compile.work import plain

__all__ = ["check_checkpoint", "check_state", "scalar_step", "tell_changed"]


_OLDER = {"seed", "flat"}  # settings that older versions wrote into every group


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
        if saved.get("rule", rule) != rule:  # older ones do not say
            raise ValueError(f"Expected a checkpoint of {name} ({rule}), got one of {saved['rule']}. Build the optimizer that wrote it.")
        if "rule" not in saved and (foreign := sorted(set(saved) - set(group) - GROUP_KEYS - _OLDER)):
            told = f"got one of another optimizer, with {', '.join(map(str, foreign))} in its groups"
            raise ValueError(f"Expected a checkpoint of {name} ({rule}), {told}. Build the optimizer that wrote it.")
        named, now = saved.get("param_names") or [], group.get("param_names") or []
        if named != now and sorted(named) == sorted(now):
            raise ValueError(f"Expected parameters in the checkpoint's order {named}, got {now}. Give them in that order.")
        for i, (p, index) in enumerate(zip(group["params"], saved["params"], strict=False)):
            if (state := loaded["state"].get(index, {})) != {}:
                own = f" ({named[i]})" if i < len(named) else ""
                check_state(name, states, p, state, f"parameter {index}{own} of the checkpoint")


def check_state(name: str, states: Sequence[str], p: Tensor, state: Mapping[str, Any], which: str = "a parameter") -> None:
    """Refuses a state that does not go with its parameter, before anything reads or writes its memory.

    Raises:
        ValueError: if it is refused.
    """
    if not isinstance(state, Mapping) or set(state) != {"step", *states}:
        got = list(state) if isinstance(state, Mapping) else _told(state)
        raise ValueError(f"Expected the states {['step', *states]} of {name} for {which}, got {got}. Build it anew.")
    if not _is_step(state["step"]):
        raise ValueError(f"Expected 'step' for {which} as a whole number of at least 0, got {_told(state['step'])}. Mend the checkpoint.")
    for key in states:
        if not _goes_with(p, state[key]):
            raise ValueError(
                f"Expected {key!r} for {which} as a dense tensor of shape {tuple(p.shape)}, like {p.dtype}, got {_told(state[key])}. "
                "Load it into the model that it is of, or build the optimizer anew after parameters were changed."
            )


def _goes_with(p: Tensor, value: Any) -> bool:
    """Whether it is a state of the parameter's shape, with memory that is read and written element by element."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized or value.is_meta != p.is_meta:
        return False
    return value.shape == p.shape and value.is_complex() == p.is_complex() and (value.is_floating_point() or value.is_complex())


def _is_step(value: Any) -> bool:
    """Whether it counts steps: a whole number, of whatever type, or a tensor of one."""
    try:
        if isinstance(value, Tensor):
            if value.is_meta:
                return value.numel() == 1
            value = plain(value).item()
        return not isinstance(value, Iterable) and bool(0 <= value < 2**63) and float(value).is_integer()
    except (TypeError, ValueError, RuntimeError):  # nothing, several numbers, complex ones
        return False


def _told(value: Any) -> str:
    """A value as messages name it: of a tensor its shape, its type and what is special about it; a number as it is."""
    if isinstance(value, Tensor):
        kinds = [kind for kind, holds in (("on no device", value.is_meta), (str(value.layout), value.layout != torch.strided)) if holds]
        one = f" = {value.item()}" if value.numel() == 1 and not kinds and not value.dim() else ""
        return ", ".join([f"a tensor of shape {tuple(value.shape)}, {value.dtype}{one}", *kinds])
    return repr(value) if value is None or isinstance(value, int | float) else f"{type(value).__name__}"


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
