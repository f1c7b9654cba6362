"""Watching a run: callbacks for programs, and a log with one JSON object a line.

A callback is any object with the three methods of `Callback`. `optevolve.run.metrics` has two, for TensorBoard and MLflow.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from optevolve.errors import StudyError
from optevolve.printable import clipped, shielded
from optevolve.records import Measurement
from optevolve.run.driver import Happening

__all__ = ["Callback", "Journal", "Watch"]

_TEXT = 12_000  # characters of one text in the log, which is more than a rule may have


_LAST = 2**20  # bytes of a log that are read again


class Callback(Protocol):
    """What a run tells to whoever wants to know.

    The calls and their order are a function of the search alone: the same for any number of workers. A run that is resumed tells from its
    beginning, with `stored` where nothing was measured this time. What a callback raises, SystemExit included, does not end the run: it is
    warned about, and the callback is told nothing more. KeyboardInterrupt alone passes, for it is the user's.
    """

    def on_evaluation(self, measurement: Measurement, stored: bool) -> None:
        """A measurement, in the order in which they were asked for."""

    def on_timestep(self, particle: int, timestep: int, best: Measurement | None) -> None:
        """All children of a particle's timestep (from 1) are measured; the best of them, None if none completed."""

    def on_end(self, finished: bool) -> None:
        """The run came to its end, or was interrupted or failed."""


@dataclass
class _Step:
    """A timestep of a particle that goes on."""

    timestep: int
    best: Measurement | None = None


class Watch:
    """Tells callbacks what the driver does.

    Args:
        callbacks: who is told.
        log: told of callbacks that fail, with their error in words; besides the warning.
    """

    def __init__(self, callbacks: Sequence[Callback], log: Callable[[str], None] | None = None) -> None:
        self._callbacks = list(callbacks)
        self._log = log
        self._steps: dict[int, _Step] = {}

    def __call__(self, happening: Happening) -> None:
        """Takes note of what the driver did."""
        proposal = happening.proposal
        particle = proposal.particle if proposal is not None and proposal.timestep > 0 else -1
        if happening.kind == "asked":
            if proposal is None:
                self._end_steps()  # the search is over
            elif particle >= 0 and (step := self._steps.get(particle)) is not None and step.timestep < proposal.timestep:
                self._end_step(particle)
        elif happening.kind == "told":
            assert happening.outcome is not None
            measurement = Measurement(happening.stage, happening.job, happening.outcome, proposal, happening.same_as)
            self._tell(lambda callback: callback.on_evaluation(measurement, happening.stored))
            if proposal is not None and particle >= 0:
                step = self._steps.setdefault(particle, _Step(proposal.timestep))
                step.best = _better(step.best, measurement)

    def end(self, finished: bool) -> None:
        """The run is over; `finished` unless it was interrupted or failed."""
        if finished:
            self._end_steps()
        self._tell(lambda callback: callback.on_end(finished))

    def _end_steps(self) -> None:
        for particle in sorted(self._steps):
            self._end_step(particle)

    def _end_step(self, particle: int) -> None:
        step = self._steps.pop(particle)
        self._tell(lambda callback: callback.on_timestep(particle, step.timestep, step.best))

    def _tell(self, call: Callable[[Callback], None]) -> None:
        for callback in list(self._callbacks):
            try:
                call(callback)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - days of search must not end because a metrics server is away; it is said aloud
                self._callbacks = [other for other in self._callbacks if other is not callback]
                self._warn(f"{type(callback).__name__} failed and is told nothing more: {clipped(_in_words(error), 2000)}")

    def _warn(self, text: str) -> None:
        if self._log is not None:
            self._log(text)
        try:
            warnings.warn(shielded(text), RuntimeWarning, stacklevel=3)
        except RuntimeWarning as raised:  # warnings are errors here (-W error), which would end the run in the callback's place
            warnings.showwarning(raised, RuntimeWarning, __file__, 0)


def _in_words(error: BaseException) -> str:
    """An error with its message, which may be what raises next."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - a callback's own kind of error may be anything
        return type(error).__name__


def _better(best: Measurement | None, new: Measurement) -> Measurement | None:
    if new.outcome.fitness is None or (
        best is not None and best.outcome.fitness is not None and best.outcome.fitness >= new.outcome.fitness
    ):
        return best
    return new


class Journal:
    """The log of a run: one JSON object a line, appended, each with "time" (UTC) and "event".

    Events: "start", "submitted" and "measured" (in the order of time, unlike what callbacks are told), "callback" (one failed), "end".

    Args:
        path: the file.

    Attributes:
        cut_off: what the last sitting was measuring when it ended without a word, so that the driver was killed or the machine stopped:
            "JOB of task TASK" each; empty if it ended in order.
    Raises:
        StudyError: if it cannot be written, now or later.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self.cut_off = _at_hand(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
            if self._file.tell() and not _ends_a_line(path):
                self._file.write("\n")  # the last sitting was killed in the middle of one
        except OSError as error:
            raise self._error(error) from error

    def __call__(self, happening: Happening) -> None:
        """Takes note of what the driver did."""
        job, outcome = happening.job, happening.outcome
        if happening.kind == "submitted":
            self.write("submitted", stage=happening.stage, job=job.id, task=job.task, rule=job.rule)
        elif happening.kind == "measured" and outcome is not None:
            facts = {"status": outcome.status.value, "fitness": outcome.fitness, "learning_rate": outcome.learning_rate}
            facts |= {"weight_decay": outcome.weight_decay} if outcome.weight_decay else {}
            costs = {"seconds": round(outcome.seconds, 3), "steps": outcome.steps}
            others = (("device", outcome.device), ("reason", outcome.reason), ("same_as", happening.same_as))
            self.write("measured", stage=happening.stage, job=job.id, **facts, **costs, **{name: text for name, text in others if text})

    def write(self, event: str, **detail: bool | int | float | str | None) -> None:
        """Appends a line, long texts cut; on its way to the disk when this returns."""
        kept = {name: clipped(value, _TEXT) if isinstance(value, str) else value for name, value in detail.items()}
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **kept}
        try:
            self._file.write(json.dumps(line, ensure_ascii=True) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> StudyError:
        return StudyError(
            f"Cannot write the log {self._path}: {error.strerror}. Make room or rights and run again; what is stored is kept."
        )

    def close(self) -> None:
        """Closes the file."""
        try:
            self._file.close()
        except OSError as error:  # what a full disk did not take is tried again on closing
            raise self._error(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
            return
        with suppress(StudyError):  # what has ended the run is to be told
            self.close()


def _at_hand(path: Path) -> tuple[str, ...]:
    """What was being measured at the end of a log, of which the last lines are read."""
    if not path.exists():
        return ()
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST))
        lines = file.read(_LAST).decode("utf-8", errors="replace").splitlines()
    jobs: dict[str, str] = {}
    for line in lines:
        try:
            found = json.loads(line)
            event, job = found["event"], str(found.get("job", ""))
        except (ValueError, TypeError, KeyError, AttributeError):  # cut off in the middle, or another's
            continue
        if event == "submitted":
            jobs[job] = f"{job} of task {found.get('task', 'unknown')}"
        elif event == "measured":
            jobs.pop(job, None)
        elif event in ("start", "end"):
            jobs.clear()
    return tuple(jobs.values())


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"
