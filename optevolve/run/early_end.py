"""When nothing can come of a run any more, it ends and says why: all of a stage, or all baselines, were stopped or failed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from optevolve.errors import RunEndedError
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.run.driver import Source
from optevolve.run.store import Study

__all__ = ["ALIKE", "Hopeful", "ended", "name_of_stage", "require_completed", "why_none_completed", "worst_outcomes"]

ALIKE = 20  # candidates in a row from the beginning that fail with one and the same error: the next ones will too

_STAGES = {"initial": "rules of the initial population", "evolution": "rules of the evolution"}
_ENDINGS = {
    Status.STOPPED: "were stopped early",
    Status.DIVERGED: "diverged",
    Status.FAILED: "failed",
    Status.REJECTED: "were rejected",
}
_REMEDIES = {
    Status.STOPPED: "Lengthen the trials (trial_steps), try other learning rates, or see whether the loss falls at all",
    Status.DIVERGED: "Try the task with 'optevolve tasks --check', or smaller learning rates",
    Status.FAILED: "Mend the task, which 'optevolve tasks --check' tries, or what limits it (--measurement-time, --memory-limit)",
    Status.REJECTED: "Widen the grammar",
}
_LOWER = "Lower the floors (first_floor and floor of the protocol, floors of the task), or lengthen the trials (trial_steps)"


def name_of_stage(stage: str) -> str:
    """Who is measured in a stage, in words."""
    return _STAGES.get(stage, f"contenders in round {stage.rpartition('/')[2]} of the elimination")


def why_none_completed(whom: str, outcomes: Sequence[Outcome], has_floors: bool) -> str:
    """How those ended of whom none completed, with the numbers; empty if one did, or if there are none.

    Args:
        whom: who they are, in the plural.
        outcomes: of each.
        has_floors: whether there are floors to be lowered, rather than a rule that never moves to be surpassed.
    """
    if not outcomes or any(outcome.status is Status.COMPLETED for outcome in outcomes):
        return ""
    counts = Counter(outcome.status for outcome in outcomes).most_common()
    number, first = len(outcomes), next(outcome for outcome in outcomes if outcome.status is counts[0][0])
    if len(counts) == 1:
        how = f"all {number} {whom} {_ENDINGS[counts[0][0]]}"
    else:
        how = f"none of the {number} {whom} completed: " + ", ".join(f"{count} {_ENDINGS[status]}" for status, count in counts)
    causes = {_without_numbers(outcome.reason) for outcome in outcomes}
    same = "with one and the same error" if len(causes) == 1 and number > 1 else "for example"
    reason = f" ({same}: {first.reason})" if first.reason else ""
    remedy = _LOWER if counts[0][0] is Status.STOPPED and has_floors else _REMEDIES[counts[0][0]]
    return f"The run ended early: {how}{reason}. {remedy}; then start anew with another --out."


def require_completed(whom: str, outcomes: Iterable[Outcome], has_floors: bool) -> None:
    """Ends the run if there are outcomes, and none of them completed; arguments as for `why_none_completed`.

    Raises:
        RunEndedError: saying why.
    """
    if why := why_none_completed(whom, list(outcomes), has_floors):
        raise RunEndedError(why)


def ended(study: Study) -> str:
    """Why the run ended before its end; empty if it did not, or was extended since."""
    last = next((event for event in reversed(study.events()) if event.kind in ("ended", "extended")), None)
    return str(last.detail["reason"]) if last is not None and last.kind == "ended" else ""


class Hopeful:
    """A source that ends the run as soon as nothing can come of it; otherwise the source inside.

    Outcomes are told in the order of asking, so that a run ends at the same place with any number of workers, and when it is resumed.

    Args:
        source: what asks.
        group_of: who a job of a stage belongs to, in the plural and in words; empty for those that are not watched.
        enough: by group, how many outcomes are all, or enough to judge by though more would follow; None where only `ALIKE` equal errors
            are.
        has_floors: whether a job's task or protocol has floors.
    """

    def __init__(
        self,
        source: Source,
        group_of: Callable[[str, Job], str],
        enough: Callable[[str], int | None],
        has_floors: Callable[[Job], bool],
    ) -> None:
        self._source, self._group_of, self._enough, self._has_floors = source, group_of, enough, has_floors
        self._groups: dict[str, tuple[str, Job]] = {}
        self._outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        """See `Source.ask`."""
        asked = self._source.ask()
        if asked is not None:
            self._groups[asked[1].id] = self._group_of(asked[0], asked[1]), asked[1]
        return asked

    def tell(self, job_id: str, outcome: Outcome, /) -> None:
        """See `Source.tell`.

        Raises:
            RunEndedError: if with this outcome nothing can come of the group any more.
        """
        self._source.tell(job_id, outcome)
        group, job = self._groups.pop(job_id)
        if not group:
            return
        told = self._outcomes[group]
        told.append(Outcome(outcome.status, reason=outcome.reason))
        if len(told) == self._enough(group) or (len(told) == ALIKE and _alike(told)):
            require_completed(group, told, self._has_floors(job))

    @property
    def done(self) -> bool:
        """See `Source.done`."""
        return self._source.done


def worst_outcomes(measurements: Iterable[Measurement]) -> list[Outcome]:
    """Of each rule, in the order of asking, an outcome that did not complete if it has one: it has then failed."""
    found: dict[str, Outcome] = {}
    for m in measurements:
        if m.job.rule not in found or m.outcome.status is not Status.COMPLETED:
            found[m.job.rule] = m.outcome
    return list(found.values())


def _alike(outcomes: Sequence[Outcome]) -> bool:
    """Whether all failed with one error; numbers in its text, such as an address, may differ."""
    failed = all(outcome.status is Status.FAILED for outcome in outcomes)
    return failed and len({_without_numbers(outcome.reason) for outcome in outcomes}) == 1


def _without_numbers(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|[-+]?\d+(\.\d*)?(e[-+]?\d+)?", "#", text)
