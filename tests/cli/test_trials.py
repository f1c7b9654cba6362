"""Tasks of one's own that end, hold up or shout down the process that tries them: one message of the command, and no folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TASK = """
import ctypes, os, sys, time
import torch
from torch import nn
from optevolve.tasks import Batch, Task
{at_import}

class Bad(Task):
    def model(self):
        return nn.Linear(1, 1)

    def batches(self, split, seed):
        yield Batch(torch.ones(4, 1), torch.ones(4, 1))

    def loss(self, model, batch):
        {in_loss}
        return (model(batch.x) - batch.y).square().mean()

    def score(self, model, batch):
        return -(model(batch.x) - batch.y).square().mean()
"""
# What is otherwise the limit would make the test as long.
PROGRAM = "import sys\nfrom optevolve.run import trial\ntrial._LIMIT = 4.0\nfrom optevolve.cli import main\nmain(sys.argv[1:])\n"
SHOUT = "sys.stdout.write('\\x1b[2J\\x1b]0;owned\\x07' + 'x' * 20_000_000 + '\\n'); "
TRIED = "Task bad.py:Bad cannot be trained: when it was tried in a process of its own, "
SLOW = TRIED + "took longer than its time limit of 4 s. Mend the task; if it needs as long for its data, make that ready before"
WAYS = {  # how: when it is imported, in its loss, what is said
    "exits when imported": ("os._exit(3)", "pass", TRIED + "its worker exited with code 3. Mend the task."),
    "crashes when imported": ("ctypes.string_at(0)", "pass", TRIED + "its worker was killed by SIGSEGV. Mend the task."),
    "leaves when imported": ("sys.exit(5)", "pass", "importing bad.py raised SystemExit: 5. Mend the file."),
    "loops when imported": ("while True: pass", "pass", SLOW),
    "sleeps": ("", "time.sleep(1e6)", SLOW),
    "loops": ("", "while True: pass", SLOW),
    "prints without end": ("", SHOUT + "raise RuntimeError('no')", "RuntimeError: no"),
    "prints without end when imported": (SHOUT + "raise RuntimeError('no')", "pass", "importing bad.py raised RuntimeError: no"),
}
SAMPLE = ("exits when imported", "sleeps", "prints without end")


@pytest.mark.parametrize("way", WAYS if os.environ.get("OPTEVOLVE_TEST_MISDEEDS") == "all" else SAMPLE)
def test_a_task_that_breaks_its_process_before_a_search_is_one_message(way: str, tmp_path: Path) -> None:
    at_import, in_loss, said = WAYS[way]
    (tmp_path / "bad.py").write_text(TASK.format(at_import=at_import, in_loss=in_loss), encoding="utf-8")
    command = ["search", "--task=bad.py:Bad", "--preset=quick", "--workers=1", "--out=run"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *command], cwd=tmp_path, capture_output=True, timeout=280, check=False)
    shown = (done.stdout + done.stderr).decode()
    assert done.returncode == 2, shown
    assert said in " ".join(shown.split())
    assert "Traceback" not in shown
    assert len(shown) < 5000
    assert "\x1b" not in shown
    assert "\x07" not in shown
    if in_loss.startswith(SHOUT):
        assert "Printed while tasks were tried:" in shown
        assert r"\x1b[2J\x1b]0;owned\x07xxx" in shown
    assert not (tmp_path / "run").exists()


def test_a_task_that_logs_goes_on_logging_where_it_was_imported(tmp_path: Path) -> None:
    logs = "import logging\nlogging.getLogger('own').addHandler(logging.StreamHandler())\nprint('imported')"
    (tmp_path / "mine.py").write_text(TASK.format(at_import=logs, in_loss="pass"), encoding="utf-8")
    program = (
        "import logging\nfrom optevolve.run.trial import check_tasks\n"
        "if __name__ == '__main__':\n    check_tasks(['mine.py:Bad'])\n    logging.getLogger('own').warning('later')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=280, check=True)
    assert done.stdout == ""
    assert done.stderr == "Printed while tasks were tried:\n--- mine.py:Bad\nimported\nlater\n"
