"""Convolution, batch norm and swish: the fused kernels beside torch's convolution with the fused norm, layer by layer on one thread.

Times are of the forward and of the backward pass, gradients of input (but for the first layer's) and parameters included, the best of
five in milliseconds. GFLOPS count the convolution's arithmetic alone, so that what the norm takes lowers them; beside them stands what a
large matrix product reaches. It says from which images on `optevolve.training.convolution.largest_image` should leave a layer to torch.

    python benchmarks/convolutions.py [--width 32] [--image 32] [--batch 128] [--precision bf16]
"""

import argparse
import sys
import time
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor, nn

from optevolve.run.worker import keep_freed_memory
from optevolve.training import Engine, convolution
from optevolve.training.convolution import ConvNormSwish
from optevolve.training.norm_swish import NormSwish


def best(function: Callable[[], object], calls: int = 5) -> float:
    """Seconds of a call."""
    function()
    found = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(calls):
            function()
        found.append((time.perf_counter() - started) / calls)
    return min(found)


def passes(layer: ConvNormSwish, x: Tensor, engine: Engine) -> tuple[float, float, Tensor]:
    """Seconds of the forward pass and of the backward pass, and the output."""

    def forward() -> Tensor:
        with engine.autocast():
            output: Tensor = layer(x)
            return output

    output = forward()
    gradient = torch.randn_like(output)
    wanted = [*layer.parameters(), *([x] if x.requires_grad else [])]
    back = best(lambda: torch.autograd.grad(output, wanted, gradient, retain_graph=True))
    return best(forward), back, output.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--image", type=int, default=32, help="height and width of the images in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="bf16")
    options = parser.parse_args()
    if not convolution.available():
        sys.exit("There are no kernels to measure without a C++ compiler. Install g++ or clang, or name one in CXX.")
    torch.set_num_threads(1)  # as the workers of a search do
    keep_freed_memory()
    torch.set_flush_denormal(True)
    engine = Engine(precision=options.precision)
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    square = torch.randn(1024, 1024, dtype=dtype)
    print(f"{options.precision}, matrix product of 1024 x 1024: {2 * 1024**3 / best(lambda: square @ square) / 1e9:.0f} GFLOPS")
    print(f"{'layer':28} {'kernels':8} {'forward':>14} {'backward':>14}")
    inputs, side, x = 3, options.image, torch.randn(options.batch, 3, options.image, options.image)
    x = x.contiguous(memory_format=torch.channels_last)
    for number, stride in enumerate((1, 2, 2)):
        outputs = options.width << number
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False).to(memory_format=torch.channels_last)
        layer = ConvNormSwish(conv, NormSwish(nn.BatchNorm2d(outputs)))
        for name, limit in (("torch's", 0), ("ours", side * side)):
            with patch.object(convolution, "largest_image", lambda *_, limit=limit: limit):
                forward, back, y = passes(layer, x, engine)
            work = 2 * 9 * inputs * y.numel() / 1e9
            directions = 1 + x.requires_grad
            print(
                f"{f'{inputs} to {outputs}, {side}x{side}, stride {stride}':28} {name:8} {forward * 1e3:6.2f} ms {work / forward:4.0f} "
                f"{back * 1e3:6.2f} ms {directions * work / back:4.0f}"
            )
        x, inputs, side = y.requires_grad_(), outputs, y.shape[2]


if __name__ == "__main__":
    main()
