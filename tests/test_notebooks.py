"""A search from a notebook: a task of a cell, two workers, and progress in the cell. From IPython in a terminal likewise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
from dataclasses import dataclass
import torch
import optevolve as oe

DATA = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))

@dataclass(frozen=True)
class Plane(oe.Task):
    bias: bool = True

    def model(self):
        return torch.nn.Linear(2, 1, bias=self.bias)

    def batches(self, split, seed):
        for x in DATA.split(16):
            yield oe.Batch(x, x.sum(1, keepdim=True))

    def loss(self, model, batch):
        return (model(batch.x) - batch.y).square().mean()
"""
COMPARE = """
rows = oe.compare(["adam", "sgd"], Plane(bias=False), "c", seeds=2, workers=2, settings=["trial_steps=5", "full_steps=5"])
print("scores", sorted(row.name for row in rows if row.mean is not None), {row.task for row in rows})
"""


def test_a_notebook_compares_on_the_task_of_a_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    from nbformat.v4 import new_code_cell, new_notebook

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    notebook = new_notebook(cells=[new_code_cell(TASK), new_code_cell(COMPARE)])
    client = nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}})
    client.create_kernel_manager()
    client.km.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client.execute()
    outputs = notebook.cells[1].outputs
    printed = "".join(output.get("text", "") for output in outputs)
    assert "scores ['adam', 'sgd'] {'__main__:Plane@bias=false'}" in printed
    shown = [output["data"]["text/plain"] for output in outputs if output.output_type == "display_data"]
    assert len(shown) == 1  # one output, written anew
    assert shown[0].startswith("[comparison] ended with 6 evaluations")
    assert (tmp_path / "c" / "comparison.json").is_file()


def test_a_script_without_a_guard_compares_in_ipython(tmp_path: Path) -> None:
    pytest.importorskip("IPython")
    (tmp_path / "ipython").mkdir()
    (tmp_path / "mine.py").write_text(TASK + COMPARE, encoding="utf-8")
    command = [sys.executable, "-m", "IPython", "mine.py"]
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "scores ['adam', 'sgd'] {'__main__:Plane@bias=false'}" in done.stdout
    assert "[comparison]" not in done.stdout  # nobody looks on at a pipe
