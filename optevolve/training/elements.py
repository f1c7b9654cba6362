"""What the training kernels share: headers, reading and writing of float32 and bfloat16 elements, and how they get their shapes."""

from __future__ import annotations

import ctypes
from functools import cache

__all__ = ["ELEMENTS", "integers"]

ELEMENTS = r"""
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef int64_t i64;

static inline float read(float value) { return value; }
static inline float read(uint16_t value) {  // bfloat16
  uint32_t bits = uint32_t(value) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
static inline void write(float& place, float value) { place = value; }
static inline void write(uint16_t& place, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint16_t rounded = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
  place = value == value ? rounded : uint16_t(0x7fc0);
}
"""


@cache
def integers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    """An array that a kernel can read; the shapes of a training are few."""
    return (ctypes.c_int64 * len(values))(*values)
