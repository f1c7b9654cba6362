"""Misdeeds of a task, and the same task without: `misdeeds:Line@how=WORD`, for workers to import.

What fills a disk writes to the folder in OPTEVOLVE_TEST_DISK, which is to be small.
"""

import builtins
import ctypes
import gc
import locale
import os
import platform
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode

from optevolve import surrogate
from optevolve.records import Split
from optevolve.tasks import Batch, Task, synthetic

_KEPT: list[object] = []


def _spin() -> None:
    while True:
        pass


def _forks(each: Callable[[], object] = lambda: None, wait: float = 0.01) -> None:
    while True:
        if not os.fork():
            each()
            if wait:
                time.sleep(600)
                os._exit(0)
        time.sleep(wait)


def _doubles() -> None:
    """Every child forks on; ends by itself after 20 seconds, should nobody end it."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        os.fork()
        time.sleep(0.2)
    os._exit(0)


def _opens_files() -> None:
    while True:
        _KEPT.append(open(os.devnull))  # noqa: SIM115 - never closed, on purpose


def _prints() -> None:
    for _ in range(20_000):
        print("x" * 999)


def _bounces() -> None:
    def again() -> None:
        again()

    sys.setrecursionlimit(10**9)
    again()


def _fills() -> None:
    with (Path(os.environ["OPTEVOLVE_TEST_DISK"]) / "filled").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
            time.sleep(0.001)


def _fills_and_stays() -> None:
    try:
        _fills()
    except OSError:
        time.sleep(600)


def _writes_to_pipes() -> None:
    for descriptor in range(3, 100):
        try:
            os.set_blocking(descriptor, False)
            os.write(descriptor, b"\xff\xff\xff\xff" + b"\x7f" * 999)
        except OSError:
            pass


def _raises(error: BaseException) -> None:
    raise error


def _limits() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def _mocks(where: object, name: str, function: Callable[..., object]) -> Callable[[], object]:
    return lambda: setattr(where, name, function)


class _Doubled(TorchFunctionMode):
    """Doubles what layers and sums give."""

    def __torch_function__(self, function: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> object:
        found = function(*args, **(kwargs or {}))
        return 2 * found if function in (nn.functional.linear, torch.einsum) else found


def _rounds_up() -> None:
    upward = 0x400000 if platform.machine() in ("aarch64", "arm64") else 0x800
    ctypes.CDLL("libm.so.6").fesetround(upward)


MISDEEDS: dict[str, Callable[[], object]] = {
    "raises": lambda: _raises(ZeroDivisionError("z" * 5_000_000)),
    "interrupts": lambda: _raises(KeyboardInterrupt()),
    "raises what is no Exception": lambda: _raises(BaseException("base")),
    "exits": lambda: sys.exit(3),
    "exits at once": lambda: os._exit(0),
    "kills itself": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminates itself": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "aborts": os.abort,
    "segfaults": lambda: ctypes.string_at(0),
    "kills its parent": lambda: os.kill(os.getppid(), signal.SIGKILL),
    "terminates its group": lambda: os.killpg(0, signal.SIGTERM),
    "stops its parent": lambda: os.kill(os.getppid(), signal.SIGSTOP),
    "hangs": _spin,
    "sleeps": lambda: time.sleep(1e6),
    "deadlocks in C": lambda: ctypes.PyDLL(None).pause(),
    "ignores signals": lambda: (signal.signal(signal.SIGTERM, signal.SIG_IGN), _spin()),
    "takes all memory": lambda: bytearray(10**12),
    "leaks": lambda: _KEPT.append(bytearray(200_000_000)),
    "recurses": _bounces,
    "opens files without end": _opens_files,
    "closes what is open": lambda: os.closerange(0, 200),
    "prints without end": _prints,
    "writes to its parent's pipes": _writes_to_pipes,
    "fills the disk": _fills,
    "fills the disk and stays": _fills_and_stays,
    "forks without end": _forks,
    "forks sessions without end": lambda: _forks(os.setsid),
    "doubles without end": _doubles,
    "leaves a thread that computes": lambda: threading.Thread(target=_spin, daemon=True).start(),
    "leaves a process that computes": lambda: _KEPT.append(subprocess.Popen([sys.executable, "-c", "while True: pass"])),
    "leaves a timer": lambda: signal.setitimer(signal.ITIMER_REAL, 0.05),
    "handles signals": lambda: signal.signal(signal.SIGTERM, lambda *_: None),
    "changes folder": lambda: os.chdir("/"),
    "changes the environment": lambda: os.environ.update(OPTEVOLVE_DATA="/nowhere", HOME="/nowhere"),
    "changes the search path": sys.path.clear,
    "changes umask and niceness": lambda: (os.umask(0o777), os.nice(19)),
    "changes limits": _limits,
    "changes the locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "switches the collector off": gc.disable,
    "changes the default type": lambda: torch.set_default_dtype(torch.float64),
    "switches gradients off": lambda: torch.set_grad_enabled(False),
    "switches determinism on": lambda: torch.use_deterministic_algorithms(True),
    "flushes denormal numbers": lambda: torch.set_flush_denormal(True),
    "takes many threads": lambda: torch.set_num_threads(8),
    "seeds the generators": lambda: (torch.manual_seed(0), np.random.seed(0), random.seed(0)),  # noqa: NPY002 - on purpose
    "raises on underflow": lambda: np.seterr(all="raise"),
    "patches torch": _mocks(torch.Tensor, "backward", lambda self, *a, **k: None),
    "patches the losses": _mocks(torch.nn.functional, "mse_loss", lambda x, y: (x - x).sum()),
    "patches the layers": _mocks(torch.nn.Linear, "forward", lambda self, x: 0 * x[:, :1]),
    "patches the generators": _mocks(torch, "manual_seed", lambda seed: None),
    "patches Python": _mocks(builtins, "sum", lambda *a: 0),
    "patches the clock": _mocks(time, "perf_counter", lambda: 0.0),
    "patches the search": _mocks(surrogate, "measure", lambda job, compute: None),
    "patches the starts": _mocks(nn.init, "kaiming_uniform_", lambda tensor, *_, **__: tensor.data.fill_(0.5)),
    "patches by a new name": _mocks(torch.Tensor, "mean", lambda self, *_, **__: self.sum()),
    "patches the equations": _mocks(torch.linalg, "qr", lambda a: (a, a)),
    "patches the derivatives": _mocks(torch.autograd, "grad", lambda *_, **__: ()),
    "patches numpy": _mocks(np.random, "default_rng", lambda seed=None: np.random.Generator(np.random.MT19937(7))),
    "patches another task": _mocks(synthetic.Quadratics, "loss", lambda self, model, batch: model().square().sum()),
    "patches another model": _mocks(synthetic._Point, "forward", lambda self: 2 * self.position),
    "changes another task's data": lambda: [tensor.zero_() for tensor in synthetic._bowls(8, 16, 100.0)],
    "hooks every module": lambda: nn.modules.module.register_module_forward_hook(lambda module, given, found: 2 * found),
    "hooks every step": lambda: register_optimizer_step_post_hook(lambda *_: _raises(ValueError("hooked"))),
    "hooks what is saved": lambda: torch.autograd.graph.saved_tensors_hooks(torch.zeros_like, lambda x: x).__enter__(),
    "leaves a mode on": lambda: _Doubled().__enter__(),
    "rounds up": _rounds_up,
    "raises warnings": lambda: warnings.simplefilter("error"),
    "returns a giant": lambda: torch.zeros(10**11),
}  # fmt: skip


@dataclass(frozen=True)
class Line(Task):
    """A line through points; `how` is what it does to its process with each loss, once there is a file `begin`."""

    how: str = ""
    begin: str = ""

    def model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            x = torch.randn(8, 2, generator=generator)
            yield Batch(x, x.sum(1, keepdim=True))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.how and (not self.begin or Path(self.begin).exists()):
            MISDEEDS[self.how]()
        return mse_loss(model(batch.x), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return -torch.nn.functional.mse_loss(model(batch.x), batch.y)
