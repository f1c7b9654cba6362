"""The recipes of CONTRIBUTING.md work as written: their code runs, in order, in fresh processes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (Add [^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


def blocks(recipe: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", RECIPES[recipe], re.MULTILINE | re.DOTALL)


def run(arguments: list[str], folder: Path) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_are_three_recipes() -> None:
    assert list(RECIPES) == ["Add an operator", "Add a task", "Add a search algorithm"]


def test_operator(tmp_path: Path) -> None:
    (code,) = blocks("Add an operator", "python")
    drawn = "from optevolve.space.grammar import paper_grammar\nassert 'cube(x)' in paper_grammar().unary"
    run(["-c", f"{code}\n{drawn}"], tmp_path)


def test_task(tmp_path: Path) -> None:
    (code,) = blocks("Add a task", "python")
    (tmp_path / "my_tasks.py").write_text(code, encoding="utf-8")
    check, search = blocks("Add a task", "console")[0].strip().splitlines()
    assert "is sound" in run(["-m", *check.split()], tmp_path)
    assert search.startswith("optevolve search --task my_tasks:Moons@width=16 ")
    assert "is sound" in run(["-m", "optevolve", "tasks", "--check", "my_tasks:Moons@width=16"], tmp_path)


def test_search_algorithm(tmp_path: Path) -> None:
    algorithm, trial = blocks("Add a search algorithm", "python")
    # As optevolve/algorithms/climb.py would be, without writing into the package.
    package = "import sys, types\nmodule = types.ModuleType('optevolve.algorithms.climb')\n"
    package += f"exec(compile({algorithm!r}, 'climb.py', 'exec'), module.__dict__)\nsys.modules['optevolve.algorithms.climb'] = module\n"
    run(["-c", package + trial], tmp_path)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "README.md"])
def test_files_that_are_named_exist(name: str) -> None:
    root = Path(__file__).parents[1]
    made_later = {"my_tasks.py", "optevolve/algorithms/climb.py"}
    named = set(re.findall(r"`((?:optevolve|tests|docs|benchmarks|examples)/[\w./]+\.\w+)`", (root / name).read_text(encoding="utf-8")))
    assert sorted(file for file in named - made_later if not (root / file).is_file()) == []
