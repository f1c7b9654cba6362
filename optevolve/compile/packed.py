"""Many small tensors as few large ones: laid side by side for a step and taken apart after it, a bounded part at a time. Needs only torch.

A step's temporary tensors are as large as such a part, however large the model is, and its calls are as few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from optevolve.compile.work import Work, plain

__all__ = ["join", "parts", "scatter"]

_ON_CPU, _ELSEWHERE = 2**15, 2**21  # elements of a part: those that stay in the cache, and those that keep a GPU busy


def parts(work: Work, elementwise: bool, together: bool) -> Iterator[Work]:
    """The work in parts: tensors of one kind that together are small, or a piece of a large one.

    Args:
        work: what a step works on; no distributed tensors.
        elementwise: whether a tensor may be cut into pieces.
        together: whether small tensors may be taken together.
    """
    sizes: dict[object, int] = {}
    groups: dict[object, list[int]] = {}
    for i, (p, g, *states) in enumerate(zip(work.params, work.grads, *work.states, strict=True)):
        most = _ON_CPU if p.is_cpu else _ELSEWHERE
        packs = together and p.numel() <= most and not hasattr(p, "to_local")
        kind = (p.device, p.dtype, g.dtype, *(state.dtype for state in states), -1 if packs else i)
        sizes[kind] = sizes.get(kind, 0) + p.numel()
        groups.setdefault((kind, sizes[kind] // most), []).append(i)
    for members in groups.values():
        yield from _pieces(work.only(members)) if elementwise and len(members) == 1 else [work.only(members)]


def _pieces(whole: Work) -> Iterator[Work]:
    """One tensor, in pieces if it is large and lies in memory without gaps."""
    tensors = [whole.params[0], whole.grads[0].contiguous(), *(values[0] for values in whole.states)]
    most = _ON_CPU if tensors[0].is_cpu else _ELSEWHERE
    if hasattr(tensors[0], "to_local") or tensors[0].numel() <= most or not all(tensor.is_contiguous() for tensor in tensors):
        yield whole
        return
    columns = [torch.split(plain(tensor).view(-1), most) for tensor in tensors]
    for w, g, *states in zip(*columns, strict=True):
        firsts = [first + w.storage_offset() - tensors[0].storage_offset() for first in whole.firsts]
        yield Work([w], [g], whole.steps, [[state] for state in states], firsts)


def join(tensors: Sequence[Tensor]) -> Tensor:
    """One tensor of all: a single one as it is, several end to end."""
    joined: Tensor = tensors[0] if len(tensors) == 1 else _flatten_dense_tensors(tensors)  # type: ignore[no-untyped-call]
    return joined


def scatter(targets: Sequence[Tensor], values: Tensor) -> None:
    """Writes what was computed on what `join` gave back to where that came from."""
    if len(targets) == 1:
        targets[0].copy_(values)
    else:
        torch._foreach_copy_(list(targets), list(_unflatten_dense_tensors(values, targets)))  # type: ignore[no-untyped-call]
