"""Elimination: the best rules of a search are measured anew, on larger budgets in each round, and the best of each round stay.

Source: method section 6. What was found on a small budget is partly luck: every round measures its survivors afresh, with the same task,
protocol and seed for all, and looks at nothing measured before.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optevolve.config import EliminationRound
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.tasks import spec_of

__all__ = ["Contestant", "EliminationSource", "best", "check_names", "contenders", "seed_for"]

_STREAM = 6  # of the run's seed: the section of the method, so that stages draw from streams of their own


@dataclass(frozen=True)
class Contestant:
    """A rule under a name: a survivor, or a baseline.

    Attributes:
        name: unique among those it meets, without "/".
        rule: the update rule in native notation.
    """

    name: str
    rule: str


def contenders(measurements: Iterable[Measurement], limit: int) -> list[Contestant]:
    """The best rules of a search, best first, named "evolved-01", "evolved-02", …

    Fitnesses of the initial population and of the evolution are of different tasks. The evolution's come first, and the initial population
    fills what is left of the places. Rules that equal a better one, or behave the same as one measured before, are left out.

    Args:
        measurements: of a search, in the order of asking.
        limit: how many, at least 1.
    """
    found = [m for m in measurements if m.proposal is not None and not m.same_as and m.outcome.status is Status.COMPLETED]
    # Sorting is stable, so that of equal fitnesses the first asked stands first.
    ranked = sorted(found, key=lambda m: (m.stage == "initial", -_fitness(m.outcome)))
    rules = list(dict.fromkeys(m.job.rule for m in ranked))[:limit]
    width = max(2, len(str(len(rules))))
    return [Contestant(f"evolved-{place:0{width}}", rule) for place, rule in enumerate(rules, start=1)]


def best(outcomes: Mapping[str, Outcome], keep: int) -> list[str]:
    """Names of the `keep` fittest, best first; fewer if fewer completed. Of equal ones, the first in the mapping is preferred.

    Args:
        outcomes: by name, in order of preference.
        keep: how many, at least 0.
    """
    completed = [name for name, outcome in outcomes.items() if outcome.status is Status.COMPLETED]
    return sorted(completed, key=lambda name: -_fitness(outcomes[name]))[:keep]


def _fitness(outcome: Outcome) -> float:
    assert outcome.fitness is not None  # a completed outcome has one
    return outcome.fitness


def seed_for(seed: int, *path: int) -> int:
    """A 32-bit seed that is a function of the run's seed and a place in its structure alone."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


def check_names(contestants: Sequence[Contestant]) -> None:
    """Raises a ValueError if names repeat, are empty or contain "/", which parts job ids."""
    names = [contestant.name for contestant in contestants]
    wrong = [name for name in names if not name or "/" in name or names.count(name) > 1]
    if wrong:
        raise ValueError(f"names of contestants must be unique, not empty and without '/': {', '.join(map(repr, dict.fromkeys(wrong)))}")


class EliminationSource:
    """Asks for the measurements of all rounds, one round after the other; a source for `optevolve.run.driver.drive`.

    Jobs are "eliminate/ROUND/NAME" of stage "eliminate/ROUND", rounds counted from 1. A round is judged on the validation split.

    Args:
        contestants: who enters, best first: of equal fitnesses, the earlier stays.
        rounds: budgets, and how many stay.
        task: the run's task, for rounds that name none.
        seed: the run's seed.

    Attributes:
        survivors: who is left after the rounds told so far, best first; in the end, the result. Empty if nobody completed a round.
        done: whether all rounds are over.
    """

    def __init__(self, contestants: Sequence[Contestant], rounds: Sequence[EliminationRound], *, task: str, seed: int) -> None:
        check_names(contestants)
        self.survivors = list(contestants)
        self.done = False
        self._rounds = deque(enumerate(rounds, start=1))
        self._task, self._seed = task, seed
        self._keep = 0
        self._prefix = ""
        self._jobs: deque[Job] = deque()
        self._outcomes: dict[str, Outcome | None] = {}
        self._begin_round()

    def _begin_round(self) -> None:
        if not self._rounds or not self.survivors:
            self.done = True
            return
        number, budget = self._rounds.popleft()
        self._keep, self._prefix = budget.keep, f"eliminate/{number}"
        task = spec_of(budget.task or self._task, budget.task_options)
        seed = seed_for(self._seed, _STREAM, number)
        self._jobs = deque(Job(f"{self._prefix}/{c.name}", c.rule, task, budget.protocol, seed) for c in self.survivors)
        self._outcomes = {contestant.name: None for contestant in self.survivors}

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        """The next measurement of the round; None while its last ones are awaited, and in the end."""
        return (self._prefix, self._jobs.popleft(), None) if self._jobs else None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        """Takes an outcome; the last of a round ends the round. Any order gives the same survivors."""
        name = job_id.removeprefix(f"{self._prefix}/")
        if self._outcomes.get(name, outcome) is not None:
            raise ValueError(f"job {job_id!r} is not awaited")
        self._outcomes[name] = outcome
        told = {name: outcome for name, outcome in self._outcomes.items() if outcome is not None}
        if len(told) == len(self._outcomes):
            contestants = {contestant.name: contestant for contestant in self.survivors}
            self.survivors = [contestants[name] for name in best(told, self._keep)]
            self._begin_round()
