"""What happens inside a worker process: one thread, no Ctrl-C, and a candidate's failure as an outcome.

Loads nothing heavy itself: the environment must be set before torch is imported, which the first job does.
"""

import ctypes
import importlib
import multiprocessing
import operator
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from optevolve.errors import OptevolveError
from optevolve.records import Job, Outcome, Status

__all__ = [
    "Measure",
    "Named",
    "keep_freed_memory",
    "limited_memory",
    "measure_alone",
    "measure_safely",
    "name_of",
    "one_thread",
    "prepare",
    "run_job",
]

Measure = Callable[[Job], Outcome]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
# mallopt(3), in bytes: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD at its highest.
_MALLOC = {-1: 2**31 - 1, -2: 2**24, -3: 2**25}
_STATM = Path("/proc/self/statm")
_memory: int | None = None  # bytes that the job at hand may add to this process
_pids: MutableSequence[int] = []  # shared with the driver: by slot of a job, the process that took it


def prepare(memory: int | None, pids: MutableSequence[int]) -> None:
    """Makes this process a worker; run once when it starts.

    Args:
        memory: bytes that a job may allocate beyond what the process holds when the job starts; None for no limit.
        pids: shared with the driver: by slot of a job, the process that took it.
    """
    global _memory, _pids
    _memory, _pids = memory, pids
    one_thread()
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the driver, which ends its workers
    threading.Thread(target=_end_with_driver, daemon=True, name="end-with-driver").start()


def _end_with_driver() -> None:
    """A worker whose driver was killed would train on for hours, beside those of the resumed run."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        os._exit(1)


@dataclass(frozen=True)
class Named:
    """A function of a module as workers receive it: by name, since each imports torch on its own time.

    Attributes:
        module, path: where the function is.
        options: what it is given beside each job.
    """

    module: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def find(self) -> Measure:
        """The function, its module imported."""
        function = operator.attrgetter(self.path)(importlib.import_module(self.module))
        return partial(function, **self.options) if self.options else function


def name_of(measure: Measure) -> Named:
    """The name under which a worker finds a function, or a `functools.partial` of one with keyword arguments that can be sent.

    Raises:
        ValueError: if it is no function of a module.
    """
    function = measure.func if isinstance(measure, partial) else measure
    options = dict(measure.keywords) if isinstance(measure, partial) and not measure.args else {}
    named = Named(getattr(function, "__module__", ""), getattr(function, "__qualname__", ""), options)
    lost = not named.path or "<" in named.path or Named(named.module, named.path).find() is not function
    if lost or (isinstance(measure, partial) and measure.args):
        raise ValueError(f"{measure!r} is no function of a module, so that a worker process cannot import it")
    return named


def run_job(name: Named, job: Job, slot: int) -> Outcome:
    """Measures a job in a worker of the local pool: `measure_alone`, with limited memory."""
    _pids[slot] = os.getpid()
    _limit_memory(_memory)
    return measure_alone(name, job)


def measure_alone(name: Named, job: Job, passing: tuple[type[BaseException], ...] = ()) -> Outcome:
    """Measures a job in a process made for that, by the function of that name: what `measure_safely` says, with one thread.

    Exceptions of the kinds `passing` pass. The function goes by name because workers receive jobs one at a time: each imports torch on its
    own time, not while the others wait.
    """
    measure = name.find()
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    try:
        return measure_safely(measure, job)
    except OptevolveError as error:
        if type(error).__module__ == OptevolveError.__module__:
            raise
        raise OptevolveError(str(error)) from None  # a user's own kind of error may not cross processes
    except passing:
        raise
    except BaseException as error:  # noqa: BLE001 - no real Ctrl-C comes here: the candidate raised it, and it must not end the driver
        return Outcome(Status.FAILED, reason=_reason(error))


def one_thread() -> None:
    """Keeps libraries that are yet to be loaded from starting threads of their own."""
    for name in _THREADS:
        os.environ[name] = "1"


def keep_freed_memory() -> None:
    """Lets this process keep what it frees, with glibc.

    Activations of megabytes are otherwise given back and fetched anew, page by page, at every
    step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # another C library has none
        for parameter, value in _MALLOC.items():
            mallopt(parameter, value)


@contextmanager
def limited_memory(memory: int | None) -> Iterator[None]:
    """A memory limit for a while, in a process that is not ours alone."""
    _limit_memory(memory)
    try:
        yield
    finally:
        if memory is not None and _STATM.exists():
            import resource

            hard = resource.getrlimit(resource.RLIMIT_AS)[1]
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _limit_memory(memory: int | None) -> None:
    """Limits the address space to what is in use now plus the allowance; where the system has no such limit or no account, none."""
    if memory is None or not _STATM.exists():
        return
    import resource

    in_use = int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = in_use + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def measure_safely(measure: Measure, job: Job) -> Outcome:
    """The outcome of a job; what the candidate or its task raises becomes a FAILED outcome with the reason.

    Raises:
        OptevolveError: what a user can mend, such as missing data, is no candidate's fault.
    """
    try:
        outcome = measure(job)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"expected an Outcome, found {type(outcome).__name__}")
        return outcome
    except OptevolveError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - anything may be wrong with a random rule or a user's task; the reason is kept
        return Outcome(Status.FAILED, reason=_reason(error))


def _reason(error: BaseException) -> str:
    """One line: the exception, its message, and the last place in code that it passed."""
    message = " ".join(str(error).split())
    if len(message) > 500:
        message = message[:500] + "…"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{type(error).__name__}: {message}{place}"
