"""A run of which nothing can come ends, at the same place whatever the number of workers, and says why with its numbers."""

from collections import deque
from collections.abc import Sequence

import pytest

from optevolve.config import Protocol
from optevolve.errors import RunEndedError
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status
from optevolve.run.early_end import ALIKE, Hopeful, name_of_stage, require_completed, why_none_completed, worst_outcomes

FINE = Outcome(Status.COMPLETED, 0.5)
WEAK = Outcome(Status.STOPPED, reason="best trial score -3.2 of 3 learning rates (at 0.1) below 0.2")


def failed(reason: str) -> Outcome:
    return Outcome(Status.FAILED, reason=reason)


def job(name: str, rule: str = "g") -> Job:
    return Job(name, rule, "digits", Protocol(), seed=0, split=Split.VALID)


class Given:
    """Asks for so many jobs of a stage."""

    def __init__(self, number: int) -> None:
        self.left = deque(range(number))
        self.told = 0

    def ask(self) -> tuple[str, Job, Proposal | None] | None:
        return ("initial", job(str(self.left.popleft())), None) if self.left else None

    def tell(self, job_id: str, outcome: Outcome, /) -> None:
        self.told += 1

    @property
    def done(self) -> bool:
        return not self.left


def told_until_it_ended(outcomes: Sequence[Outcome], enough: int | None) -> int:
    """How many were told; all of them if the run did not end."""
    source = Given(len(outcomes))
    hopeful = Hopeful(source, lambda stage, _: name_of_stage(stage), lambda _: enough, lambda _: True)
    asked = [hopeful.ask() for _ in outcomes]
    try:
        for turn, outcome in zip(asked, outcomes, strict=True):
            assert turn is not None
            hopeful.tell(turn[1].id, outcome)
    except RunEndedError:
        return source.told
    assert hopeful.done
    return len(outcomes) + 1


@pytest.mark.parametrize(
    ("outcomes", "enough", "told"),
    [
        ([WEAK] * 4, 4, 4),
        ([WEAK] * 9, 4, 4),  # a generation is enough to judge by
        ([WEAK] * 3 + [FINE], 4, 5),
        ([FINE] + [WEAK] * 40, 4, 42),
        ([WEAK] * 50, None, 51),  # weak rules prove nothing about the next ones
        ([failed("RuntimeError: at 0x7f01, size 3")] * 10 + [failed("RuntimeError: at 0x7f02, size 4")] * 40, 500, ALIKE),
        ([failed("RuntimeError: one")] * 19 + [failed("ValueError: two")] * 31, 500, 51),
        ([failed("RuntimeError: one")] * 19 + [FINE] * 2, 500, 22),
        ([WEAK, failed("MemoryError"), Outcome(Status.DIVERGED, reason="every trial diverged")], 3, 3),
    ],
)
def test_when_nothing_can_come_of_it(outcomes: list[Outcome], enough: int | None, told: int) -> None:
    assert told_until_it_ended(outcomes, enough) == told


def test_jobs_of_no_group_are_not_watched() -> None:
    hopeful = Hopeful(Given(30), lambda _, __: "", lambda _: 2, lambda _: True)
    for _ in range(30):
        asked = hopeful.ask()
        assert asked is not None
        hopeful.tell(asked[1].id, failed("RuntimeError: one"))
    assert hopeful.ask() is None


def test_the_reason_has_the_numbers_and_what_to_do() -> None:
    weak = why_none_completed("baselines", [WEAK, WEAK], has_floors=True)
    assert weak.startswith(f"The run ended early: all 2 baselines were stopped early (with one and the same error: {WEAK.reason}).")
    assert "Lower the floors" in weak
    relative = why_none_completed("baselines", [WEAK, WEAK], has_floors=False)
    assert "Lengthen the trials (trial_steps), try other learning rates, or see whether the loss falls at all" in relative
    assert "floors" not in relative
    mixed = why_none_completed(name_of_stage("evolution"), [WEAK, failed("MemoryError"), WEAK], has_floors=True)
    assert "none of the 3 rules of the evolution completed: 2 were stopped early, 1 failed (for example: best trial score -3.2" in mixed
    assert "tasks --check" in why_none_completed(name_of_stage("eliminate/2"), [failed("")], has_floors=True)
    assert "contenders in round 2" in why_none_completed(name_of_stage("eliminate/2"), [failed("")], has_floors=True)
    assert why_none_completed("baselines", [WEAK, FINE], True) == why_none_completed("baselines", [], True) == ""
    require_completed("baselines", [FINE], True)
    with pytest.raises(RunEndedError, match="all 1 baselines diverged"):
        require_completed("baselines", [Outcome(Status.DIVERGED)], True)


def test_a_contender_that_fails_under_one_seed_has_failed() -> None:
    def measured(rule: str, outcome: Outcome) -> Measurement:
        return Measurement("eliminate/1", job(rule, rule), outcome)

    one, two = failed("one"), failed("two")
    found = worst_outcomes([measured("a", FINE), measured("b", one), measured("a", two), measured("b", FINE), measured("c", FINE)])
    assert found == [two, one, FINE]
