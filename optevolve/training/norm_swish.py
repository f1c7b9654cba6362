"""Batch norm and swish in two passes over memory instead of five: C++ for the CPU, compiled once and kept on disk.

On small ConvNets these two take a third of a step, nearly all of it waiting for memory. Forward: one pass for the channels' moments, one
that normalises and activates. Backward: one pass for the two sums that batch norm needs, one for the gradient; the activation is computed
anew instead of being stored. The gradient between the two is kept in the output's memory, rounded as autocast would round it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm, silu

from optevolve.compile.kernel import library
from optevolve.training.elements import ELEMENTS

__all__ = ["NORM_SWISH", "NormSwish", "available", "tile_length"]

_TILE = 512  # elements that one inner loop covers, if the channels allow it
_WIDEST_VECTOR = 16  # floats
NORM_SWISH = (  # C++ that the fused convolution goes on from
    ELEMENTS
    + r"""
// Said of a loop whose arrays do not overlap: there are too many of them for the compiler to find out when it runs.
#if defined(__clang__)
#define APART _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define APART _Pragma("GCC ivdep")
#else
#define APART
#endif

// 1 / (1 + exp(-z)); NaN stays NaN. A z below about -87, where exp(-z) overflows, counts as -87.
static inline V sigmoid(V z) { return 1.0f / (1.0f + exponential(-z)); }

// Rows of `channels` values lie end to end. They are worked on in tiles of `length` values, a multiple of the channels, with the channels'
// numbers repeated along the tile.
static std::vector<float> repeated(const float* values, i64 channels, i64 length) {
  std::vector<float> out(length);
  for (i64 at = 0; at < length; at += channels) std::copy_n(values, channels, out.data() + at);
  return out;
}
static void fold(std::vector<float>& tile, i64 channels, double* total) {
  for (size_t at = 0; at < tile.size(); at += channels)
    for (i64 c = 0; c < channels; c++) total[c] += tile[at + c];
  std::fill(tile.begin(), tile.end(), 0.0f);
}
static const i64 BLOCK = 64;  // tiles summed in single precision before they join the total

// Mean and variance of every channel, of rows that come in pieces. The first row is taken from all, so that no digits are lost.
struct Moments {
  i64 channels, length, rows = 0, tiles = 0;
  std::vector<float> first, shift, sum, square;
  std::vector<double> sums, squares;
  Moments(i64 channels, i64 length)
      : channels(channels), length(length), first(channels), sum(length), square(length), sums(channels), squares(channels) {}
  void gather() {
    fold(sum, channels, sums.data());
    fold(square, channels, squares.data());
  }
  template <typename T>
  void add(const T* __restrict x, i64 size) {
    if (!rows) {
      for (i64 c = 0; c < channels; c++) first[c] = read(x[c]);
      shift = repeated(first.data(), channels, length);
    }
    rows += size / channels;
    float* __restrict s = sum.data();
    float* __restrict q = square.data();
    const float* __restrict h = shift.data();
    for (i64 at = 0; at < size; at += length) {
      const i64 n = std::min(length, size - at);
      const T* __restrict in = x + at;
      along(n, [&](auto lanes, i64 j) {
        const V away = lanes.get(in + j) - lanes.get(h + j);
        lanes.put(s + j, lanes.get(s + j) + away);
        lanes.put(q + j, lanes.get(q + j) + away * away);
      });
      if (++tiles % BLOCK == 0) gather();
    }
  }
  void finish(double* mean, double* variance) {
    gather();
    for (i64 c = 0; c < channels; c++) {
      double away = sums[c] / rows, spread = squares[c] / rows - away * away;
      mean[c] = first[c] + away;
      variance[c] = spread < 0 ? 0 : spread;
    }
  }
};

// A batch norm: what it has learned, its moments in this batch, and the two as z = factor x + shift.
struct Norm {
  i64 channels, length;
  const float *weight, *bias;
  float *mean, *invstd;
  std::vector<float> factors, shifts;
  Norm(i64 channels, i64 length, const float* weight, const float* bias, float* mean, float* invstd)
      : channels(channels), length(length), weight(weight), bias(bias), mean(mean), invstd(invstd) {}
  void lay_out() {
    std::vector<float> factor(channels), shift(channels);
    for (i64 c = 0; c < channels; c++) {
      factor[c] = weight[c] * invstd[c];
      shift[c] = bias[c] - mean[c] * factor[c];
    }
    factors = repeated(factor.data(), channels, length);
    shifts = repeated(shift.data(), channels, length);
  }
  void take(Moments& moments, double epsilon, float momentum, float* running_mean, float* running_variance) {
    std::vector<double> exact(channels), variance(channels);
    moments.finish(exact.data(), variance.data());
    const double rows = double(moments.rows);
    for (i64 c = 0; c < channels; c++) {
      mean[c] = float(exact[c]);
      invstd[c] = float(1.0 / std::sqrt(variance[c] + epsilon));
      running_mean[c] += momentum * (mean[c] - running_mean[c]);
      running_variance[c] += momentum * (float(variance[c] * rows / (rows - 1)) - running_variance[c]);
    }
    lay_out();
  }
};

template <typename T>
static void norm_swish(const T* x, T* y, i64 size, const Norm& norm) {
  const float* __restrict a = norm.factors.data();
  const float* __restrict b = norm.shifts.data();
  for (i64 at = 0; at < size; at += norm.length) {
    const i64 n = std::min(norm.length, size - at);
    const T* __restrict in = x + at;
    T* __restrict out = y + at;
    along(n, [&](auto lanes, i64 j) {
      const V z = lanes.get(in + j) * lanes.get(a + j) + lanes.get(b + j);
      lanes.put(out + j, z * sigmoid(z));
    });
  }
}

// Backward in two passes. The first writes the gradient before the swish to `inner` and sums it; the second is the batch norm's own.
struct NormBackward {
  i64 length;
  std::vector<float> slopes, levels, means;  // dx = factor inner - slope (x - mean) - level
  const float* factors;
  template <typename T>
  NormBackward(const T* x, const T* dy, T* inner, i64 size, const Norm& norm, float* dweight, float* dbias)
      : length(norm.length), means(repeated(norm.mean, norm.channels, norm.length)), factors(norm.factors.data()) {
    const i64 channels = norm.channels;
    std::vector<float> sum(length), product(length);
    std::vector<double> sums(channels), products(channels);
    const float* __restrict a = norm.factors.data();
    const float* __restrict b = norm.shifts.data();
    const float* __restrict m = means.data();
    float* __restrict s = sum.data();
    float* __restrict q = product.data();
    i64 tiles = 0;
    for (i64 at = 0; at < size; at += length) {
      const i64 n = std::min(length, size - at);
      const T* __restrict in = x + at;
      const T* __restrict up = dy + at;
      T* __restrict out = inner + at;
      along(n, [&](auto lanes, i64 j) {
        const V value = lanes.get(in + j), z = value * lanes.get(a + j) + lanes.get(b + j), g = sigmoid(z);
        const V dz = lanes.get(up + j) * (g + g * z * (1.0f - g));
        lanes.put(s + j, lanes.get(s + j) + dz);
        lanes.put(q + j, lanes.get(q + j) + dz * (value - lanes.get(m + j)));
        lanes.put(out + j, dz);
      });
      if (++tiles % BLOCK == 0) { fold(sum, channels, sums.data()); fold(product, channels, products.data()); }
    }
    fold(sum, channels, sums.data());
    fold(product, channels, products.data());
    const double rows = double(size / channels);
    std::vector<float> slope(channels), level(channels);
    for (i64 c = 0; c < channels; c++) {
      dbias[c] = float(sums[c]);
      dweight[c] = float(products[c] * norm.invstd[c]);
      slope[c] = float(double(norm.factors[c]) * products[c] * norm.invstd[c] * norm.invstd[c] / rows);
      level[c] = float(norm.factors[c] * sums[c] / rows);
    }
    slopes = repeated(slope.data(), channels, length);
    levels = repeated(level.data(), channels, length);
  }
  // `out` may be `inner`.
  template <typename T, typename U>
  void finish(const T* x, const T* inner, U* out, i64 size) const {
    const float* __restrict a = factors;
    const float* __restrict m = means.data();
    const float* __restrict k = slopes.data();
    const float* __restrict l = levels.data();
    for (i64 at = 0; at < size; at += length) {
      const i64 n = std::min(length, size - at);
      const T* __restrict in = x + at;
      along(n, [&](auto lanes, i64 j) {
        const V away = lanes.get(in + j) - lanes.get(m + j);
        lanes.put(out + at + j, lanes.get(a + j) * lanes.get(inner + at + j) - away * lanes.get(k + j) - lanes.get(l + j));
      });
    }
  }
};

"""
)
_FACES = r"""
#define FACE(name, T)                                                                                                                   \
  extern "C" void forward_##name(const T* x, T* y, i64 size, i64 channels, i64 length, const float* w, const float* b, double epsilon,  \
                                 float momentum, float* mean, float* invstd, float* rm, float* rv) {                                    \
    Moments moments(channels, length);                                                                                                  \
    moments.add(x, size);                                                                                                               \
    Norm norm(channels, length, w, b, mean, invstd);                                                                                    \
    norm.take(moments, epsilon, momentum, rm, rv);                                                                                      \
    norm_swish(x, y, size, norm);                                                                                                       \
  }                                                                                                                                     \
  extern "C" void infer_##name(const T* x, T* y, i64 size, i64 channels, i64 length, const float* w, const float* b, float* mean,        \
                               float* invstd) {                                                                                         \
    Norm norm(channels, length, w, b, mean, invstd);                                                                                    \
    norm.lay_out();                                                                                                                     \
    norm_swish(x, y, size, norm);                                                                                                       \
  }                                                                                                                                     \
  extern "C" void backward_##name(const T* x, const T* dy, T* dx, i64 size, i64 channels, i64 length, const float* w, const float* b,   \
                                  float* mean, float* invstd, float* dw, float* db) {                                                   \
    Norm norm(channels, length, w, b, mean, invstd);                                                                                    \
    norm.lay_out();                                                                                                                     \
    NormBackward(x, dy, dx, size, norm, dw, db).finish(x, dx, dx, size);                                                                \
  }
FACE(float, float)
FACE(bfloat16, uint16_t)
"""


@cache
def _kernels() -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """The compiled functions by what they do and by the type of the activations; empty without a compiler."""
    loaded = library(NORM_SWISH + _FACES, "forward_float")
    if loaded is None:
        return {}
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    kernels: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
    for name, dtype in (("float", torch.float32), ("bfloat16", torch.bfloat16)):
        faces = {
            "forward": [*[pointer] * 2, *[integer] * 3, *[pointer] * 2, ctypes.c_double, ctypes.c_float, *[pointer] * 4],
            "infer": [*[pointer] * 2, *[integer] * 3, *[pointer] * 4],
            "backward": [*[pointer] * 3, *[integer] * 3, *[pointer] * 6],
        }
        for face, types in faces.items():
            function = getattr(loaded, f"{face}_{name}")
            function.argtypes, function.restype = types, None
            kernels[face, dtype] = function
    return kernels


def available() -> bool:
    """Whether the kernel is there: a C++ compiler was found, now or when the kernel was first compiled."""
    return bool(_kernels())


def tile_length(channels: int) -> int:
    """Elements that the kernels' inner loops cover: a multiple of the channels, and of the widest vector, so that only the last is cut."""
    whole = math.lcm(channels, _WIDEST_VECTOR)
    return whole * max(1, _TILE // whole)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    channels = x.shape[1]
    return x.numel(), channels, tile_length(channels)


def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Output of norm and swish, and what its backward needs; moves the running moments.

    Args:
        x: shape (batch, channels, height, width), channels last in memory, float32 or bfloat16.
        weight, bias, mean, variance: of the batch norm, shape (channels,), float32.
        momentum, epsilon: of the batch norm.
    """
    y = torch.empty_like(x)
    moments = torch.empty(2, x.shape[1])
    start = moments.data_ptr()
    _kernels()["forward", x.dtype](
        x.data_ptr(), y.data_ptr(), *_sizes(x), weight.data_ptr(), bias.data_ptr(), epsilon, momentum,
        start, start + 4 * x.shape[1], mean.data_ptr(), variance.data_ptr(),
    )  # fmt: skip
    return y, moments


def _infer(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float) -> Tensor:
    """Output of norm and swish by the running moments; arguments as of `_forward`."""
    y, invstd = torch.empty_like(x), (variance + epsilon).rsqrt_()
    _kernels()["infer", x.dtype](
        x.data_ptr(), y.data_ptr(), *_sizes(x), weight.data_ptr(), bias.data_ptr(), mean.data_ptr(), invstd.data_ptr()
    )
    return y


def _backward(x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the input, like it in memory, and of weight and bias, shape (2, channels)."""
    dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
    dx = torch.empty_like(x)
    slopes = torch.empty(2, x.shape[1])
    row, start, out = 4 * x.shape[1], moments.data_ptr(), slopes.data_ptr()
    _kernels()["backward", x.dtype](
        x.data_ptr(), dy.data_ptr(), dx.data_ptr(), *_sizes(x), weight.data_ptr(), bias.data_ptr(), start, start + row, out, out + row
    )
    return dx, slopes


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float, epsilon: float
    ) -> Tensor:
        y, moments = _forward(x, weight, bias, mean, variance, momentum, epsilon)
        ctx.save_for_backward(x, weight, bias, moments)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, moments = ctx.saved_tensors
        dx, slopes = _backward(x, dy, weight, bias, moments)
        dweight, dbias = slopes.unbind()
        return dx, dweight, dbias, None, None, None, None


class NormSwish(nn.Module):
    """`BatchNorm2d` and the `SiLU` after it as one module, with the batch norm's own parameters and running moments.

    On the CPU, float32 or bfloat16 inputs go through the kernel, in training and where no gradient is wanted; whatever else goes through
    torch's own operations.

    Args:
        norm: the batch norm, with weight, bias, running moments and a momentum, in float32.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, norm.get_buffer(name))
        assert norm.momentum is not None  # a cumulative average is not taken
        self.momentum, self.epsilon = norm.momentum, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Input and output of shape (batch, channels, height, width)."""
        mean, variance = self.get_buffer("running_mean"), self.get_buffer("running_var")
        taken = x.device.type == "cpu" and x.dim() == 4 and x.dtype in (torch.float32, torch.bfloat16) and x.numel() > x.shape[1]
        if not taken or (torch.is_grad_enabled() and not self.training):
            return silu(batch_norm(x, mean, variance, self.weight, self.bias, self.training, self.momentum, self.epsilon))
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.training:
            return _infer(x, self.weight, self.bias, mean, variance, self.epsilon)
        arguments = (x, self.weight, self.bias, mean, variance, self.momentum, self.epsilon)
        return cast(Tensor, _Apply.apply(*arguments))  # type: ignore[no-untyped-call]
