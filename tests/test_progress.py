"""What a person is told while a run goes on: the numbers, the plain lines, the live display."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from optevolve.config import Protocol
from optevolve.progress import Progress, Tally, clock_text
from optevolve.records import Job, Measurement, Outcome, Proposal, Status


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def measured(name: str, fitness: float | None = None, status: Status = Status.COMPLETED, reason: str = "", refused: int = 0) -> Measurement:
    proposal = Proposal(name, f"rule-{name}", rejected=(("g", "weak"),) * refused)
    return Measurement("initial", Job(name, f"rule-{name}", "digits", Protocol(), 0), Outcome(status, fitness, reason=reason), proposal)


def test_time_left_follows_the_recent_pace() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.begin("initial", 100)
    assert tally.seconds_left is None
    for i in range(40):
        clock.now += 1.0 if i < 10 else 3.0
        tally.add(measured(str(i), 0.5))
    assert tally.left == 60
    assert tally.seconds_left == pytest.approx(180.0)
    assert tally.counts_text() == "40 of 100 done, 60 left, about 3:00 to go"


def test_what_was_stored_says_nothing_about_the_pace() -> None:
    clock = Clock()
    tally = Tally(clock=clock)
    tally.begin("initial", 100)
    clock.now += 7.0
    for i in range(90):
        tally.add(measured(str(i), 0.5), stored=True)
    assert (tally.done, tally.seconds_left) == (90, None)
    clock.now += 2.0
    tally.add(measured("new", 0.5))
    assert tally.seconds_left == pytest.approx(18.0)


def test_a_stage_starts_at_nought_and_a_corrected_total_does_not() -> None:
    tally = Tally(clock=Clock())
    tally.begin("initial", 3)
    tally.add(measured("a", 0.5))
    tally.begin("initial", 5)
    assert (tally.done, tally.left) == (1, 4)
    tally.begin("evolution", 7)
    assert (tally.done, tally.left) == (0, 7)
    tally.begin("unknown", 0)
    assert tally.counts_text() == "0 done"


def test_more_than_was_estimated_is_no_more_than_all() -> None:
    tally = Tally()
    tally.begin("initial", 1)
    for name in "ab":
        tally.add(measured(name, 0.5))
    assert tally.counts_text() == "2 of 2 done, 0 left"


def test_a_late_measurement_counts_where_it_belongs() -> None:
    tally = Tally(clock=Clock())
    tally.begin("initial", 2)
    tally.add(measured("a", 0.5))
    tally.begin("evolution", 5)
    tally.add(measured("b", 0.6))
    assert (tally.done, tally.counts["initial"], tally.seconds_left) == (0, 2, None)


def test_best_is_by_stage_and_says_which() -> None:
    tally = Tally(clock=Clock())
    tally.begin("initial", 3)
    assert tally.best_text() == "none yet"
    assert tally.add(measured("a", 0.5))
    assert not tally.add(measured("b", 0.4))
    assert tally.add(measured("c", 0.6))
    assert tally.best_text() == "0.6000 (initial) rule-c"


def test_failures_meet_by_reason() -> None:
    tally = Tally(clock=Clock())
    for i in range(3):
        tally.add(measured(str(i), status=Status.FAILED, reason=f"no 0.{i}1 memory at step {i}00\nmore"))
    for i in range(2):
        tally.add(measured(f"s{i}", status=Status.STOPPED, reason=f"score 0.{i}1 below 0.25"))
    tally.add(measured("x", status=Status.DIVERGED, refused=2))
    assert tally.failures_text() == "3 × failed: no … memory at step …; 2 × stopped; 1 × diverged; 2 × refused before training"
    for letter in "abcdef":
        tally.add(measured(letter, status=Status.FAILED, reason=letter))
    assert "5 other reasons" in tally.failures_text()


def test_plain_lines() -> None:
    clock, out = Clock(), io.StringIO()
    with Progress(Console(file=out, force_terminal=False, width=40), every=5, clock=clock) as progress:
        progress.on_stage("initial", 4)
        progress.on_measurement(measured("a", 0.5))
        progress.on_measurement(measured("b", 0.4))  # neither better nor late: no line
        clock.now += 6
        progress.on_measurement(measured("[red]c", 0.3))
        progress.on_stage("evolution", 0)
    assert out.getvalue().splitlines() == [
        "[initial] about 4 evaluations",
        "[initial] 1 of 4 done, 3 left, about 0:00 to go | best 0.5000 (initial) rule-a | failed none",
        "[initial] 3 of 4 done, 1 left, about 0:02 to go | best 0.5000 (initial) rule-a | failed none",
        "[initial] ended with 3 evaluations | best 0.5000 (initial) rule-a | failed none",
        "[evolution] unknown number of evaluations",
        "[evolution] ended with 0 evaluations | best 0.5000 (initial) rule-a | failed none",
    ]


def test_live_display_leaves_one_line_per_stage() -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=True, width=100, color_system=None))
    progress.on_stage("initial", 2)
    progress.on_measurement(measured("[bold]a", 0.5))
    progress.console.print(progress._picture())
    progress.on_end()
    progress.on_end()
    text = out.getvalue()
    assert "1 of 2 done, 1 left" in text
    assert "0.5000 (initial) rule-[bold]a" in text
    assert text.count("ended with 1 evaluation |") == 1


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_the_reference_is_no_best_rule_of_the_search() -> None:
    tally = Tally()
    tally.begin("reference", 1)
    known = measured("adamw", 0.9)
    assert not tally.add(replace(known, stage="reference"))
    assert (tally.done, tally.best_text()) == (1, "none yet")
    tally.begin("initial", 1)
    assert tally.add(measured("own", 0.5))
    assert tally.best_text() == "0.5000 (initial) rule-own"
