"""The tasks under `examples/tasks` are sound, and their script runs as it is, here with fewer steps."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from optevolve.tasks import load
from optevolve.tasks.check import check_task

FOLDER = Path(__file__).parents[1] / "examples" / "tasks"
STEPS = ("trial_steps", "full_steps", "epoch_steps", "trial_epoch_steps")
SPECS = {"diabetes.py:Diabetes", "source_code.py:SourceCode", "triangles.py:Triangles", "broken_sensor.py:BrokenSensor+finite:0.5"}


@pytest.mark.parametrize("spec", sorted(SPECS))
def test_each_is_sound_and_says_how_it_is_searched(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    check_task(load(spec))
    commands = re.findall(r"^optevolve (\w+) .*--task (\S+) ", (FOLDER / spec.partition(":")[0]).read_text(), re.MULTILINE)
    assert commands == [("search", spec), ("compare", spec)]


def test_the_script_runs_without_a_guard(tmp_path: Path) -> None:
    """On the quickest of them, with a test's budget instead of the preset's; everything else is as it stands."""
    text = (FOLDER / "from_a_script.py").read_text()
    search = 'preset="quick", out=f"runs/{name}"'
    compare = 'f"runs/{name}-known"'
    assert text.count(search) == text.count(compare) == 1
    few = ("search.population=2", "search.particles=1", "search.timesteps=1", "search.children=1", "search.redraws=0", "evaluation.seeds=1")
    steps = [f"{stage}.protocol.{kind}=4" for stage in ("initial", "evolution", "elimination.0", "evaluation") for kind in STEPS]
    text = text.replace(search, f"{search}, workers=1, settings={[*few, *steps, 'evaluation.baselines=[]']}")
    text = text.replace(compare, f"{compare}, seeds=1, workers=1, settings={[f'{kind}=4' for kind in STEPS]}")
    for file in FOLDER.glob("*.py"):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "from_a_script.py").write_text(text)
    command = [sys.executable, "from_a_script.py", "diabetes"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"diabetes: (adamw|nesterov|lion) -\d", done.stdout)
    assert (tmp_path / "runs/diabetes/best_optimizer.py").is_file()
