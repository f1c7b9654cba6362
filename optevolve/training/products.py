"""Sums of products for the convolution kernels, in registers: rows of vectors, of floats or of pairs of bfloat16 numbers; C++ text."""

from __future__ import annotations

from optevolve.training.norm_swish import NORM_SWISH

__all__ = ["PRODUCTS"]

PRODUCTS = (  # C++ that the convolution goes on from
    NORM_SWISH
    + r"""
static inline i64 padded(i64 channels) { return (channels + LANES - 1) / LANES * LANES; }

// Factors are words of 32 bits: a float, or two bfloat16 numbers whose products the processor adds at once. `DEPTH` is how many.
typedef float Word __attribute__((may_alias, aligned(2)));
static inline i64 words(i64 values, i64 depth) { return (values + depth - 1) / depth; }
struct Single {
  typedef float Value;
  static const i64 DEPTH = 1;
  static V add(V sum, float word, V row) { return sum + word * row; }
};
#if defined(CONVERTS)
struct Pair {
  typedef uint16_t Value;
  static const i64 DEPTH = 2;
  static V add(V sum, float word, V row) {
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(word), (__m512bh)(__m512)row);
  }
};
#endif
// What multiplies images of a type.
template <typename T>
struct Factors {
  typedef Single Words;
};
#if defined(CONVERTS)
template <>
struct Factors<uint16_t> {
  typedef Pair Words;
};
#endif

// acc[r] += sum over the runs of from[r][offset + k] w[k]: R rows of P vectors; a run is `length` words. Where a run of values ends within
// a word, the weight of what comes after is zero.
template <typename W, int R, int P>
static inline void multiply(const typename W::Value* const* from, const i64* offsets, i64 runs, i64 length, const float* w,
                            V (&acc)[R][P]) {
  for (i64 t = 0; t < runs; t++) {
    const typename W::Value* at[R];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) at[r] = from[r] + offsets[t];
    for (i64 k = 0; k < length; k++, w += P * LANES) {
      V row[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) row[p] = *(const V*)(w + p * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++) {
        const float word = *(const Word*)(at[r] + k * W::DEPTH);
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) acc[r][p] = W::add(acc[r][p], word, row[p]);
      }
    }
  }
}

// A kernel laid out for `multiply`: panels of two vectors of outputs, the last of one where that is enough. `places` says where in memory
// the weights of each product lie for the first output (-1: a zero), `step` how far apart those of the outputs.
template <typename W>
struct Packed {
  i64 outputs, rows;  // outputs rounded up to whole vectors; words in each
  std::vector<typename W::Value> values;
  Packed(i64 channels, const std::vector<i64>& places, i64 step, const float* kernel)
      : outputs(padded(channels)), rows(i64(places.size()) / W::DEPTH), values(outputs * i64(places.size())) {
    typename W::Value* to = values.data();
    for (i64 first = 0; first < outputs; first += 2 * LANES) {
      const i64 end = std::min(first + 2 * LANES, outputs), known = std::min(end, channels);
      for (i64 row = 0; row < rows; row++, to += (end - first) * W::DEPTH)  // zeros where no output is
        for (i64 n = first; n < known; n++)
          for (i64 d = 0; d < W::DEPTH; d++)
            if (const i64 place = places[row * W::DEPTH + d]; place >= 0) write(to[(n - first) * W::DEPTH + d], kernel[place + n * step]);
    }
  }
  const float* panel(i64 first) const { return (const float*)values.data() + first * rows; }
};

// Pixels whose sums are to be taken: where in the padded image each begins to see it, and where its sum goes.
struct Pixels {
  std::vector<i64> from, to;
  void add(i64 in, i64 out) { from.push_back(in), to.push_back(out); }
};

template <typename W, int R, int P>
static void some(const Pixels& pixels, i64 first, const typename W::Value* image, const i64* offsets, i64 runs, i64 length,
                 const float* w, float* out) {
  V acc[R][P] = {};
  const typename W::Value* from[R];
  for (int r = 0; r < R; r++) from[r] = image + pixels.from[first + r];
  multiply<W, R, P>(from, offsets, runs, length, w, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) *(V*)(out + pixels.to[first + r] + p * LANES) = acc[r][p];
}
template <typename W, int P>
static void panel(const Pixels& pixels, const typename W::Value* image, const i64* offsets, i64 runs, i64 length, const float* w,
                  float* out) {
  i64 i = 0;
  for (const i64 count = i64(pixels.to.size()); i < count;)
    if (LANES == 16 && i + 12 <= count) some<W, 12, P>(pixels, i, image, offsets, runs, length, w, out), i += 12;
    else if (i + 8 <= count) some<W, 8, P>(pixels, i, image, offsets, runs, length, w, out), i += 8;
    else if (i + 4 <= count) some<W, 4, P>(pixels, i, image, offsets, runs, length, w, out), i += 4;
    else some<W, 1, P>(pixels, i, image, offsets, runs, length, w, out), i++;
}
template <typename W>
static void all(const Pixels& pixels, const typename W::Value* image, const i64* offsets, i64 runs, i64 length, const Packed<W>& w,
                float* out) {
  for (i64 first = 0; first < w.outputs; first += 2 * LANES) {
    if (w.outputs - first > LANES) panel<W, 2>(pixels, image, offsets, runs, length, w.panel(first), out + first);
    else panel<W, 1>(pixels, image, offsets, runs, length, w.panel(first), out + first);
  }
}

// out[r] += sum over the pixels of x[r] dz: R rows of P vectors of the kernel's gradient. A word holds a channel of `DEPTH` pixels.
template <typename W, int R, int P>
static void outer(const Word* x, i64 x_line, i64 x_step, const float* dz, i64 dz_line, i64 dz_step, i64 down, i64 across, float* out,
                  i64 pitch) {
  V acc[R][P] = {};
  for (i64 y = 0; y < down; y++) {
    const Word* from = x + y * x_line;
    const float* up = dz + y * dz_line;
    for (i64 c = 0; c < across; c++, from += x_step, up += dz_step) {
      V row[P];
#pragma GCC unroll 4
      for (int p = 0; p < P; p++) row[p] = *(const V*)(up + p * LANES);
#pragma GCC unroll 16
      for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int p = 0; p < P; p++) acc[r][p] = W::add(acc[r][p], from[r], row[p]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int p = 0; p < P; p++) *(V*)(out + r * pitch + p * LANES) += acc[r][p];
}
"""
)
