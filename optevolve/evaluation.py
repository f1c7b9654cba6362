"""The final evaluation: survivors beside baselines, tuned alike, chosen on validation, judged on test data that no earlier stage has seen.

Source: method section 6. For every task, each contestant gets one "tune" measurement, which chooses its learning rate and weight decay
with the training and validation splits: the protocol's trials, then a full run judged on validation, so that a contestant that cannot
finish a run fails here. Then, with these fixed, it gets `choice_seeds` "choose" measurements: full runs under fresh seeds, judged on
validation. Their means say which rule is handed over and which baseline is the best (`optevolve.final`). Only when all of them are told is
the test split opened: `seeds` "evaluate" measurements each. The budget is the same for all, and nothing else is tuned. Seed k is the same
for every contestant, so that differences are paired. Source of equal tuning and of judging at the end of training: arXiv 2509.02046.

With a protocol whose judge is "best", a test score is the maximum over the epochs of a run, as in the paper, and so slightly chosen on the
test split, for all alike; the default, "last", is not.
"""

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from optevolve.config import Protocol, Schedule
from optevolve.contestants import CHOOSE, EVALUATE, TUNE, UNTRAINED, Contestant, check_names, job_id
from optevolve.eliminate import seed_for
from optevolve.final import Comparison, compare, is_lost
from optevolve.records import Job, Outcome, Proposal, Split, Status

__all__ = ["Comparison", "EvaluationSource", "compare"]

_STREAMS = {TUNE: 61, EVALUATE: 62, CHOOSE: 63}  # of the run's seed
_SPLITS = {CHOOSE: Split.VALID, EVALUATE: Split.TEST}


@dataclass(frozen=True)
class _Tuned:
    """A contestant's tuning and what it chose."""

    name: str
    job: Job
    learning_rate: float
    weight_decay: float | None


class EvaluationSource:
    """Asks for the measurements of the final evaluation; a source for `optevolve.run.driver.drive`.

    Jobs are "tune/TASK/NAME", "choose/TASK/NAME/seed-K" and "evaluate/TASK/NAME/seed-K" of the stages so called. A contestant whose tuning
    did not complete goes no further on that task. Where a run is lost, one of a single step by a rule that never moves follows, of stage
    "untrained", for the score that a lost run counts as. Drive it without `same`: baselines that behave alike are still measured each.

    Args:
        contestants: survivors and baselines.
        tasks: task specs.
        protocol: the trials and the full runs.
        protocols: by task, those of tasks that have their own.
        seeds: full runs on the test split per contestant and task, at least 1.
        seed: the run's seed. More seeds later are added to those that were there.
        choice_seeds: full runs on the validation split per contestant and task; 0 where nothing is chosen between them.

    Attributes:
        done: whether all has been told.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        tasks: Sequence[str],
        protocol: Protocol,
        *,
        seeds: int,
        seed: int,
        protocols: Mapping[str, Protocol] | None = None,
        choice_seeds: int = 0,
    ) -> None:
        check_names(contestants)
        own = protocols or {}
        self._seed = seed
        self._numbers = {CHOOSE: choice_seeds, EVALUATE: seeds}
        tuning = seed_for(seed, _STREAMS[TUNE])
        pairs = [(task, contestant) for task in dict.fromkeys(tasks) for contestant in contestants]
        self._names = {job_id(TUNE, c.name, t): c.name for t, c in pairs}
        self._jobs: deque[tuple[str, Job]] = deque((TUNE, _tuning_of(c, t, own.get(t, protocol), tuning)) for t, c in pairs)
        self._awaited: dict[str, tuple[str, Job]] = {}
        self._tuned: list[_Tuned] = []
        self._opened = False  # the test split
        self._levels: set[tuple[str, Split]] = set()

    def tunings(self, names: Collection[str]) -> set[str]:
        """Ids of the tunings of contestants, on all tasks."""
        return {job_id for job_id, name in self._names.items() if name in names}

    @property
    def done(self) -> bool:
        """Whether all has been asked and told."""
        return not self._jobs and not self._awaited

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        """The next measurement; None while tunings or choices are awaited, and in the end."""
        if not self._jobs:
            return None
        stage, job = self._jobs.popleft()
        self._awaited[job.id] = (stage, job)
        return stage, job, None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        """Takes an outcome: a tuning that completed is followed by its choices, and the last of these opens the test split."""
        stage, job = self._awaited.pop(job_id)
        if stage == TUNE and outcome.status is Status.COMPLETED:
            if outcome.learning_rate is None:
                raise ValueError(f"the completed tuning {job_id!r} chose no learning rate")
            # A protocol's only weight decay goes without saying: jobs of studies from before there were several stay what they are.
            decay = outcome.weight_decay if len(job.protocol.weight_decays) > 1 else job.weight_decay
            self._tuned.append(_Tuned(self._names[job_id], job, outcome.learning_rate, decay))
            self._add(CHOOSE, self._tuned[-1])
        elif stage in _SPLITS and is_lost(outcome) and (job.task, job.split) not in self._levels:
            self._levels.add((job.task, job.split))
            self._jobs.append((UNTRAINED, self._untrained(job)))
        if self.done and not self._opened:
            self._opened = True
            for tuned in self._tuned:
                self._add(EVALUATE, tuned)

    def _add(self, stage: str, tuned: _Tuned) -> None:
        for number in range(self._numbers[stage]):
            job = replace(
                tuned.job,
                id=job_id(stage, tuned.name, tuned.job.task, number),
                seed=seed_for(self._seed, _STREAMS[stage], number),
                split=_SPLITS[stage],
                learning_rate=tuned.learning_rate,
                weight_decay=tuned.weight_decay,
            )
            self._jobs.append((stage, job))

    def _untrained(self, job: Job) -> Job:
        """What the untrained model scores on a job's data: one step by a rule that never moves, without floors."""
        still = replace(job.protocol, full_steps=1, epoch_steps=1, floor_epoch=2, schedule=Schedule(warmup=0), compile=False)
        return replace(job, id=job_id(UNTRAINED, job.split.value, job.task), rule="0 * w", protocol=still)


def _tuning_of(contestant: Contestant, task: str, protocol: Protocol, seed: int) -> Job:
    """With the contestant's own weight decay, if it has one, where the protocol tunes none."""
    untuned = set(protocol.weight_decays) == {0.0}
    decay = contestant.weight_decay if untuned and contestant.weight_decay else None
    return Job(job_id(TUNE, contestant.name, task), contestant.rule, task, protocol, seed, weight_decay=decay)
