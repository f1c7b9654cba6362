"""The check finds every way of breaking the protocol, and passes the built-in tasks."""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from optevolve.errors import DataError, TaskError
from optevolve.records import Split
from optevolve.tasks import TASKS, Batch, Task, check, check_task, load


def _zeros(batch: int = 4) -> Batch:
    return Batch(torch.ones(batch, 1), torch.zeros(batch, 1))


def _refuse(*_: Any) -> Any:
    raise DataError("no such data")


@dataclass(frozen=True)
class Line(Task):
    """A task whose every part can be replaced by a broken one."""

    make: Callable[[], Any] = lambda: nn.Linear(1, 1)
    give: Callable[[Split], Iterator[Batch]] = lambda split: iter([_zeros()])
    lose: Callable[[nn.Module, Batch], Any] = lambda model, batch: mse_loss(model(batch.x), batch.y)
    judge: Callable[[nn.Module, Batch], Any] = lambda model, batch: -mse_loss(model(batch.x), batch.y)

    def model(self) -> nn.Module:
        made: nn.Module = self.make()
        return made

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return self.give(split)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        lost: Tensor = self.lose(model, batch)
        return lost

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        judged: Tensor = self.judge(model, batch)
        return judged


def test_a_sound_task_passes_and_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = check_task(Line())
    assert found.parameters == 2
    assert found.loss == -found.score > 0
    assert torch.equal(torch.get_rng_state(), before)


EXHAUSTED = iter([_zeros()])

BROKEN = [
    ({"make": lambda: nn.ReLU()}, "must have parameters"),
    ({"make": lambda: 3}, "must return a torch.nn.Module; found int"),
    ({"give": lambda split: iter([])}, "batches(train, seed) must yield at least one batch"),
    ({"give": lambda split: EXHAUSTED}, "batches(train, seed) must yield at least one batch at every call"),
    ({"give": lambda split: iter([_zeros()] if split != Split.TEST else [])}, "batches(test, seed) must yield"),
    ({"lose": lambda model, batch: (model(batch.x) - batch.y).square()}, "scalar tensor; found a tensor of shape (4, 1)"),
    ({"lose": lambda model, batch: 0.5}, "scalar tensor; found float"),
    ({"lose": lambda model, batch: model(batch.x).mean() * float("nan")}, "finite for the untrained model; found nan"),
    ({"lose": lambda model, batch: model(batch.x).mean().detach()}, "without gradient"),
    ({"lose": lambda model, batch: model(batch.z).mean()}, "it raised AttributeError"),
    ({"judge": lambda model, batch: torch.tensor(float("inf"))}, "score(model, batch) must be finite"),
    ({"judge": lambda model, batch: model(batch.x) > 0}, "scalar tensor"),
    ({"judge": lambda model, batch: (model(batch.x) > 0).sum()}, "found torch.int64. Append .float()."),
    ({"judge": lambda model, batch: model(batch.x).sum().item()}, "found float. Leave out .item()"),
    ({"judge": lambda model, batch: int(model(batch.x).sum() > 0)}, "found int. Leave out .item()"),
    ({"judge": lambda model, batch: np.float64(model(batch.x).sum())}, "found float64. Leave out .item()"),
    (
        {"judge": lambda model, batch: model(batch.x).mean() / (batch.y.sum() * 0) if not model.training else model(batch.x).mean()},
        "+finite:0.2",
    ),
    ({"lose": lambda model, batch: model(batch.x).mean() / 0}, "TASK+finite:0.2"),
]


@pytest.mark.parametrize(("parts", "says"), BROKEN, ids=[says for _, says in BROKEN])
def test_a_broken_task_is_told_what_was_expected(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError) as caught:
        check_task(replace(Line(), **parts))
    assert says in str(caught.value)
    assert "Task Line breaks the task protocol" in str(caught.value)


def test_an_accuracy_lies_between_0_and_1() -> None:
    @dataclass(frozen=True)
    class Wrong(Line):
        scores_accuracy: ClassVar[bool] = True

    check_task(replace(Wrong(), judge=lambda model, batch: torch.tensor(0.3)))
    with pytest.raises(TaskError, match="must be from 0 to 1 where scores_accuracy is True; found -2 on train"):
        check_task(replace(Wrong(), judge=lambda model, batch: torch.tensor(-2.0)))


def test_missing_data_stays_a_data_error() -> None:
    with pytest.raises(DataError, match="no such data"):
        check_task(replace(Line(), give=_refuse))


def needs_files(kind: type[Task]) -> bool:
    return "data folder" in kind.data_source


@pytest.mark.parametrize("name", [name for name, kind in TASKS.items() if not needs_files(kind)])
def test_built_in_tasks_pass(name: str) -> None:
    assert check_task(load(name)).parameters >= 2


def _kept(batch: Batch) -> Callable[[Split], Iterator[Batch]]:
    return lambda split: iter([batch])


SHARED = nn.Linear(1, 1)
BATCH_NORM = {"make": lambda: nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))}


def _nan_in(which: int) -> Callable[[Split], Iterator[Batch]]:
    def give(split: Split) -> Iterator[Batch]:
        for number in range(4):
            yield _zeros() if number != which else Batch(torch.full((4, 1), float("nan")), torch.zeros(4, 1))

    return give


def _changing(model: nn.Module, batch: Batch) -> Tensor:
    batch.x.mul_(2)
    return mse_loss(model(batch.x), batch.y)


def _classes(*labels: int) -> dict[str, Any]:
    return {
        "make": lambda: nn.Linear(1, 3),
        "give": _kept(Batch(torch.ones(len(labels), 1), torch.tensor(labels))),
        "lose": lambda model, batch: cross_entropy(model(batch.x), batch.y),
        "judge": lambda model, batch: (model(batch.x).argmax(-1) == batch.y).float().mean(),
    }


class _Raw(nn.Module):
    """A model whose gradient is sparse, infinite or of a kind of its own."""

    def __init__(self, forward: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


HITS_EVERY_RULE = [
    (
        {
            "make": lambda: nn.Sequential(nn.Embedding(4, 1, sparse=True), nn.Flatten(0)),
            "give": _kept(Batch(torch.tensor([0, 1, 3]), torch.zeros(3))),
        },
        "gradients must be dense; that of '0.weight' is sparse (torch.sparse_coo). Leave out sparse=True.",
    ),
    (
        {**BATCH_NORM, "give": lambda split: iter([_zeros(), _zeros(1)])},
        "on batch 2 of train, which has one example). Leave out the last, incomplete batch.",
    ),
    ({"make": lambda: SHARED}, "model() must build a fresh model at every call; two calls share the parameter"),
    ({"make": lambda: nn.Sequential(nn.Linear(1, 1), SHARED)}, "two calls share the parameter '1.weight'"),
    ({"make": lambda: nn.LazyLinear(1)}, "'weight' is lazy and has no shape yet"),
    ({"give": _nan_in(2)}, "found nan on batch 3 of train, also for the untrained model. Mend the data"),
    ({"make": lambda: _Raw(lambda x, weight: (x @ weight).sqrt())}, "gradients must be finite; that of 'weight' is not, on batch 1"),
    ({"lose": _changing, "give": _kept(_zeros())}, "must leave the batch as it is; batch 1 of train was changed"),
    (_classes(0, 2, 3), "Target 3 is out of bounds"),
    (
        {
            "judge": lambda model, batch: torch.tensor(1.0 if len(batch.x) == 4 else float("nan")),
            "give": lambda split: iter([_zeros(), _zeros(2)]),
        },
        "score(model, batch) must be finite on batch 2 of train",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "says"), HITS_EVERY_RULE, ids=[says[:40] for _, says in HITS_EVERY_RULE])
def test_what_would_end_every_candidate_is_found_before_a_search(parts: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError) as caught:
        check_task(replace(Line(), **parts))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def _growing() -> Callable[[Split], Iterator[Batch]]:
    calls = itertools.count()
    return lambda split: iter([_zeros()] * (2 + next(calls)))


def _drawn(split: Split) -> Iterator[Batch]:
    return iter([Batch(torch.rand(4, 1), torch.zeros(4, 1))])


GENERATOR = random.Random(0)
NUMPYS = np.random.default_rng()
CALLS = itertools.count()


def _lost(factor: Callable[[], float]) -> Callable[[nn.Module, Batch], Tensor]:
    return lambda model, batch: factor() * mse_loss(model(batch.x), batch.y)


def _shrinking(model: nn.Module, batch: Batch) -> Tensor:
    for parameter in model.parameters():
        parameter.data.mul_(0.99)
    return -mse_loss(model(batch.x), batch.y)


def _training(model: nn.Module, batch: Batch) -> Tensor:
    return -mse_loss(model.train()(batch.x), batch.y)


def _late(model: nn.Module, batch: Batch) -> Tensor:
    """Changes the model on batches of zeros alone."""
    return -mse_loss(model(batch.x), batch.y) if batch.x.any() else _shrinking(model, batch)


DIFFERS = [
    ({"make": lambda: _Raw(lambda x, weight: x @ weight + GENERATOR.random())}, "must be the same at every call in evaluation"),
    ({"judge": lambda model, batch: torch.rand(())}, "score(model, batch) must be the same at every call in evaluation; two calls gave"),
    ({"give": _drawn}, "batches(train, seed) must give the same batches at every call with the same seed; batch 1 differs"),
    ({"give": _growing()}, "one had 2 batches, the other more"),
    ({"make": lambda: nn.utils.parametrizations.weight_norm(_shifted())}, "two calls gave different parameters"),
    ({"lose": _lost(GENERATOR.random)}, "loss(model, batch) must be the same for equal models under the same seed; two calls gave"),
    ({"lose": _lost(lambda: 1 + NUMPYS.random())}, "on the first batch of train. Draw what is random in it from torch's global"),
    ({"lose": _lost(lambda: 1 / (1 + next(CALLS)))}, "and keep nothing of a call"),
]  # fmt: skip


def _shifted() -> nn.Linear:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.add_(GENERATOR.random())
    return layer


@pytest.mark.parametrize(("parts", "says"), DIFFERS, ids=[says[:40] for _, says in DIFFERS])
def test_a_thorough_check_finds_what_two_calls_do_not_agree_on(parts: dict[str, Any], says: str) -> None:
    """A search lets it pass, for the training loop seeds torch's generator, and a noisy score is one all the same."""
    task = replace(Line(judge=lambda model, batch: -mse_loss(model(batch.x), batch.y).abs()), **parts)
    with pytest.raises(TaskError) as caught:
        check_task(task, thorough=True)
    assert says in str(caught.value)


def test_a_loss_that_draws_from_torchs_generator_is_sound() -> None:
    task = Line(lose=lambda model, batch: mse_loss(nn.functional.dropout(model(batch.x)) + torch.rand(()), batch.y))
    check_task(task, thorough=True)


TWO_BATCHES = [_zeros(), Batch(torch.zeros(4, 1), torch.zeros(4, 1))]
SETTLED = {"make": lambda: nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1)), "judge": _training}


@pytest.mark.parametrize(
    ("parts", "thorough", "says"),
    [
        ({"judge": _shrinking}, False, "score(model, batch) must leave the model as it is; on valid it changed 'weight'"),
        ({"judge": _shrinking}, True, "score(model, batch) must leave the model as it is; on valid it changed 'weight'"),
        ({"give": lambda split: iter(TWO_BATCHES), "judge": _late}, False, "on valid it changed 'weight'"),
        (SETTLED, True, "on valid it changed '0.running_mean'"),
    ],
)
def test_a_score_that_changes_the_model_is_found(parts: dict[str, Any], thorough: bool, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        check_task(replace(Line(), **parts), thorough=thorough)
    assert says in str(caught.value)


def test_a_search_lets_a_score_update_buffers() -> None:
    check_task(replace(Line(), **SETTLED))  # type: ignore[arg-type]


def test_a_split_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "SECONDS", 0.3)
    monkeypatch.setattr(check, "THOROUGH", 0.1)
    monkeypatch.setattr(check, "_MOST", 20)
    endless = itertools.repeat(_zeros())
    for thorough in (False, True):
        found = check_task(Line(give=lambda split: endless if split is Split.TRAIN else iter([_zeros()])), thorough=thorough)
        assert "batches of train in 0" in found.notes[0]
        assert "the pass had not ended" in found.notes[0]
        with pytest.raises(
            TaskError, match=r"batches\(valid, seed\) must end; it had not after .* A split is scored as a whole: let it end"
        ):
            check_task(Line(give=lambda split: endless if split is Split.VALID else iter([_zeros()])), thorough=thorough)


def test_parameters_without_a_gradient_are_mentioned() -> None:
    found = check_task(Line(make=lambda: nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]), lose=_first_of, judge=_first_of))
    assert found.notes == ("No training batch gave a gradient to 2 of the parameters: 1.bias, 1.weight.",)
    assert check_task(Line()).notes == ()


def _first_of(model: Any, batch: Batch) -> Tensor:
    return mse_loss(model[0](batch.x), batch.y)


def test_batches_of_any_kind_are_compared() -> None:
    def give(split: Split) -> Iterator[Any]:
        yield {"x": [torch.ones(4, 1), np.array([1.0, float("nan")])], "y": torch.zeros(4, 1), "name": "odd"}

    def lose(model: nn.Module, batch: Any) -> Tensor:
        return mse_loss(model(batch["x"][0]), batch["y"])

    check_task(Line(give=give, lose=lose, judge=lose), thorough=True)
