"""Operators that look at a whole tensor: norms, rows and columns, orthogonalisation. Needs only torch.

A matrix's rows are its first axis; a tensor of more axes counts as the matrix of its first axis by the rest; a vector is one row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Reduce", "ReduceFlat", "ReduceSharded", "reduce_of"]


class Reduce:
    """Reductions of one tensor; those that yield fewer elements broadcast against it."""

    def norm(self, x: Tensor) -> Tensor:
        """L2 norm."""
        total: Tensor = torch.linalg.vector_norm(x)
        return total

    def rms(self, x: Tensor) -> Tensor:
        """Root of the mean square."""
        return x.square().mean().sqrt()

    def row_rms(self, x: Tensor) -> Tensor:
        """Root of the mean square of each row."""
        return self.rms(x) if x.ndim < 2 else x.square().mean(dim=tuple(range(1, x.ndim)), keepdim=True).sqrt()

    def column_rms(self, x: Tensor) -> Tensor:
        """Root of the mean square of each column."""
        return self.rms(x) if x.ndim < 2 else x.square().mean(dim=0, keepdim=True).sqrt()

    def orthogonalize(self, x: Tensor) -> Tensor:
        """Nearly the orthogonal factor of x's polar decomposition, scaled by sqrt(max(1, rows / columns)). Source: Jordan et al. 2024."""
        if x.ndim == 0 or x.numel() == 0:
            return torch.sign(x)
        y = x.reshape(x.shape[0] if x.ndim >= 2 else 1, -1)
        rows, columns = y.shape
        if rows > columns:
            y = y.T
        y = y / (torch.linalg.vector_norm(y) + 1e-7)
        for _ in range(5):
            gram = y @ y.T
            y = 3.4445 * y + (-4.7750 * gram + 2.0315 * gram @ gram) @ y
        if rows > columns:
            y = y.T
        scaled: Tensor = y * math.sqrt(max(1.0, rows / max(columns, 1)))
        return scaled.reshape(x.shape)


_WHOLE = Reduce()


class ReduceFlat(Reduce):
    """Reductions of tensors laid end to end, each by itself.

    Args:
        shapes: of the tensors.
    """

    def __init__(self, shapes: list[torch.Size]) -> None:
        self.shapes = shapes
        self.sizes = [shape.numel() for shape in shapes]

    def _each(self, name: str, x: Tensor) -> Tensor:
        pieces = [piece.view(shape) for piece, shape in zip(torch.split(x, self.sizes), self.shapes, strict=True)]
        return torch.cat([getattr(_WHOLE, name)(piece).expand(piece.shape).reshape(-1) for piece in pieces])

    def norm(self, x: Tensor) -> Tensor:
        """For each element, the L2 norm of the tensor that it belongs to."""
        norms = torch.stack(torch._foreach_norm(list(torch.split(x, self.sizes))))
        return norms.repeat_interleave(torch.tensor(self.sizes, device=x.device), output_size=x.numel())

    def rms(self, x: Tensor) -> Tensor:
        """As `Reduce.rms`, for each element."""
        return self._each("rms", x)

    def row_rms(self, x: Tensor) -> Tensor:
        """As `Reduce.row_rms`, for each element."""
        return self._each("row_rms", x)

    def column_rms(self, x: Tensor) -> Tensor:
        """As `Reduce.column_rms`, for each element."""
        return self._each("column_rms", x)

    def orthogonalize(self, x: Tensor) -> Tensor:
        """As `Reduce.orthogonalize`."""
        return self._each("orthogonalize", x)


class ReduceSharded(Reduce):
    """Reductions over all shards of a distributed tensor, given this process's shard.

    Args:
        like: a `DTensor` that is laid out like the tensors to be reduced.
    """

    def __init__(self, like: Any) -> None:
        self.like = like

    def _whole(self, x: Tensor) -> Any:
        from torch.distributed.tensor import DTensor

        like = self.like
        return DTensor.from_local(x, like.device_mesh, like.placements, run_check=False, shape=like.size(), stride=like.stride())

    def _each(self, name: str, x: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, Replicate

        full = self._whole(x).full_tensor()
        reduced = getattr(_WHOLE, name)(full).expand(full.shape).contiguous()
        mesh = self.like.device_mesh
        shared = DTensor.from_local(reduced, mesh, [Replicate()] * mesh.ndim, run_check=False)
        local: Tensor = shared.redistribute(mesh, self.like.placements).to_local()
        return local

    def norm(self, x: Tensor) -> Tensor:
        """L2 norm of the whole tensor."""
        total: Tensor = torch.linalg.vector_norm(self._whole(x)).full_tensor()
        return total

    def rms(self, x: Tensor) -> Tensor:
        """Root of the mean square of the whole tensor."""
        return self.norm(x) / math.sqrt(max(1, self.like.numel()))

    def row_rms(self, x: Tensor) -> Tensor:
        """As `Reduce.row_rms`, for each element."""
        return self._each("row_rms", x)

    def column_rms(self, x: Tensor) -> Tensor:
        """As `Reduce.column_rms`, for each element."""
        return self._each("column_rms", x)

    def orthogonalize(self, x: Tensor) -> Tensor:
        """As `Reduce.orthogonalize`."""
        return self._each("orthogonalize", x)


def reduce_of(params: Sequence[Tensor], tensors: Sequence[Tensor]) -> Reduce:
    """The reductions of one parameter, or of several end to end, given the tensors that are computed with."""
    if len(params) > 1:
        return ReduceFlat([x.shape for x in tensors])
    return ReduceSharded(params[0]) if hasattr(params[0], "to_local") else Reduce()
