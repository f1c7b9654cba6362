"""Images, classified by the surrogate's small convolutional network."""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from optevolve.records import Split
from optevolve.tasks.augment import crop_and_flip, cutout
from optevolve.tasks.base import Batch, NumberedBatch
from optevolve.tasks.classification import Classification, digits_splits, in_memory_batches
from optevolve.tasks.data import images

__all__ = ["Cifar10ConvNet", "ConvNet", "Digits"]


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
        layers += [_GlobalAverage(), nn.Dropout(dropout), nn.Linear(channels[-1], classes)]
        super().__init__(*layers)
        for layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub leaves it out


class _GlobalAverage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@dataclass(frozen=True)
class Digits(Classification):
    """Scikit-learn's 8x8 digits, two convolutions; 1,078 images to train, 359 to validate, 360 to test. No network, no files.

    Options: `width`, channels of the first convolution (the second has twice as many); `batch_size`.
    """

    summary: ClassVar[str] = "8x8 handwritten digits, small ConvNet"
    data_source: ClassVar[str] = "bundled with scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"
    citation: ClassVar[str] = "Alpaydin and Kaynak 1998, doi 10.24432/C50P49"
    floors: ClassVar[tuple[float, float] | None] = (0.25, 0.40)

    width: int = 16
    batch_size: int = 64

    def model(self) -> nn.Module:
        return ConvNet((1, self.width, 2 * self.width), (1, 2), classes=10, dropout=0.2)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return in_memory_batches(*digits_splits()[split], split, seed, self.batch_size)


@dataclass(frozen=True)
class Cifar10ConvNet(Classification):
    """The paper's surrogate: CIFAR-10 and a ConvNet of `width`, 2·`width` and 4·`width` channels.

    The last tenth of the training file (5,000 images) is the validation split; the test file is read for Split.TEST alone. With `augment`,
    training images are reflect-padded by 4 and cropped at random, mirrored half the time, and lose an 8x8 square (set to the mean).

    Source: method section 4 (width 32 for the initial population; 48 with augmentation in the evolution).
    """

    summary: ClassVar[str] = "CIFAR-10, the paper's surrogate ConvNet"
    data_source: ClassVar[str] = "uoft-cs/cifar10 on the Hugging Face Hub, or cifar10/ in the data folder"
    licence: ClassVar[str] = "none stated by the authors; research use"
    citation: ClassVar[str] = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
    floors: ClassVar[tuple[float, float] | None] = (0.25, 0.40)

    width: int = 32
    augment: bool = False
    batch_size: int = 128

    def model(self) -> nn.Module:
        return ConvNet((3, self.width, 2 * self.width, 4 * self.width), (1, 2, 2), classes=10, dropout=0.2)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        pixels, labels = images("cifar10", "test" if split == Split.TEST else "train", hub="uoft-cs/cifar10", image="img", label="label")
        held_out = len(pixels) // 10
        if split != Split.TRAIN:
            start = 0 if split == Split.TEST else len(pixels) - held_out
            for first in range(start, len(pixels), 500):
                yield Batch(_normalise(pixels[first : first + 500]), labels[first : first + 500])
            return
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(pixels) - held_out, generator=generator)
        for index in torch.split(order[: max(len(order) // self.batch_size, 1) * self.batch_size], self.batch_size):
            if self.augment:
                x = cutout(_normalise(crop_and_flip(pixels, index, 4, generator)), 8, generator)
            else:
                x = _normalise(pixels.index_select(0, index))
            yield NumberedBatch.of(x, labels[index], index)


def _normalise(pixels: Tensor) -> Tensor:
    """Bytes, shape (n, height, width, 3), as floats of mean 0 and deviation 1 or about, shape (n, 3, height, width), channels last."""
    mean = torch.tensor([125.3, 123.0, 113.9])
    deviation = torch.tensor([63.0, 62.1, 66.7])
    return pixels.float().sub_(mean).div_(deviation).permute(0, 3, 1, 2)
