"""A pass over a batch as one CUDA graph: recorded once, then launched whole, so that small models do not wait for the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["Captured"]

_WARM_UP = 3  # passes before the recording, in which libraries choose their kernels and allocate


class Captured:
    """A function of CUDA tensors, recorded and replayed.

    The function must do the same on every call, up to the values of its inputs and of the tensors that it reads and writes in place.

    Args:
        function: of the inputs; gives tensors.
        inputs: of the recording; later ones have the same shapes and types.
        written: what the function changes in place and the recording has to leave as it was.
    Source: PyTorch's notes on CUDA semantics, "CUDA Graphs" (warm-up on a side stream, static inputs).
    """

    def __init__(self, function: Callable[[list[Tensor]], tuple[Tensor, ...]], inputs: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        self.inputs = [value.clone() for value in inputs]
        before = [value.clone() for value in written]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function(self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = function(self.inputs)
        for value, old in zip(written, before, strict=True):
            value.copy_(old)

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """What the function gives for these inputs, in tensors of their own."""
        for static, value in zip(self.inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        self.graph.replay()
        return tuple(output.clone() for output in self.outputs)
