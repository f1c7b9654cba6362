"""3x3 convolution with the batch norm and swish that follow it, as one step of autograd: C++ for the CPU, compiled once and kept on disk.

torch's convolutions are made for large layers: on 8x8 images two thirds of their time is overhead, and on 32x32 images they reach half of
what the processor can (benchmarks/convolutions.py). Here an image at a time is copied into a padded buffer that stays in the cache, and the
convolution, its two gradients, the sums that batch norm needs and the swish are computed around that buffer. A sum over the kernel's nine
places is three runs of memory, so nothing is unfolded. Where the processor multiplies pairs of bfloat16 numbers (AVX512_BF16), what
autocast would round to bfloat16 is multiplied in pairs, and summed in float32; elsewhere all is multiplied in float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from optevolve.compile.kernel import library
from optevolve.training.chain import as_one_step
from optevolve.training.elements import has_tiles, integers
from optevolve.training.norm_swish import NormSwish, tile_length
from optevolve.training.products import PRODUCTS

__all__ = ["ConvNormSwish", "available", "largest_image"]

_TEXT = (
    PRODUCTS
    + r"""
struct Layer {
  i64 images, height, width, inputs, outputs, stride;
  i64 down() const { return (height - 1) / stride + 1; }
  i64 across() const { return (width - 1) / stride + 1; }
  i64 size() const { return height * width * inputs; }       // elements of an image
  i64 result() const { return down() * across() * outputs; }  // and of what becomes of it
  // Where the first output's weights lie, in the order in which a pixel sees them, each row of the kernel filled up by -1 to a multiple
  // of `depth`. `strides` are by output, input, row and column.
  std::vector<i64> places(const i64* strides, i64 depth) const {
    std::vector<i64> found;
    for (i64 k = 0; k < 9; k++) {
      for (i64 c = 0; c < inputs; c++) found.push_back(k / 3 * strides[2] + k % 3 * strides[3] + c * strides[1]);
      while (k % 3 == 2 && i64(found.size()) % depth) found.push_back(-1);
    }
    return found;
  }
};

// An image between borders of `to`, which are zero and stay so.
template <typename T, typename U>
static void pad(const T* x, U* to, const Layer& s) {
  const i64 line = s.width * s.inputs;
  for (i64 y = 0; y < s.height; y++, x += line) {
    U* row = to + ((y + 1) * (s.width + 2) + 1) * s.inputs;
    along(line, [&](auto lanes, i64 j) { lanes.put(row + j, lanes.get(x + j)); });
  }
}
template <typename T>
static void pack(const float* from, i64 pitch, T* to, i64 channels, i64 pixels) {  // leaves out what fills up the vectors
  if (pitch == channels) channels *= pixels, pitch = padded(channels), pixels = 1;
  for (i64 i = 0; i < pixels; i++) {
    const float* __restrict in = from + i * pitch;
    T* __restrict out = to + i * channels;
    if (i * channels + pitch <= pixels * channels)  // the next pixel goes over what hangs over
      for (i64 j = 0; j < channels; j += LANES) store(out + j, load(in + j));
    else
      along(channels, [&](auto lanes, i64 j) { lanes.put(out + j, lanes.get(in + j)); });
  }
}

template <typename I, typename T>
static void forward(const I* x, T* z, T* y, const Layer& s, const float* kernel, const i64* strides, Norm& norm, double epsilon,
                    float momentum, float* running_mean, float* running_variance) {
  typedef typename Factors<T>::Words W;
  typedef typename W::Value Value;
  const i64 length = words(3 * s.inputs, W::DEPTH), wide = (s.width + 2) * s.inputs, down = s.down(), across = s.across();
  const i64 offsets[3] = {0, wide, 2 * wide};
  const Packed<W> packed(s.outputs, s.places(strides, W::DEPTH), strides[0], kernel);
  std::vector<Value> image((s.height + 2) * wide + W::DEPTH);  // the last run may end within a word
  std::vector<float> out(down * across * packed.outputs);
  Pixels pixels;
  for (i64 r = 0; r < down; r++)
    for (i64 c = 0; c < across; c++) pixels.add(r * s.stride * wide + c * s.stride * s.inputs, (r * across + c) * packed.outputs);
  Moments moments(s.outputs, norm.length);
  for (i64 i = 0; i < s.images; i++) {
    pad(x + i * s.size(), image.data(), s);
    all<W>(pixels, image.data(), offsets, 3, length, packed, out.data());
    pack(out.data(), packed.outputs, z + i * s.result(), s.outputs, down * across);
    moments.add(z + i * s.result(), s.result());
  }
  norm.take(moments, epsilon, momentum, running_mean, running_variance);
  norm_swish(z, y, s.images * s.result(), norm);
}

// The pixels of the input that lie `row` and `column` beyond a multiple of the stride see the same places of the kernel.
template <typename W>
struct Phase {
  Pixels pixels;
  std::vector<i64> offsets;
  Packed<W> packed;
};

// What `outer` multiplies: words of a channel's value at a pixel and, where they have room for it, at the pixel `step` values further on.
static inline const float* pixel_words(const float* values, std::vector<float>&, i64, i64, i64) { return values; }
static inline const float* pixel_words(const uint16_t* values, std::vector<float>& words, i64 rows, i64 length, i64 step) {
  words.resize(rows * length);
  for (i64 y = 0; y < rows; y++) {
    typedef uint32_t Both __attribute__((may_alias));
    const uint16_t* __restrict in = values + y * length;
    Both* __restrict out = (Both*)(words.data() + y * length);
    APART
    for (i64 j = 0; j < length - step; j++) out[j] = uint32_t(in[j]) | uint32_t(in[j + step]) << 16;
    for (i64 j = std::max(length - step, i64(0)); j < length; j++) out[j] = in[j];
  }
  return words.data();
}

template <typename I, typename T>
static void backward(const I* x, const T* z, const T* dy, T* inner, I* dx, float* dkernel, const Layer& s, const float* kernel,
                     const i64* strides, const Norm& norm, float* dweight, float* dbias) {
  typedef typename Factors<T>::Words W;
  typedef typename W::Value Value;
  const NormBackward before(z, dy, inner, s.images * s.result(), norm, dweight, dbias);
  const i64 run = 3 * s.inputs, wide = (s.width + 2) * s.inputs, down = s.down(), across = s.across(), pitch = padded(s.outputs);
  const i64 high = (across + 2) * pitch, inputs = padded(s.inputs), length = words(s.outputs, W::DEPTH);
  std::vector<Phase<W>> phases;
  for (i64 row = 0; dx && row < std::min(s.stride, s.height); row++)
    for (i64 column = 0; column < std::min(s.stride, s.width); column++) {
      std::vector<i64> offsets, places;
      for (i64 k = 0; k < 9; k++) {
        const i64 above = row + 1 - k / 3, left = column + 1 - k % 3;
        if (above % s.stride || left % s.stride) continue;
        offsets.push_back((above / s.stride + 1) * high + (left / s.stride + 1) * pitch);
        for (i64 n = 0; n < length * W::DEPTH; n++)
          places.push_back(n < s.outputs ? k / 3 * strides[2] + k % 3 * strides[3] + n * strides[0] : -1);
      }
      const Packed<W> packed(s.inputs, places, strides[1], kernel);
      Pixels pixels;
      for (i64 y = row; y < s.height; y += s.stride)
        for (i64 c = column; c < s.width; c += s.stride)
          pixels.add(y / s.stride * high + c / s.stride * pitch, (y * s.width + c) * inputs);
      phases.push_back({pixels, offsets, packed});
    }
  std::vector<Value> image((s.height + 2) * wide), dense(across * s.outputs + LANES), dz((down + 2) * high);
  std::vector<float> image_words, dz_words, slope(3 * run * pitch), out(dx ? s.height * s.width * inputs : 0);
  for (i64 i = 0; i < s.images; i++) {
    pad(x + i * s.size(), image.data(), s);
    for (i64 r = 0; r < down; r++) {
      const i64 at = i * s.result() + r * across * s.outputs;
      Value* to = dz.data() + (r + 1) * high + pitch;
      before.finish(z + at, inner + at, pitch == s.outputs ? to : dense.data(), across * s.outputs);
      for (i64 c = 0; pitch != s.outputs && c < across; c++)  // what hangs over is multiplied by zeros, or goes nowhere
        for (i64 j = 0; j < pitch; j += LANES) std::copy_n(dense.data() + c * s.outputs + j, LANES, to + c * pitch + j);
    }
    const float* columns = pixel_words(image.data(), image_words, s.height + 2, wide, s.stride * s.inputs);
    const float* rows = pixel_words(dz.data(), dz_words, down + 2, high, pitch);
    for (i64 first = 0; first < pitch; first += 2 * LANES)
      for (i64 k = 0; k < 3 * run; ) {
        const Word* from = columns + k / run * wide + k % run;
        float* to = slope.data() + k * pitch + first;
        const i64 left = run - k % run;
        const auto take = [&](auto function) {
          function(from, s.stride * wide, W::DEPTH * s.stride * s.inputs, rows + high + pitch + first, high, W::DEPTH * pitch, down,
                   words(across, W::DEPTH), to, pitch);
        };
        const bool two = pitch - first > LANES;
        if (left >= 12) take(two ? outer<W, 12, 2> : outer<W, 12, 1>), k += 12;
        else if (left >= 9) take(two ? outer<W, 9, 2> : outer<W, 9, 1>), k += 9;
        else take(two ? outer<W, 3, 2> : outer<W, 3, 1>), k += 3;
      }
    if (!dx) continue;
    for (const Phase<W>& phase : phases)
      all<W>(phase.pixels, dz.data(), phase.offsets.data(), i64(phase.offsets.size()), length, phase.packed, out.data());
    pack(out.data(), inputs, dx + i * s.size(), s.inputs, s.height * s.width);
  }
  const std::vector<i64> places = s.places(strides, 1);
  for (i64 n = 0; n < s.outputs; n++)
    for (i64 k = 0; k < 3 * run; k++) dkernel[n * strides[0] + places[k]] = slope[k * pitch + n];
}

#define FACE(name, I, T)                                                                                                                \
  extern "C" void forward_##name(const i64* shape, const I* x, T* z, T* y, const float* kernel, const i64* strides, i64 length,         \
                                 const float* w, const float* b, float* moments, double epsilon, double momentum, float* rm,           \
                                 float* rv) {                                                                                           \
    const Layer s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};                                                          \
    Norm norm(s.outputs, length, w, b, moments, moments + s.outputs);                                                                   \
    forward<I, T>(x, z, y, s, kernel, strides, norm, epsilon, float(momentum), rm, rv);                                                 \
  }                                                                                                                                     \
  extern "C" void backward_##name(const i64* shape, const I* x, const T* z, const T* dy, T* inner, I* dx, float* dkernel,               \
                                  const float* kernel, const i64* strides, i64 length, const float* w, const float* b, float* moments,  \
                                  float* slopes) {                                                                                      \
    const Layer s{shape[0], shape[1], shape[2], shape[3], shape[4], shape[5]};                                                          \
    Norm norm(s.outputs, length, w, b, moments, moments + s.outputs);                                                                   \
    norm.lay_out();                                                                                                                     \
    backward<I, T>(x, z, dy, inner, dx, dkernel, s, kernel, strides, norm, slopes, slopes + s.outputs);                                 \
  }
extern "C" i64 bfloat16_depth() { return Factors<uint16_t>::Words::DEPTH; }
FACE(float32_float32, float, float)
FACE(float32_bfloat16, float, uint16_t)
FACE(bfloat16_bfloat16, uint16_t, uint16_t)
"""
)


@cache
def _library() -> ctypes.CDLL | None:
    """The compiled kernels; None without a compiler."""
    return library(_TEXT, "bfloat16_depth")


@cache
def _kernels() -> dict[tuple[str, torch.dtype, torch.dtype], Callable[..., None]]:
    """The two passes by the types of input and output; empty without a compiler."""
    loaded = _library()
    if loaded is None:
        return {}
    pointer, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
    kernels: dict[tuple[str, torch.dtype, torch.dtype], Callable[..., None]] = {}
    for inputs, outputs in ((torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.bfloat16)):
        for name in ("forward", "backward"):
            function = getattr(loaded, f"{name}_{inputs}_{outputs}".replace("torch.", ""))
            function.restype = None
            kernels[name, inputs, outputs] = function
        forward, backward = kernels["forward", inputs, outputs], kernels["backward", inputs, outputs]
        forward.argtypes = [*[pointer] * 6, integer, *[pointer] * 3, number, number, pointer, pointer]  # type: ignore[attr-defined]
        backward.argtypes = [*[pointer] * 9, integer, *[pointer] * 4]  # type: ignore[attr-defined]
    return kernels


def available() -> bool:
    """Whether the kernels are there: a C++ compiler was found, now or when they were first compiled."""
    return bool(_kernels())


_NARROW = 16 * 32  # product of the channels of a layer up to which it counts as narrow


@cache
def largest_image(dtype: torch.dtype, narrow: bool) -> int:
    """Pixels of the largest image that these kernels convolve faster than torch's do, by the type that it is multiplied in.

    Measured up to 64x64 with AVX-512. Without it torch is faster from 16x16 on. So it is in bfloat16 where it has tiles (AMX), which narrow
    layers leave half empty: of these, images of 16x16 take less time here. Where the compiler knows no products of pairs, it should be.

    Args:
        dtype: float32 or bfloat16.
        narrow: whether the layer has few channels, see `_NARROW`.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return 8 * 8
    if dtype != torch.bfloat16:
        return 64 * 64
    loaded = _library()
    if loaded is None or loaded.bfloat16_depth() != 2:
        return 8 * 8
    return 64 * 64 if not has_tiles() else 16 * 16 if narrow else 8 * 8


def _multiplied(x: Tensor) -> torch.dtype:
    """The type that a convolution multiplies an input in, which is that of its output."""
    return torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype


class ConvNormSwish(nn.Module):
    """`Conv2d`, `BatchNorm2d` and `SiLU` as one module, with the parameters and running moments of the two.

    In training on the CPU, images up to `largest_image` in float32 or bfloat16 go through the kernels; whatever else goes through torch's
    own convolution.

    Args:
        convolution: see `fits`.
        norm: the fused norm and swish after it.
    """

    def __init__(self, convolution: nn.Conv2d, norm: NormSwish) -> None:
        super().__init__()
        self.convolution, self.norm = convolution, norm
        self.numbers = (convolution.stride[0], norm.momentum, norm.epsilon)
        self._narrow = convolution.in_channels * convolution.out_channels <= _NARROW
        # Not as attributes of a module, whose lookup takes longer than what is then done with them.
        self._learned = convolution.weight, norm.weight, norm.bias
        self._moving = norm.get_buffer("running_mean"), norm.get_buffer("running_var")

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
        return as_one_step((self,), x) if self.takes(x) else cast(Tensor, self.norm(self.convolution(x)))

    def learned(self) -> tuple[Tensor, ...]:
        """See `Link`."""
        return self._learned

    def takes(self, x: Tensor) -> bool:
        """See `Link`."""
        known = x.device.type == "cpu" and x.dim() == 4 and x.dtype in (torch.float32, torch.bfloat16) and len(x) > 1
        return self.training and known and x.shape[2] * x.shape[3] <= largest_image(_multiplied(x), self._narrow)

    def run(self, x: Tensor) -> tuple[Tensor, Any]:
        """See `Link`."""
        kernel, weight, bias = self._learned
        x = x.contiguous(memory_format=torch.channels_last)
        stride, momentum, epsilon = self.numbers
        images, inputs, height, width = x.shape
        outputs = len(kernel)
        shape = integers(images, height, width, inputs, outputs, stride)
        dtype = _multiplied(x)
        result = (images, outputs, (height - 1) // stride + 1, (width - 1) // stride + 1)
        z = torch.empty(result, dtype=dtype, memory_format=torch.channels_last)
        y, moments = torch.empty_like(z), torch.empty(2, outputs)
        mean, variance = self._moving
        _kernels()["forward", x.dtype, dtype](
            shape, x.data_ptr(), z.data_ptr(), y.data_ptr(), kernel.data_ptr(), integers(*kernel.stride()), tile_length(outputs),
            weight.data_ptr(), bias.data_ptr(), moments.data_ptr(), epsilon, momentum, mean.data_ptr(), variance.data_ptr(),
        )  # fmt: skip
        return y, (shape, x, kernel, z, weight, bias, moments)

    def back(self, kept: Any, dy: Tensor, needs_input: bool) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """See `Link`."""
        shape, x, kernel, z, weight, bias, moments = kept
        dy = dy.to(z.dtype).contiguous(memory_format=torch.channels_last)
        inner, dkernel, slopes = torch.empty_like(z), torch.empty_like(kernel), torch.empty_like(moments)
        dx = torch.empty_like(x) if needs_input else None
        _kernels()["backward", x.dtype, z.dtype](
            shape, x.data_ptr(), z.data_ptr(), dy.data_ptr(), inner.data_ptr(), None if dx is None else dx.data_ptr(), dkernel.data_ptr(),
            kernel.data_ptr(), integers(*kernel.stride()), tile_length(len(kernel)), weight.data_ptr(), bias.data_ptr(),
            moments.data_ptr(), slopes.data_ptr(),
        )  # fmt: skip
        dweight, dbias = slopes.unbind()
        return dx, (dkernel, dweight, dbias)
