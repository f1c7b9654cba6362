"""How a step is computed: precision of the forward pass, fused layers, a flat optimizer. The numbers differ from plain torch by rounding.

`torch.compile` of forward and backward is not used: it takes tens of seconds in every worker. The fused layers are C++ that is compiled
once on a machine and serves all candidates; docs/results/training.md has their figures.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from optevolve.config import Compute, Protocol
from optevolve.errors import ConfigError
from optevolve.tasks import Batch
from optevolve.tasks.networks import GlobalAverage
from optevolve.training.chain import Chain
from optevolve.training.convolution import ConvNormSwish
from optevolve.training.elements import has_bfloat16
from optevolve.training.head import Head
from optevolve.training.norm_swish import NormSwish, available

__all__ = ["PLAIN", "Engine", "device_of", "precision_of"]

_DEVICES: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available, "cpu": lambda: True}


def device_of(wanted: str) -> str:
    """The device that is meant on this machine: "auto" is the first of cuda, mps and cpu that torch finds.

    Raises:
        ConfigError: if the one that is named is not here.
    """
    if wanted == "auto":
        return next(name for name, is_here in _DEVICES.items() if is_here())
    if not _DEVICES[wanted]():
        found = [name for name, is_here in _DEVICES.items() if is_here()]
        raise ConfigError(
            f"Expected a device {wanted!r} on {socket.gethostname()}, got a machine where torch sees {' and '.join(found)} alone. Choose "
            "--device auto or cpu, or install a torch and a driver for that device; on Ray, also set workers.gpus."
        )
    return wanted


def precision_of(protocol: Protocol, device: str = "cpu") -> str:
    """What a protocol's precision means on a device of this machine: "float32" or "bf16"."""
    if protocol.precision != "auto":
        return protocol.precision
    has_bf16: dict[str, Callable[[], bool]] = {"cpu": has_bfloat16, "cuda": torch.cuda.is_bf16_supported, "mps": lambda: False}
    return "bf16" if has_bf16[device]() else "float32"


@dataclass(frozen=True)
class Engine:
    """How the steps of a training are computed.

    Attributes:
        precision: "float32", or "bf16": forward pass under autocast, weights, gradients and optimizer in float32.
        fused: batch norm and swish as one kernel, where there is a compiler; numbers differ by rounding.
        flat: the optimizer keeps all parameters in one buffer.
        device: "cpu", "cuda" or "mps", where models and batches are put.
        graph: on a GPU, forward and backward pass of runs trained together are one CUDA graph.
    """

    precision: str = "float32"
    fused: bool = False
    flat: bool = False
    device: str = "cpu"
    graph: bool = False

    @staticmethod
    def of(protocol: Protocol, compute: Compute = Compute()) -> Engine:  # noqa: B008 - immutable
        """The engine for a protocol, on this machine.

        Raises:
            ConfigError: if the run wants a device that is not here.
        """
        device = device_of(compute.device)
        on_cuda = device == "cuda"
        return Engine(precision_of(protocol, device), protocol.compile, protocol.compile, device, graph=on_cuda and protocol.compile)

    def prepare(self, model: nn.Module, only_called: bool = True) -> nn.Module:
        """The model on the device, its layers fused in place where that is asked for and can be; the order of its parameters stays.

        Args:
            model: to be trained.
            only_called: whether loss and score do nothing with the model but call it; else its layers must stay what they are.
        """
        model = model.to(self.device)
        if self.fused and only_called and available():
            for sequence in list(_sequences(model)):
                _fuse(sequence)
        return model

    @contextmanager
    def forked_rng(self) -> Iterator[None]:
        """Puts torch's random states back at the end, the CPU's and the device's."""
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.device == "cuda" else []):
            before = torch.mps.get_rng_state() if self.device == "mps" else None
            try:
                yield
            finally:
                if before is not None:
                    torch.mps.set_rng_state(before)

    def place(self, batch: Batch) -> Batch:
        """The batch on the device."""
        return batch if self.device == "cpu" else type(batch)(*(value.to(self.device, non_blocking=True) for value in batch))

    def autocast(self) -> AbstractContextManager[object]:
        """Surrounds the forward pass."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


PLAIN = Engine()


def _sequences(module: nn.Module) -> Iterator[nn.Sequential]:
    """Rows of layers of which nothing is asked but what comes out at the end; a module of somebody else's may ask its layers one by one."""
    if type(module).forward is nn.Sequential.forward:
        assert isinstance(module, nn.Sequential)
        yield module
    elif not type(module).__module__.startswith("optevolve."):
        return
    for child in module.children():
        yield from _sequences(child)


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
