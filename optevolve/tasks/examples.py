"""Examples one by one: which ones a batch holds, numbers drawn for each that never change, and batches put together anew."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from optevolve.tasks.base import Batch, NumberedBatch

__all__ = ["example_keys", "mixed", "numbers_of", "picked", "regrouped", "uniform"]


def numbers_of(batch: Batch) -> Tensor | None:
    """Numbers of the examples, or None where the task does not give them."""
    return batch.numbers if isinstance(batch, NumberedBatch) else None


def picked(batch: Batch, chosen: Tensor) -> Batch:
    """The examples of a batch that a mask, shape (batch,), chooses."""
    numbers = numbers_of(batch)
    return NumberedBatch.of(batch.x[chosen], batch.y[chosen], None if numbers is None else numbers[chosen.to(numbers.device)])


def regrouped(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """The same examples in batches of `size`; the last, incomplete one is left out unless it is the only one."""
    waiting: list[Batch] = []
    given = False
    for batch in batches:
        waiting.append(batch)
        if sum(len(part.y) for part in waiting) < size:
            continue
        whole = _joined(waiting)
        full = len(whole.y) // size * size
        for first in range(0, full, size):
            yield _part(whole, first, first + size)
            given = True
        waiting = [_part(whole, full, len(whole.y))]
    rest = [part for part in waiting if len(part.y)]
    if rest and not given:
        yield _joined(rest)


def _joined(parts: list[Batch]) -> Batch:
    known = [numbers for part in parts if (numbers := numbers_of(part)) is not None]
    numbers = torch.cat(known) if len(known) == len(parts) else None
    return NumberedBatch.of(torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts]), numbers)


def _part(batch: Batch, first: int, last: int) -> Batch:
    numbers = numbers_of(batch)
    return NumberedBatch.of(batch.x[first:last], batch.y[first:last], None if numbers is None else numbers[first:last])


def example_keys(batch: Batch) -> npt.NDArray[np.uint64]:
    """A hash of each example's number, of the same shape, or of its input's bytes, shape (batch,)."""
    numbers = numbers_of(batch)
    if numbers is not None:
        return mixed(numbers.cpu().numpy().astype(np.uint64))
    content = batch.x.detach().cpu().contiguous().view(len(batch.x), -1).view(torch.uint8).numpy().astype(np.uint64)
    weights = mixed(np.arange(1, content.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    return mixed((content * weights).sum(axis=1, dtype=np.uint64))


def uniform(keys: npt.NDArray[np.uint64], stream: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that look random, one for each key; streams are independent of each other."""
    return np.ldexp((mixed(keys ^ mixed(np.array([stream + 1], np.uint64))) >> np.uint64(11)).astype(np.float64), -53)


def mixed(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijection of 64-bit integers under which neighbours part. Source: Steele et al. 2014, doi 10.1145/2714064.2660195 (SplitMix64)."""
    keys = keys + np.uint64(0x9E3779B97F4A7C15)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
