"""A validation split in two halves that share nothing: one for choices, one for the number that is reported of what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

from optevolve.tasks import Batch

__all__ = ["Part", "part_of"]

Part: TypeAlias = Literal["all", "choice", "judgement"]


def part_of(batches: Iterator[Batch], part: Part) -> Iterator[Batch]:
    """The batches of one part.

    Batches go to the two halves in turns. A split of a single batch is parted by its examples, along the first axis; one of a single
    example cannot be parted and serves for both, as on tasks that are one exact function.
    """
    if part == "all":
        yield from batches
        return
    own = 0 if part == "choice" else 1
    first, second = next(batches, None), next(batches, None)
    if first is None:
        return
    if second is None:
        yield _examples(first, own)
        return
    yield (first, second)[own]
    for number, batch in enumerate(batches):
        if number % 2 == own:
            yield batch


def _examples(batch: Batch, own: int) -> Batch:
    """Every other example, from the first or the second on."""
    tensors = [value for value in batch if value.dim()]
    if len(tensors) < len(batch) or len({len(value) for value in tensors}) != 1 or len(tensors[0]) < 2:
        return batch
    return type(batch)(*(value[own::2] for value in tensors))
