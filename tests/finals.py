"""Measurements of a search and of a final evaluation, from the scores that they are to have."""

from collections.abc import Mapping, Sequence

from optevolve.config import Protocol
from optevolve.contestants import job_id
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status

PROTOCOL = Protocol(full_steps=100, judge="last")
LOST = Outcome(Status.DIVERGED, reason="the loss is nan")


def measured(name, fitness=None, *, rule="", stage="evolution", status=None, same_as="", reason="", rejected=(), steps=100):
    """One of the search; without a fitness, of a rule that was stopped."""
    status = status or (Status.COMPLETED if fitness is not None else Status.STOPPED)
    outcome = Outcome(status, fitness, 0.1 if fitness is not None else None, reason, steps=steps, seconds=2.0)
    text = rule or f"g * {name}"
    proposal = Proposal(name, text, stage=stage, parent="root", rejected=rejected)
    return Measurement(stage, Job(name, text, "digits", Protocol(), 0), outcome, proposal, same_as)


def run(stage: str, name: str, number: int, score: float | None, task: str = "t") -> Measurement:
    split = Split.VALID if stage == "choose" else Split.TEST
    job = Job(job_id(stage, name, task, number), f"{name} * g", task, PROTOCOL, number, split, 0.1)
    return Measurement(stage, job, LOST if score is None else Outcome(Status.COMPLETED, score, 0.1))


def final(
    test: Mapping[str, Sequence[float | None]],
    valid: Mapping[str, Sequence[float | None]] | None = None,
    tuned: Mapping[str, float | None] | None = None,
    untrained: Mapping[Split, float] | None = None,
    task: str = "t",
) -> list[Measurement]:
    """Scores by contestant under seed 0, 1, …; None for a run that diverged, or a tuning that did."""
    valid, tuned = valid or {}, tuned or {}
    found = []
    for name in dict.fromkeys([*tuned, *valid, *test]):
        score = tuned.get(name, 0.1)
        outcome = LOST if score is None else Outcome(Status.COMPLETED, score, 0.1, weight_decay=0.01)
        found.append(Measurement("tune", Job(job_id("tune", name, task), f"{name} * g", task, PROTOCOL, 0), outcome))
    found += [run("choose", name, number, score, task) for name, own in valid.items() for number, score in enumerate(own)]
    found += [run("evaluate", name, number, score, task) for name, own in test.items() for number, score in enumerate(own)]
    for split, level in (untrained or {}).items():
        job = Job(job_id("untrained", split.value, task), "0 * w", task, PROTOCOL, 0, split, 0.1)
        found.append(Measurement("untrained", job, Outcome(Status.COMPLETED, level, 0.1)))
    return found
