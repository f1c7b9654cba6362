"""Dropout whose masks are drawn outside the model, so that a vectorised step has nothing random in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["MaskedDropout", "Masks"]


class _Call(NamedTuple):
    """One use of dropout in a forward pass: its rate, and the shape, type and device of what it is applied to."""

    rate: float
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


class Masks:
    """The masks of a forward pass, in the order in which its dropouts use them.

    A pass is recorded once, to learn how many masks of which shapes it takes; from then on masks are drawn and fed before each pass.
    """

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._fed: Iterator[Tensor] | None = None

    def record(self) -> None:
        """The next pass is recorded; its dropouts let everything through."""
        self.calls = []
        self._fed = None

    def draw(self, generator: torch.Generator) -> list[Tensor]:
        """Masks for one pass, of 0 and 1 / (1 - rate); on the CPU those that torch's own dropout would draw from this generator."""
        masks = []
        for rate, shape, dtype, device in self.calls:
            mask = torch.empty(shape, dtype=dtype, device=device).bernoulli_(1 - rate, generator=generator)
            masks.append(mask if rate == 1 else mask.div_(1 - rate))
        return masks

    def feed(self, masks: Sequence[Tensor]) -> None:
        """What the next pass uses, one mask per use of dropout."""
        self._fed = iter(masks)

    def take(self, x: Tensor, rate: float) -> Tensor:
        """The mask for an input."""
        if self._fed is not None:
            return next(self._fed)
        self.calls.append(_Call(rate, x.shape, x.dtype, x.device))
        return torch.ones_like(x)


class MaskedDropout(nn.Dropout):
    """`nn.Dropout` with masks from `Masks`."""

    def __init__(self, rate: float, masks: Masks) -> None:
        super().__init__(rate)
        self.masks = masks

    def forward(self, x: Tensor) -> Tensor:
        """Input and output of one shape."""
        return x * self.masks.take(x, self.p) if self.training and self.p > 0 else x

    @staticmethod
    def replace_in(model: nn.Module, masks: Masks) -> None:
        """Puts itself in the place of every `nn.Dropout` of a model."""
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if type(child) is nn.Dropout:
                    setattr(module, name, MaskedDropout(child.p, masks).train(child.training))
