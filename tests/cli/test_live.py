"""Looking at a run loads nothing that trains, so that it is there in a blink and disturbs nobody."""

import subprocess
import sys
from pathlib import Path

import pytest

from optevolve.config_text import preset
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.run.folder import open_run

HEAVY = ("torch", "sklearn", "scipy", "pandas", "matplotlib", "ray", "optevolve.compile", "optevolve.tasks", "optevolve.training")
LOOK = """
import sys
from optevolve.cli import main
try:
    main(sys.argv[1:])
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with open_run(tmp_path / "run", preset("quick")) as (study, config):
        job = Job("initial/0000", "g", "digits", config.initial.protocol, 0)
        study.record(Measurement("initial", job, Outcome(Status.COMPLETED, 0.5, 0.1), Proposal("initial/0000", "g", "{}", "initial")))
        study.finish()
    return tmp_path / "run"


@pytest.mark.parametrize("options", [[], ["--follow"]])
def test_a_look_at_a_run_loads_neither_torch_nor_what_trains(folder: Path, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, "top", str(folder), *options], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "0.5000" in done.stdout
    loaded = done.stderr.split()
    assert "optevolve.run.store" in loaded
    assert [name for name in HEAVY if name in loaded] == []
