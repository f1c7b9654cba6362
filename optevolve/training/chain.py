"""Fused layers in a row as one step of autograd: a small ConvNet is then one call forward and one backward, whatever its depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Chain", "Link", "as_one_step"]


class Link(Protocol):
    """A layer with a forward and a backward pass of its own, which autograd does not look into."""

    def learned(self) -> tuple[Tensor, ...]:
        """Its parameters, in the order in which `back` gives their gradients."""
        ...

    def takes(self, x: Tensor) -> bool:
        """Whether the layer's own passes take this input; they then take what an earlier link makes of it, too."""
        ...

    def run(self, x: Tensor) -> tuple[Tensor, Any]:
        """The output, and what the way back needs."""
        ...

    def back(self, kept: Any, dy: Tensor, needs_input: bool) -> tuple[Tensor | None, tuple[Tensor, ...]]:
        """Gradients of the input, None if it is not needed, and of the parameters."""
        ...


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, links: Sequence[Link], *_: Tensor) -> Tensor:
        ctx.way = []
        for link in links:
            x, kept = link.run(x)
            ctx.way.append((link, kept))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        gradients: list[Tensor] = []
        slope: Tensor | None = dy
        for number, (link, kept) in reversed(list(enumerate(ctx.way))):
            assert slope is not None
            slope, own = link.back(kept, slope, number > 0 or ctx.needs_input_grad[0])
            gradients[:0] = own
        return slope, None, *gradients


def as_one_step(links: Sequence[Link], x: Tensor) -> Tensor:
    """What the layers make of an input that the first of them takes, one after the other."""
    learned = [parameter for link in links for parameter in link.learned()]
    return cast(Tensor, _Apply.apply(x, links, *learned))  # type: ignore[no-untyped-call]


class Chain(nn.Sequential):
    """Layers in a row, in one step of autograd where their own passes can take the input, else one by one.

    Args:
        links: at least one, each a `Link`.
    """

    def __init__(self, *links: nn.Module) -> None:
        super().__init__(*links)
        self.links = cast(tuple[Link, ...], links)

    def forward(self, x: Tensor) -> Tensor:
        """Input of the first layer, output of the last."""
        if all(link.takes(x) for link in self.links):
            return as_one_step(self.links, x)
        return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
