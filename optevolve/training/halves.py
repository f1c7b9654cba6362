"""A validation split in two halves that share nothing: one for choices, one for the number that is reported of what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from optevolve.tasks import Batch

__all__ = ["Part", "part_of"]

Part: TypeAlias = Literal["all", "choice", "judgement"]

_PIECES = 8  # of each half of a split that is a single batch


def part_of(batches: Iterator[Batch], part: Part) -> Iterator[Batch]:
    """The batches of one part.

    Batches go to the two halves in turns. A split of a single batch is parted by its examples, along the first axis, which go to the two
    halves in turns, each half in several batches, so that they show how much chance there is in its mean; one of a single example cannot
    be parted and serves for both, as on tasks that are one exact function.
    """
    if part == "all":
        yield from batches
        return
    own = 0 if part == "choice" else 1
    first, second = next(batches, None), next(batches, None)
    if first is None:
        return
    if second is None:
        yield from _examples(first, own)
        return
    yield (first, second)[own]
    for number, batch in enumerate(batches):
        if number % 2 == own:
            yield batch


def _examples(batch: Batch, own: int) -> Iterator[Batch]:
    """Every other example, from the first or the second on, in batches of nearly one size."""
    tensors = [value for value in batch if value.dim()]
    if len(tensors) < len(batch) or len({len(value) for value in tensors}) != 1 or len(tensors[0]) < 2:
        yield batch
        return
    stride = 2 * min(_PIECES, len(tensors[0]) // 2)
    for first in range(own, stride, 2):
        yield type(batch)(*(value[first::stride] for value in tensors))
