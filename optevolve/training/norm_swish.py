"""Batch norm and swish in two passes over memory instead of five: C++ for the CPU, compiled once and kept on disk.

On small ConvNets these two take a third of a step, nearly all of it waiting for memory. Forward: one pass for the channels' moments, one
that normalises and activates. Backward: one pass for the two sums that batch norm needs, one for the gradient; the activation is computed
anew instead of being stored.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import batch_norm, silu

from optevolve.compile.kernel import shared_object
from optevolve.training.elements import ELEMENTS

__all__ = ["NormSwish", "available", "backward_kernel", "forward_kernel"]

_TILE = 512  # elements that one inner loop covers
_TEXT = (
    r"""
// Wide vectors and fused multiply-adds halve the time: these loops compute more than they wait.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("fp-contract=fast")
#if defined(__AVX512F__)
#pragma GCC target("prefer-vector-width=512")
#endif
#endif
"""
    + ELEMENTS
    + r"""

static inline float sigmoid(float z) {  // Cephes' expf, without branches so that it vectorises; NaN stays NaN
  float x = -z;
  x = x > 87.0f ? 87.0f : x;
  x = x < -87.0f ? -87.0f : x;
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  uint32_t bits = uint32_t((int32_t(n) + 127)) << 23;
  float scale;
  std::memcpy(&scale, &bits, 4);
  return 1.0f / (1.0f + p * scale);
}

// Rows of `channels` values lie end to end. They are worked on in tiles of `length` values, a multiple of the channels, with the channels'
// numbers repeated along the tile.
static std::vector<float> repeated(const float* values, i64 channels, i64 length) {
  std::vector<float> out(length);
  for (i64 j = 0; j < length; j++) out[j] = values[j % channels];
  return out;
}
static void fold(std::vector<float>& tile, i64 channels, double* total) {
  for (size_t j = 0; j < tile.size(); j++) total[j % channels] += tile[j];
  std::fill(tile.begin(), tile.end(), 0.0f);
}
static const i64 BLOCK = 64;  // tiles summed in single precision before they join the total

template <typename T>
static void moments(const T* __restrict x, i64 size, i64 channels, i64 length, double* mean, double* variance) {
  std::vector<float> first(channels), sum(length), square(length);
  for (i64 c = 0; c < channels; c++) first[c] = read(x[c]);
  std::vector<float> shift = repeated(first.data(), channels, length);
  std::vector<double> sums(channels), squares(channels);
  float* __restrict s = sum.data();
  float* __restrict q = square.data();
  const float* __restrict h = shift.data();
  i64 tiles = 0;
  for (i64 at = 0; at < size; at += length) {
    const i64 n = std::min(length, size - at);
    const T* __restrict in = x + at;
    for (i64 j = 0; j < n; j++) {
      float away = read(in[j]) - h[j];
      s[j] += away;
      q[j] += away * away;
    }
    if (++tiles % BLOCK == 0) { fold(sum, channels, sums.data()); fold(square, channels, squares.data()); }
  }
  fold(sum, channels, sums.data());
  fold(square, channels, squares.data());
  const double rows = double(size / channels);
  for (i64 c = 0; c < channels; c++) {
    double away = sums[c] / rows, spread = squares[c] / rows - away * away;
    mean[c] = first[c] + away;
    variance[c] = spread < 0 ? 0 : spread;
  }
}

template <typename T>
static void forward(const T* x, T* y, i64 size, i64 channels, i64 length, const float* weight, const float* bias, double epsilon,
                    float momentum, float* mean, float* invstd, float* running_mean, float* running_variance) {
  std::vector<double> exact(channels), variance(channels);
  moments(x, size, channels, length, exact.data(), variance.data());
  const double rows = double(size / channels);
  std::vector<float> factor(channels), shift(channels);
  for (i64 c = 0; c < channels; c++) {
    mean[c] = float(exact[c]);
    invstd[c] = float(1.0 / std::sqrt(variance[c] + epsilon));
    factor[c] = weight[c] * invstd[c];
    shift[c] = bias[c] - mean[c] * factor[c];
    running_mean[c] += momentum * (mean[c] - running_mean[c]);
    running_variance[c] += momentum * (float(variance[c] * rows / (rows - 1)) - running_variance[c]);
  }
  std::vector<float> factors = repeated(factor.data(), channels, length), shifts = repeated(shift.data(), channels, length);
  const float* __restrict a = factors.data();
  const float* __restrict b = shifts.data();
  for (i64 at = 0; at < size; at += length) {
    const i64 n = std::min(length, size - at);
    const T* __restrict in = x + at;
    T* __restrict out = y + at;
    for (i64 j = 0; j < n; j++) {
      float z = read(in[j]) * a[j] + b[j];
      write(out[j], z * sigmoid(z));
    }
  }
}

template <typename T>
static void backward(const T* x, const T* dy, T* dx, i64 size, i64 channels, i64 length, const float* weight, const float* bias,
                     const float* mean, const float* invstd, float* dweight, float* dbias) {
  std::vector<float> factor(channels), shift(channels);
  for (i64 c = 0; c < channels; c++) {
    factor[c] = weight[c] * invstd[c];
    shift[c] = bias[c] - mean[c] * factor[c];
  }
  std::vector<float> factors = repeated(factor.data(), channels, length), shifts = repeated(shift.data(), channels, length);
  std::vector<float> means = repeated(mean, channels, length), sum(length), product(length);
  std::vector<double> sums(channels), products(channels);
  const float* __restrict a = factors.data();
  const float* __restrict b = shifts.data();
  const float* __restrict m = means.data();
  float* __restrict s = sum.data();
  float* __restrict q = product.data();
  i64 tiles = 0;
  for (i64 at = 0; at < size; at += length) {
    const i64 n = std::min(length, size - at);
    const T* __restrict in = x + at;
    const T* __restrict up = dy + at;
    for (i64 j = 0; j < n; j++) {
      float value = read(in[j]), z = value * a[j] + b[j], g = sigmoid(z);
      float dz = read(up[j]) * g * (1.0f + z * (1.0f - g));
      s[j] += dz;
      q[j] += dz * (value - m[j]);
    }
    if (++tiles % BLOCK == 0) { fold(sum, channels, sums.data()); fold(product, channels, products.data()); }
  }
  fold(sum, channels, sums.data());
  fold(product, channels, products.data());
  const double rows = double(size / channels);
  std::vector<float> slope(channels), level(channels);  // dx = a dz - slope x - level
  for (i64 c = 0; c < channels; c++) {
    dbias[c] = float(sums[c]);
    dweight[c] = float(products[c] * invstd[c]);
    double through = double(factor[c]) * products[c] * invstd[c] * invstd[c] / rows;
    slope[c] = float(through);
    level[c] = float(factor[c] * sums[c] / rows);
  }
  std::vector<float> slopes = repeated(slope.data(), channels, length), levels = repeated(level.data(), channels, length);
  const float* __restrict k = slopes.data();
  const float* __restrict l = levels.data();
  for (i64 at = 0; at < size; at += length) {
    const i64 n = std::min(length, size - at);
    const T* __restrict in = x + at;
    const T* __restrict up = dy + at;
    T* __restrict out = dx + at;
    for (i64 j = 0; j < n; j++) {
      float value = read(in[j]), z = value * a[j] + b[j], g = sigmoid(z);
      float dz = read(up[j]) * g * (1.0f + z * (1.0f - g));
      write(out[j], a[j] * dz - (value - m[j]) * k[j] - l[j]);
    }
  }
}

#define FACE(name, T)                                                                                                                   \
  extern "C" void forward_##name(const T* x, T* y, i64 size, i64 channels, i64 length, const float* w, const float* b, double epsilon,  \
                                 float momentum, float* mean, float* invstd, float* rm, float* rv) {                                    \
    forward<T>(x, y, size, channels, length, w, b, epsilon, momentum, mean, invstd, rm, rv);                                            \
  }                                                                                                                                     \
  extern "C" void backward_##name(const T* x, const T* dy, T* dx, i64 size, i64 channels, i64 length, const float* w, const float* b,   \
                                  const float* mean, const float* invstd, float* dw, float* db) {                                       \
    backward<T>(x, dy, dx, size, channels, length, w, b, mean, invstd, dw, db);                                                         \
  }
FACE(float, float)
FACE(bfloat16, uint16_t)
"""
)


@cache
def _kernels() -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """The compiled functions by direction and type of the activations; empty without a compiler."""
    path = shared_object(_TEXT)
    if path is None:
        return {}
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    kernels: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
    for name, dtype in (("float", torch.float32), ("bfloat16", torch.bfloat16)):
        forward, backward = getattr(library, f"forward_{name}"), getattr(library, f"backward_{name}")
        forward.argtypes = [*[pointer] * 2, *[integer] * 3, *[pointer] * 2, ctypes.c_double, ctypes.c_float, *[pointer] * 4]
        backward.argtypes = [*[pointer] * 3, *[integer] * 3, *[pointer] * 6]
        forward.restype = backward.restype = None
        kernels["forward", dtype], kernels["backward", dtype] = forward, backward
    return kernels


def available() -> bool:
    """Whether the kernel is there: a C++ compiler was found, now or when the kernel was first compiled."""
    return bool(_kernels())


def _sizes(x: Tensor) -> tuple[int, int, int]:
    channels = x.shape[1]
    return x.numel(), channels, channels * max(1, _TILE // channels)


def forward_kernel(
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


def backward_kernel(x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor, moments: Tensor) -> tuple[Tensor, Tensor]:
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
        y, moments = forward_kernel(x, weight, bias, mean, variance, momentum, epsilon)
        ctx.save_for_backward(x, weight, bias, moments)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight, bias, moments = ctx.saved_tensors
        dx, slopes = backward_kernel(x, dy, weight, bias, moments)
        dweight, dbias = slopes.unbind()
        return dx, dweight, dbias, None, None, None, None


class NormSwish(nn.Module):
    """`BatchNorm2d` and the `SiLU` after it as one module, with the batch norm's own parameters and running moments.

    In training on the CPU, float32 or bfloat16 inputs go through the kernel; whatever else goes through torch's own operations.

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
        if not (self.training and taken):
            return silu(batch_norm(x, mean, variance, self.weight, self.bias, self.training, self.momentum, self.epsilon))
        x = x.contiguous(memory_format=torch.channels_last)
        arguments = (x, self.weight, self.bias, mean, variance, self.momentum, self.epsilon)
        return cast(Tensor, _Apply.apply(*arguments))  # type: ignore[no-untyped-call]
