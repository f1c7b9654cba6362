"""A run's exported optimizer trains a model in a script that imports only torch and that file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optevolve.compile import export
from optevolve.space import parse

EXAMPLE = Path(__file__).parent.parent / "examples" / "use_best_optimizer.py"


@pytest.mark.parametrize("rule", ["nesterov: erf(sign(g) + 1e-6 * w)", "-momentum: a4 * clip_norm(-v_hat) + dropout(g, 0.1) * -1"])
def test_the_example_trains_with_the_exported_file_alone(tmp_path: Path, rule: str) -> None:
    export(parse(rule), tmp_path / "best_optimizer.py", name="BestOptimizer")
    # -I: neither this folder nor PYTHONPATH is searched; an import of optevolve would also trip the example's own check
    ended = subprocess.run(
        [sys.executable, "-I", str(EXAMPLE), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert float(ended.stdout.split(" after,")[0].rsplit(" ", 1)[1]) > 0.9, ended.stdout
