"""The fused step on the CPU: compiles a rule's C++, keeps it on disk for other processes, and calls it. Needs only torch.

Kernels lie in `$RULE_KERNEL_CACHE`, else in `torch_rule_kernels` of the user's cache folder, named by a hash of what decides their code and
one of what they hold, so that a file that was cut off or is none of ours is not loaded. What goes wrong costs a warning, never a step.
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
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optevolve.compile.cpp import translate

__all__ = ["FusedStep", "fused_step", "library", "pointers_of", "shared_object"]

_ELEMENT_TYPES = {torch.float32: "float", torch.bfloat16: "c10::BFloat16", torch.float16: "c10::Half"}
_VECTOR_FLAGS = {"AVX512": "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mavx2 -mfma -mf16c", "AVX2": "-mavx2 -mfma -mf16c"}


class FusedStep(NamedTuple):
    """A compiled kernel: one step of a rule on any number of parameters."""

    text: str  # C++, without its element types; see `translate`
    constants: tuple[float, ...]  # numbers of the Python text, which follow the hyperparameters and the rule's own numbers
    uniforms: tuple[int, ...]  # positions among the rule's draws of those that the kernel makes itself  # export if draws
    normals: tuple[int, ...]  # positions of those that it is given as tensors  # export if draws
    function: Any = None  # once it is loaded

    def __call__(self, tensors: Sequence[Sequence[Tensor]], scalars: Sequence[float], keys: Sequence[Sequence[int]]) -> None:
        """Advances weights and states in place.

        Args:
            tensors: for each parameter its weights, gradient, states and given draws, all contiguous, on the CPU, of one size.
            scalars: the hyperparameters and the rule's numbers of this step.
            keys: for each parameter the key of each uniform draw.
        Raises:
            RuntimeError: if the memory of a tensor was freed.
        """
        pointers = pointers_of([tensor for row in tensors for tensor in row])
        values = [*scalars, *self.constants]
        sizes = (ctypes.c_int64 * len(tensors))(*(row[0].numel() for row in tensors))
        arguments: list[Any] = [ctypes.c_int64(len(tensors)), (ctypes.c_void_p * len(pointers))(*pointers), sizes]
        arguments += [(ctypes.c_double * len(values))(*values), ctypes.c_int(torch.get_num_threads())]
        if self.uniforms:  # export if draws
            flat_keys = [key & 0xFFFFFFFF for row in keys for key in row]
            arguments.append((ctypes.c_uint32 * len(flat_keys))(*flat_keys))
        self.function(*arguments)


def pointers_of(tensors: Sequence[Tensor]) -> list[int]:
    """Where the tensors' elements begin.

    Raises:
        RuntimeError: if the memory of one was freed.
    """
    pointers = [tensor.data_ptr() for tensor in tensors]
    if 0 in pointers and any(not pointer and tensor.numel() for pointer, tensor in zip(pointers, tensors, strict=True)):
        raise RuntimeError("Expected tensors that hold memory, got one whose storage was freed. Restore it before the step.")
    return pointers


@cache
def fused_step(  # export never
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
    try:
        kernel = FusedStep(*translate(textwrap.dedent(inspect.getsource(advance)), states, draws))
    except NotImplementedError:  # rows, columns, orthogonalisation: torch's own kernels are the fast way
        return None
    return loaded(kernel, weights, gradient, maximize)


@cache
def loaded(kernel: FusedStep, weights: torch.dtype, gradient: torch.dtype, maximize: bool) -> FusedStep | None:
    """The kernel compiled for these element types, with the gradient negated or not; None where that cannot be."""
    if weights not in _ELEMENT_TYPES or gradient not in _ELEMENT_TYPES:
        return None
    settings = {"WEIGHT": _ELEMENT_TYPES[weights], "GRADIENT": _ELEMENT_TYPES[gradient], "MAXIMIZE": str(maximize).lower()}
    found = library("".join(f"#define {name} {value}\n" for name, value in settings.items()) + kernel.text, "step")
    return None if found is None else kernel._replace(function=found.step)


def library(text: str, *functions: str) -> ctypes.CDLL | None:
    """The compiled text, loaded, with these functions; None, said once, where it cannot be compiled, kept or loaded."""
    try:
        if (path := shared_object(text)) is None:
            return None
        found = ctypes.CDLL(str(path))
        for name in functions:
            getattr(found, name).restype = None
        return found
    except (OSError, RuntimeError, AttributeError) as error:  # a user without a home; a library of others
        _say_once(f"{error}. Name a folder that can be written to and run from in $RULE_KERNEL_CACHE")
        return None


def shared_object(text: str) -> Path | None:
    """The compiled text, from the cache or made now; None where there is no working compiler.

    Raises:
        OSError: if it cannot be kept.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    vectors = capability if capability in _VECTOR_FLAGS else "DEFAULT"
    flags = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-w"]
    flags += [f"-DCPU_CAPABILITY={vectors}", f"-DCPU_CAPABILITY_{vectors}"]
    flags += f"{_VECTOR_FLAGS.get(vectors, '')} {os.environ.get('CXXFLAGS', '')}".split()
    digest = hashlib.sha256("\n".join([text, *flags, torch.__version__, sys.platform]).encode()).hexdigest()[:32]
    named = os.environ.get("RULE_KERNEL_CACHE")
    folder = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch_rule_kernels")
    for path in sorted(folder.glob(f"{digest}-*.so")):
        if path.stem == f"{digest}-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}":
            return path
        _say_once(f"{path} is damaged, and is made anew", "A compiled step was not loaded")
        path.unlink(missing_ok=True)
    compiler = next((found for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name and (found := shutil.which(name))), None)
    if compiler is None:
        _say_once("no C++ compiler was found (looked for $CXX, g++, clang++, c++)")
        return None
    root = Path(torch.__file__).parent
    if sys.platform == "linux":  # torch's own OpenMP runtime, where it brings one, so that there is one pool of threads
        flags += ["-fopenmp", *map(str, sorted((root / "lib").glob("libgomp*.so*"))[:1])]
    flags += [f"-I{root / 'include'}", f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10"]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        source, made = Path(scratch) / "step.cpp", Path(scratch) / "step.so"
        source.write_text(text, encoding="utf-8")
        done = subprocess.run([compiler, str(source), "-o", str(made), *flags], capture_output=True, check=False)
        if done.returncode != 0:
            _say_once(f"{compiler} failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
            return None
        path = folder / f"{digest}-{hashlib.sha256(made.read_bytes()).hexdigest()[:16]}.so"
        made.replace(path)  # atomic: another process sees all of it or nothing
    return path


@cache
def _say_once(reason: str, what: str = "The fused step cannot be compiled, so steps run as plain torch operations") -> None:
    warnings.warn(f"{what}: {reason}.", stacklevel=2)
