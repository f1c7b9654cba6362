"""Images: digits, and the small networks on CIFAR-10, CIFAR-100, EuroSAT (satellite) and PathMNIST (tissue)."""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optevolve.errors import DataError, TaskError
from optevolve.records import Split
from optevolve.tasks.augment import crop_and_flip, cutout
from optevolve.tasks.base import Batch, NumberedBatch
from optevolve.tasks.classification import Classification, digits_splits, in_memory_batches
from optevolve.tasks.data import Images, images
from optevolve.tasks.image_sets import CIFAR10, CIFAR100, EUROSAT, PATHMNIST, Colour, ImageSet
from optevolve.tasks.networks import ConvNet, ResNet
from optevolve.tasks.transformers import VisionTransformer

__all__ = [
    "Cifar10ConvNet",
    "Cifar10ResNet",
    "Cifar10ViT",
    "Cifar100ConvNet",
    "ConvNetTask",
    "Digits",
    "EurosatConvNet",
    "ImageTask",
    "PathmnistConvNet",
    "ScalableImageTask",
]


@dataclass(frozen=True)
class Digits(Classification):
    """Scikit-learn's 8x8 digits, two convolutions; 1,078 images to train, 359 to validate, 360 to test. No network, no files.

    Options: `width`, channels of the first convolution (the second has twice as many); `batch_size`.
    """

    summary: ClassVar[str] = "8x8 handwritten digits, small ConvNet"
    budget: ClassVar[str] = "5,178 parameters; 300 to 1,000 steps of 64 images"
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


@lru_cache(maxsize=32)
def _repeated(colour: Colour, pixels: int) -> Tensor:
    """The three numbers as often as an image has pixels, shape (3 * pixels,): torch is five times as slow along one of three channels."""
    return torch.tensor(colour).repeat(pixels)


@dataclass(frozen=True)
class ImageTask(Classification):
    """Batches of an image set; subclasses name the set and make the model.

    The validation split is the set's own, or a tenth of the training file; the test file is read for Split.TEST alone. With `augment`,
    training images are reflect-padded by an eighth of their size and cropped at random, mirrored half the time, and lose a square of a
    quarter of their size (set to the mean): 4 and 8 pixels at 32.

    Source: method section 4.
    """

    image_set: ClassVar[ImageSet]
    floors_from: ClassVar[int] = 800  # the paper's trials: after 100 steps tuned Adam itself is below its floors

    augment: bool = False
    batch_size: int = 128

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if row := getattr(cls, "image_set", None):
            cls.data_source, cls.licence, cls.citation = row.source, row.licence, row.citation

    def count_classes(self) -> int:
        return self.image_set.classes

    def resized(self) -> int | None:
        """Edge in pixels to which images are scaled and cropped when they are decoded; None to leave them as they are."""
        return None

    def normalised(self, pixels: Tensor) -> Tensor:
        """Bytes, shape (n, height, width, 3), as floats of mean 0 and deviation 1 or about, shape (n, 3, height, width), channels last."""
        height, width = pixels.shape[1:3]
        mean, deviation = (_repeated(colour, height * width) for colour in (self.image_set.mean, self.image_set.deviation))
        return pixels.flatten(1).float().sub_(mean).div_(deviation).view(-1, height, width, 3).permute(0, 3, 1, 2)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        (pixels, labels), chosen = self._part(split)
        height, width = pixels.shape[1:3]
        if split != Split.TRAIN:
            count = math.ceil(len(chosen) / max(16, 125 * 32 * 32 // (height * width)))
            for first in range(count):  # all over the split, however it is sorted: an interval is over the batches
                index = chosen[first::count]
                yield NumberedBatch.of(self.normalised(pixels.index_select(0, index)), labels[index], index)
            return
        generator = torch.Generator().manual_seed(seed)
        order = chosen[torch.randperm(len(chosen), generator=generator)]
        for index in torch.split(order[: max(len(order) // self.batch_size, 1) * self.batch_size], self.batch_size):
            if self.augment:
                cropped = crop_and_flip(pixels, index, height // 8, generator)
                x = cutout(self.normalised(cropped), min(height, width) // 4, generator)
            else:
                x = self.normalised(pixels.index_select(0, index))
            yield NumberedBatch.of(x, labels[index], index)

    def _part(self, split: Split) -> tuple[Images, Tensor]:
        """The file in which a split lies, and which of its images belong to it."""
        row = self.image_set
        own = row.validation not in ("last tenth", "every tenth")
        name = row.test if split == Split.TEST else row.validation if split == Split.VALID and own else "train"
        found = images(row.name, name, hub=row.hub, image=row.image, label=row.label, size=self.resized())
        if not 0 <= int(found.labels.min()) <= int(found.labels.max()) < row.classes:
            span = f"{int(found.labels.min())} to {int(found.labels.max())}"
            raise DataError(f"Labels of {row.name}/{name} should lie in 0 to {row.classes - 1}; found {span}. Is this the right data set?")
        number = torch.arange(len(found.labels))
        if split == Split.TEST or own:
            return found, number
        held_out = number >= len(number) - len(number) // 10 if row.validation == "last tenth" else number % 10 == 9
        return found, number[held_out if split == Split.VALID else ~held_out]


@dataclass(frozen=True)
class ScalableImageTask(ImageTask):
    """Images scaled to `resolution` pixels along an edge, for models that take any; by default as they are in the set."""

    least_resolution: ClassVar[int] = 8

    resolution: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution < self.least_resolution:
            name, least = type(self).__name__, self.least_resolution
            raise TaskError(f"Option 'resolution' of task {name} is at least {least}; found {self.resolution}.")

    def resized(self) -> int | None:
        return None if self.resolution == self.image_set.size else self.resolution


@dataclass(frozen=True)
class ConvNetTask(ScalableImageTask):
    """The method's ConvNet of `width`, 2·`width` and 4·`width` channels."""

    floors: ClassVar[tuple[float, float] | None] = (0.25, 0.40)

    width: int = 32

    def model(self) -> nn.Module:
        channels = (3, self.width, 2 * self.width, 4 * self.width)
        return ConvNet(channels, (1, 2, 2), classes=self.image_set.classes, dropout=0.2)


@dataclass(frozen=True)
class Cifar10ConvNet(ConvNetTask):
    """The paper's surrogate. The last tenth of the training file (5,000 images) is the validation split.

    Source: method section 4 (width 32 for the initial population; 48 with augmentation in the evolution).
    """

    summary: ClassVar[str] = "CIFAR-10, the paper's surrogate ConvNet"
    budget: ClassVar[str] = "94,762 parameters; 8,000 to 16,000 steps of 128 images (23 to 46 passes)"
    image_set: ClassVar[ImageSet] = CIFAR10


@dataclass(frozen=True)
class Cifar100ConvNet(ConvNetTask):
    """The paper's ConvNet on CIFAR-100's fine labels; the last tenth of the training file is the validation split."""

    summary: ClassVar[str] = "CIFAR-100 (fine labels), the paper's ConvNet"
    budget: ClassVar[str] = "106,372 parameters; 8,000 to 16,000 steps of 128 images (23 to 46 passes)"
    image_set: ClassVar[ImageSet] = CIFAR100
    floors: ClassVar[tuple[float, float] | None] = (0.025, 0.04)  # the same multiples of chance as on CIFAR-10


@dataclass(frozen=True)
class EurosatConvNet(ConvNetTask):
    """Land use in 64x64 satellite images; train, validation and test files of its own."""

    summary: ClassVar[str] = "EuroSAT (satellite images), the paper's ConvNet"
    budget: ClassVar[str] = "94,762 parameters; 2,000 to 5,000 steps of 128 images (16 to 40 passes)"
    image_set: ClassVar[ImageSet] = EUROSAT

    resolution: int = 64


@dataclass(frozen=True)
class PathmnistConvNet(ConvNetTask):
    """Tissue types in 28x28 histology images; train, val and test parts of its own, the test images from another clinic."""

    summary: ClassVar[str] = "PathMNIST (medical: colon tissue), the paper's ConvNet"
    budget: ClassVar[str] = "94,633 parameters; 3,000 to 7,000 steps of 128 images (4 to 10 passes)"
    image_set: ClassVar[ImageSet] = PATHMNIST

    resolution: int = 28


@dataclass(frozen=True)
class Cifar10ResNet(ScalableImageTask):
    """CIFAR-10 and a residual network: ResNet-20 at `width` 16 and `blocks` 3. `norm` is batch or group."""

    summary: ClassVar[str] = "CIFAR-10, ResNet-20 with batch or group norm"
    budget: ClassVar[str] = "272,474 parameters; 8,000 to 64,000 steps of 128 images (23 to 182 passes)"
    image_set: ClassVar[ImageSet] = CIFAR10
    floors: ClassVar[tuple[float, float] | None] = (0.25, 0.40)

    width: int = 16
    blocks: int = 3
    norm: str = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("batch", "group"):
            raise TaskError(f"Option 'norm' of task cifar10-resnet is batch or group; found {self.norm!r}.")

    def model(self) -> nn.Module:
        return ResNet(self.width, self.blocks, "batch" if self.norm == "batch" else "group", classes=10)


@dataclass(frozen=True)
class Cifar10ViT(ImageTask):
    """CIFAR-10 and a tiny vision transformer over patches of `patch` pixels."""

    summary: ClassVar[str] = "CIFAR-10, tiny vision transformer"
    budget: ClassVar[str] = "459,370 parameters; 8,000 to 35,000 steps of 128 images (23 to 100 passes)"
    image_set: ClassVar[ImageSet] = CIFAR10
    floors: ClassVar[tuple[float, float] | None] = (0.15, 0.25)  # slower at first than a ConvNet

    patch: int = 4
    width: int = 96
    depth: int = 4
    heads: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if 32 % self.patch or self.width % self.heads or not 0 <= self.dropout < 1:
            raise TaskError(f"cifar10-vit needs patch to divide 32, heads to divide width, and dropout from 0 to below 1; found {self}.")

    def model(self) -> nn.Module:
        return VisionTransformer(32, self.patch, self.width, self.depth, self.heads, 10, self.dropout)
