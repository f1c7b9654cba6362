"""Rules as users get them: written to files, and the classes loaded from there. Fixtures are in `conftest`."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import torch

from tests.compile.agreement import compiled_together
from tests.compile.selection import KINDS, NAMED, WHOLE

# One of every kind, and what no published rule is made of.
RULES = {name: rule for name, rule in NAMED.items() if WHOLE or name in (*KINDS, "norms_and_draws", "matrices", "no_tensor")}


def load(path: Path) -> ModuleType:
    """The module that the file is."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def share_kernels(modules: Iterable[ModuleType]) -> None:
    """Makes the files take their kernels, float32 and descending, from one library; other types are compiled as the file does."""
    fused = [module for module in modules if hasattr(module, "KERNEL")]
    functions = compiled_together(module.KERNEL.text for module in fused)

    def share(module: ModuleType) -> None:
        own = module.loaded
        kernel = module.KERNEL._replace(function=functions[module.KERNEL.text])
        module.loaded = lambda text, *types: kernel if types == (torch.float32, torch.float32, False) else own(text, *types)

    for module in fused:
        share(module)
