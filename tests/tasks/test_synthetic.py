"""The generated problems have the minima, spectra and starts that they claim."""

import math

import pytest
import torch
from torch import nn

from optevolve.records import Split
from optevolve.tasks import load
from optevolve.tasks.synthetic import Quadratics, Rosenbrock


def test_quadratics_have_their_minimum_and_condition() -> None:
    task = Quadratics(bowls=3, dim=5, condition=50.0)
    model = task.model()
    (batch,) = task.batches(Split.VALID, 0)
    position = next(model.parameters())
    position.data.copy_(batch.x)
    assert task.loss(model, batch).item() == 0
    assert task.score(model, batch).item() == pytest.approx(12)
    hessian = torch.autograd.functional.hessian(lambda w: 0.5 * (batch.y[1] @ (w - batch.x[1])).square().sum(), torch.zeros(5))
    spectrum = torch.linalg.eigvalsh(hessian)
    assert spectrum[-1].item() == pytest.approx(1, rel=1e-3)
    assert spectrum[0].item() == pytest.approx(1 / 50, rel=1e-3)


def test_training_noise_shifts_the_minimum_and_averages_out() -> None:
    task = Quadratics(noise=0.1)
    (exact,) = task.batches(Split.TEST, 0)
    shifts = torch.stack([batch.x - exact.x for batch in task.batches(Split.TRAIN, 5)])
    assert shifts.std().item() == pytest.approx(0.1, rel=0.05)
    assert shifts.mean().abs().item() < 0.01


def test_rosenbrock() -> None:
    task = Rosenbrock(dim=4)
    model = task.model()
    (batch,) = task.batches(Split.VALID, 0)
    start = next(model.parameters())
    assert start.tolist() == pytest.approx([-1.2, 1.0, -1.2, 1.0])
    expected = 2 * (100 * (1.0 - 1.44) ** 2 + 2.2**2) + 100 * (-1.2 - 1.0) ** 2
    assert task.loss(model, batch).item() == pytest.approx(expected, rel=1e-5)
    start.data.fill_(1.0)
    assert task.loss(model, batch).item() == 0


@pytest.mark.parametrize("name", ["logreg-digits", "mlp-moons"])
def test_a_score_is_the_share_of_right_answers(name: str) -> None:
    task = load(name)
    batch = next(iter(task.batches(Split.VALID, 0)))
    classes = int(batch.y.max()) + 1

    class Oracle(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            answers = nn.functional.one_hot(batch.y, classes).float() * 10
            answers[: len(x) // 4] = -answers[: len(x) // 4]
            return answers

    right = task.score(Oracle(), batch).item()
    assert right == pytest.approx(1 - (len(batch.x) // 4) / len(batch.x), abs=1e-6)
    assert task.loss(Oracle(), batch).item() > -math.log(0.9)
