"""The scaled modified Bessel function of order 1, exp(-|x|) I1(x). Needs only torch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bessel_i1e"]


def bessel_i1e(x: Tensor) -> Tensor:
    """exp(-|x|) I1(x), elementwise."""
    value: Tensor = torch.special.i1e(x)
    return value
