"""What a step works on, whatever runs it: plain tensors out of complex, half-precision and sharded ones. Needs only torch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["LOW_PRECISION", "Work", "plain", "shard_offset", "state_dtype"]

LOW_PRECISION = (torch.bfloat16, torch.float16)


class Work(NamedTuple):
    """What a step works on: lists with one entry per parameter that has a gradient; `states` holds one such list per state."""

    params: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    states: list[list[Tensor]]
    firsts: list[int]

    def by_step(self) -> list[tuple[int, Work]]:
        """The parts that are at the same step t (from 0); nearly always one."""
        counts = [int(step.item()) for step in self.steps]
        if len(set(counts)) == 1:
            return [(counts[0], self)]
        parts = []
        for t in sorted(set(counts)):
            at = [i for i, count in enumerate(counts) if count == t]
            params, grads, steps = ([values[i] for i in at] for values in (self.params, self.grads, self.steps))
            states = [[values[i] for i in at] for values in self.states]
            parts.append((t, Work(params, grads, steps, states, [self.firsts[i] for i in at] if self.firsts else [])))
        return parts


def state_dtype(p: Tensor) -> torch.dtype:
    """Half-precision parameters keep their state in float32."""
    return torch.float32 if p.dtype in LOW_PRECISION else p.dtype


def plain(tensor: Tensor) -> Tensor:
    """The tensor as real numbers on this process: the local shard of a distributed one, a complex one viewed as pairs."""
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def shard_offset(p: Any) -> int:
    """Number of the shard's first element within the whole tensor, so that shards draw different random numbers."""
    if not hasattr(p, "to_local"):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return sum(int(start) * int(stride) for start, stride in zip(offset, p.stride(), strict=True))
