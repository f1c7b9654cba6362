"""What a step works on, whatever runs it: plain tensors out of complex, half-precision and sharded ones. Needs only torch."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["CHUNK", "LOW_PRECISION", "Work", "numbers_of", "plain", "shard_offset", "state_dtype", "step_count"]

LOW_PRECISION = (torch.bfloat16, torch.float16)
CHUNK = 512  # steps whose numbers are computed at once
_LARGEST = torch.finfo(torch.float32).max


class Work(NamedTuple):
    """What a step works on: lists with one entry per parameter that has a gradient; `states` holds one such list per state."""

    params: list[Tensor]
    grads: list[Tensor]
    steps: list[Tensor]
    states: list[list[Tensor]]
    firsts: Sequence[int] = ()

    def by_step(self) -> list[tuple[int, Work]]:
        """The parts that are at the same step, nearly always one, beside that step, from 0."""
        counts = [int(step.item()) for step in self.steps]
        if len(set(counts)) == 1:
            return [(counts[0], self)]
        return [(t, self.only([i for i, count in enumerate(counts) if count == t])) for t in sorted(set(counts))]

    def only(self, members: Sequence[int]) -> Work:
        """The work on some of the parameters."""
        params, grads, steps, *states = ([of[i] for i in members] for of in (self.params, self.grads, self.steps, *self.states))
        firsts = [self.firsts[i] for i in members] if self.firsts else ()
        return Work(params, grads, steps, states, firsts)


def step_count(total: Any) -> int:
    """A number of steps, of whatever type of whole numbers, as an int.

    Raises:
        ValueError: if it is no whole number of at least 1, or one that no 64 bits hold.
    """
    try:
        count = 0 if "bool" in str(getattr(total, "dtype", type(total))) else operator.index(total)
    except TypeError:
        count = 0
    if not 1 <= count < 2**63:
        raise ValueError(f"Expected total_steps of at least 1{', below 2**63' if count > 1 else ''}, a whole number, got {total!r}.")
    return count


@lru_cache(maxsize=64)
def numbers_of(numbers: Callable[..., tuple[Tensor, ...]], chunk: int, total: int | None) -> list[tuple[float, ...]]:
    """The rule's numbers at each of the `CHUNK` steps from `chunk * CHUNK` on."""
    t = torch.arange(chunk * CHUNK, (chunk + 1) * CHUNK, dtype=torch.float64)
    # Beyond float32 a number is infinite, and some of torch's functions on float32 tensors take it in no other spelling.
    columns = [torch.where(column.abs() > _LARGEST, column * torch.inf, column).tolist() for column in numbers(t, total)]
    return list(zip(*columns, strict=True)) if columns else [()] * CHUNK


def state_dtype(p: Tensor) -> torch.dtype:
    """Half-precision parameters keep their state in float32."""
    return torch.float32 if p.dtype in LOW_PRECISION else p.dtype


def plain(tensor: Tensor) -> Tensor:
    """The tensor as real numbers on this process: the local shard of a distributed one, a complex one viewed as pairs."""
    tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def shard_offset(p: Any) -> int:
    """Number of the shard's first element within the whole tensor, so that shards draw different random numbers."""
    if not hasattr(p, "to_local"):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    return sum(int(start) * int(stride) for start, stride in zip(offset, p.stride(), strict=True))
