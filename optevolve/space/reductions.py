"""Primitives that look at a whole tensor, in numpy: norms, rows and columns, orthogonalisation.

They reduce over the last `ndim` axes, those of one parameter tensor; axes before them stack independent tensors. A matrix's rows are its
first axis; a tensor of more axes counts as the matrix of its first axis by the rest (a convolution's filters by taps); a vector is one
row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

__all__ = ["NEWTON_SCHULZ", "REDUCTIONS", "reductions"]

REDUCTIONS = ("norm", "rms", "row_rms", "column_rms", "orthogonalize")

#: Coefficients of the quintic iteration x <- a x + (b A + c A²) x with A = x xᵀ, and how often it is applied. Source: Jordan et al. 2024.
NEWTON_SCHULZ = ((3.4445, -4.7750, 2.0315), 5)


@cache
def reductions(ndim: int) -> dict[str, Callable[[Any], Any]]:
    """The functions of `REDUCTIONS` for parameter tensors of `ndim` axes."""
    every = tuple(range(-ndim, 0))
    rest, first = (every[1:], every[:1]) if ndim >= 2 else (every, every)

    def rms(axes: tuple[int, ...]) -> Callable[[Any], Any]:
        return lambda x: np.sqrt(np.mean(x * x, axis=axes if np.ndim(x) else None, keepdims=True))

    def norm(x: Any) -> Any:
        return np.sqrt(np.sum(x * x, axis=every if np.ndim(x) else None, keepdims=True))

    def orthogonalize(x: Any) -> Any:
        if np.ndim(x) == 0:
            return np.sign(x)
        shape = x.shape
        rows = shape[-ndim] if ndim >= 2 else 1
        return _newton_schulz(x.reshape(*shape[:-ndim], rows, -1)).reshape(shape)

    return {"norm": norm, "rms": rms(every), "row_rms": rms(rest), "column_rms": rms(first), "orthogonalize": orthogonalize}


def _newton_schulz(x: Any) -> Any:
    """Nearly the orthogonal factor of x's polar decomposition, scaled by sqrt(max(1, rows / columns)), shape (..., rows, columns)."""
    (a, b, c), times = NEWTON_SCHULZ
    rows, columns = x.shape[-2:]
    if rows > columns:
        x = np.swapaxes(x, -1, -2)
    x = x / (np.sqrt(np.sum(x * x, axis=(-2, -1), keepdims=True)) + 1e-7)
    for _ in range(times):
        gram = x @ np.swapaxes(x, -1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    if rows > columns:
        x = np.swapaxes(x, -1, -2)
    return x * math.sqrt(max(1.0, rows / columns))
