"""A source of jobs for the driver that asks them one after the other."""

from optevolve.records import Job, Outcome


class List:
    """Asks jobs in their order, and keeps what it is told."""

    def __init__(self, jobs: list[Job]) -> None:
        self.left, self.told = jobs[::-1], {}

    def ask(self) -> tuple[str, Job, None] | None:
        return ("stage", self.left.pop(), None) if self.left else None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.told[job_id] = outcome

    @property
    def done(self) -> bool:
        return not self.left
