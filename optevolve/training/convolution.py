"""3x3 convolution of small images as a matrix product, with the batch norm and swish that follow it in one step of autograd.

torch's convolutions are made for large layers: on 8x8 images two thirds of their time is overhead. Copying every pixel's neighbourhood into
a row of a matrix costs little there, and the rest is one matrix product; on larger images the matrix no longer fits into the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from optevolve.compile.kernel import shared_object
from optevolve.training.elements import ELEMENTS
from optevolve.training.norm_swish import NormSwish, backward_kernel, forward_kernel

__all__ = ["ConvNormSwish", "available"]

_LARGEST_IMAGE = 8 * 8  # pixels that one image may have: the copies of a batch then stay in the cache
_TEXT = (
    ELEMENTS
    + r"""

// Where the three runs of three padded pixels begin that an output pixel sees, one below the other. `visit` gets the offset in the padded
// image and in the rows.
template <typename Visit>
static inline void runs(i64 height, i64 width, i64 channels, i64 stride, Visit visit) {
  const i64 down = (height - 1) / stride + 1, across = (width - 1) / stride + 1;
  i64 row = 0;
  for (i64 r = 0; r < down; r++)
    for (i64 c = 0; c < across; c++)
      for (i64 k = 0; k < 3; k++, row += 3 * channels) visit(((r * stride + k) * (width + 2) + c * stride) * channels, row);
}

template <typename T, typename U>
static void unfold(const T* x, U* rows, i64 images, i64 height, i64 width, i64 channels, i64 stride) {
  const i64 line = width * channels, out = ((height - 1) / stride + 1) * ((width - 1) / stride + 1) * 9 * channels;
  std::vector<U> padded((height + 2) * (width + 2) * channels);  // zeros around
  for (i64 n = 0; n < images; n++, rows += out, x += height * line) {
    for (i64 y = 0; y < height; y++) {
      U* __restrict to = padded.data() + ((y + 1) * (width + 2) + 1) * channels;
      const T* __restrict in = x + y * line;
      for (i64 j = 0; j < line; j++) write(to[j], read(in[j]));
    }
    const U* from = padded.data();
    if (channels == 1)  // a length that the compiler knows
      runs(height, width, 1, stride, [&](i64 at, i64 row) { std::memcpy(rows + row, from + at, 3 * sizeof(U)); });
    else
      runs(height, width, channels, stride, [&](i64 at, i64 row) { std::memcpy(rows + row, from + at, 3 * channels * sizeof(U)); });
  }
}

template <typename T, typename U>
static void fold(const U* rows, T* x, i64 images, i64 height, i64 width, i64 channels, i64 stride) {
  const i64 line = width * channels, out = ((height - 1) / stride + 1) * ((width - 1) / stride + 1) * 9 * channels;
  std::vector<float> padded((height + 2) * (width + 2) * channels);
  for (i64 n = 0; n < images; n++, rows += out, x += height * line) {
    std::fill(padded.begin(), padded.end(), 0.0f);
    runs(height, width, channels, stride, [&](i64 at, i64 row) {
      float* __restrict to = padded.data() + at;
      const U* __restrict in = rows + row;
      for (i64 j = 0; j < 3 * channels; j++) to[j] += read(in[j]);
    });
    for (i64 y = 0; y < height; y++) {
      const float* __restrict from = padded.data() + ((y + 1) * (width + 2) + 1) * channels;
      T* __restrict to = x + y * line;
      for (i64 j = 0; j < line; j++) write(to[j], from[j]);
    }
  }
}

#define FACE(name, T, U)                                                                                                                \
  extern "C" void unfold_##name(const T* x, U* rows, i64 images, i64 height, i64 width, i64 channels, i64 stride) {                     \
    unfold<T, U>(x, rows, images, height, width, channels, stride);                                                                     \
  }                                                                                                                                     \
  extern "C" void fold_##name(const U* rows, T* x, i64 images, i64 height, i64 width, i64 channels, i64 stride) {                       \
    fold<T, U>(rows, x, images, height, width, channels, stride);                                                                       \
  }
FACE(float32_float32, float, float)
FACE(float32_bfloat16, float, uint16_t)
FACE(bfloat16_bfloat16, uint16_t, uint16_t)
"""
)


@cache
def _kernels() -> dict[tuple[str, torch.dtype, torch.dtype], Callable[..., None]]:
    """`unfold` and `fold` by the types of images and rows; empty without a compiler."""
    path = shared_object(_TEXT)
    if path is None:
        return {}
    library = ctypes.CDLL(str(path))
    kernels: dict[tuple[str, torch.dtype, torch.dtype], Callable[..., None]] = {}
    for images, rows in ((torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)):
        for name in ("unfold", "fold"):
            function = getattr(library, f"{name}_{images}_{rows}".replace("torch.", ""))
            function.argtypes = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 5]
            function.restype = None
            kernels[name, images, rows] = function
    return kernels


def available() -> bool:
    """Whether the kernels are there: a C++ compiler was found, now or when they were first compiled."""
    return bool(_kernels())


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, numbers: tuple[int, float, float]
    ) -> Tensor:
        stride, momentum, epsilon = numbers
        images, channels, height, width = x.shape
        shape = (images, height, width, channels, stride)
        down, across = (height - 1) // stride + 1, (width - 1) // stride + 1
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype
        rows = torch.empty(images * down * across, 9 * channels, dtype=dtype)
        _kernels()["unfold", x.dtype, dtype](x.data_ptr(), rows.data_ptr(), *shape)
        matrix = kernel.permute(0, 2, 3, 1).reshape(len(kernel), -1).to(dtype)
        with torch.autocast("cpu", enabled=False):
            z = rows @ matrix.t()
        z = z.view(images, down, across, -1).permute(0, 3, 1, 2)
        y, moments = forward_kernel(z, weight, bias, mean, variance, momentum, epsilon)
        ctx.save_for_backward(rows, matrix, z, weight, bias, moments)
        ctx.shape, ctx.dtype, ctx.needed = shape, x.dtype, kernel.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        rows, matrix, z, weight, bias, moments = ctx.saved_tensors
        dz, slopes = backward_kernel(z, dy, weight, bias, moments)
        flat = dz.permute(0, 2, 3, 1).reshape(len(rows), -1)
        with torch.autocast("cpu", enabled=False):
            outputs, inputs, *_ = ctx.needed
            dkernel = (flat.t() @ rows).view(outputs, 3, 3, inputs).permute(0, 3, 1, 2).float()
            dx = None
            if ctx.needs_input_grad[0]:
                images, height, width, channels, _ = ctx.shape
                dx = torch.empty(images, height, width, channels, dtype=ctx.dtype)
                spread = flat @ matrix
                _kernels()["fold", ctx.dtype, spread.dtype](spread.data_ptr(), dx.data_ptr(), *ctx.shape)
                dx = dx.permute(0, 3, 1, 2)
        dweight, dbias = slopes.unbind()
        return dx, dkernel, dweight, dbias, None, None, None


class ConvNormSwish(nn.Module):
    """`Conv2d`, `BatchNorm2d` and `SiLU` as one module, with the parameters and running moments of the two.

    In training on the CPU, small images in float32 or bfloat16 go through matrix products and the kernels; whatever else goes through
    torch's own convolution.

    Args:
        convolution: see `fits`.
        norm: the fused norm and swish after it.
    """

    def __init__(self, convolution: nn.Conv2d, norm: NormSwish) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm
        self.numbers = (convolution.stride[0], norm.momentum, norm.epsilon)

    @staticmethod
    def fits(convolution: nn.Conv2d) -> bool:
        """Whether the layer is a 3x3 convolution that pads by one pixel of zeros, of one group and without bias, in float32 on the CPU."""
        weight = convolution.weight
        shape = convolution.kernel_size == (3, 3) and convolution.padding == (1, 1) and convolution.dilation == (1, 1)
        stride = convolution.stride[0] == convolution.stride[1]
        plain = convolution.groups == 1 and convolution.bias is None and convolution.padding_mode == "zeros"
        return shape and stride and plain and weight.dtype == torch.float32 and weight.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        """Input and output of shape (batch, channels, height, width)."""
        taken = x.device.type == "cpu" and x.dim() == 4 and x.dtype in (torch.float32, torch.bfloat16) and len(x) > 1
        if not (self.training and taken and x.shape[2] * x.shape[3] <= _LARGEST_IMAGE):
            return cast(Tensor, self.norm(self.convolution(x)))
        x = x.contiguous(memory_format=torch.channels_last)
        norm = self.norm
        moments = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        arguments = (x, self.convolution.weight, norm.weight, norm.bias, *moments, self.numbers)
        return cast(Tensor, _Apply.apply(*arguments))  # type: ignore[no-untyped-call]
