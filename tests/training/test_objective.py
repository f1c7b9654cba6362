"""Loss, gradients and score of a batch: fused they are what the task's own methods give, and only where those are plain classification."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from optevolve.tasks import Batch, load
from optevolve.tasks.networks import GlobalAverage
from optevolve.tasks.vision import Digits
from optevolve.training import Engine, convolution
from optevolve.training.convolution import ConvNormSwish
from optevolve.training.head import available
from optevolve.training.objective import Objective

needs_compiler = pytest.mark.skipif(not available(), reason="needs a C++ compiler")


class Table(nn.Module):
    """A model whose logits are its parameters; it counts how often it was asked."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.asked = 0

    def forward(self, _: Tensor) -> Tensor:
        self.asked += 1
        return self.logits * 1


@dataclass(frozen=True)
class Halved(Digits):
    """One that says for itself what its loss is."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return super().loss(model, batch) / 2


def found(task: Digits, logits: Tensor, labels: Tensor, fused: bool) -> tuple[Tensor, Tensor, int]:
    """Loss and score, gradient, and how often the model was asked."""
    model = Table(logits)
    objective = Objective(task, model, Engine(fused=fused))
    given = torch.hstack(objective(Batch(torch.zeros(len(logits)), labels)))
    assert model.logits.grad is not None
    return given, model.logits.grad, model.asked


@needs_compiler
@given(st.integers(1, 70), st.integers(2, 40), st.sampled_from([0.0, 1.0, 30.0, 1e6]), st.integers(0, 2**31))
def test_fused_it_is_what_torch_gives(examples: int, classes: int, scale: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(examples, classes, generator=draw)
    logits[torch.rand(examples, classes, generator=draw) < 0.2] = scale  # equals, too
    labels = torch.randint(classes, (examples,), generator=draw)
    plain, fused = (found(Digits(), logits, labels, fused) for fused in (False, True))
    torch.testing.assert_close(fused[0], plain[0], rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(fused[1], plain[1], rtol=2e-5, atol=1e-6 / examples)


@needs_compiler
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers(bad: float) -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    logits[2, 1] = bad
    labels = torch.tensor([0, 1, 1, 2, 3])
    plain, fused = (found(Digits(), logits, labels, fused) for fused in (False, True))
    torch.testing.assert_close(fused[0], plain[0], equal_nan=True)
    assert torch.equal(fused[1].isfinite(), plain[1].isfinite())


@needs_compiler
def test_it_is_used() -> None:
    """One tensor is the kernel's answer, two are torch's; wrapped and overridden losses stay their own."""
    labels = torch.tensor([0, 1])
    batch = Batch(torch.zeros(2), labels)
    assert len(Objective(Digits(), Table(torch.zeros(2, 3)), Engine(fused=True))(batch)) == 1
    assert len(Objective(Digits(), Table(torch.zeros(2, 3)), Engine())(batch)) == 2
    halved = Objective(Halved(), Table(torch.zeros(2, 3)), Engine(fused=True))(batch)
    torch.testing.assert_close(halved[0], torch.tensor(3.0).log() / 2)
    for spec, kernel in (("digits", True), ("cifar10-convnet", True), ("digits+label-noise:0.2", False), ("rosenbrock", False)):
        task = load(spec)
        assert (Objective(task, nn.Identity(), Engine(fused=True)).kernel is not None) is kernel, spec


@needs_compiler
@pytest.mark.parametrize("labels", [[0, -100, 2], [-100, -100, 1]])
def test_labels_that_torch_ignores_are_left_to_it(labels: list[int]) -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    plain, fused = (found(Digits(), logits, torch.tensor(labels), fused) for fused in (False, True))
    assert torch.equal(fused[0], plain[0])
    assert torch.equal(fused[1], plain[1])
    assert fused[2] == 1  # batch norm and dropout would notice a second pass


@needs_compiler
@pytest.mark.parametrize("logits", [torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.bfloat16)])
def test_other_numbers_are_left_to_torch(logits: Tensor) -> None:
    given, slope, asked = found(Digits(), logits, torch.tensor([0, 2]), fused=True)
    assert given[0].item() == pytest.approx(1.0986, rel=1e-2)
    assert slope.dtype == logits.dtype
    assert asked == 1


@needs_compiler
def test_a_label_that_is_no_class_gets_torchs_error() -> None:
    with pytest.raises(IndexError, match="out of bounds"):
        found(Digits(), torch.zeros(2, 3), torch.tensor([0, 3]), fused=True)


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("labels", [[0, 1, 2, 9, 9, 3], [0, -100, 1, 2, 3, 4]])
def test_a_chain_is_walked_as_autograd_walks_it(labels: list[int], precision: str) -> None:
    """Gradients, batch norm's statistics and the random numbers of the dropout, also where torch has to judge."""
    torch.manual_seed(0)
    task, engine = Digits(width=5), Engine(precision, fused=True)
    walked, differentiated = (Objective(task, engine.prepare(task.model().train()), engine) for _ in range(2))
    differentiated.model.load_state_dict(walked.model.state_dict())
    assert walked.links is not None
    differentiated.links = None
    batch = Batch(torch.randn(6, 1, 8, 8), torch.tensor(labels))
    found = []
    for objective in (walked, differentiated):
        torch.manual_seed(1)
        given = objective(batch)
        gradients = [p.grad for p in objective.model.parameters()]
        found.append([torch.hstack(given), *gradients, *objective.model.buffers(), torch.rand(1)])
    assert len(found[0]) == len(found[1])
    for value, expected in zip(*found, strict=True):
        assert value is not None
        assert expected is not None
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


@needs_compiler
def test_a_layer_is_asked_what_it_takes_under_the_precision_of_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor whose torch is the faster from a smaller image on in bfloat16 than in float32."""
    monkeypatch.setattr(convolution, "largest_image", lambda dtype, _: 16 if dtype is torch.bfloat16 else 4096)
    real, ran = ConvNormSwish.run, []

    def run(self: ConvNormSwish, x: Tensor) -> tuple[Tensor, Any]:
        ran.append(precision)
        return real(self, x)

    monkeypatch.setattr(ConvNormSwish, "run", run)
    task, batch = Digits(width=4), Batch(torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2]))
    for precision in ("float32", "bf16"):
        engine = Engine(precision, fused=True)
        objective = Objective(task, engine.prepare(task.model().train()), engine)
        assert objective.links is not None
        objective(batch)
    assert ran == ["float32", "float32"]


@needs_compiler
def test_weights_that_two_layers_share_are_left_to_autograd() -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    layers: list[nn.Module] = []
    for convolution_ in (nn.Conv2d(1, 4, 3, padding=1, bias=False), shared, shared):
        layers += [convolution_, nn.BatchNorm2d(4), nn.SiLU()]
    plain = nn.Sequential(*layers, GlobalAverage(), nn.Dropout(0.0), nn.Linear(4, 10)).train()
    batch, task = Batch(torch.randn(6, 1, 8, 8), torch.arange(6)), Digits(width=4)
    model = Engine(fused=True).prepare(copy.deepcopy(plain))
    objective = Objective(task, model, Engine(fused=True))
    assert objective.kernel is not None
    assert objective.links is None
    for trained in (objective, Objective(task, plain, Engine())):
        trained(batch)
    for value, expected in zip(model.parameters(), plain.parameters(), strict=True):
        assert expected.grad is not None
        torch.testing.assert_close(value.grad, expected.grad, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_a_chain_that_someone_listens_to_is_left_to_autograd() -> None:
    task = Digits(width=4)

    def prepared() -> nn.Module:
        return Engine(fused=True).prepare(task.model().train())

    def walks(model: nn.Module) -> bool:
        return Objective(task, model, Engine(fused=True)).links is not None

    assert walks(prepared())
    model = prepared()
    heard: list[Tensor] = []
    next(model.parameters()).register_hook(heard.append)
    assert not walks(model)
    Objective(task, model, Engine(fused=True))(Batch(torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])))
    assert len(heard) == 1
    model = prepared()
    model.register_forward_hook(lambda *_: None)
    assert not walks(model)
    model = prepared()
    next(model.parameters()).requires_grad_(False)
    assert not walks(model)
    assert not walks(nn.Sequential(prepared(), nn.Tanh()))
    assert not walks(task.model())


def test_a_part_of_a_matrix_is_read_as_it_lies() -> None:
    class Part(Table):
        def forward(self, _: Tensor) -> Tensor:
            return self.logits[:, 1:4]

    model = Part(torch.arange(12.0).view(3, 4))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])[::2]
    given = torch.hstack(Objective(Digits(), model, Engine(fused=True))(Batch(torch.zeros(3), labels)))
    expected = torch.nn.functional.cross_entropy(model.logits[:, 1:4], labels)
    torch.testing.assert_close(given[0], expected.detach())
    assert model.logits.grad is not None
    torch.testing.assert_close(model.logits.grad, torch.autograd.grad(expected, model.logits)[0])
