"""Fused layers in a row as one step of autograd: a small ConvNet is then one call forward and one backward, whatever its depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Chain", "Link", "Way", "as_one_step", "back_through", "links_of", "run_through"]


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


Way: TypeAlias = list[tuple[Link, Any]]  # the layers that a forward pass went through, with what each needs on the way back


def run_through(links: Sequence[Link], x: Tensor) -> tuple[Tensor, Way]:
    """Forward pass: what the layers make of an input that the first of them takes, and the way back."""
    way: Way = []
    for link in links:
        x, kept = link.run(x)
        way.append((link, kept))
    return x, way


def back_through(way: Way, dy: Tensor, needs_input: bool) -> tuple[Tensor | None, list[Tensor]]:
    """Backward pass: gradients of the input, None if it is not needed, and of the layers' parameters in their order."""
    gradients: list[Tensor] = []
    slope: Tensor | None = dy
    for number, (link, kept) in reversed(list(enumerate(way))):
        assert slope is not None
        slope, own = link.back(kept, slope, number > 0 or needs_input)
        gradients[:0] = own
    return slope, gradients


class _Apply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, links: Sequence[Link], *_: Tensor) -> Tensor:
        x, ctx.way = run_through(links, x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Any:
        slope, gradients = back_through(ctx.way, dy, ctx.needs_input_grad[0])
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


def links_of(model: nn.Module) -> tuple[Link, ...] | None:
    """The layers of a model that is one chain and nothing else, so that its passes can be taken without autograd; None of any other.

    That nobody listens in belongs to it: no hooks on modules or parameters. So does that every parameter is learned, by one layer alone.
    """
    if not isinstance(model, nn.Sequential) or type(model).forward is not nn.Sequential.forward:
        return None
    layers = [module for module in model if type(module) is not nn.Identity]
    if len(layers) != 1 or not isinstance(layers[0], Chain):
        return None
    links = layers[0].links
    learned = [id(parameter) for link in links for parameter in link.learned()]
    heard = any(
        hooks
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    ) or any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters())
    whole = sorted(learned) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    return links if whole and not heard else None
