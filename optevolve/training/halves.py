"""A validation split in two halves that share nothing: one for choices, one for the number that is reported of what was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import Literal, TypeAlias

from optevolve.tasks import Batch

__all__ = ["Part", "part_of"]

Part: TypeAlias = Literal["all", "choice", "judgement", "both"]

_FEW = 8  # batches; each half of a split of fewer has as many of its own


def part_of(batches: Iterator[Batch], part: Part) -> Iterator[Batch]:
    """The batches of one part.

    Batches go to the two halves in turns. Of a split of a few batches the examples do, along the first axis, and each half has them in
    more batches, so that these show how much chance there is in its mean; a split of a single batch that cannot be parted serves for
    both, as on tasks that are one exact function. "both" is all of the split, a short one in the batches of its halves.
    """
    if part == "all":
        yield from batches
        return
    halves = {"choice": (0,), "judgement": (1,), "both": (0, 1)}[part]
    first = list(islice(batches, _FEW))
    if len(first) < _FEW and all(map(_can_be_parted, first)):
        for batch in first:
            for half in halves:
                yield from _examples(batch, half, math.ceil(_FEW / len(first)))
        return
    for number, batch in enumerate(chain(first, batches)):
        if number % 2 in halves or len(first) == 1:
            yield batch


def _examples(batch: Batch, half: int, pieces: int) -> Iterator[Batch]:
    """Every other example, from the first or the second on, in batches of nearly one size, as many as asked for or possible."""
    stride = 2 * min(pieces, len(batch[0]) // 2)
    for first in range(half, stride, 2):
        yield type(batch)(*(value[first::stride] for value in batch))


def _can_be_parted(batch: Batch) -> bool:
    """Whether all that the batch holds has the same number of examples, at least two, along its first axis."""
    return all(value.dim() for value in batch) and len({len(value) for value in batch}) == 1 and len(batch[0]) > 1
