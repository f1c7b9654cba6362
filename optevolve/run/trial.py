"""The check of somebody's own tasks in a worker, before a run: what breaks a process must not break the one that the user started."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optevolve.config import Protocol
from optevolve.errors import TaskError
from optevolve.printable import clipped, shielded
from optevolve.records import Job, Outcome, Status
from optevolve.run.definitions import definitions_of
from optevolve.run.limits import TimeLimit
from optevolve.run.local import LocalRunner
from optevolve.run.worker import Measure, own_place
from optevolve.tasks import TaskCheck, check_task, load
from optevolve.tasks.own import is_known

__all__ = ["check_tasks", "require_tasks"]

_LIMIT = 120.0  # seconds of a worker's own time for one task, which a search tries for five
_THOROUGH = 10  # times as much, for passes of a minute each
_SHOWN = 2000  # characters of what tasks print that are shown


@dataclass(frozen=True)
class _Checked(Outcome):
    """What the check of a task found, on its way from a worker; None if it was only made."""

    found: TaskCheck | None = None


def check_tasks(specs: Sequence[str], *, thorough: bool = False, time_limit: float | None = None) -> dict[str, TaskCheck]:
    """What the check of each task found, see `optevolve.tasks.check_task`. Tasks of the package are tried in this process.

    Args:
        specs: of tasks.
        thorough: for whole passes, rather than for seconds.
        time_limit: seconds that a measurement may take, if that was said; a trial then has as many, if they are more than its own 120.
    Raises:
        TaskError: for one that does not, or that ends the process that tries it, or does not come to its end.
    """
    found = _tried(specs, partial(_check, thorough=thorough), max(_LIMIT * (_THOROUGH if thorough else 1), time_limit or 0.0))
    return {spec: found.get(spec) or check_task(load(spec), thorough=thorough) for spec in dict.fromkeys(specs)}


def require_tasks(specs: Sequence[str]) -> None:
    """Makes every task, somebody's own first in a worker, and tries none.

    Raises:
        TaskError: for an unknown name or option, a value of the wrong type or range, or a module that does not import.
    """
    _tried(specs, _make, _LIMIT)


def _check(job: Job, thorough: bool) -> _Checked:
    return _Checked(Status.COMPLETED, found=check_task(load(job.task), thorough=thorough))


def _make(job: Job) -> _Checked:
    load(job.task)
    return _Checked(Status.COMPLETED)


def _tried(specs: Sequence[str], measure: Measure, seconds: float) -> dict[str, TaskCheck]:
    """What a worker found of somebody's own tasks; all tasks are made in this process, these once it is known that they can be."""
    jobs = {spec: Job(spec, "", spec, Protocol(), 0) for spec in dict.fromkeys(specs)}
    own = {spec: job for spec, job in jobs.items() if own_place(job)}
    for spec in jobs:  # also a module whose import starts a run with itself, which would start another in every worker
        if spec not in own or is_known(spec):
            load(spec)
    if not own:
        return {}
    with _overheard() as logs:
        limit = TimeLimit(fixed=seconds)
        with LocalRunner(1, measure, time_limit=limit, losses=1, logs=logs, definitions=definitions_of(own)) as runner:
            found = {spec: _found(runner, job) for spec, job in own.items()}
    out, err = _Silenced(sys.stdout), _Silenced(sys.stderr)
    with redirect_stdout(out), redirect_stderr(err), ExitStack() as after:
        after.callback(out.speak)
        after.callback(err.speak)
        for spec in own:  # what its import prints was said already
            load(spec)
    return {spec: check for spec, check in found.items() if check is not None}


class _Silenced:
    """A stream that drops what is written for now; who keeps it, as a module's logging does, writes to the real one afterwards."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._drops = stream, True

    def write(self, text: str) -> int:
        """The number of characters."""
        return len(text) if self._drops else int(self._stream.write(text))

    def speak(self) -> None:
        """From now on nothing is dropped."""
        self._drops = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _overheard() -> Iterator[Path]:
    """A folder for what tasks print; in the end the beginning of it goes to standard error, with nothing that a terminal obeys."""
    with tempfile.TemporaryDirectory(prefix="optevolve-trial-") as folder:
        try:
            yield Path(folder)
        finally:
            text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in sorted(Path(folder).iterdir(), reverse=True))
            if text:
                sys.stderr.write(f"Printed while tasks were tried:\n{shielded(clipped(text, _SHOWN)).rstrip()}\n")


def _found(runner: LocalRunner, job: Job) -> TaskCheck | None:
    runner.submit(job)
    while not (ended := runner.collect(1.0)):
        pass
    outcome = ended[0][1]
    if isinstance(outcome, _Checked):
        return outcome.found
    remedy = "Mend the task."
    if "time limit" in outcome.reason:
        remedy = "Mend the task; if it needs as long for its data, make that ready before, or give a search a longer --time-limit."
    raise TaskError(f"Task {job.task} cannot be trained: when it was tried in a process of its own, {outcome.reason}. {remedy}")
