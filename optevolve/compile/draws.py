"""Random tensors as a function of (seed, step, stream, element), in torch integer operations: the numbers of the numpy reference.

Nothing is kept between steps, so a resumed or compiled run draws what an uninterrupted one draws. Needs only torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["draw", "stream_key"]

_MASK = 0xFFFFFFFF
_WEYL = 0x9E3779B9


def _mix(x: int | Tensor) -> int | Tensor:
    """Finaliser of 32 bits, on a Python number or on an int64 tensor of numbers below 2^32."""
    for multiplier, shift in ((0x7FEB352D, 16), (0x846CA68B, 15)):
        x = ((x ^ (x >> shift)) * multiplier) & _MASK
    return x ^ (x >> 16)


def stream_key(seed: int, step: int | Tensor, stream: int) -> int | Tensor:
    """Key in [0, 2^32) of one random tensor: of a run's seed, a step (from 0; a number or an int64 tensor) and a stream within the step."""
    return _mix((_mix((_mix(seed & _MASK) + step * _WEYL) & _MASK) + stream * _WEYL + 1) & _MASK)


def draw(primitive: str, key: int | Tensor, like: Tensor) -> Tensor:
    """Random float32 tensor of the shape of `like`.

    Args:
        primitive: "uniform" in [0, 1) in steps of 2^-24, or "normal" with mean 0 and variance 1.
        key: from `stream_key`, plus the number of the tensor's first element.
        like: gives shape and device.
    """
    bits = _mix((torch.arange(like.numel(), device=like.device).view(like.shape) + key) & _MASK)
    assert isinstance(bits, Tensor)
    bits = bits >> 8
    if primitive == "uniform":
        uniform: Tensor = bits.to(torch.float32) * 2.0**-24
        return uniform
    normal: Tensor = torch.erfinv((bits.to(torch.float64) + 0.5) * 2.0**-23 - 1) * 2.0**0.5
    return normal.to(torch.float32)
