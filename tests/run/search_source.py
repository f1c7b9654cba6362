"""The real searches on a fitness that is a hash of the rule: fast, rugged, with failures; for workers to import."""

import hashlib
import time

from optevolve.algorithms import ALGORITHMS
from optevolve.config import Protocol, Search
from optevolve.records import Job, Outcome, Status, TrainingCurve
from optevolve.run.driver import Ask
from optevolve.space.grammar import grammar


class Judgement:
    """A check that lets everything pass: integrity is not what is tested here."""

    ok, sign, reason = True, 1, ""


def pass_all(rule: object) -> Judgement:
    return Judgement()


def fitness(job: Job) -> Outcome:
    """A function of the rule alone; one in five fails."""
    bits = int(hashlib.sha256(job.rule.encode()).hexdigest()[:12], 16)
    if bits % 5 == 0:
        return Outcome(Status.DIVERGED, reason="as one in five", seconds=0.001)
    curve = TrainingCurve(0.1, job.seed, (1, 2), (2.0, 1.0), (0.5, 0.25), (0.25, 0.5))
    return Outcome(Status.COMPLETED, bits % 10**6 / 10**6, 0.1, curves=(curve,), steps=2, seconds=0.001)


def slow_fitness(job: Job) -> Outcome:
    time.sleep(0.1)
    return fitness(job)


class SearchSource:
    """A search as the driver asks it."""

    def __init__(self, search: Search, seed: int = 0) -> None:
        self.algorithm = ALGORITHMS[search.algorithm](search, grammar("paper"), pass_all, seed)

    def ask(self) -> Ask | None:
        proposal = self.algorithm.ask()
        if proposal is None:
            return None
        return proposal.stage, Job(proposal.id, proposal.rule, "synthetic", Protocol(), 0), proposal

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.algorithm.tell(job_id, outcome)

    @property
    def done(self) -> bool:
        return self.algorithm.done
