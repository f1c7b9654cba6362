"""Global average, dropout and linear layer as one step of autograd: C++ for the CPU, compiled once and kept on disk.

On a small ConvNet the three are a dozen calls of torch forward and backward, each of which costs more than its arithmetic.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear

from optevolve.compile.kernel import library
from optevolve.training.chain import as_one_step
from optevolve.training.elements import ELEMENTS, integers

__all__ = ["Head", "available"]

_TEXT = (
    ELEMENTS
    + r"""
// `shape`: images, pixels of each, channels, classes. `kept` is 0 or 1 for every image and channel, or null; `scale` goes with it.
template <typename T>
static void forward(const i64* shape, const T* x, const T* kept, double scale, const float* weight, const float* bias, float* pooled,
                    float* out) {
  const i64 images = shape[0], pixels = shape[1], channels = shape[2], classes = shape[3];
  const float share = float(scale / double(pixels));
  for (i64 n = 0; n < images; n++, x += pixels * channels, pooled += channels, out += classes) {
    float* __restrict sum = pooled;
    std::fill(sum, sum + channels, 0.0f);
    for (i64 p = 0; p < pixels; p++) {
      const T* __restrict in = x + p * channels;
      for (i64 c = 0; c < channels; c++) sum[c] += read(in[c]);
    }
    for (i64 c = 0; c < channels; c++) sum[c] *= kept ? read(kept[n * channels + c]) * share : share;
    for (i64 k = 0; k < classes; k++) {
      const float* __restrict row = weight + k * channels;
      float total = bias[k];
#if defined(__GNUC__)
#pragma omp simd reduction(+ : total)
#endif
      for (i64 c = 0; c < channels; c++) total += row[c] * sum[c];
      out[k] = total;
    }
  }
}

template <typename T>
static void backward(const i64* shape, const float* dy, const T* kept, double scale, const float* weight, const float* pooled, T* dx,
                     float* dweight, float* dbias) {
  const i64 images = shape[0], pixels = shape[1], channels = shape[2], classes = shape[3];
  const float share = float(scale / double(pixels));
  std::vector<float> slope(channels);
  std::vector<T> pixel(channels);
  std::fill(dweight, dweight + classes * channels, 0.0f);
  std::fill(dbias, dbias + classes, 0.0f);
  for (i64 n = 0; n < images; n++, dx += dx ? pixels * channels : 0) {
    const float* up = dy + n * classes;
    const float* __restrict in = pooled + n * channels;
    float* __restrict s = slope.data();
    std::fill(slope.begin(), slope.end(), 0.0f);
    for (i64 k = 0; k < classes; k++) {
      const float* __restrict row = weight + k * channels;
      float* __restrict to = dweight + k * channels;
      dbias[k] += up[k];
      for (i64 c = 0; c < channels; c++) {
        to[c] += up[k] * in[c];
        s[c] += up[k] * row[c];
      }
    }
    if (!dx) continue;
    for (i64 c = 0; c < channels; c++) write(pixel[c], s[c] * (kept ? read(kept[n * channels + c]) * share : share));
    for (i64 p = 0; p < pixels; p++) std::copy(pixel.begin(), pixel.end(), dx + p * channels);
  }
}

#define FACE(name, T)                                                                                                                   \
  extern "C" void forward_##name(const i64* shape, const T* x, const T* kept, double scale, const float* w, const float* b,             \
                                 float* pooled, float* out) {                                                                           \
    forward<T>(shape, x, kept, scale, w, b, pooled, out);                                                                               \
  }                                                                                                                                     \
  extern "C" void backward_##name(const i64* shape, const float* dy, const T* kept, double scale, const float* w, const float* pooled,  \
                                  T* dx, float* dw, float* db) {                                                                        \
    backward<T>(shape, dy, kept, scale, w, pooled, dx, dw, db);                                                                         \
  }
FACE(float, float)
FACE(bfloat16, uint16_t)
"""
)


@cache
def _kernels() -> dict[tuple[str, torch.dtype], Callable[..., None]]:
    """The two passes by the type of the images; empty without a compiler."""
    loaded = library(_TEXT, "forward_float")
    if loaded is None:
        return {}
    pointer = ctypes.c_void_p
    kernels: dict[tuple[str, torch.dtype], Callable[..., None]] = {}
    for name, dtype in (("float", torch.float32), ("bfloat16", torch.bfloat16)):
        forward, backward = getattr(loaded, f"forward_{name}"), getattr(loaded, f"backward_{name}")
        forward.argtypes = [*[pointer] * 3, ctypes.c_double, *[pointer] * 4]
        backward.argtypes = [*[pointer] * 3, ctypes.c_double, *[pointer] * 5]
        forward.restype = backward.restype = None
        kernels["forward", dtype], kernels["backward", dtype] = forward, backward
    return kernels


def available() -> bool:
    """Whether the kernels are there: a C++ compiler was found, now or when they were first compiled."""
    return bool(_kernels())


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class Head(nn.Module):
    """Global average, `Dropout` and `Linear` as one module, with the parameters of the last.

    In training on the CPU, float32 or bfloat16 inputs go through the kernel, which answers in float32; whatever else goes through torch's
    own operations. Dropout takes the same random numbers.

    Args:
        drop: the dropout; its rate is below 1.
        last: the linear layer, see `fits`.
    """

    def __init__(self, drop: nn.Dropout, last: nn.Linear) -> None:
        super().__init__()
        self.rate, self.scale = drop.p, 1 / (1 - drop.p)
        self.weight, self.bias = last.weight, last.bias
        self._learned = last.weight, last.bias  # not as attributes of a module, whose lookup is slow

    @staticmethod
    def fits(drop: nn.Dropout, last: nn.Linear) -> bool:
        """Whether the layers are a dropout of a rate below 1 and a linear layer with bias, in float32 on the CPU."""
        biased = isinstance(last.bias, Tensor)  # torch's stubs do not say that it may be missing
        return drop.p < 1 and biased and last.weight.dtype == torch.float32 and last.weight.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        """Input of shape (batch, channels, height, width), output of shape (batch, classes)."""
        if self.takes(x):
            return as_one_step((self,), x)
        return linear(dropout(x.mean((2, 3)), self.rate, self.training), self.weight, self.bias)

    def learned(self) -> tuple[Tensor, ...]:
        """See `Link`."""
        return self._learned

    def takes(self, x: Tensor) -> bool:
        """See `Link`."""
        return self.training and x.device.type == "cpu" and x.dim() == 4 and x.dtype in (torch.float32, torch.bfloat16)

    def run(self, x: Tensor) -> tuple[Tensor, Any]:
        """See `Link`."""
        x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = self._learned[0].contiguous(), self._learned[1]
        images, channels, height, width = x.shape
        shape = integers(images, height * width, channels, len(weight))
        # Drawn as torch's dropout draws it after the average.
        kept = torch.empty(images, channels, dtype=x.dtype).bernoulli_(1 - self.rate) if self.rate else None
        pooled, out = torch.empty(images, channels), torch.empty(images, len(weight))
        _kernels()["forward", x.dtype](
            shape, x.data_ptr(), _address(kept), self.scale, weight.data_ptr(), bias.data_ptr(), pooled.data_ptr(), out.data_ptr()
        )
        return out, (shape, x, kept, weight, pooled)

    def back(self, kept: Any, dy: Tensor, needs_input: bool) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Link`."""
        shape, x, mask, weight, pooled = kept
        dy = dy.contiguous()
        dx = torch.empty_like(x) if needs_input else None
        dweight, dbias = torch.empty_like(weight), torch.empty(len(weight))
        _kernels()["backward", x.dtype](
            shape, dy.data_ptr(), _address(mask), self.scale, weight.data_ptr(), pooled.data_ptr(), _address(dx), dweight.data_ptr(),
            dbias.data_ptr(),
        )  # fmt: skip
        return dx, (dweight, dbias)
