"""Task specs: text to task and back, and what is said when the text is wrong."""

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optevolve.errors import TaskError
from optevolve.tasks import TASKS, load, spec_of
from optevolve.tasks.synthetic import MlpMoons, Quadratics
from optevolve.tasks.vision import Cifar10ConvNet, Digits

OWN_TASK = """
from dataclasses import dataclass
from torch import nn
from torch.nn.functional import mse_loss
import torch
from optevolve.tasks import Batch, Task

@dataclass(frozen=True)
class Line(Task):
    slope: float = 2.0
    size: int = 8

    def model(self): return nn.Linear(1, 1)
    def batches(self, split, seed):
        x = torch.linspace(0, 1, self.size)[:, None]
        yield Batch(x, self.slope * x)
    def loss(self, model, batch): return mse_loss(model(batch.x), batch.y)

steep = Line(slope=9.0)
number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with tasks in a fresh working directory."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_options_are_read_as_the_fields_types() -> None:
    assert load("cifar10-convnet@width=8,augment=true") == Cifar10ConvNet(width=8, augment=True)
    assert load("quadratics@condition=10,noise=1e-2") == Quadratics(condition=10.0, noise=0.01)
    assert load("digits", {"width": 4}) == Digits(width=4)
    assert load("digits@width=4,batch_size=32", {"width": 6.0}) == Digits(width=6, batch_size=32)


@given(width=st.integers(1, 500), noise=st.floats(0, 10, allow_nan=False, allow_subnormal=False), batch_size=st.integers(1, 500))
def test_a_spec_is_read_back_as_it_was_written(width: int, noise: float, batch_size: int) -> None:
    options = {"width": width, "noise": noise, "batch_size": batch_size}
    spec = spec_of("mlp-moons", options)
    assert load(spec) == MlpMoons(**options)
    assert spec_of(spec) == spec == spec_of("mlp-moons", dict(reversed(options.items())))


def test_spec_of_merges_and_leaves_a_bare_name_alone() -> None:
    assert spec_of("digits") == "digits"
    assert spec_of("cifar10-convnet@width=8", {"augment": True, "width": 9}) == "cifar10-convnet@augment=true,width=9"
    with pytest.raises(TaskError, match="commas"):
        spec_of("digits", {"width": "1,2"})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("digit", "Unknown task 'digit'. Did you mean 'digits'"),
        ("digits@widht=3", "no option 'widht'. Did you mean 'width'"),
        ("digits@width=wide", "a whole number; found 'wide'"),
        ("digits@width=2.5", "a whole number; found '2.5'"),
        ("digits@width=0", "at least 1; found 0"),
        ("cifar10-convnet@augment=maybe", "true or false; found 'maybe'"),
        ("quadratics@noise=loud", "a number; found 'loud'"),
        ("quadratics@condition=0.5", "condition >= 1"),
        ("digits@width", "Malformed task spec"),
        (":Name", "module:Name"),
        ("absent_module:Name", "no module 'absent_module'"),
        ("optevolve.tasks.vision:Digts", "Did you mean 'Digits'"),
        ("optevolve.tasks.vision:torch", "expected a subclass or an instance"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(spec)
    assert says in str(caught.value)


def test_numbers_given_as_options_are_checked_too() -> None:
    for value in (2.5, True, float("inf"), float("nan")):
        with pytest.raises(TaskError, match="whole number"):
            load("digits", {"width": value})


def test_own_tasks_come_from_the_working_directory(own: str) -> None:
    line = load(f"{own}:Line@slope=3,size=5")
    assert (type(line).__name__, vars(line)) == ("Line", {"slope": 3.0, "size": 5})
    assert vars(load(f"{own}:steep", {"size": 4})) == {"slope": 9.0, "size": 4}
    with pytest.raises(TaskError, match=r"has no 'Lime'. Did you mean 'Line'"):
        load(f"{own}:Lime")
    with pytest.raises(TaskError, match="found int"):
        load(f"{own}:number")


def test_a_module_that_does_not_import_is_the_users_error(own: str) -> None:
    Path("broken_tasks.py").write_text("import no_such_package_anywhere\n")
    with pytest.raises(TaskError, match="raised ModuleNotFoundError: No module named 'no_such_package_anywhere'"):
        load("broken_tasks:Task")
    Path("slip_tasks.py").write_text("def f(:\n")
    with pytest.raises(TaskError, match="raised SyntaxError"):
        load("slip_tasks:Task")


def test_a_task_with_methods_missing_says_which(own: str) -> None:
    Path("half_task.py").write_text("from optevolve.tasks import Task\nclass Half(Task):\n    def model(self): ...\n")
    with pytest.raises(TaskError, match="batches"):
        load("half_task:Half")


def test_every_registered_task_says_what_it_is() -> None:
    for name, kind in TASKS.items():
        assert kind.summary, name
        assert kind.budget, name
        assert kind.licence, name
        assert kind.data_source, name
        assert hash(load(name)) == hash(load(name))


TYPED_TASK = """
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Optional, TYPE_CHECKING
from torch import nn
from optevolve.tasks import Batch, Task
if TYPE_CHECKING:
    from nowhere import Strange

@dataclass(frozen=True)
class Typed(Task):
    width: Annotated[int, "channels"] = 8
    rate: Optional[float] = None
    depth: int | None = 3
    norm: Literal["batch", "group"] = "batch"
    sizes: tuple[int, ...] = (1,)
    pair: tuple[int, float] = (1, 2.0)
    names: list[str] = field(default_factory=list)
    name: str = ""
    either: int | str = 0
    flag: bool | None = None
    file: Path = Path(".")
    net: type[nn.Module] = nn.Linear
    def model(self): return nn.Linear(1, 1)
    def batches(self, split, seed): yield Batch(None, None)
    def loss(self, model, batch): return None

@dataclass(frozen=True)
class Unresolved(Typed):
    strange: "Strange" = 2
    size: int = 4
"""


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"typed_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(TYPED_TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("width", "32", 32),
        ("rate", "none", None),
        ("rate", "1e-3", 1e-3),
        ("depth", "None", None),
        ("norm", "group", "group"),
        ("sizes", "8:16:32", (8, 16, 32)),
        ("sizes", "", ()),
        ("pair", "(3: 0.5)", (3, 0.5)),
        ("names", "a:b", ["a", "b"]),
        ("name", "7", "7"),
        ("either", "7", 7),
        ("either", "seven", "seven"),
        ("flag", "yes", True),
        ("file", "a/b", Path("a/b")),
    ],
)
def test_text_is_read_by_the_annotation(typed: str, option: str, text: str, value: object) -> None:
    assert getattr(load(f"{typed}:Typed@{option}={text}"), option) == value
    assert getattr(load(f"{typed}:Typed", {option: text}), option) == value


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("width", "eight", "a whole number; found 'eight'"),
        ("width", "true", "a whole number"),
        ("rate", "fast", "a number or none; found 'fast'"),
        ("depth", "1.5", "a whole number or none; found '1.5'"),
        ("norm", "layer", "one of batch, group; found 'layer'"),
        ("sizes", "8:wide", "each a whole number; found '8:wide'"),
        ("pair", "3", "2 values with ':' between them"),
        ("flag", "maybe", "true or false or none; found 'maybe'"),
        ("net", "Linear", "which no text gives"),
    ],
)
def test_a_value_of_another_type_is_refused(typed: str, option: str, text: str, says: str) -> None:
    with pytest.raises(TaskError) as caught:
        load(f"{typed}:Typed@{option}={text}")
    assert says in str(caught.value)
    assert option in str(caught.value)


def test_booleans_are_no_numbers_in_options_either(typed: str) -> None:
    with pytest.raises(TaskError, match="a whole number; found True"):
        load(f"{typed}:Typed", {"width": True})


def test_annotations_that_cannot_be_read_leave_the_defaults_types(typed: str) -> None:
    assert vars(load(f"{typed}:Unresolved@size=5"))["size"] == 5
    with pytest.raises(TaskError, match="a whole number; found 'five'"):
        load(f"{typed}:Unresolved@size=five")
