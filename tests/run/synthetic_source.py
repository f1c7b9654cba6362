"""A search without rules: what it asks depends on everything told before, so that any disorder shows; and a driver to be killed."""

import hashlib
import sys

from poison import slow

from optevolve.config import Protocol
from optevolve.records import Job, Outcome, Proposal
from optevolve.run.driver import Ask, Happening, drive
from optevolve.run.local import LocalRunner
from optevolve.run.store import Study, exists


class SyntheticSource:
    """Asks `total` jobs with rules drawn from few, so that many are equal; at times it wants to be told first.

    Attributes:
        log: asks and tells in their order.
    """

    def __init__(self, total: int, seed: int, kinds: int = 30) -> None:
        self.total, self.kinds = total, kinds
        self.state = hashlib.sha256(str(seed).encode())
        self.log: list[str] = []
        self.asked = self.told = 0

    def _draw(self, bound: int) -> int:
        return int.from_bytes(self.state.digest()[:4], "big") % bound

    @property
    def done(self) -> bool:
        return self.asked == self.total

    def ask(self) -> Ask | None:
        if self.asked > self.told and self._draw(4) == 0:
            return None
        number = self.asked
        self.asked += 1
        rule = f"rule-{self._draw(self.kinds)}"
        stage = "initial" if number < self.total // 3 else "evolution"
        job = Job(f"{stage}/{number:04}", rule, "synthetic", Protocol(), seed=1)
        self._note(f"ask {job.id} {rule}")
        rejected = (("x", "bad"),) * self._draw(3)
        return stage, job, Proposal(job.id, rule, stage=stage, parent="initial/0000", rejected=rejected)

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.told += 1
        self._note(f"tell {job_id} {outcome.status} {outcome.fitness} {outcome.steps} {outcome.curves}")

    def _note(self, line: str) -> None:
        self.log.append(line)
        self.state.update(line.encode())


def main(path: str, total: int, seed: int, workers: int) -> None:
    """Drives a source, saying aloud what it told."""

    def say(happening: Happening) -> None:
        if happening.kind == "told":
            print(happening.turn, flush=True)

    study = Study.open(path) if exists(path) else Study.create(path, "x")
    with study, LocalRunner(workers, slow) as runner:
        try:
            drive(SyntheticSource(total, seed), runner, study, lookahead=6, same=lambda job: job.rule, on_event=say)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(130)
        study.finish()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
