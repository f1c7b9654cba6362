"""Augmentation of a whole batch of images at once: crop and flip as one gather, cutout as one mask."""

import torch
from torch import Tensor

__all__ = ["crop_and_flip", "cutout"]


def crop_and_flip(images: Tensor, index: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Picks images, reflects their borders, crops each at random to its size and mirrors half of them.

    Padding, crop and mirror are arithmetic on the coordinates, so that the pixels are copied once.

    Args:
        images: pixels of any type, shape (n, height, width, channels), contiguous.
        index: which images, shape (batch,).
        padding: reflected border in pixels (the edge itself is not repeated), below the images' size.
        generator: where the randomness comes from.
    Returns:
        shape (batch, height, width, channels).
    Source: method section 4.
    """
    _, height, width, channels = images.shape
    batch = len(index)
    shift = torch.randint(-padding, padding + 1, (2, batch, 1), generator=generator)
    rows = _reflect(torch.arange(height) + shift[0], height)
    columns = _reflect(torch.arange(width) + shift[1], width)
    mirrored = torch.randint(0, 2, (batch, 1), generator=generator).bool()
    columns = torch.where(mirrored, columns.flip(1), columns)
    pixels = ((index[:, None] * height + rows)[:, :, None] * width + columns[:, None, :]).view(-1)
    return images.view(-1, channels).index_select(0, pixels).view(batch, height, width, channels)


def cutout(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Sets a square of each image to zero in place, lying wholly inside at a random position.

    Args:
        images: shape (batch, channels, height, width).
        size: edge of the square in pixels.
        generator: where the randomness comes from.
    Source: method section 4; DeVries and Taylor, arXiv 1708.04552.
    """
    batch, _, height, width = images.shape
    top = torch.randint(0, height - size + 1, (batch, 1), generator=generator)
    left = torch.randint(0, width - size + 1, (batch, 1), generator=generator)
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + size)
    inside_columns = (columns >= left) & (columns < left + size)
    return images.masked_fill_((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def _reflect(position: Tensor, size: int) -> Tensor:
    return (size - 1) - ((size - 1) - position.abs()).abs()
