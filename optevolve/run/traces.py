"""What a task of somebody's own leaves behind in its worker's process, so that the next measurement would not be what it is alone.

No list of such changes is whole, so a worker that has measured a task of somebody's own measures nothing but tasks from the same place from
then on, see `optevolve.run.worker.own_place`. What is found here protects these from each other.
"""

from __future__ import annotations

import gc
import locale
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psutil

from optevolve.run.own_time import family

__all__ = ["Traces"]

_TORCH = (
    *("get_default_dtype", "get_default_device", "is_grad_enabled", "is_inference_mode_enabled", "are_deterministic_algorithms_enabled"),
    *("is_deterministic_algorithms_warn_only_enabled", "is_anomaly_enabled", "get_float32_matmul_precision"),
    *("is_autocast_enabled", "get_num_interop_threads", "is_warn_always_enabled"),
)
_BACKENDS = {"cudnn": ("enabled", "benchmark", "deterministic", "allow_tf32"), "mkldnn": ("enabled", "deterministic"), "mkl": ("verbose",)}
_SDP = ("flash_sdp_enabled", "mem_efficient_sdp_enabled", "math_sdp_enabled", "cudnn_sdp_enabled")
_HOOKS = ("torch.nn.modules.module", "torch.optim.optimizer")  # modules that keep hooks of all models and of all optimizers
_OWN_VARIABLES = ("OPTEVOLVE_", "HF_")  # read while measuring, so that a new one counts as well
_SHARED = (
    *("builtins", "copy", "functools", "itertools", "json", "math", "operator", "os", "random", "time"),
    *("numpy", "numpy.linalg", "numpy.random"),
    *("torch", "torch.autograd", "torch.fft", "torch.linalg", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.nn.utils"),
    *("torch.optim", "torch.optim.lr_scheduler", "torch.special", "torch.utils.data"),
)
_CLASSES = ("torch.Tensor", "torch.nn.Module", "torch.nn.Parameter", "torch.optim.Optimizer", "torch.Generator")
_WITH_CLASSES = ("torch.nn", "torch.optim")  # modules whose classes are all looked at
# Parts of torch that put something in place of others when they are first used: its compilers, and its optimizers around their steps.
_LATE = ("_dynamo", "_inductor", "_functorch", "_compile.py", "optim/optimizer.py")


class Traces:
    """The state of this process that measurements share, taken when this is made."""

    def __init__(self) -> None:
        self._settings = _settings()
        self._path, self._finders = tuple(sys.path), tuple(sys.meta_path)
        self._variables = {_variable(name) for name in os.environ}
        self._names = {where: dict(names) for where, names in _namespaces()}

    def changed_since(self, before: Traces) -> str:
        """What is another than it was, in words; empty if nothing. What is new counts where it hides what was there."""
        for name, value in before._settings.items():
            if self._settings.get(name, value) != value or (name in before._variables and name not in self._variables):
                return name
        if self._path[: len(before._path)] != before._path or self._finders != before._finders:
            return "search path of modules"
        for where, names in before._names.items():
            now = self._names.get(where, {})
            for name, value in names.items():
                if now.get(name) is not value and not _by_torch(now.get(name)):
                    return f"{where}.{name}"
            for name in now.keys() - names.keys():
                if _inherits(where, name) and not _by_torch(now[name]):
                    return f"{where}.{name}"
        return ""


def _settings() -> dict[str, object]:
    found: dict[str, object] = {
        "working folder": os.getcwd() if _is_there() else "",
        "recursion limit": sys.getrecursionlimit(),
        "switch interval": sys.getswitchinterval(),
        "trace function": (sys.gettrace(), sys.getprofile(), threading.gettrace()),
        "longest number in digits": sys.get_int_max_str_digits(),
        "way of rounding": _rounding(),
        "warning that is raised": tuple(entry for entry in warnings.filters if entry[0] == "error"),
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "locale": locale.setlocale(locale.LC_ALL),
        "set of threads": frozenset(thread.ident for thread in threading.enumerate()),
        "set of child processes": frozenset(process.pid for process in family(psutil.Process())),
        "value of OPTEVOLVE_… or HF_… in its environment": {k: v for k, v in os.environ.items() if k.startswith(_OWN_VARIABLES)},
    }
    found |= {_variable(name): value for name, value in os.environ.items()}
    handlers = {str(number): signal.getsignal(number) for number in signal.valid_signals()}
    found |= {f"handler of signal {number}": handler for number, handler in handlers.items()}
    if os.name == "posix":
        found |= _posix()
    if (torch := sys.modules.get("torch")) is not None:
        found |= {f"torch.{name}": str(getattr(torch, name)()) for name in _TORCH if hasattr(torch, name)}
        for backend, names in _BACKENDS.items():
            part = getattr(torch.backends, backend, None)
            found |= {f"torch.backends.{backend}.{name}": str(getattr(part, name, None)) for name in names}
        found |= {f"torch.backends.cuda.{name}": getattr(torch.backends.cuda, name, bool)() for name in _SDP}
        found |= {f"torch.get_autocast_dtype({kind!r})": str(torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")}
        found |= _hooks(torch)
        found["treatment of denormal numbers"] = float(torch.tensor(2.0**-140) * 1.0)
    if (numpy := sys.modules.get("numpy")) is not None:
        found["numpy.geterr"] = numpy.geterr()
    return found


def _hooks(torch: Any) -> dict[str, object]:
    """What torch calls beside, or in place of, what is called: torch names none of it in public."""
    found: dict[str, object] = {}
    for module in _HOOKS:
        names = vars(sys.modules.get(module, torch))
        found |= {
            f"{module}.{name}": tuple(value) if isinstance(value, dict) else value
            for name, value in names.items()
            if name.startswith("_global_")
        }
    for kind in ("function", "dispatch"):
        found[f"stack of {kind} modes"] = getattr(torch._C, f"_len_torch_{kind}_stack", int)()
    if (hooks := getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)) is not None:
        found["hooks of saved tensors"] = hooks(True)
    return found


def _rounding() -> list[float]:
    """Sums that each way of rounding gives another value of: to the nearest, up, down, to zero."""
    tiny = 2.0**-60
    return [large + small for large, small in ((1.0, tiny), (1.0, -tiny), (-1.0, tiny))]


def _variable(name: str) -> str:
    return f"value of {name} in its environment"


def _posix() -> dict[str, object]:
    import resource

    mask = os.umask(0)
    os.umask(mask)
    found: dict[str, object] = {"umask": mask, "niceness": os.getpriority(os.PRIO_PROCESS, 0)}
    found["alarm"] = any(signal.getitimer(timer)[0] > 0 for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF))
    found["mask of signals"] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if hasattr(os, "sched_getaffinity"):
        found["set of processors"] = os.sched_getaffinity(0)
    limits = {name for name in dir(resource) if name.startswith("RLIMIT_")}
    return found | {name: resource.getrlimit(getattr(resource, name)) for name in limits}


def _is_there() -> bool:
    """Whether the working folder still exists."""
    with suppress(OSError):
        return bool(os.getcwd())
    return False


def _namespaces() -> list[tuple[str, Mapping[str, Any]]]:
    """Functions, classes and numbers that measurements share, by name, of modules and of classes."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for name, module in list(sys.modules.items()):
        if name in _SHARED or name.partition(".")[0] == "optevolve":
            found.append((name, _shared(vars(module))))
    paths = [f"{place}.{name}" for place in _WITH_CLASSES for name, value in _names(place).items() if isinstance(value, type)]
    classes = {path: kind for path in (*_CLASSES, *paths) if (kind := _class(path)) is not None}
    return [*found, *((path, _shared(vars(kind))) for path, kind in classes.items())]


def _names(module: str) -> Mapping[str, Any]:
    return vars(sys.modules[module]) if module in sys.modules else {}


def _class(path: str) -> type | None:
    place, _, name = path.rpartition(".")
    found = _names(place).get(name)
    return found if isinstance(found, type) else None


def _inherits(path: str, name: str) -> bool:
    """Whether a class has a name from those above it."""
    kind = _class(path)
    return kind is not None and any(name in vars(above) for above in kind.__mro__[1:])


def _shared(names: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in names.items()
        if callable(value) or isinstance(value, staticmethod | classmethod | property | int | float)
    }


def _by_torch(value: Any) -> bool:
    """Whether torch itself has put it there, as it does when something is first used."""
    function: Callable[..., Any] | None = getattr(value, "__func__", value)
    file: str = getattr(getattr(function, "__code__", None), "co_filename", "")
    torch = sys.modules.get("torch")
    folder = "" if torch is None else os.path.dirname(torch.__file__ or "")
    return folder != "" and file.startswith(tuple(os.path.join(folder, part) for part in _LATE))
