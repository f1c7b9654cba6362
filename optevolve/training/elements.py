"""What the training kernels share: headers, float32 and bfloat16 elements one by one and as vectors, and how they get their shapes."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

__all__ = ["ELEMENTS", "has_bfloat16", "has_tiles", "integers"]


@cache
def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512_BF16 or AMX); emulated, it would be slower than float32."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(_processor_flags())


def has_tiles() -> bool:
    """Whether the processor multiplies bfloat16 in tiles (AMX)."""
    return "amx_bf16" in _processor_flags()


@cache
def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:  # another system than Linux: no such file, and no way to ask
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), []))


ELEMENTS = (
    "#define ROUNDS_BFLOAT16\n" * ("avx512_bf16" in _processor_flags())
    + r"""
// Wide vectors and fused multiply-adds halve the time: these loops compute more than they wait.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#if defined(__AVX512F__)
#pragma GCC target("prefer-vector-width=512")
#if defined(ROUNDS_BFLOAT16) && __GNUC__ >= 10
#pragma GCC target("avx512bf16")
#define CONVERTS
#endif
#endif
#elif defined(__clang__)
#pragma clang fp contract(fast)
#endif
#if defined(__AVX512F__)
#include <immintrin.h>
#endif
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

#if defined(__AVX512F__)
static const int LANES = 16;
#elif defined(__AVX__)
static const int LANES = 8;
#else
static const int LANES = 4;
#endif
typedef float V __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
static inline V load(const float* at) { return *(const V*)at; }
static inline V load(const uint16_t* at) { return (V)(__builtin_convertvector(*(const Halves*)at, Bits) << 16); }
static inline void store(float* at, V values) { *(V*)at = values; }
static inline void store(uint16_t* at, V values) {
#if defined(CONVERTS)
  *(Halves*)at = (Halves)_mm512_cvtneps_pbh((__m512)values);
#else
  const Bits bits = (Bits)values, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *(Halves*)at = __builtin_convertvector(values == values ? rounded : Bits{} + 0x7fc0u, Halves);
#endif
}

// e to the power of x; an x above about 87, where that overflows, counts as 87. NaN stays NaN.
static inline V exponential(V x) {
#if defined(__AVX512DQ__)  // 2^t: the nearest integer goes to the exponent, a Taylor series takes the rest
  const __m512 t = _mm512_min_ps(_mm512_set1_ps(126.0f), (__m512)(x * 1.44269504f)), rest = _mm512_reduce_ps(t, 0);
  const V r = (V)rest;
  V p = 1.5403530e-4f * r + 1.3333558e-3f;
  p = p * r + 9.6181291e-3f;
  p = p * r + 5.5504109e-2f;
  p = p * r + 2.4022651e-1f;
  p = p * r + 6.9314718e-1f;
  p = p * r + 1.0f;
  return (V)_mm512_scalef_ps((__m512)p, _mm512_sub_ps(t, rest));
#else  // Cephes' expf
  x = x > 87.0f ? V{} + 87.0f : x;
  x = x < -87.0f ? V{} - 87.0f : x;
  const V n = (x * 1.44269504f + 12582912.0f) - 12582912.0f, r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (V)((__builtin_convertvector(n, Integers) + 127) << 23);
#endif
}

// How `along` lets its body touch memory: all lanes, or the first few of them where a row ends; the others are then zero and go nowhere.
struct AllLanes {
  template <typename T>
  V get(const T* at) const { return load(at); }
  template <typename T>
  void put(T* at, V values) const { store(at, values); }
};
struct SomeLanes {
  i64 count;
  template <typename T>
  V get(const T* at) const {
    T room[LANES] = {};
    std::copy_n(at, count, room);
    return load(room);
  }
  template <typename T>
  void put(T* at, V values) const {
    T room[LANES];
    store(room, values);
    std::copy_n(room, count, at);
  }
};
// body(lanes, j) for the elements from j on, vector by vector, up to the n-th.
template <typename F>
static inline void along(i64 n, F&& body) {
  i64 j = 0;
  for (; j + LANES <= n; j += LANES) body(AllLanes{}, j);
  if (j < n) body(SomeLanes{n - j}, j);
}
"""
)


@cache
def integers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    """An array that a kernel can read; the shapes of a training are few."""
    return (ctypes.c_int64 * len(values))(*values)
