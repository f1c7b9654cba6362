"""Image data sets: one row for each, with where it comes from, how it is split, and under which terms it may be used."""

from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["CALTECH101", "CARS196", "CIFAR10", "CIFAR100", "EUROSAT", "FLOWERS102", "PATHMNIST", "TINYIMAGENET", "Colour", "ImageSet"]

Colour: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True)
class ImageSet:
    """A labelled set of colour images.

    Attributes:
        name: its folder in the data folder.
        hub: its name on the Hugging Face Hub; empty if it is not there as parquet.
        classes: labels are 0 … classes − 1.
        licence, citation: terms of use, and whom to cite.
        image, label: columns of the parquet files.
        size: edge of the square images in pixels; None where they differ.
        mean, deviation: of red, green and blue over the training images, of 255.
        validation: a split of its own, "last tenth" of the training file (where it is shuffled), or "every tenth" image of it.
        test: name of the test split.
    """

    name: str
    hub: str
    classes: int
    licence: str
    citation: str
    image: str = "image"
    label: str = "label"
    size: int | None = None
    mean: Colour = (123.7, 116.3, 103.5)  # of ImageNet, as is the deviation
    deviation: Colour = (58.4, 57.1, 57.4)
    validation: str = "every tenth"
    test: str = "test"

    @property
    def source(self) -> str:
        """Where the data come from, in words."""
        if not self.hub:
            return f"{self.name}.npz of its authors, or parquet files in {self.name}/, in the data folder"
        return f"{self.hub} on the Hugging Face Hub, or {self.name}/ in the data folder"


CIFAR10 = ImageSet(
    name="cifar10",
    hub="uoft-cs/cifar10",
    classes=10,
    licence="none stated by the authors; research use",
    citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    image="img",
    size=32,
    mean=(125.3, 123.0, 113.9),
    deviation=(63.0, 62.1, 66.7),
    validation="last tenth",
)

CIFAR100 = ImageSet(
    name="cifar100",
    hub="uoft-cs/cifar100",
    classes=100,
    licence="none stated by the authors; research use",
    citation="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images",
    image="img",
    label="fine_label",
    size=32,
    mean=(129.3, 124.1, 112.4),
    deviation=(68.2, 65.4, 70.4),
    validation="last tenth",
)

TINYIMAGENET = ImageSet(
    name="tinyimagenet",
    hub="zh-plus/tiny-imagenet",
    classes=200,
    licence="ImageNet's terms of access: non-commercial research",
    citation="Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge",
    size=64,
    test="valid",  # the labels of its own test split were never published
)

FLOWERS102 = ImageSet(
    name="flowers102",
    hub="dpdl-benchmark/oxford_flowers102",
    classes=102,
    licence="none stated by the authors; research use",
    citation="Nilsback and Zisserman 2008, Automated Flower Classification over a Large Number of Classes",
    validation="validation",
)

CARS196 = ImageSet(
    name="cars196",
    hub="tanganke/stanford_cars",
    classes=196,
    licence="ImageNet's terms of access: non-commercial research",
    citation="Krause et al. 2013, 3D Object Representations for Fine-Grained Categorization",
)

CALTECH101 = ImageSet(
    name="caltech101",
    hub="dpdl-benchmark/caltech101",
    classes=102,  # with the background class
    licence="CC BY 4.0",
    citation="Li et al. 2004, Learning Generative Visual Models from Few Training Examples; doi 10.22002/D1.20086",
)

EUROSAT = ImageSet(
    name="eurosat",
    hub="blanchon/EuroSAT_RGB",
    classes=10,
    licence="MIT; Copernicus Sentinel data, free and open",
    citation="Helber et al. 2019, arXiv 1709.00029",
    size=64,
    mean=(87.8, 97.0, 104.0),
    deviation=(51.9, 34.8, 29.3),
    validation="validation",
)

PATHMNIST = ImageSet(
    name="pathmnist",
    hub="",
    classes=9,
    licence="CC BY 4.0",
    citation="Yang et al. 2023, doi 10.1038/s41597-022-01721-8; Kather et al. 2019, doi 10.1371/journal.pmed.1002730",
    size=28,
    mean=(188.8, 135.9, 180.0),
    deviation=(31.5, 45.1, 31.7),
    validation="val",
)
