"""Tasks made cheaper for a protocol that measures in passing: on images of fewer pixels, or on a share of each batch.

Both keep what a rule meets: the model with all of its parameters, the examples, the loss. What changes is what a step costs.
"""

from dataclasses import fields, replace
from typing import Any, cast

from torch import Tensor

from optevolve.records import Split
from optevolve.tasks.base import Batch, Task
from optevolve.tasks.conditions import Wrapper, around, batch_option, inside, with_batch_size

__all__ = ["made_cheaper", "resolution", "with_batch_share", "with_resolution_share"]

_FEWEST = 8  # examples of a batch below which a share of it is not taken: batch norm needs some


def made_cheaper(task: Task, resolution_share: float, batch_share: float) -> Task:
    """The task on smaller images if it has a resolution, else on smaller batches.

    Not both: the gradients of a rule's whole batches are as noisy as they will be in earnest, and learning rates are chosen for that noise.

    Args:
        task: any.
        resolution_share: see `with_resolution_share`; 1 leaves it to the batches.
        batch_share: see `with_batch_share`.
    """
    scaled = with_resolution_share(task, resolution_share)
    return with_batch_share(task, batch_share) if scaled is task else scaled


def with_batch_share(task: Task, share: float) -> Task:
    """The task with training batches of a share of their examples, at least eight of them where there are so many.

    A task is left as it is if it is a function without examples, or if its batches are nothing that can be put together anew.

    Args:
        task: any.
        share: above 0, at most 1.
    """
    if share == 1 or not task.has_examples:
        return task
    size = batch_option(inside(task))
    if size == 0:  # a whole pass, in some tasks
        return task
    if size is None:
        first: Any = next(iter(task.batches(Split.TRAIN, 0)), None)
        if not isinstance(first, Batch) or not all(isinstance(part, Tensor) and part.dim() for part in cast(tuple[Any, ...], first)):
            return task
        size = len(first.y)
    return with_batch_size(task, max(min(size, _FEWEST), round(size * share)))


def with_resolution_share(task: Task, share: float) -> Task:
    """The task with images of a share of their edge, but of no fewer pixels than its `least_resolution`, if it has one.

    That is for tasks with an option `resolution`, pixels along an edge; others are left as they are. All splits are changed alike, so
    that scores are those of the smaller images.

    Args:
        task: any.
        share: above 0, at most 1.
    """
    edge, inner = resolution(task), _innermost(task)
    if edge is None:
        return task
    smaller = max(min(edge, int(getattr(inner, "least_resolution", 1))), round(edge * share))
    return task if smaller == edge else around(task, inner, replace(inner, resolution=smaller))  # type: ignore[call-arg]  # has it


def resolution(task: Task) -> int | None:
    """Pixels along an edge of the images that a task scales, by its option `resolution`; None if it has none."""
    inner = _innermost(task)
    own = any(field.name == "resolution" and field.init for field in fields(inner))
    return int(inner.resolution) if own else None  # type: ignore[attr-defined]  # a field of the subclass, as just seen


def _innermost(task: Task) -> Task:
    while isinstance(task, Wrapper):
        task = task.task
    return task
