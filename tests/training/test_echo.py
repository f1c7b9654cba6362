"""Loss and score may do with the model what they like: alone, fused and as replicas every task gives what a plain loop gives."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from optevolve.records import Split
from optevolve.tasks import Batch, Task
from optevolve.training import Engine, Terms, train_together
from optevolve.training.echo import Echo
from optevolve.training.objective import Objective
from tests.training.replica_cases import assert_agree, one_at_a_time, runs_of


class Net(nn.Sequential):
    """Layers with a name and a count of its passes."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
        self.passes = 0

    @property
    def encoder(self) -> nn.Module:
        return self[0]

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)  # type: ignore[no-any-return]


def _walked(model: Any, x: Tensor) -> Tensor:
    for layer in model:
        x = layer(x)
    return x


def _other_weights(model: Any, x: Tensor) -> Tensor:
    halved: Tensor = functional_call(model, {name: p / 2 for name, p in model.named_parameters()}, (x,))
    return model(x).sum() + 3 * halved.square().sum()


USES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "its output": lambda model, x: model(x).sum(),
    "a layer's weight": lambda model, x: model(x).sum() + model[0].weight.square().sum(),
    "its layers in turn": lambda model, x: _walked(model, x).square().sum(),
    "their number": lambda model, x: model(x).sum() * len(model),
    "its class": lambda model, x: model(x).sum() if isinstance(model, Net) else 1 / torch.zeros(()),
    "its parameters": lambda model, x: model(x).sum() + sum(p.norm() for p in model.parameters()),
    "their names": lambda model, x: sum(p.abs().sum() for name, p in model.named_parameters() if name.endswith("weight")),
    "its mode": lambda model, x: model(x).sum() * (2 if model.training else 1),
    "a module by name": lambda model, x: model.encoder(x).square().sum(),
    "its forward": lambda model, x: model.forward(x).sum(),
    "its modules": lambda model, x: model(x).sum() + sum(m.weight.sum() for m in model.modules() if isinstance(m, nn.Linear)),
    "an input of its own": lambda model, x: model(x).sum() + model(x * 2).square().sum(),
    "its output by keyword": lambda model, x: nn.Sequential.forward(model, x).sum(),
    "its state": lambda model, x: model(x).sum() + model.state_dict()["0.weight"].sum(),
    "other weights": _other_weights,
    "its output, written to": lambda model, x: model(x).mul_(2).sum() + model(x).sum(),
    "a sum of an array": lambda model, x: model(x).abs().sum().sqrt(),
}


@dataclass(frozen=True)
class Looks(Task):
    """A task that does something with the model in its loss, in its score, or in both."""

    use: str = "its output"
    where: str = "both"

    def model(self) -> nn.Module:
        return Net()

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed % 1000)
        for _ in range(4):
            x = torch.randn(8, 4, generator=generator)
            yield Batch(x, (x[:, 0] > 0).long())

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        plain = cross_entropy(model(batch.x), batch.y)
        return plain if self.where == "score" else plain + 1e-2 * USES[self.use](model, batch.x)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -cross_entropy(model(batch.x), batch.y) if self.where == "loss" else USES[self.use](model, batch.x)


def plainly(task: Task, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Loss and score with nothing remembered, on a copy."""
    model = copy.deepcopy(model)
    loss = task.loss(model, batch)
    with torch.no_grad():
        return loss.detach(), task.score(model, batch)


@pytest.mark.parametrize("where", ["loss", "score"])
@pytest.mark.parametrize("use", USES)
def test_whatever_is_done_with_the_model_gives_what_it_gives_without_a_memory(use: str, where: str) -> None:
    task = Looks(use, where)
    torch.manual_seed(0)
    model = task.model()
    for fused in (False, True):
        objective = Objective(task, model, Engine(fused=fused))
        for batch in task.batches(Split.TRAIN, 0):
            model.zero_grad()
            expected = plainly(task, model, batch)
            torch.testing.assert_close(objective(batch), expected, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(model)


@pytest.mark.parametrize("use", [use for use in USES if use != "other weights"])
def test_together_they_are_what_they_are_one_at_a_time(use: str) -> None:
    task, terms = Looks(use), Terms(epoch_steps=5)
    runs = runs_of("momentum: g", (1e-2, 1e-1), steps=10)
    assert_agree(train_together(task, runs, terms), one_at_a_time(task, runs, terms))


def test_the_output_of_the_loss_serves_the_score() -> None:
    model = Net()
    objective = Objective(Looks(where="score"), model, Engine())
    for batch in Looks().batches(Split.TRAIN, 0):
        objective(batch)
    assert model.passes == 4


class Hooked(Net):
    """A hook changes what comes out; it has its say each time."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda _module, _args, output: output + 1)


def test_what_changed_since_is_computed_anew() -> None:
    x = torch.randn(5, 4)

    def asked(model: nn.Module, between: Callable[[], object]) -> tuple[Tensor, Tensor]:
        echo = Echo(model)
        with echo.listening():
            model(x)
        between()
        with torch.no_grad(), echo.answering():
            found = model(x)
        return found, model(x)

    def write(tensor: Any) -> Callable[[], object]:
        def written() -> object:
            with torch.no_grad():
                return tensor.mul_(2)

        return written

    for made in (Net, Hooked):
        model = made()
        for between in (lambda: None, write(x), write(model[0].weight), model.eval, model[1].train):
            torch.testing.assert_close(*asked(model, between))
    dropped = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5))
    torch.testing.assert_close(*asked(dropped, dropped.eval))  # in evaluation nothing is dropped: not the answer of before


def test_a_copy_made_in_the_loss_is_a_model_of_its_own() -> None:
    model: Any = Net()
    x = torch.ones(2, 4)
    echo = Echo(model)
    with echo.listening():
        before = model(x)
        twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.zero_()
        with echo.answering():
            assert not torch.equal(twin(x), before)
            torch.testing.assert_close(model(x), before)
    assert torch.equal(twin(x), nn.Sequential(*twin)(x))


def test_scores_may_leave_torch() -> None:
    """What comes from memory has no gradient, as nothing has without one."""
    model, x = Net(), torch.ones(2, 4)
    echo = Echo(model)
    with echo.listening():
        model(x)
    with torch.no_grad(), echo.answering():
        assert model(x).numpy().shape == (2, 3)
    assert model.passes == 1


@dataclass(frozen=True)
class Convolved(Looks):
    """A network whose layers could be fused, of which one is looked at."""

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(16, 3))

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        for batch in super().batches(split, seed):
            yield Batch(batch.x.repeat(1, 4).view(8, 1, 4, 4), batch.y)


@pytest.mark.parametrize("use", ["a layer's weight", "its layers in turn", "their number", "its parameters"])
def test_layers_that_are_looked_at_are_not_fused(use: str) -> None:
    task = Convolved(use)
    runs = runs_of("g", (1e-2,), steps=6)
    plain, fused = (one_at_a_time(task, runs, Terms(epoch_steps=3, engine=Engine(fused=fused))) for fused in (False, True))
    assert_agree(fused, plain)


class Skips(nn.Module):
    """A network that asks its layers one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.layers[0](x)  # type: ignore[no-any-return]


def test_layers_within_a_module_of_somebody_else_are_not_fused() -> None:
    x = torch.randn(2, 1, 8, 8)
    model = Skips()
    torch.testing.assert_close(Engine(fused=True).prepare(copy.deepcopy(model))(x), model(x))


@pytest.mark.slow
def test_a_compiled_model_is_asked_as_it_is() -> None:
    task = Looks("its parameters")
    compiled: Any
    for compiled in (torch.compile(Net(), backend="eager"), Net()):
        if isinstance(compiled, Net):
            compiled.compile(backend="eager")
        objective = Objective(task, compiled, Engine())
        for batch in task.batches(Split.TRAIN, 0):
            compiled.zero_grad()
            torch.testing.assert_close(objective(batch), plainly(task, compiled, batch))
