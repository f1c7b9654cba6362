"""The check finds every way of breaking the protocol, and passes the built-in tasks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from optevolve.errors import DataError, TaskError
from optevolve.records import Split
from optevolve.tasks import TASKS, Batch, Task, check_task, load


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
    ({"judge": lambda model, batch: (model(batch.x) > 0).sum()}, "floating-point"),
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
