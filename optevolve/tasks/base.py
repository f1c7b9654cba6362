"""What a task is: a model, batches, a loss and a score."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from optevolve.errors import TaskError
from optevolve.records import Split

__all__ = ["Batch", "NumberedBatch", "Task", "require_counts"]


class Batch(NamedTuple):
    """Inputs and targets, the batch along the first axis of both."""

    x: Tensor
    y: Tensor


class NumberedBatch(Batch):
    """A batch that says which examples it holds, so that a wrapper treats an example alike in every pass, however it is augmented.

    Attributes:
        numbers: of the examples, unique within the split, int64 of shape (batch,), or of y's shape where every target is an example, as in
            language models; None where they are not known.
    """

    numbers: Tensor | None = None

    @classmethod
    def of(cls, x: Tensor, y: Tensor, numbers: Tensor | None) -> "NumberedBatch":
        """A batch with its numbers."""
        batch = cls(x, y)
        batch.numbers = numbers
        return batch


@dataclass(frozen=True)
class Task(ABC):
    """Something to train. One's own is a frozen dataclass with these methods; its fields are its options (`my_tasks:Moons@width=32`).

    A task holds no state of a run: two calls with the same arguments give the same batches, in any process. Initialisation and dropout draw
    from torch's global generator, which the training loop seeds; what `batches` draws comes from its `seed` alone.

    Attributes:
        summary: one line for `optevolve tasks`.
        budget: model size and length of a full run that gives meaningful scores, in words.
        data_source, licence, citation: where the data come from, under which licence, and whom to cite.
        floors: training scores that a trial and a full run must reach lest early stopping drop the rule, in the score's units. None: a
            higher score or a lower loss than a rule that never moves. Source: method section 4 (0.25 and 0.40 on CIFAR-10).
        floors_from: steps of a trial from which on the floors hold; in shorter ones it is as if there were none.
        has_examples: whether the first axis of a batch counts examples; False for functions that are minimised as they are.
        scores_accuracy: whether the score is a share of right answers, from 0 to 1. What `Protocol.rate_slack` says is for such scores.
    """

    summary: ClassVar[str] = ""
    budget: ClassVar[str] = ""
    data_source: ClassVar[str] = ""
    licence: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    floors: ClassVar[tuple[float, float] | None] = None
    floors_from: ClassVar[int] = 0
    has_examples: ClassVar[bool] = True
    scores_accuracy: ClassVar[bool] = False

    @abstractmethod
    def model(self) -> nn.Module:
        """A freshly initialised model, drawn from torch's global generator."""

    @abstractmethod
    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        """One pass over a split, at least one batch.

        Args:
            split: which part of the data.
            seed: order and augmentation of a TRAIN pass; the loop gives every pass another one. VALID and TEST ignore it.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """What is minimised: a scalar with gradient."""

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean score of a batch, a scalar, higher is better; unless overridden, minus the loss.

        In training it is called after `loss` on the same batch, and `model(batch.x)` then gives the loss's output without a second forward
        pass.
        """
        return -self.loss(model, batch)

    def count_classes(self) -> int:
        """How many classes the targets tell apart, for wrappers that change them; unless overridden, counted on the validation split."""
        return 1 + max(int(batch.y.max()) for batch in self.batches(Split.VALID, 0))


def require_counts(task: Task) -> None:
    """Refuses whole-number options below 1.

    Raises:
        TaskError: naming the option.
    """
    for field in fields(task):
        value = getattr(task, field.name)
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise TaskError(f"Option {field.name!r} of task {type(task).__name__} is at least 1; found {value}.")
