"""How a step is computed: precision of the forward pass, fused layers, a flat optimizer. The numbers differ from plain torch by rounding.

`torch.compile` of forward and backward is not used: it takes tens of seconds in every worker. The fused layers are C++ that is compiled
once on a machine and serves all candidates; docs/results/training.md has their figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from optevolve.config import Protocol
from optevolve.errors import ConfigError
from optevolve.tasks import Batch
from optevolve.tasks.networks import GlobalAverage
from optevolve.training.chain import Chain
from optevolve.training.convolution import ConvNormSwish
from optevolve.training.elements import has_bfloat16
from optevolve.training.head import Head
from optevolve.training.norm_swish import NormSwish, available

__all__ = ["PLAIN", "Engine", "precision_of"]


def precision_of(protocol: Protocol) -> str:
    """What a protocol's precision means on this machine: "float32" or "bf16"."""
    if protocol.precision == "auto" and protocol.device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "float32"
    if protocol.precision == "auto":
        return "bf16" if has_bfloat16() else "float32"
    return protocol.precision


@dataclass(frozen=True)
class Engine:
    """How the steps of a training are computed.

    Attributes:
        precision: "float32", or "bf16": forward pass under autocast, weights, gradients and optimizer in float32.
        fused: batch norm and swish as one kernel, where there is a compiler; numbers differ by rounding.
        flat: the optimizer keeps all parameters in one buffer.
        device: "cpu" or "cuda", where models and batches are put.
        graph: on a GPU, forward and backward pass of runs trained together are one CUDA graph.
    """

    precision: str = "float32"
    fused: bool = False
    flat: bool = False
    device: str = "cpu"
    graph: bool = False

    @staticmethod
    def of(protocol: Protocol) -> Engine:
        """The engine that a protocol asks for, on this machine.

        Raises:
            ConfigError: if it asks for a GPU, and there is none.
        """
        cuda = protocol.device == "cuda"
        if cuda and not torch.cuda.is_available():
            raise ConfigError(
                'Expected a CUDA device for protocol.device = "cuda", got a machine where torch sees none. Set it to "cpu", or mend the '
                "driver, or install a torch with CUDA."
            )
        return Engine(precision_of(protocol), protocol.compile, protocol.compile, protocol.device, graph=cuda and protocol.compile)

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on the device, its layers fused in place where that is asked for and can be; the order of its parameters stays."""
        model = model.to(self.device)
        if self.fused and available():
            for sequence in list(_sequences(model)):
                _fuse(sequence)
        return model

    def rng_devices(self) -> list[int]:
        """Devices with random states beside the CPU's."""
        return [] if self.device == "cpu" else [torch.cuda.current_device()]

    def place(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return batch if self.device == "cpu" else type(batch)(*(value.to(self.device, non_blocking=True) for value in batch))

    def autocast(self) -> AbstractContextManager[object]:
        """Surrounds the forward pass."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


PLAIN = Engine()


def _sequences(model: nn.Module) -> Iterator[nn.Sequential]:
    return (module for module in model.modules() if isinstance(module, nn.Sequential))


def _fuse(sequence: nn.Sequential) -> None:
    """Puts fused modules in the place of the layers that they fuse; the numbers of the other layers stay."""
    for number in range(len(sequence) - 1):
        before, layer, after = sequence[number - 1] if number else None, sequence[number], sequence[number + 1]
        if type(layer) is nn.BatchNorm2d and isinstance(after, nn.SiLU) and _plain(layer):
            norm = NormSwish(layer)
            sequence[number], sequence[number + 1] = norm, nn.Identity()
            if type(before) is nn.Conv2d and ConvNormSwish.fits(before):
                sequence[number - 1], sequence[number] = ConvNormSwish(before, norm), nn.Identity()
        elif type(before) is GlobalAverage and type(layer) is nn.Dropout and type(after) is nn.Linear and Head.fits(layer, after):
            sequence[number - 1], sequence[number], sequence[number + 1] = Head(layer, after), nn.Identity(), nn.Identity()
    row: list[tuple[int, nn.Module]] = []  # fused layers with nothing between them
    for number, module in [*enumerate(sequence), (len(sequence), None)]:
        if isinstance(module, (ConvNormSwish, Head)):
            row.append((number, module))
        elif type(module) is not nn.Identity:
            if len(row) > 1:
                for place, _ in row:
                    sequence[place] = nn.Identity()
                sequence[row[0][0]] = Chain(*(link for _, link in row))
            row.clear()


def _plain(norm: nn.BatchNorm2d) -> bool:
    plain = norm.affine and norm.track_running_stats and norm.momentum is not None and norm.weight.dtype == torch.float32
    return plain and norm.weight.device.type == "cpu"
