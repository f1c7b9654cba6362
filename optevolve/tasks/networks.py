"""Convolutional networks of the image tasks: the method's ConvNet and a small residual network."""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = ["ConvNet", "GlobalAverage", "Norm", "ResNet"]

Norm: TypeAlias = Literal["batch", "group"]


class ConvNet(nn.Sequential):
    """3x3 convolutions, each with batch norm and swish; global average pooling, dropout, linear.

    Where the method says nothing: weights are Glorot-uniform as in Keras, which the authors used; batch norm has torch's momentum and
    epsilon (0.1, 1e-5; in Keras' terms momentum 0.9, where its default is 0.99 with epsilon 1e-3); convolutions have no bias (the batch
    norm after each removes it) and pad by one pixel on all sides.

    Args:
        channels: input channels, then the outputs of each convolution.
        strides: of each convolution.
        classes: outputs of the linear layer.
        dropout: rate before the linear layer.
    Source: method section 4.
    """

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...], classes: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs, stride in zip(channels[:-1], channels[1:], strides, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU()]
        layers += [GlobalAverage(), nn.Dropout(dropout), nn.Linear(channels[-1], classes)]
        super().__init__(*layers)
        for layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out


class ResNet(nn.Sequential):
    """Residual network for small images: a 3x3 convolution, three stages of basic blocks, global average pooling, linear.

    With `width` 16 and `blocks` 3 this is ResNet-20. Stages have `width`, 2·`width` and 4·`width` channels; the second and third halve the
    image. Where a block changes the shape, a strided 1x1 convolution with norm takes the place of the identity.

    Args:
        width: channels of the first stage.
        blocks: basic blocks per stage.
        norm: "batch", or "group" in groups of at least width/8 channels, which do not mix the examples of a batch.
        classes: outputs of the linear layer.
    Source: He et al., arXiv 1512.03385, section 4.2; Wu and He, arXiv 1803.08494 (group norm).
    """

    def __init__(self, width: int, blocks: int, norm: Norm, classes: int) -> None:
        make_norm: Callable[[int], nn.Module] = nn.BatchNorm2d if norm == "batch" else _group_norm
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False), make_norm(width), nn.ReLU()]
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width << stage
                layers.append(_Residual(inputs, outputs, 2 if stage and not block else 1, make_norm))
                inputs = outputs
        super().__init__(*layers, GlobalAverage(), nn.Linear(inputs, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out


class _Residual(nn.Module):
    """Two 3x3 convolutions around which the input is passed."""

    def __init__(self, inputs: int, outputs: int, stride: int, make_norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            make_norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            make_norm(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), make_norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.branch(x) + self.shortcut(x))


class GlobalAverage(nn.Module):
    """Mean over the pixels: (batch, channels, height, width) → (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x.mean((2, 3))


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels)
