"""bf16 ranks rules as float32 does, to within what a seed changes: the 20 rules of the benchmark on real images."""

import subprocess
import sys
from pathlib import Path

import pytest

from optevolve.config import Protocol
from optevolve.training import precision_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "precision.py"


@pytest.mark.skipif(precision_of(Protocol(precision="auto")) != "bf16", reason="this processor has no bf16")
def test_rules_rank_alike_with_and_without_bf16(shared_data: Path) -> None:
    small = ["--rules", "20", "--steps", "40", "--width", "4", "--batch", "64"]
    command = [sys.executable, str(SCRIPT), "--data", str(shared_data), *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.stdout.startswith("cifar10-convnet@batch_size=64,width=4, 20 rules"), done.stderr
    assert done.returncode == 0, done.stdout
    itself = float(done.stdout.splitlines()[-2].split()[-1])
    assert itself > 0.5, "the rules do not spread enough for their ranks to mean anything"
