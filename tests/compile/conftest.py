"""What files of this folder share, made once: rules written to files, loaded from there, and kernels."""

from pathlib import Path

import pytest

from optevolve.compile import export
from tests.compile.exported import RULES, load, share_kernels


@pytest.fixture(scope="session")
def exported_files(tmp_path_factory) -> dict[str, Path]:
    """The file of each rule."""
    folder = tmp_path_factory.mktemp("exported")
    return {name: export(rule, folder / f"exported_{name}.py", name="Exported") for name, rule in RULES.items()}


@pytest.fixture(scope="session")
def exported(exported_files) -> dict[str, type]:
    """The class of each rule, from its file, with kernels that were compiled together."""
    modules = {name: load(path) for name, path in exported_files.items()}
    share_kernels(modules.values())
    return {name: module.Exported for name, module in modules.items()}
