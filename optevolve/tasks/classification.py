"""What classification tasks share: cross-entropy, accuracy, and batches from tensors held in memory."""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from optevolve.records import Split
from optevolve.tasks.base import Batch, NumberedBatch, Task, require_counts

__all__ = ["Classification", "digits_splits", "in_memory_batches"]

_GATHERED = 2048  # examples


@dataclass(frozen=True)
class Classification(Task):
    """A task whose model gives logits, shape (batch, classes): mean cross-entropy, accuracy in [0, 1].

    Whole-number options are at least 1.
    """

    scores_accuracy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_counts(self)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model(batch.x), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return (cast(Tensor, model(batch.x)).argmax(-1) == batch.y).float().mean()


def in_memory_batches(x: Tensor, y: Tensor, split: Split, seed: int, batch_size: int) -> Iterator[Batch]:
    """One pass over tensors, first axis the examples: shuffled by `seed` in training, whole and in order otherwise.

    A training pass leaves out the last, incomplete batch (unless it is the only one), so that every step costs and weighs the same.
    """
    order = torch.arange(len(x))
    if split == Split.TRAIN:
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        order = order[: max(len(x) // batch_size, 1) * batch_size]
    else:
        batch_size = 512
    for several in torch.split(order, batch_size * max(1, _GATHERED // batch_size)):  # gathered at once: calls cost more than copies
        parts = (x.index_select(0, several), y.index_select(0, several), several)
        for batch in zip(*(torch.split(part, batch_size) for part in parts), strict=True):
            yield NumberedBatch.of(*batch)


@cache
def digits_splits() -> dict[Split, tuple[Tensor, Tensor]]:
    """Scikit-learn's 1,797 digits, x of shape (n, 1, 8, 8) standardised by the training part, y in 0…9; fixed stratified 60/20/20 parts."""
    from sklearn.datasets import load_digits  # slow to import, with pandas and more
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train_x, rest_x, train_y, rest_y = train_test_split(images, labels, test_size=0.4, stratify=labels, random_state=0)
    valid_x, test_x, valid_y, test_y = train_test_split(rest_x, rest_y, test_size=0.5, stratify=rest_y, random_state=0)
    mean, deviation = train_x.mean(), train_x.std()
    parts = {Split.TRAIN: (train_x, train_y), Split.VALID: (valid_x, valid_y), Split.TEST: (test_x, test_y)}
    return {
        split: (torch.tensor((x - mean) / deviation, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y, dtype=torch.int64))
        for split, (x, y) in parts.items()
    }
