"""Tasks of one's own: from names to classes and instances, and from these to names that every process understands."""

import importlib.util
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from optevolve.errors import TaskError
from optevolve.task_spec import spec_of
from optevolve.tasks import Task, load, spec_for
from optevolve.tasks.synthetic import MlpMoons, Quadratics

SOURCE = """
    from dataclasses import dataclass
    import torch
    import neighbour
    import optevolve as oe

    @dataclass(frozen=True)
    class Line(oe.Task):
        width: int = 2
        def model(self): return torch.nn.Linear(self.width, 1)
        def batches(self, split, seed): yield oe.Batch(torch.ones(4, self.width), torch.ones(4, 1))
        def loss(self, model, batch): return (model(batch.x) - batch.y).square().mean()

    class Holder:
        class Inner(Line): pass

    wide = Line(9)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "sub"
    place.mkdir()
    (place / "test.py").write_text(textwrap.dedent(SOURCE), encoding="utf-8")  # also the name of a module of Python's
    (place / "neighbour.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))  # restores sys.path
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "width"),
    [("sub/test.py:Line", 2), ("./sub/test.py:Line@width=5", 5), ("sub/../sub/test.py:wide", 9), ("sub/test.py:Holder.Inner@width=4", 4)],
)
def test_a_file_names_a_task(spec: str, width: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = load(spec)
    assert task.width == width
    assert load(str(folder / "sub/test.py:Line")).model().in_features == 2
    there = folder / "elsewhere"
    there.mkdir()
    monkeypatch.chdir(there)  # what a worker does with its working directory is its own affair
    assert load(spec).width == width


def test_a_file_is_spelled_in_one_way(folder: Path) -> None:
    assert spec_of("./sub/test.py:Line", {"width": 3}) == "sub/test.py:Line@width=3" == spec_of("sub//test.py:Line@width=3")
    assert spec_for("./sub/test.py:Line") == "sub/test.py:Line"
    assert spec_for(type(load("./sub/test.py:Line"))) == "sub/test.py:Line"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sub/none.py:Line", r"no file sub/none.py in .* Give its path"),
        ("sub/test.py:Lime", r"has no 'Lime'. Did you mean 'Line'"),
        ("sub/test.py:torch", r"expected a subclass or an instance"),
        ("sub/test.py:", r"Malformed task"),
        ("sub/bad.py:Line", r"importing sub/bad.py raised SyntaxError.* Mend the file"),
        ("__main__:Absent", r"the script or notebook that runs has no 'Absent'. .*optevolve.resume\(folder\)"),
    ],
)
def test_a_file_that_does_not_give_one_is_answered(spec: str, message: str, folder: Path) -> None:
    (folder / "sub/bad.py").write_text("def", encoding="utf-8")
    with pytest.raises(TaskError, match=message):
        load(spec)


def test_classes_and_instances_of_the_package_have_their_names() -> None:
    assert spec_for(Quadratics) == "quadratics"
    assert spec_for(MlpMoons()) == "mlp-moons"
    changed = load("mlp-moons@width=3")
    assert spec_for(changed) == "mlp-moons@width=3"
    assert load(spec_for(changed)) == changed


def test_what_workers_cannot_find_is_said_at_once(folder: Path) -> None:
    @dataclass(frozen=True)
    class Within(Task):
        pass

    with pytest.raises(TaskError, match=r"Within cannot be sent to worker processes.*Define it at the top level"):
        spec_for(Within)
    by_hand = importlib.util.spec_from_file_location("loaded_by_hand", folder / "sub/test.py")
    assert by_hand is not None
    assert by_hand.loader is not None
    module = sys.modules["loaded_by_hand"] = importlib.util.module_from_spec(by_hand)
    sys.path.append(str(folder / "sub"))
    by_hand.loader.exec_module(module)
    with pytest.raises(TaskError, match=r"cannot import its module 'loaded_by_hand'"):
        spec_for(module.Line)
    del sys.modules["loaded_by_hand"]
    with pytest.raises(TaskError, match=r"a name, a class or an instance of optevolve.Task, got list"):
        spec_for(["digits"])  # type: ignore[arg-type]


MAIN = """
from dataclasses import dataclass
import threading
import torch
import optevolve as oe
from optevolve.run.definitions import definitions_of
from optevolve.run.spawning import WorkerContext
from optevolve.space import Operator, register_operator
from optevolve.tasks import load, spec_for

DATA = torch.arange(6.0).reshape(3, 2)

class Own(oe.Task):
    def __init__(self, x): self.x = x
    def model(self): return torch.nn.Linear(2, 1)
    def batches(self, split, seed): yield oe.Batch(self.x, self.x)
    def loss(self, model, batch): return model(batch.x).sum()

@dataclass(frozen=True)
class Line(oe.Task):
    width: int = 2
    extra: torch.Tensor | None = None
    def model(self): return torch.nn.Linear(self.width, 1)
    def batches(self, split, seed): yield oe.Batch(DATA, DATA)
    def loss(self, model, batch): return model(batch.x).sum()

@dataclass(frozen=True)
class Lock(oe.Task):
    lock: object = threading.Lock()
    def model(self): return torch.nn.Linear(2, 1)
    def batches(self, split, seed): yield oe.Batch(DATA, DATA)
    def loss(self, model, batch): return model(batch.x).sum()

def refusal(call):
    try:
        call()
    except oe.OptevolveError as error:
        return str(error)

register_operator(Operator("cube", 1, "x * x * x", "{x}^3", "third power", forms=("cube(x)",)))
held = Own(DATA)
with_tensor = Line(3, DATA)
assert spec_for(Line) == "__main__:Line" and spec_for(Line(5)) == "__main__:Line@width=5"
assert spec_for(held) == "__main__:held" and spec_for(with_tensor) == "__main__:with_tensor"
assert "Write TASK = Own(" in refusal(lambda: spec_for(Own(DATA)))
assert "cannot pickle" in refusal(lambda: definitions_of(["__main__:Lock"]))
ask = '''
import sys
from optevolve.tasks import load
from optevolve.space import parse
parse("cube(g)")
print(load("__main__:Line@width=5").model().weight.shape, load("__main__:held").x.sum().item(), load("__main__:with_tensor").extra.shape)
print(next(load("__main__:Line").batches("train", 0)).x.sum().item(), hasattr(sys.modules["__main__"], "Lock"))
'''
specs = ["digits", "__main__:Line@width=5", "__main__:held", "__main__:with_tensor"]
process = WorkerContext(definitions_of(specs)).Process(target=exec, args=(ask,))
process.start()
process.join()
assert process.exitcode == 0
"""


@pytest.mark.parametrize("way", ["file", "stdin"])
def test_tasks_of_a_script_reach_its_workers_by_value(way: str, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN, encoding="utf-8")
    arguments = ["main.py"] if way == "file" else ["-"]
    done = subprocess.run([sys.executable, *arguments], input=MAIN, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["torch.Size([1, 5]) 15.0 torch.Size([3, 2])", "15.0 False"]


def test_a_script_that_names_itself_as_a_module_is_answered(tmp_path: Path) -> None:
    text = textwrap.dedent(SOURCE).replace("import neighbour\n", "") + "print(oe.check_integrity(oe.parse('g')).ok)\n"
    for number, name in enumerate(("mine.py:Line", "mine:Line")):
        start = f"oe.compare(['adam'], {name!r}, 'c{number}')\n"
        (tmp_path / "mine.py").write_text(text + start, encoding="utf-8")
        done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert "starts a run with this very task. Give the class itself, task=Line" in last
        assert not list(tmp_path.glob("c*"))


def test_tensors_compare_as_fields() -> None:
    from optevolve.tasks.own import same

    assert same(torch.ones(1), torch.ones(1))
    assert not same(torch.ones(2), torch.ones(2))  # no single truth: not the same for sure
    assert not same(1, 1.0)
