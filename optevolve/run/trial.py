"""The check of somebody's own tasks in a worker, before a run: what breaks a process must not break the one that the user started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from optevolve.config import Protocol
from optevolve.errors import TaskError
from optevolve.records import Job, Outcome, Status
from optevolve.run.definitions import definitions_of
from optevolve.run.local import LocalRunner
from optevolve.run.worker import own_place
from optevolve.tasks import TaskCheck, check_task, load

__all__ = ["check_tasks"]


@dataclass(frozen=True)
class _Checked(Outcome):
    """What the check of a task found, on its way from a worker."""

    found: TaskCheck | None = None


def check_tasks(specs: Sequence[str], *, thorough: bool = False) -> dict[str, TaskCheck]:
    """What the check of each task found, see `optevolve.tasks.check_task`. Tasks of the package are tried in this process.

    Raises:
        TaskError: for one that does not, or that ends the process that tries it.
    """
    found = {}
    jobs = {spec: Job(spec, "", spec, Protocol(), 0) for spec in dict.fromkeys(specs)}
    own = {spec: job for spec, job in jobs.items() if own_place(job)}
    for spec in own:  # what cannot be found, or starts a run when it is imported, is said at once
        load(spec)
    if own:
        with LocalRunner(1, partial(_check, thorough=thorough), losses=1, definitions=definitions_of(own)) as runner:
            found = {spec: _found(runner, job) for spec, job in own.items()}
    return {spec: found[spec] if spec in found else check_task(load(spec), thorough=thorough) for spec in jobs}


def _check(job: Job, thorough: bool) -> _Checked:
    return _Checked(Status.COMPLETED, found=check_task(load(job.task), thorough=thorough))


def _found(runner: LocalRunner, job: Job) -> TaskCheck:
    runner.submit(job)
    while not (ended := runner.collect(1.0)):
        pass
    outcome = ended[0][1]
    if isinstance(outcome, _Checked) and outcome.found is not None:
        return outcome.found
    raise TaskError(f"Task {job.task} cannot be trained: when it was tried in a process of its own, {outcome.reason}. Mend the task.")
