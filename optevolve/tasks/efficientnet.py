"""EfficientNetV2-S from timm: from scratch on small images, fine-tuned from ImageNet on photographs.

timm is imported here alone, and when a model is made, so that everything else works without it.
"""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from optevolve.errors import DataError, TaskError
from optevolve.tasks.image_sets import CALTECH101, CARS196, CIFAR10, CIFAR100, FLOWERS102, TINYIMAGENET, ImageSet
from optevolve.tasks.vision import ImageTask, ScalableImageTask

__all__ = [
    "Caltech101EffNet",
    "Cars196EffNet",
    "Cifar10EffNet",
    "Cifar100EffNet",
    "EffNetTask",
    "FineTunedEffNetTask",
    "Flowers102EffNet",
    "TinyImageNetEffNet",
]


@dataclass(frozen=True)
class EffNetTask(ImageTask):
    """EfficientNetV2-S from scratch. Its first convolution has stride 1 in place of 2, so that images of 32 or 64 pixels fill the network.

    Option `network`: any model of timm whose first convolution is called conv_stem (the EfficientNets).

    Source: Tan and Le, arXiv 2104.00298; method section 6.
    """

    augment: bool = True
    network: str = "efficientnetv2_s"
    dropout: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_dropout(self.dropout)

    def model(self) -> nn.Module:
        network = _create(self.network, num_classes=self.image_set.classes, drop_rate=self.dropout)
        stem = getattr(network, "conv_stem", None)
        if not isinstance(stem, nn.Conv2d):
            raise TaskError(f"Option 'network' names an EfficientNet of timm; {self.network!r} has no convolution conv_stem.")
        stem.stride = (1, 1)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stub leaves it out


@dataclass(frozen=True)
class FineTunedEffNetTask(ScalableImageTask):
    """EfficientNetV2-S fine-tuned: weights from ImageNet, a new last layer, all of it trained.

    Options:
        network: a model of timm with its weights' tag.
        weights: "hub" fetches them from the Hugging Face Hub (once: they stay in its cache); a path is a .safetensors or .pth file of them;
            "none" starts from random ones.
        resolution: edge in pixels to which photographs are scaled and cropped.

    Source: method section 6.
    """

    least_resolution: ClassVar[int] = 32

    augment: bool = True
    batch_size: int = 64
    network: str = "tf_efficientnetv2_s.in1k"
    weights: str = "hub"
    resolution: int = 224
    dropout: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_dropout(self.dropout)

    def model(self) -> nn.Module:
        classes = self.image_set.classes
        options: dict[str, Any] = {"num_classes": classes, "drop_rate": self.dropout}
        if self.weights == "none":
            network = _create(self.network, **options)
        elif self.weights == "hub":
            network = _create(self.network, pretrained=True, **options)
        else:
            network = _create(self.network, pretrained=True, pretrained_cfg_overlay={"file": str(_weights_file(self.weights))}, **options)
        config: dict[str, Any] = getattr(network, "pretrained_cfg", None) or {}
        expected = [255 * torch.tensor(config.get(key, (0.5, 0.5, 0.5))) for key in ("mean", "std")]
        model = nn.Sequential(_Rescale(self.image_set, *expected), network)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]  # torch's stub leaves it out


class _Rescale(nn.Module):
    """From the image set's normalisation to the one that the weights were trained with."""

    def __init__(self, image_set: ImageSet, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", (torch.tensor(image_set.deviation) / deviation).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", ((torch.tensor(image_set.mean) - mean) / deviation).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.get_buffer("factor") + self.get_buffer("shift")


def _require_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise TaskError(f"Option 'dropout' is from 0 to below 1; found {dropout:g}.")


def _weights_file(weights: str) -> Path:
    places = [Path(weights).expanduser()]
    if data := os.environ.get("OPTEVOLVE_DATA"):
        places.append(Path(data) / weights)
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"No file {' or '.join(map(str, places))}. Option 'weights' is hub, none, or the path of a .safetensors or .pth file.")


def _create(network: str, **options: Any) -> nn.Module:
    """A model of timm.

    Raises:
        TaskError: if timm is missing or does not import, knows no such model, or the weights do not fit.
        DataError: if weights cannot be fetched.
    """
    try:
        import timm
    except (ImportError, RuntimeError, AttributeError) as error:  # a torchvision built for another torch raises the latter two
        raise TaskError(
            f"EfficientNets need timm, which could not be imported ({type(error).__name__}: {error}). Install the vision extra, with a "
            "torchvision of the same build as torch: pip install 'optevolve[vision]'."
        ) from error
    name, _, tag = network.partition(".")
    if not timm.is_model(name) or (tag and network not in timm.list_pretrained(f"{name}.*")):
        raise TaskError(f"timm {timm.__version__} has no model {network!r}; timm.list_models('*efficientnetv2*') lists some.")
    fetched = bool(options.get("pretrained")) and "pretrained_cfg_overlay" not in options
    if fetched and not timm.is_model_pretrained(network):
        raise TaskError(f"timm has no weights of {network!r}. Choose another network, or give weights=PATH or weights=none.")
    try:
        model: nn.Module = timm.create_model(network, **options)
    except Exception as error:  # what the network raises has many types, and the cause stays attached
        if fetched:
            raise DataError(
                f"The weights of {network} could not be fetched from the Hub: {type(error).__name__}: {error}. Check the network; or put "
                f"model.safetensors of timm/{network} on the Hub into a folder and give weights=PATH; or weights=none to start without."
            ) from error
        raise TaskError(f"timm could not make {network} with {options}: {type(error).__name__}: {error}.") from error
    return model


@dataclass(frozen=True)
class Cifar10EffNet(EffNetTask):
    """CIFAR-10; the last tenth of the training file is the validation split."""

    summary: ClassVar[str] = "CIFAR-10, EfficientNetV2-S from scratch (needs timm)"
    budget: ClassVar[str] = "20.2 million parameters; 70,000 steps of 128 images (200 passes); a GPU"
    image_set: ClassVar[ImageSet] = CIFAR10
    floors: ClassVar[tuple[float, float] | None] = (0.25, 0.40)


@dataclass(frozen=True)
class Cifar100EffNet(EffNetTask):
    """CIFAR-100's fine labels; the last tenth of the training file is the validation split."""

    summary: ClassVar[str] = "CIFAR-100, EfficientNetV2-S from scratch (needs timm)"
    budget: ClassVar[str] = "20.3 million parameters; 70,000 steps of 128 images (200 passes); a GPU"
    image_set: ClassVar[ImageSet] = CIFAR100


@dataclass(frozen=True)
class TinyImageNetEffNet(EffNetTask):
    """Tiny ImageNet: every tenth training image validates; its published validation split is the test split."""

    summary: ClassVar[str] = "Tiny ImageNet, EfficientNetV2-S from scratch (needs timm)"
    budget: ClassVar[str] = "20.4 million parameters; 70,000 steps of 128 images (100 passes); a GPU"
    image_set: ClassVar[ImageSet] = TINYIMAGENET


@dataclass(frozen=True)
class Flowers102EffNet(FineTunedEffNetTask):
    """102 flowers; train, validation and test files of its own (1,020, 1,020 and 6,149 images)."""

    summary: ClassVar[str] = "Flowers102, EfficientNetV2-S fine-tuned (needs timm)"
    budget: ClassVar[str] = "20.3 million parameters; 1,500 to 3,000 steps of 64 images (100 to 200 passes); a GPU"
    image_set: ClassVar[ImageSet] = FLOWERS102


@dataclass(frozen=True)
class Cars196EffNet(FineTunedEffNetTask):
    """196 cars; every tenth training image validates."""

    summary: ClassVar[str] = "Cars196, EfficientNetV2-S fine-tuned (needs timm)"
    budget: ClassVar[str] = "20.4 million parameters; 6,000 to 12,000 steps of 64 images (50 to 100 passes); a GPU"
    image_set: ClassVar[ImageSet] = CARS196


@dataclass(frozen=True)
class Caltech101EffNet(FineTunedEffNetTask):
    """101 kinds of objects and a background class, 30 training images each; every tenth of them validates."""

    summary: ClassVar[str] = "Caltech101, EfficientNetV2-S fine-tuned (needs timm)"
    budget: ClassVar[str] = "20.3 million parameters; 2,000 to 4,000 steps of 64 images (50 to 100 passes); a GPU"
    image_set: ClassVar[ImageSet] = CALTECH101
