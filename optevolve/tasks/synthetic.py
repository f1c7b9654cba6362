"""Tasks of a second or less, for tests and for a cheap first sieve. No network, no files."""

# ruff: noqa: D102 (a task's methods are documented once, in Task)

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from optevolve.errors import TaskError
from optevolve.records import Split
from optevolve.tasks.base import Batch, Task
from optevolve.tasks.classification import Classification, digits_splits, in_memory_batches

__all__ = ["LogregDigits", "MlpMoons", "Quadratics", "Rosenbrock"]


class _Point(nn.Module):
    """A model that is nothing but a position."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.position = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        return self.position


@dataclass(frozen=True)
class Quadratics(Task):
    """Rotated, ill-conditioned quadratic bowls, minimised together from gradients with noise.

    Each bowl is ½ (w−b)ᵀ Q diag(λ) Qᵀ (w−b), λ log-spaced from 1 to 1/`condition`, Q a random rotation, b normal. A training batch shifts
    every b by normal noise; VALID and TEST are the one exact function, for there is nothing to generalise to. The score is −log10 of the
    loss.
    """

    summary: ClassVar[str] = "ill-conditioned quadratic bowls with noisy gradients"
    budget: ClassVar[str] = "128 parameters; 300 to 1,000 steps"
    data_source: ClassVar[str] = "generated"
    licence: ClassVar[str] = "none needed: generated"
    has_examples: ClassVar[bool] = False

    bowls: int = 8
    dim: int = 16
    condition: float = 100.0
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.bowls < 1 or self.dim < 2 or self.condition < 1 or self.noise < 0:
            raise TaskError(f"quadratics needs bowls >= 1, dim >= 2, condition >= 1 and noise >= 0; found {self}.")

    def model(self) -> nn.Module:
        return _Point(torch.zeros(self.bowls, self.dim))

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        root, minimum = _bowls(self.bowls, self.dim, self.condition)
        if split != Split.TRAIN:
            yield Batch(minimum, root)
            return
        shifts = self.noise * torch.randn(64, *minimum.shape, generator=torch.Generator().manual_seed(seed))
        for shift in shifts:
            yield Batch(minimum + shift, root)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        away: Tensor = model() - batch.x
        return 0.5 * torch.einsum("kij,kj->ki", batch.y, away).square().sum(-1).mean()

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -torch.log10(self.loss(model, batch) + 1e-12)


@lru_cache(maxsize=8)
def _bowls(bowls: int, dim: int, condition: float) -> tuple[Tensor, Tensor]:
    """Square roots of the Hessians, shape (bowls, dim, dim), and minima, shape (bowls, dim)."""
    random = np.random.default_rng(0)
    rotation = np.linalg.qr(random.standard_normal((bowls, dim, dim)))[0]
    root = np.sqrt(np.logspace(0, -np.log10(condition), dim))[:, None] * np.swapaxes(rotation, 1, 2)
    minimum = random.standard_normal((bowls, dim))
    return torch.tensor(root, dtype=torch.float32), torch.tensor(minimum, dtype=torch.float32)


@dataclass(frozen=True)
class Rosenbrock(Task):
    """Rosenbrock's curved valley, Σ 100 (w_{i+1} − w_i²)² + (1 − w_i)², from (−1.2, 1, −1.2, 1, …). The score is −log10 of the loss.

    There is neither noise nor anything to generalise to: all splits are the one function.

    Source: Rosenbrock 1960, doi 10.1093/comjnl/3.3.175.
    """

    summary: ClassVar[str] = "Rosenbrock's curved valley"
    budget: ClassVar[str] = "2 parameters; 300 to 1,000 steps"
    data_source: ClassVar[str] = "generated"
    licence: ClassVar[str] = "none needed: generated"
    citation: ClassVar[str] = "Rosenbrock 1960, doi 10.1093/comjnl/3.3.175"
    has_examples: ClassVar[bool] = False

    dim: int = 2

    def __post_init__(self) -> None:
        if self.dim < 2:
            raise TaskError(f"rosenbrock needs dim >= 2; found {self.dim}.")

    def model(self) -> nn.Module:
        return _Point(torch.tensor([-1.2, 1.0] * self.dim)[: self.dim])

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        nothing = torch.zeros(1)
        for _ in range(64 if split == Split.TRAIN else 1):
            yield Batch(nothing, nothing)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        w: Tensor = model()
        return (100 * (w[1:] - w[:-1].square()).square() + (1 - w[:-1]).square()).sum()

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -torch.log10(self.loss(model, batch) + 1e-12)


@dataclass(frozen=True)
class LogregDigits(Classification):
    """Logistic regression on the 64 pixels of scikit-learn's digits, split as in `digits`."""

    summary: ClassVar[str] = "logistic regression on 8x8 digits"
    budget: ClassVar[str] = "650 parameters; 300 to 1,000 steps of 64 images"
    data_source: ClassVar[str] = "bundled with scikit-learn"
    licence: ClassVar[str] = "CC BY 4.0"
    citation: ClassVar[str] = "Alpaydin and Kaynak 1998, doi 10.24432/C50P49"
    floors: ClassVar[tuple[float, float] | None] = (0.25, 0.40)

    batch_size: int = 64

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return in_memory_batches(*digits_splits()[split], split, seed, self.batch_size)


@dataclass(frozen=True)
class MlpMoons(Classification):
    """Two interleaved half circles in the plane and a small multilayer perceptron; 1,024 points to train, 512 each to validate and test."""

    summary: ClassVar[str] = "two moons in the plane, small multilayer perceptron"
    budget: ClassVar[str] = "1,218 parameters; 300 to 1,000 steps of 64 points"
    data_source: ClassVar[str] = "generated"
    licence: ClassVar[str] = "none needed: generated"
    floors: ClassVar[tuple[float, float] | None] = (0.60, 0.75)

    width: int = 32
    noise: float = 0.2
    batch_size: int = 64

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, self.width), nn.SiLU(), nn.Linear(self.width, self.width), nn.SiLU(), nn.Linear(self.width, 2))

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return in_memory_batches(*_moons(split, self.noise), split, seed, self.batch_size)


@lru_cache(maxsize=8)
def _moons(split: Split, noise: float) -> tuple[Tensor, Tensor]:
    points = {Split.TRAIN: 1024, Split.VALID: 512, Split.TEST: 512}[split]
    from sklearn.datasets import make_moons  # slow to import, with pandas and more

    x, y = make_moons(points, noise=noise, random_state=list(Split).index(split))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64)
