"""The one-gather crop and flip against padding, cropping and flipping one image at a time; the cutout's square."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from optevolve.tasks.augment import crop_and_flip, cutout


@given(seed=st.integers(0, 1000), height=st.integers(5, 9), width=st.integers(5, 9), padding=st.integers(0, 4))
def test_every_augmented_image_is_a_crop_of_its_padded_image(seed: int, height: int, width: int, padding: int) -> None:
    images = torch.arange(3 * height * width * 2).view(3, height, width, 2)
    index = torch.tensor([2, 0, 2, 1])
    found = crop_and_flip(images, index, padding, torch.Generator().manual_seed(seed))
    for which, image in zip(index, found, strict=True):
        padded = pad(images[which].permute(2, 0, 1)[None].float(), (padding,) * 4, mode="reflect")[0].permute(1, 2, 0)
        crops = padded.unfold(0, height, 1).unfold(1, width, 1).permute(0, 1, 3, 4, 2).flatten(0, 1)
        both = torch.cat([crops, crops.flip(2)])
        assert (both == image).flatten(1).all(1).any()


def test_crops_and_flips_vary_within_a_batch_and_reach_every_place() -> None:
    image = torch.arange(121).view(1, 11, 11, 1)
    found = crop_and_flip(image, torch.zeros(2000, dtype=torch.int64), 4, torch.Generator().manual_seed(0))
    assert len(found.unique(dim=0)) == 9 * 9 * 2


def test_the_cutout_is_one_square_wholly_inside() -> None:
    images = cutout(torch.ones(500, 3, 10, 12), 4, torch.Generator().manual_seed(0))
    gone = images == 0
    assert (gone.sum((1, 2, 3)) == 3 * 16).all()
    assert (gone.any(3).sum(2) == 4).all()
    assert (gone.any(2).sum(2) == 4).all()
    assert len(images.unique(dim=0)) == 7 * 9
