"""The fused step on the CPU: compiles a rule's C++, keeps it on disk for other processes, and calls it. Needs only torch.

Kernels lie in `$RULE_KERNEL_CACHE`, else in `torch_rule_kernels` of the user's cache folder, named by a hash of what decides their code.
"""

from __future__ import annotations

import ctypes
import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optevolve.compile.cpp import CppKernel, translate

__all__ = ["FusedStep", "fused_step", "shared_object"]

_ELEMENT_TYPES = {torch.float32: "float", torch.bfloat16: "c10::BFloat16", torch.float16: "c10::Half"}
_VECTOR_FLAGS = {"AVX512": "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mf16c", "AVX2": "-mavx2 -mfma -mf16c"}


class FusedStep:
    """A compiled kernel: one step of a rule on any number of parameters.

    Args:
        kernel: what was compiled.
        function: its `step`, loaded.
    """

    def __init__(self, kernel: CppKernel, function: Any) -> None:
        self.kernel = kernel
        self.function = function
        self.function.restype = None

    def __call__(self, tensors: Sequence[Sequence[Tensor]], numbers: Sequence[float], keys: Sequence[Sequence[int]]) -> None:
        """Advances weights and states in place.

        Args:
            tensors: for each parameter its weights, gradient, states and normal draws, all contiguous.
            numbers: lr, keep, momentum and the rule's numbers of this step.
            keys: for each parameter the key of each uniform draw.
        """
        pointers = [tensor.data_ptr() for row in tensors for tensor in row]
        flat_keys = [key & 0xFFFFFFFF for row in keys for key in row]
        values = [*numbers, *self.kernel.constants]
        self.function(
            ctypes.c_int64(len(tensors)),
            (ctypes.c_void_p * len(pointers))(*pointers),
            (ctypes.c_int64 * len(tensors))(*(row[0].numel() for row in tensors)),
            (ctypes.c_uint32 * max(1, len(flat_keys)))(*flat_keys),
            (ctypes.c_double * len(values))(*values),
            ctypes.c_int(torch.get_num_threads()),
        )


@cache
def fused_step(
    advance: Callable[..., Any], states: int, draws: tuple[str, ...], weights: torch.dtype, gradient: torch.dtype, maximize: bool
) -> FusedStep | None:
    """The compiled kernel of an `advance` function; None for element types and rules that have none, and where there
    is no compiler, which is said once.

    Args:
        advance: function whose text is translated.
        states: how many of its arguments are states.
        draws: primitives of its random tensors.
        weights, gradient: element types.
        maximize: whether the gradient is negated.
    """
    if weights not in _ELEMENT_TYPES or gradient not in _ELEMENT_TYPES:
        return None
    text = textwrap.dedent(inspect.getsource(advance))
    try:
        kernel = translate(text, states, draws, _ELEMENT_TYPES[weights], _ELEMENT_TYPES[gradient], maximize)
    except NotImplementedError:  # rows, columns, orthogonalisation: torch's own kernels are the fast way
        return None
    path = shared_object(kernel.text)
    return None if path is None else FusedStep(kernel, ctypes.CDLL(str(path)).step)


def shared_object(text: str) -> Path | None:
    """The compiled text, from the cache or made now; None where there is no working compiler."""
    capability = torch.backends.cpu.get_cpu_capability()
    vectors = capability if capability in _VECTOR_FLAGS else "DEFAULT"
    flags = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-w"]
    flags += [f"-DCPU_CAPABILITY={vectors}", f"-DCPU_CAPABILITY_{vectors}", *_VECTOR_FLAGS.get(vectors, "").split()]
    flags += os.environ.get("CXXFLAGS", "").split()
    digest = hashlib.sha256("\n".join([text, *flags, torch.__version__, sys.platform]).encode()).hexdigest()[:32]
    folder = _cache_folder()
    path = folder / f"{digest}.so"
    if path.exists():
        return path
    compiler = _compiler()
    if compiler is None:
        _say_once("no C++ compiler was found (looked for $CXX, g++, clang++, c++)")
        return None
    root = Path(torch.__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        source, made = Path(scratch) / "step.cpp", Path(scratch) / "step.so"
        source.write_text(text, encoding="utf-8")
        # torch's own OpenMP runtime, where it brings one, so that there is one pool of threads
        runtime = next((str(found) for found in sorted((root / "lib").glob("libgomp*.so*"))), None)
        openmp = ["-fopenmp", *([runtime] if runtime else [])] if sys.platform == "linux" else []
        command = [
            compiler,
            *flags,
            *openmp,
            f"-I{root / 'include'}",
            str(source),
            "-o",
            str(made),
            f"-L{root / 'lib'}",
            "-ltorch_cpu",
            "-lc10",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            _say_once(f"{compiler} failed: {done.stderr.strip()[-500:]}")
            return None
        made.replace(path)  # atomic: another process sees all of it or nothing
    return path


def _cache_folder() -> Path:
    named = os.environ.get("RULE_KERNEL_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_rule_kernels"


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    return next((found for name in (named, "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)


@cache
def _say_once(reason: str) -> None:
    warnings.warn(f"The fused step cannot be compiled, so steps run as plain torch operations: {reason}.", stacklevel=2)
