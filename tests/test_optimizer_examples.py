"""The optimizers' examples learn what they are to learn; each runs where its framework is installed."""

import importlib.util
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(
    ("file", "needs"), [("plain_loop", []), ("lightning_module", ["lightning"]), ("hugging_face_trainer", ["transformers", "accelerate"])]
)
def test_example(file: str, needs: list[str]) -> None:
    for package in needs:
        pytest.importorskip(package, reason=f"{package} is not installed")
    spec = importlib.util.spec_from_file_location(file, EXAMPLES / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main() > 0.9
