"""Random numbers as a function of (seed, step, stream, element): no generator state, so that a resumed, reordered or compiled run draws the
same numbers in numpy, torch and JAX alike.

The bits of element i are two rounds of a 32-bit finaliser (multiply, xor-shift) over i and a key that mixes the rest.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["MULTIPLIERS", "draw", "stream_key"]

_MASK = 0xFFFFFFFF
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
_WEYL = 0x9E3779B9
_SMALL = 64


def _mix(x: int) -> int:
    for multiplier, shift in zip(MULTIPLIERS, (16, 15), strict=True):
        x = ((x ^ (x >> shift)) * multiplier) & _MASK
    return x ^ (x >> 16)


def stream_key(seed: int, step: int, stream: int) -> int:
    """32-bit key of one random tensor: of a run's seed, a step (from 0) and a stream (from 0) within the step."""
    return _mix((_mix((_mix(seed & _MASK) + step * _WEYL) & _MASK) + stream * _WEYL + 1) & _MASK)


def draw(primitive: str, seed: int, step: int, stream: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Random tensor of the given shape: "uniform" in [0, 1) in steps of 2^-24, or "normal" with mean 0 and variance 1."""
    return _small_draw(primitive, seed, step, stream, shape) if math.prod(shape) <= _SMALL else _draw(primitive, seed, step, stream, shape)


@lru_cache(maxsize=16384)
def _small_draw(primitive: str, seed: int, step: int, stream: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Remembered, and not to be written to: the integrity check and fingerprints ask for the same few numbers for every rule."""
    values = _draw(primitive, seed, step, stream, shape)
    values.flags.writeable = False
    return values


def _draw(primitive: str, seed: int, step: int, stream: int, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    bits = np.arange(math.prod(shape), dtype=np.uint32).reshape(shape) + np.uint32(stream_key(seed, step, stream))
    for multiplier, shift in zip(MULTIPLIERS, (16, 15), strict=True):
        bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(multiplier)
    bits = (bits ^ (bits >> np.uint32(16))) >> np.uint32(8)
    if primitive == "uniform":
        return bits.astype(np.float32) * np.float32(2**-24)
    from scipy import special  # slow to import

    centred = (bits.astype(np.float64) + 0.5) * 2**-23 - 1
    return (math.sqrt(2) * special.erfinv(centred)).astype(np.float32)
