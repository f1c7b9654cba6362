"""What happens inside a worker process: one thread, no Ctrl-C, and a candidate's failure as an outcome.

Loads nothing heavy itself: the environment must be set before torch is imported, which comes with the function that measures.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import operator
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from optevolve.errors import OptevolveError
from optevolve.printable import tolerate
from optevolve.records import Job, Outcome, Status
from optevolve.run.guard import begin_guarded
from optevolve.run.own_time import family
from optevolve.run.traces import Traces
from optevolve.task_spec import split_spec

__all__ = ["Done", "Measure", "Named", "Ready", "keep_freed_memory", "measure_safely", "name_of", "one_thread", "own_place", "serve"]

Measure = Callable[[Job], Outcome]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
# mallopt(3), in bytes: M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD at its highest.
_MALLOC = {-1: 2**31 - 1, -2: 2**24, -3: 2**25}
_STATM = Path("/proc/self/statm")


@dataclass(frozen=True)
class Ready:
    """What a worker says when it can take its first job.

    Attributes:
        process: its number.
    """

    process: int


@dataclass(frozen=True)
class Done:
    """What a worker says at the end of a job.

    Attributes:
        found: what came of it, or an error that the user must mend.
        grown: bytes of address space that the worker holds beyond what it held when it was ready; 0 where the system gives no account.
        sound: whether the worker may take another job: a candidate may have broken its CUDA context for good, or a task of somebody's own
            have left something else behind, see `optevolve.run.traces`.
    """

    found: Outcome | OptevolveError
    grown: int
    sound: bool


def serve(jobs: Connection, output: Connection | None, measure: Named, memory: int | None) -> None:
    """Makes this process a worker: it measures jobs, one after the other, until it is ended or its driver is gone.

    Args:
        jobs: jobs come from here, each with the data sets that others have put into this machine's cache, by name the folder there;
            `Ready`, then a `Done` for each go back, and at the end the guard's `Ended`.
        output: where all that this process prints goes; None to leave it where it is.
        measure: the function that measures.
        memory: bytes that this process may allocate beyond what it holds when it is ready; None for no limit.
    """
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined] # a task may load its data in processes
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the driver, which ends its workers
    begin_guarded(jobs, [output] if output is not None else [])
    threading.Thread(target=_end_with_driver, daemon=True, name="end-with-driver").start()
    _take_standard_streams(output)
    one_thread()
    keep_freed_memory()
    function = measure.find()
    if memory is not None:
        _begin_cuda()
    held = _address_space()
    _limit_memory(held, memory)
    jobs.send(Ready(os.getpid()))
    while True:
        try:
            job, offered = jobs.recv()
        except EOFError:
            return
        _offer(offered)
        imported = _imported(job)
        found = _measured(function, job)
        left = Traces().changed_since(imported) if imported is not None else ""
        if left:
            _say(f"{job.task} left its process with another {left}; a new worker takes the next measurement.")
        _flush()
        grown = _address_space() - held
        sound = _cuda_is_sound() and not left
        try:
            jobs.send(Done(found, grown, sound))
        except Exception as error:  # noqa: BLE001 - what a candidate made cannot cross processes: its failure
            jobs.send(Done(Outcome(Status.FAILED, reason=f"its outcome cannot be sent: {_reason(error)}"), grown, sound))


def own_place(job: Job) -> str:
    """Modules and files that the tasks of a job are from, where they are somebody's own; empty if none is."""
    names = [split_spec(spec).name for spec in job.tasks if ":" in spec]
    return " ".join(sorted({name.rpartition(":")[0] for name in names} - {""}))


def _imported(job: Job) -> Traces | None:
    """This process once somebody's own task is imported, and before it does anything; None if a job has no such task."""
    if not own_place(job):
        return None
    from optevolve.tasks import load  # loads torch

    for spec in job.tasks:
        with suppress(Exception, SystemExit):  # the measurement meets the same
            load(spec)
    return Traces()


def _say(text: str) -> None:
    with suppress(Exception):  # a task may have closed this, or put something else in its place
        sys.stderr.write(f"optevolve: {text}\n")


def _end_with_driver() -> None:
    """A worker whose driver was killed would train on for hours, beside those of the resumed run."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
        for relative in family(psutil.Process()):
            with suppress(psutil.Error):  # it ended by itself
                relative.kill()
        os._exit(1)


def _take_standard_streams(output: Connection | None) -> None:
    """What is printed goes to `output`, where there is one; nothing is read from the terminal, which would stop who may not."""
    if os.name == "posix":
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
    # A log has no terminal's encoding. Before the change, for a stream that was a file asks where in it it is.
    tolerate(None if output is None else "utf-8")
    if output is not None:
        for standard in (1, 2):
            os.dup2(output.fileno(), standard)
        output.close()


def _flush() -> None:
    """What a candidate printed comes before its end; it may have closed these, or put something else in their place."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


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


def _measured(measure: Measure, job: Job) -> Outcome | OptevolveError:
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    try:
        return measure_safely(measure, job)
    except OptevolveError as error:
        if type(error).__module__ == OptevolveError.__module__:
            return error
        return OptevolveError(str(error))  # a user's own kind of error may not cross processes
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


def _offer(offered: Mapping[str, str]) -> None:
    if offered:
        from optevolve.tasks.placement import Offer, offer

        offer({what: Offer(folder, dict) for what, folder in offered.items()})


def _begin_cuda() -> None:
    """Makes the CUDA context, where there is CUDA, lest its address space count as the first candidate's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.zeros(1, device="cuda")


def _cuda_is_sound() -> bool:
    """Whether CUDA still works in this process, or was never begun."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:  # an illegal access or a failed assertion on the device ends every later call too
        return False
    return True


def _address_space() -> int:
    """Bytes of address space in use; 0 where the system gives no account."""
    if not _STATM.exists():
        return 0
    import resource

    return int(_STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _limit_memory(held: int, memory: int | None) -> None:
    """Limits the address space to what is held plus the allowance; where the system has no such limit or no account, none."""
    if memory is None or not held:
        return
    import resource

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = held + memory
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
