"""The score of a model on a split, and how far chance in its examples may have moved it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from optevolve.errors import TaskError
from optevolve.records import Split
from optevolve.statistics import t_quantile
from optevolve.tasks import Batch, Task
from optevolve.training.engine import PLAIN, Engine
from optevolve.training.halves import Part, part_of
from optevolve.training.record import Score

__all__ = ["evaluate", "margin", "untrained_score"]


def evaluate(task: Task, model: nn.Module, split: Split, engine: Engine = PLAIN, part: Part = "all") -> Score:
    """The model's score over one pass of a split or a part of it, batches weighted by size, in evaluation mode, which is put back."""
    mode = model.training
    model.eval()
    scores: list[Tensor] = []
    sizes: list[int] = []
    with torch.no_grad(), engine.autocast():
        for batch in map(engine.place, part_of(iter(task.batches(split, 0)), part if task.has_examples else "all")):
            scores.append(task.score(model, batch))
            sizes.append(_size(batch))
    model.train(mode)
    if not scores:
        raise TaskError(f"Task {type(task).__name__} gave no {split} batches. Its batches({split}, seed) must yield at least one.")
    values = np.array(torch.stack(scores).tolist())
    mean = float(np.average(values, weights=sizes))
    return Score(mean, margin(values, sizes) if task.has_examples else math.nan)


def margin(values: npt.ArrayLike, sizes: npt.ArrayLike, level: float = 0.95) -> float:
    """Half the width of the interval of a mean over batches (Student's t): by how much other examples of the kind might have moved it.

    A batch's variance is taken to go with one over its size.

    Args:
        values: mean score of each batch, shape (batches,), the batches drawn alike from the examples.
        sizes: examples of each, shape (batches,).
        level: of confidence.
    Returns:
        The half width in the unit of the scores; NaN with fewer than two batches, or where one of them is not finite.
    """
    scores, weights = np.asarray(values, dtype=float), np.asarray(sizes, dtype=float)
    if len(scores) < 2 or not np.isfinite(scores).all():
        return math.nan
    weights, freedom = weights / weights.sum(), len(scores) - 1
    error = math.sqrt(float(weights @ (scores - weights @ scores) ** 2) / freedom)
    return t_quantile(freedom, level) * error


def untrained_score(task: Task, seed: int) -> float:
    """Validation score of the model that a run with this seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return evaluate(task, task.model(), Split.VALID).mean


def _size(batch: Batch) -> int:
    x = getattr(batch, "x", None)
    return len(x) if isinstance(x, Tensor) and x.dim() else 1
