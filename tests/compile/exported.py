"""Rules as users get them: written to files, and the classes loaded from there."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from optevolve.compile import export
from optevolve.library import ZOO
from optevolve.space import parse
from optevolve.space.rule import UpdateRule
from tests.compile.agreement import ZOO_NAMES

# Every published rule, and what none of them is made of.
RULES: dict[str, UpdateRule] = {name: ZOO[name].rule for name in ZOO_NAMES} | {
    "draws": parse("dropout(a4 * g, 0.3) + noise"),
    "norms_and_draws": parse("-momentum: clip_norm(v_hat + dropout(g, 0.3)) + 0.01 * noise + normalize(g) * sigmoid(w)"),
    "matrices": parse("nesterov: row_normalize(v) + column_normalize(g) + sign(g)"),
    "no_tensor": parse("a1"),
}


def load(path: Path) -> ModuleType:
    """The module that the file is."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def exported_files(tmp_path_factory) -> dict[str, Path]:
    """The file of each rule."""
    folder = tmp_path_factory.mktemp("exported")
    return {name: export(rule, folder / f"exported_{name}.py", name="Exported") for name, rule in RULES.items()}


@pytest.fixture(scope="session")
def exported(exported_files) -> dict[str, type]:
    """The class of each rule, from its file."""
    return {name: load(path).Exported for name, path in exported_files.items()}
