"""Elimination: the best rules of a search are measured anew, on larger budgets in each round, and the best of each round stay.

Source: method section 6. What was found on a small budget is partly luck: every round measures its survivors afresh, with the same task,
protocol and seed for all, and looks at nothing measured before.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from optevolve.algorithms.standing import Score, merits
from optevolve.config import EliminationRound
from optevolve.contestants import Contestant, check_names, evolved_name, job_id
from optevolve.records import Job, Measurement, Outcome, Proposal, Status
from optevolve.several import join
from optevolve.tasks import spec_of

__all__ = ["Contestant", "EliminationSource", "best", "check_names", "contenders", "seed_for", "task_of_round"]

_STREAM = 6  # of the run's seed: the section of the method, so that stages draw from streams of their own


def contenders(measurements: Iterable[Measurement], limit: int, over_tasks: str = "score") -> list[Contestant]:
    """The best rules of a search, best first, named "evolved-01", "evolved-02", …

    Fitnesses of the initial population and of the evolution are of different tasks. The evolution's come first, and the initial population
    fills what is left of the places. Rules that equal a better one, or behave the same as one measured before, are left out.

    Args:
        measurements: of a search, in the order of asking.
        limit: how many, at least 1.
        over_tasks: how rules measured on several tasks compare within their stage, see `optevolve.algorithms.standing.merits`.
    """
    found = [m for m in measurements if m.proposal is not None and not m.same_as and m.outcome.status is Status.COMPLETED]
    merit: dict[int, float] = {}
    for initial in (False, True):
        stage = [m for m in found if (m.stage == "initial") == initial]
        merit |= zip(map(id, stage), merits([_score(m.outcome) for m in stage], over_tasks), strict=True)
    # Sorting is stable, so that of equals the first asked stands first.
    ranked = sorted(found, key=lambda m: (m.stage == "initial", -merit[id(m)]))
    rules = list(dict.fromkeys(m.job.rule for m in ranked))[:limit]
    return [Contestant(evolved_name(place, len(rules)), rule) for place, rule in enumerate(rules, start=1)]


def best(outcomes: Mapping[str, Sequence[Outcome]], keep: int, over_tasks: str = "score") -> list[str]:
    """Names of the `keep` best in the mean over their seeds, best first; fewer if fewer completed under every seed.

    Of equal ones, the first in the mapping is preferred.

    Args:
        outcomes: by name, in order of preference; under the same seeds for all, in the same order.
        keep: how many, at least 0.
        over_tasks: how rules measured on several tasks compare; ranks are among those that completed.
    """
    whole = {name: own for name, own in outcomes.items() if all(outcome.status is Status.COMPLETED for outcome in own)}
    total = dict.fromkeys(whole, 0.0)
    for under_one_seed in zip(*whole.values(), strict=True):
        for name, merit in zip(whole, merits([_score(outcome) for outcome in under_one_seed], over_tasks), strict=True):
            total[name] += merit
    return sorted(whole, key=lambda name: -total[name])[:keep]


def _score(outcome: Outcome) -> Score:
    score = Score.of(outcome)
    assert score is not None  # a completed outcome has one
    return score


def seed_for(seed: int, *path: int) -> int:
    """A 32-bit seed that is a function of the run's seed and a place in its structure alone."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


def task_of_round(budget: EliminationRound, task: str) -> str:
    """The spec of what a round is measured on, where the run's task is `task`."""
    return join([spec_of(budget.task or task, budget.task_options), *map(spec_of, budget.more_tasks)])


class EliminationSource:
    """Asks for the measurements of all rounds, one round after the other; a source for `optevolve.run.driver.drive`.

    Jobs are "eliminate/ROUND/NAME" of stage "eliminate/ROUND", rounds counted from 1; under further seeds of a round,
    "eliminate/ROUND/NAME/seed-1" and so on. A round is judged on the validation split.

    Args:
        contestants: who enters, best first: of equal fitnesses, the earlier stays.
        rounds: budgets, and how many stay.
        task: the run's task, for rounds that name none.
        seed: the run's seed.
        over_tasks: how rules measured on several tasks compare, see `best`.

    Attributes:
        survivors: who is left after the rounds told so far, best first; in the end, the result. Empty if nobody completed a round.
        stages: the rounds that began, in order.
        done: whether all rounds are over.
    """

    def __init__(
        self, contestants: Sequence[Contestant], rounds: Sequence[EliminationRound], *, task: str, seed: int, over_tasks: str = "score"
    ) -> None:
        check_names(contestants)
        self.survivors = list(contestants)
        self.done = False
        self.stages: list[str] = []
        self._rounds = deque(enumerate(rounds, start=1))
        self._task, self._seed, self._over_tasks = task, seed, over_tasks
        self._keep = 0
        self._prefix = ""
        self._jobs: deque[Job] = deque()
        self._outcomes: dict[str, Outcome | None] = {}
        self._seeds = 1
        self._untold = 0
        self._begin_round()

    def _begin_round(self) -> None:
        if not self._rounds or not self.survivors:
            self.done = True
            return
        number, budget = self._rounds.popleft()
        self._keep, self._prefix = budget.keep, f"eliminate/{number}"
        self.stages.append(self._prefix)
        task = task_of_round(budget, self._task)
        self._seeds = budget.seeds
        self._jobs = deque()
        for place in range(budget.seeds):
            seed = seed_for(self._seed, _STREAM, number, *([place] if place else []))
            self._jobs += [Job(self._job_id(c.name, place), c.rule, task, budget.protocol, seed) for c in self.survivors]
        self._outcomes = {job.id: None for job in self._jobs}
        self._untold = len(self._jobs)

    def _job_id(self, name: str, seed: int) -> str:
        return job_id(self._prefix, name, replicate=seed or None)

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        """The next measurement of the round; None while its last ones are awaited, and in the end."""
        return (self._prefix, self._jobs.popleft(), None) if self._jobs else None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        """Takes an outcome; the last of a round ends the round. Any order gives the same survivors."""
        if self._outcomes.get(job_id, outcome) is not None:
            raise ValueError(f"job {job_id!r} is not awaited")
        self._outcomes[job_id] = outcome
        self._untold -= 1
        if not self._untold:
            told = {job_id: outcome for job_id, outcome in self._outcomes.items() if outcome is not None}
            contestants = {contestant.name: contestant for contestant in self.survivors}
            by_name = {name: [told[self._job_id(name, place)] for place in range(self._seeds)] for name in contestants}
            self.survivors = [contestants[name] for name in best(by_name, self._keep, self._over_tasks)]
            self._begin_round()
