"""The driver: asks a source for jobs, has them measured, stores what came of them, and tells the source.

What a search does next depends on what it was told and when. The driver therefore fixes the order: it asks as long as fewer than
`lookahead` jobs are untold, then tells the outcome of the oldest, whichever arrived first. So asks and tells are a pure function of the
source and the outcomes: one worker, many, or a run killed and resumed make the same search.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

from optevolve.errors import StudyError
from optevolve.printable import clipped
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.run.store import Entry, Study
from optevolve.run.store.rows import canonical

__all__ = ["Ask", "Happening", "Runner", "Source", "drive"]


Ask: TypeAlias = tuple[str, Job, Proposal | None]

_OTHERWISE = (
    "Resume with the config and version of optevolve that started the run, or start a new one; "
    "'optevolve verify' says whether the store is sound."
)


class Source(Protocol):
    """What wants measurements: a search, an elimination, the final evaluation.

    A source must be deterministic: what it asks next is a function of what it asked and was told before, never of time or chance.
    """

    def ask(self) -> Ask | None:
        """The next job with its stage and proposal; None if more must be told first, or nothing is left."""

    def tell(self, job_id: str, outcome: Outcome, /) -> None:
        """Takes what came of a job. Jobs are told in the order in which they were asked."""

    @property
    def done(self) -> bool:
        """Whether nothing more will be asked."""


class Runner(Protocol):
    """What makes measurements. A failing candidate gives an outcome that says so; only an OptevolveError is raised."""

    @property
    def capacity(self) -> int:
        """How many jobs it takes at once, at least 1."""

    def submit(self, job: Job) -> None:
        """Takes a job; at most `capacity` are with it at a time."""

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        """Job ids with their outcomes, as they are ready; empty if none is after `timeout` seconds."""

    def close(self) -> None:
        """Ends the work at hand, finished or not."""


@dataclass(frozen=True)
class Happening:
    """What the driver did, for progress and logs.

    Attributes:
        kind: "asked", "submitted" (measuring starts), "measured" (an outcome arrived and is stored), or "told" (the source knows it).
            A job whose outcome was stored before is only asked and told; one that takes another's outcome is not submitted.
        turn: place in the order of asking, from 0.
        stage, job, proposal: as asked.
        outcome: what came of it, with "measured" and "told".
        stored: whether the outcome was in the study before this drive, so that nothing was measured.
        same_as: id of the job whose outcome was taken; empty if none.
    """

    kind: str
    turn: int
    stage: str
    job: Job
    proposal: Proposal | None
    outcome: Outcome | None = None
    stored: bool = False
    same_as: str = ""


@dataclass
class _Turn:
    """A job asked and not yet told."""

    number: int
    stage: str
    job: Job
    proposal: Proposal | None
    fingerprint: str = ""
    first: bool = False  # of its kind, so that others may take its outcome
    same_as: str = ""
    outcome: Outcome | None = None
    stored: bool = False


def drive(
    source: Source,
    runner: Runner,
    study: Study,
    *,
    lookahead: int,
    same: Callable[[Job], str] | None = None,
    on_event: Callable[[Happening], None] | None = None,
    patience: float = 0.5,
) -> set[str]:
    """Drives a source to its end, or to the first error or interruption.

    An outcome is stored before it is told. A job that the study holds is not measured again. On Ctrl-C, what has been measured by then is
    stored and KeyboardInterrupt passes on; the same call with the same source goes on from there. The runner stays open.

    Where the study was extended, what it holds of the smaller run is taken as far as the larger run asks for the same, and replaced where
    it asks for something else, so that the end is that of a run that was large from the beginning.

    Args:
        source: what asks; fresh from its beginning, also when resuming: it is told again what is stored.
        runner: what measures.
        study: where outcomes go, open for writing.
        lookahead: jobs asked and not yet told, at least 1. Part of the search, unlike the number of workers.
        same: fingerprint of a job's rule. A job equal in fingerprint and in everything else but id and rule (stage, task, protocol, seed,
            split, learning rate, weight decay) to one asked before takes that one's outcome, without its curves and at no cost. "" is
            equal to nothing.
        on_event: told of everything that happens.
        patience: seconds to wait for outcomes at a time.

    Returns:
        Ids of all jobs asked for: in an extended study, any other belongs to the smaller run alone.
    Raises:
        StudyError: if the store fails, or holds another job or proposal under the same id and was not extended.
        OptevolveError: what a measurement raised, such as DataError.
        ValueError: if `lookahead` is below 1, or the source asks for an id twice, or neither asks nor is done while it knows everything.
    """
    if lookahead < 1:
        raise ValueError(f"lookahead is {lookahead}, expected at least 1")
    state = _Drive(source, runner, study, lookahead, same, on_event, patience)
    state.run()
    return state.asked


class _Drive:
    """The state of one call of `drive`."""

    def __init__(
        self,
        source: Source,
        runner: Runner,
        study: Study,
        lookahead: int,
        same: Callable[[Job], str] | None,
        on_event: Callable[[Happening], None] | None,
        patience: float,
    ) -> None:
        self.source, self.runner, self.study = source, runner, study
        self.lookahead, self.same, self.on_event, self.patience = lookahead, same, on_event, patience
        self.revise = study.extended
        self.turns: dict[str, int] = {}  # of jobs recalled in an extended study, whose place may have changed
        self.asked: set[str] = set()
        self.firsts: dict[tuple[object, ...], str] = {}  # what makes jobs the same → id of the first
        self.outcomes: dict[str, Outcome] = {}  # of firsts that were told, without curves
        self.heirs: defaultdict[str, list[_Turn]] = defaultdict(list)  # by first that was not told: those that wait for its outcome
        self.untold: deque[_Turn] = deque()
        self.waiting: deque[_Turn] = deque()  # to be submitted
        self.running: dict[str, _Turn] = {}
        self.unsaved: list[tuple[_Turn, Outcome]] = []

    def run(self) -> None:
        try:
            while True:
                self.ask()
                if not self.untold:
                    break
                self.await_oldest()
                self.tell()
        except KeyboardInterrupt:
            self.take(self.runner.collect(0))
            self.save()
            raise
        self.study.renumber(self.turns)
        if not self.source.done:
            raise ValueError(f"the source {self.source!r} is not done, asks nothing and waits for nothing")

    def ask(self) -> None:
        while len(self.untold) < self.lookahead and not self.source.done:
            asked = self.source.ask()
            if asked is None:
                break
            stage, job, proposal = asked
            if job.id in self.asked:
                raise ValueError(f"job {job.id!r} was asked twice")
            turn = _Turn(len(self.asked), stage, job, proposal)
            self.asked.add(job.id)
            if self.same is not None and (fingerprint := self.same(job)):
                turn.fingerprint = fingerprint
                key = (stage, fingerprint, job.task, job.protocol, job.seed, job.split, job.learning_rate, job.weight_decay)
                first = self.firsts.setdefault(key, job.id)
                turn.first = first == job.id
                turn.same_as = "" if turn.first else first
            self.untold.append(turn)
            self.happen("asked", turn)
            self.recall(turn)
            if turn.outcome is not None:
                continue
            if not turn.same_as:
                self.waiting.append(turn)
            elif turn.same_as in self.outcomes:
                self.inherit(turn)
            else:
                self.heirs[turn.same_as].append(turn)
        self.submit()

    def recall(self, turn: _Turn) -> None:
        """Takes a turn's outcome from the study, if it is there."""
        found = self.study.recall(turn.job.id)
        if found is None:
            return
        alike = found.job == turn.job and found.stage == turn.stage
        if self.revise:
            if not alike or found.same_as != turn.same_as or found.proposal != turn.proposal:
                self.study.forget([turn.job.id])
                if not alike or found.same_as != turn.same_as:
                    return
                self.study.record(replace(found, proposal=turn.proposal), turn=turn.number, fingerprint=turn.fingerprint)
            self.turns[turn.job.id] = turn.number
        elif not alike:
            raise StudyError(
                f"The study holds another job under the id {turn.job.id!r}: it measured {found.job.rule!r} in stage {found.stage!r}, "
                f"expected {turn.job.rule!r} in stage {turn.stage!r}, with the same task, protocol and seed. {_OTHERWISE}"
            )
        elif found.proposal != turn.proposal and _drawn(found.proposal) != _drawn(turn.proposal):
            raise StudyError(
                f"The study holds another proposal under the id {turn.job.id!r} than the search makes: "
                f"{_difference(found.proposal, turn.proposal)}. {_OTHERWISE}"
            )
        turn.outcome, turn.same_as, turn.stored = found.outcome, found.same_as, True

    def submit(self) -> None:
        while self.waiting and len(self.running) < max(1, self.runner.capacity):
            turn = self.waiting.popleft()
            self.running[turn.job.id] = turn
            self.runner.submit(turn.job)
            self.happen("submitted", turn)

    def await_oldest(self) -> None:
        """Stores outcomes as they arrive until that of the oldest turn is there."""
        oldest = self.untold[0]
        while oldest.outcome is None:
            if not oldest.same_as:  # else it has inherited: the one it equals was asked before and has therefore been told
                self.take(self.runner.collect(self.patience))
            self.study.require_held()
            self.save()
            self.submit()

    def take(self, arrived: list[tuple[str, Outcome]]) -> None:
        self.unsaved += [(self.running.pop(job_id), _checked(outcome)) for job_id, outcome in arrived]

    def inherit(self, turn: _Turn) -> None:
        """Takes the outcome of the equal job that was told; stored with whatever is stored next, for a transaction waits for the disk."""
        self.unsaved.append((turn, replace(self.outcomes[turn.same_as], steps=0, seconds=0.0)))

    def save(self) -> None:
        # An interruption may have come between storing and noting it.
        fresh = [(turn, outcome) for turn, outcome in self.unsaved if turn.outcome is None]
        missing = [(turn, outcome) for turn, outcome in fresh if turn.job.id not in self.study]
        self.study.record_all(
            [
                Entry(Measurement(turn.stage, turn.job, outcome, turn.proposal, turn.same_as), turn.number, turn.fingerprint)
                for turn, outcome in missing
            ]
        )
        for turn, outcome in fresh:
            turn.outcome = outcome
        self.unsaved = []
        for turn, _ in fresh:
            self.happen("measured", turn)

    def tell(self) -> None:
        turn = self.untold.popleft()
        assert turn.outcome is not None
        if turn.first:
            self.outcomes[turn.job.id] = replace(turn.outcome, curves=())
            for heir in self.heirs.pop(turn.job.id, ()):
                self.inherit(heir)
        self.source.tell(turn.job.id, turn.outcome)
        self.happen("told", turn)

    def happen(self, kind: str, turn: _Turn) -> None:
        if self.on_event is not None:
            outcome = turn.outcome if kind in {"measured", "told"} else None
            self.on_event(Happening(kind, turn.number, turn.stage, turn.job, turn.proposal, outcome, turn.stored, turn.same_as))


def _drawn(proposal: Proposal | None) -> dict[str, object]:
    """What a search drew, without the words about it, which another version may put otherwise."""
    if proposal is None:
        return {}
    drawn = ("id", "rule", "genome", "stage", "parent", "particle", "timestep")
    return {name: getattr(proposal, name) for name in drawn} | {"rules refused before": [rule for rule, _ in proposal.rejected]}


def _difference(stored: Proposal | None, made: Proposal | None) -> str:
    """The first of the parts in which two proposals differ, in words."""
    there, here = _drawn(stored), _drawn(made)
    if not there or not here:
        return f"expected {'one' if here else 'none'}, found {'one' if there else 'none'}"
    name = next(name for name in here if there[name] != here[name])
    return f"its {name} is {clipped(str(there[name]), 120)!r}, expected {clipped(str(here[name]), 120)!r}"


def _checked(outcome: Outcome) -> Outcome:
    """The outcome as the store gives it back. A completed one has a fitness; without, the task is to blame.

    What no store keeps, such as a duration that is NaN, is no outcome: the measurement has failed, and the run goes on.
    """
    missing = outcome.fitness is None or math.isnan(outcome.fitness)
    if missing and outcome.status is Status.COMPLETED:
        outcome = replace(outcome, status=Status.FAILED, reason=f"its task gave {outcome.fitness} as its score")
    try:
        return canonical(replace(outcome, fitness=None) if missing else outcome)
    except (TypeError, ValueError, OverflowError) as error:
        return Outcome(Status.FAILED, reason=f"its measurement gave no outcome that can be kept: {str(error)[:500]}")
