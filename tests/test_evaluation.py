"""The final evaluation is fair, its test split untouched before, and its statistics those of the textbook."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from optevolve.config import Protocol
from optevolve.eliminate import Contestant
from optevolve.evaluation import Comparison, EvaluationSource, compare
from optevolve.records import Job, Measurement, Outcome, Split, Status
from optevolve.run.driver import drive
from optevolve.run.local import SerialRunner
from optevolve.run.store import Study

PROTOCOL = Protocol(full_steps=100, judge="last")
CONTESTANTS = [Contestant("adam", "2"), Contestant("evolved-01", "3"), Contestant("broken", "broken"), Contestant("fragile", "fragile")]
TASKS = ["digits@width=8", "tests.my/tasks:Moons"]


def score(job: Job) -> Outcome:
    """Rule N scores about N; tuning chooses 10⁻ᴺ."""
    if job.rule == "0 * w":  # what the untrained model scores
        return Outcome(Status.COMPLETED, -4.0, job.learning_rate)
    if job.rule == "broken":
        return Outcome(Status.STOPPED, reason="too weak")
    if job.rule == "fragile" and job.id.endswith(("seed-0", "seed-2")):
        return Outcome(Status.DIVERGED, reason="loss is nan")
    value = 1.0 if job.rule == "fragile" else float(job.rule)
    if job.learning_rate is None:
        return Outcome(Status.COMPLETED, value, 10**-value)
    noise = math.sin(job.seed % 1000 + 10 * value * len(job.task))
    return Outcome(Status.COMPLETED, value + 0.1 * noise, job.learning_rate)


def evaluate(path: Path, seeds: int = 3, lookahead: int = 4, contestants: list[Contestant] = CONTESTANTS) -> list[Measurement]:
    source = EvaluationSource(contestants, TASKS, PROTOCOL, seeds=seeds, seed=5)
    with Study.open(path) if path.exists() else Study.create(path, "x") as study:
        drive(source, SerialRunner(score), study, lookahead=lookahead)
        assert source.done
        return study.measurements()


def test_everybody_is_tuned_alike_and_only_fixed_rates_meet_the_test_split(tmp_path: Path) -> None:
    stored = evaluate(tmp_path / "study.db")
    tuned = [m for m in stored if m.stage == "tune"]
    assert [m.job.id for m in tuned] == [f"tune/{task}/{c.name}" for task in TASKS for c in CONTESTANTS]
    assert {(m.job.protocol, m.job.split, m.job.learning_rate) for m in tuned} == {(PROTOCOL, Split.VALID, None)}
    assert len({m.job.seed for m in tuned}) == 1
    runs = [m for m in stored if m.stage == "evaluate"]
    assert {(m.job.protocol, m.job.split) for m in runs} == {(PROTOCOL, Split.TEST)}
    assert len(runs) == 2 * 3 * 3
    seeds = {}
    for m in runs:
        task, name, number = m.job.id.removeprefix("evaluate/").rsplit("/", 2)
        assert (m.job.task, m.job.learning_rate) == (task, 0.1 if name == "fragile" else 10 ** -float(m.job.rule))
        seeds.setdefault(number, set()).add(m.job.seed)
    assert sorted(seeds) == ["seed-0", "seed-1", "seed-2"]
    assert all(len(found) == 1 for found in seeds.values())
    assert len({*set.union(*seeds.values()), tuned[0].job.seed}) == 4


def test_more_seeds_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    first = {m.job.id: m for m in evaluate(tmp_path / "study.db", seeds=1)}
    more = {m.job.id: m for m in evaluate(tmp_path / "study.db", seeds=2)}
    assert {name: more[name] for name in first} == first
    assert {name.rsplit("/", 1)[1] for name in set(more) - set(first)} == {"seed-1"}


def test_a_tuned_weight_decay_is_fixed_with_the_learning_rate_and_an_only_one_is_not_repeated(tmp_path: Path) -> None:
    asked: list[Job] = []

    def tuned(job: Job) -> Outcome:
        asked.append(job)
        return dataclasses.replace(score(job), weight_decay=0.1 if job.weight_decay is None else job.weight_decay)

    protocol = dataclasses.replace(PROTOCOL, weight_decays=(0.0, 0.1))
    source = EvaluationSource(CONTESTANTS[:2], TASKS[:1], protocol, seeds=2, seed=5)
    with Study.create(tmp_path / "study.db", "x") as study:
        drive(source, SerialRunner(tuned), study, lookahead=4)
        rows = compare(study.measurements())
    assert [(job.learning_rate is None, job.weight_decay) for job in asked] == [(True, None)] * 2 + [(False, 0.1)] * 4
    assert [row.weight_decay for row in rows] == [0.1, 0.1]
    stored = evaluate(tmp_path / "plain.db")
    assert {m.job.weight_decay for m in stored} == {None}
    found = {(row.name, row.weight_decay) for row in compare(stored)}
    assert found == {("evolved-01", 0.0), ("adam", 0.0), ("fragile", 0.0), ("broken", None)}


@pytest.mark.parametrize(("decays", "expected"), [((0.0,), [0.01, None]), ((0.0, 0.1), [None, None]), ((0.05,), [None, None])])
def test_a_contestants_own_weight_decay_holds_where_none_is_tuned(decays: tuple[float, ...], expected: list[float | None]) -> None:
    """AdamW comes with 0.01; where a protocol gives or tunes decays, everybody has these."""
    both = [Contestant("adamw", "2", 0.01), Contestant("adam", "2")]
    protocol = dataclasses.replace(PROTOCOL, weight_decays=decays)
    source = EvaluationSource(both, TASKS[:1], protocol, seeds=1, seed=5)
    asked = [source.ask() for _ in both]
    assert [asked_for[1].weight_decay for asked_for in asked if asked_for] == expected


class Recorder:
    """A source that notes what is asked and told."""

    def __init__(self, source: EvaluationSource) -> None:
        self.source = source
        self.log: list[tuple[str, Job]] = []
        self.told: set[str] = set()

    def ask(self) -> tuple[str, Job, None] | None:
        if (asked := self.source.ask()) is None:
            return None
        stage, job, _ = asked
        if job.split is Split.TEST:
            assert {j.id for s, j in self.log if s in ("tune", "choose")} <= self.told, "the test split was opened before the choice"
        self.log.append((stage, job))
        return stage, job, None

    def tell(self, job_id: str, outcome: Outcome) -> None:
        self.told.add(job_id)
        self.source.tell(job_id, outcome)

    @property
    def done(self) -> bool:
        return self.source.done


@pytest.mark.parametrize("lookahead", [1, 3, 32])
def test_everybody_is_chosen_on_validation_before_the_test_split_is_opened(tmp_path: Path, lookahead: int) -> None:
    source = Recorder(EvaluationSource(CONTESTANTS, TASKS, PROTOCOL, seeds=2, seed=5, choice_seeds=3))
    with Study.create(tmp_path / "study.db", "x") as study:
        drive(source, SerialRunner(score), study, lookahead=lookahead)
        stored = study.measurements()
    choices = [m for m in stored if m.stage == "choose"]
    assert {m.job.split for m in choices} == {Split.VALID}
    assert len(choices) == 2 * 3 * 3, "all that were tuned: survivors and baselines alike"
    tests = [m for m in stored if m.stage == "evaluate"]
    assert len(tests) == 2 * 3 * 2
    tuning = {m.job.seed for m in stored if m.stage == "tune"}
    seeds = {number: {m.job.seed for m in choices if m.job.id.endswith(f"seed-{number}")} for number in range(3)}
    assert all(len(found) == 1 for found in seeds.values()), "paired"
    assert len({*tuning, *set.union(*seeds.values()), *(m.job.seed for m in tests)}) == 1 + 3 + 2, "and fresh"
    tuned = {(m.job.task, m.job.rule): m.outcome.learning_rate for m in stored if m.stage == "tune"}
    assert all(m.job.learning_rate == tuned[m.job.task, m.job.rule] for m in choices)
    levels = [m for m in stored if m.stage == "untrained"]
    assert {(m.job.task, m.job.split) for m in levels} == {(task, split) for task in TASKS for split in (Split.VALID, Split.TEST)}
    assert {m.job.protocol.full_steps for m in levels} == {1}


def test_an_evaluation_stopped_anywhere_goes_on_to_the_same_end(tmp_path: Path) -> None:
    def source() -> EvaluationSource:
        return EvaluationSource(CONTESTANTS, TASKS, PROTOCOL, seeds=2, seed=5, choice_seeds=2)

    with Study.create(tmp_path / "whole.db", "x") as study:
        drive(source(), SerialRunner(score), study, lookahead=4)
        whole = study.measurements()
    assert len(whole) > 30
    for stop in range(0, len(whole), 5):
        path, left = tmp_path / f"{stop}.db", iter(range(stop))

        def broken(job: Job, left: Iterator[int] = left) -> Outcome:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return score(job)

        with Study.create(path, "x") as study:
            with pytest.raises(KeyboardInterrupt):
                drive(source(), SerialRunner(broken), study, lookahead=4)
            drive(source(), SerialRunner(score), study, lookahead=4)
            assert [(m.job, m.outcome) for m in study.measurements()] == [(m.job, m.outcome) for m in whole]


def by_name(rows: list[Comparison], task: str) -> dict[str, Comparison]:
    return {row.name: row for row in rows if row.task == task}


def test_the_table_is_the_textbook_s(tmp_path: Path) -> None:
    stored = evaluate(tmp_path / "study.db", seeds=4)
    rows = compare(stored, "adam")
    assert [row.task for row in rows] == [task for task in TASKS for _ in CONTESTANTS]
    assert [row.name for row in rows] == ["evolved-01", "adam", "fragile", "broken"] * 2
    for task in TASKS:
        found = by_name(rows, task)
        adam, evolved, fragile, broken = found["adam"], found["evolved-01"], found["fragile"], found["broken"]
        expected = [m.outcome.fitness for m in stored if m.stage == "evaluate" and m.job.task == task and m.job.rule == "3"]
        assert sorted(evolved.scores) == sorted(expected)
        assert (evolved.rule, evolved.learning_rate, evolved.seeds, evolved.reason) == ("3", 1e-3, (0, 1, 2, 3), "")
        assert evolved.mean == pytest.approx(np.mean(expected))
        low, high = stats.t.interval(0.95, 3, np.mean(expected), stats.sem(expected))
        assert evolved.interval == pytest.approx((low, high))
        paired = stats.ttest_rel(evolved.scores, adam.scores)
        assert evolved.p_value == pytest.approx(paired.pvalue)
        assert evolved.difference == pytest.approx(np.mean(evolved.scores) - np.mean(adam.scores))
        assert evolved.difference_interval == pytest.approx(tuple(paired.confidence_interval(0.95)))
        assert (adam.difference, adam.difference_interval, adam.p_value) == (None, None, None)
        assert (fragile.status, fragile.seeds, fragile.lost) == (Status.DIVERGED, (0, 1, 2, 3), (0, 2))
        assert fragile.scores[0] == fragile.scores[2] == -4.0, "a lost run counts as the untrained model, which is worse than anybody"
        assert fragile.reason == "2 of 4 seeds did not complete and count as the worst score: loss is nan"
        shared = [a - b for a, b in zip(fragile.scores, adam.scores, strict=True)]
        assert fragile.difference == pytest.approx(np.mean(shared))
        assert fragile.p_value == pytest.approx(stats.ttest_1samp(shared, 0).pvalue)
        assert (broken.status, broken.reason, broken.scores, broken.mean) == (Status.STOPPED, "tuning: too weak", (), None)
        assert (broken.learning_rate, broken.interval, broken.difference, broken.p_value) == (None, None, None, None)


def table(scores: dict[str, list[float | None]]) -> dict[str, Comparison]:
    found = []
    for name, values in scores.items():
        found.append(Measurement("tune", Job(f"tune/t/{name}", "g", "t", PROTOCOL, 0), Outcome(Status.COMPLETED, 0.1, 0.1)))
        for number, value in enumerate(values):
            job = Job(f"evaluate/t/{name}/seed-{number}", "g", "t", PROTOCOL, number, Split.TEST, 0.1)
            outcome = Outcome(Status.FAILED, reason="crash") if value is None else Outcome(Status.COMPLETED, value, 0.1)
            found.append(Measurement("evaluate", job, outcome))
    return by_name(compare(reversed(found), "adam"), "t")


def test_what_cannot_be_tested_has_no_p_value() -> None:
    one = table({"adam": [0.5], "x": [0.6]})["x"]
    assert (one.difference, one.interval, one.difference_interval, one.p_value) == (pytest.approx(0.1), None, None, None)
    equal = table({"adam": [0.1, 0.2, 0.3], "same": [0.1, 0.2, 0.3], "shifted": [0.4, 0.5, 0.6]})
    assert (equal["same"].difference, equal["same"].difference_interval, equal["same"].p_value) == (0.0, (0.0, 0.0), None)
    assert equal["shifted"].difference == pytest.approx(0.3)
    assert equal["shifted"].p_value is None
    unmatched = table({"adam": [0.5, None], "x": [None, 0.6]})["x"]
    assert unmatched.scores == (0.5, 0.6), "the lost run counts as the worst"
    assert (unmatched.difference, unmatched.p_value) == (pytest.approx(0.05), pytest.approx(0.5))
    infinite = table({"adam": [0.5, 0.6, 0.4], "x": [0.6, -math.inf, 0.7]})["x"]
    assert (infinite.scores, infinite.lost) == ((0.6, 0.4, 0.7), (1,))
    assert infinite.interval is not None
    alone = table({"x": [0.5, 0.6]})["x"]
    assert alone.interval is not None
    assert alone.difference is None
    waiting = table({"adam": [], "x": []})["x"]
    assert (waiting.status, waiting.reason, waiting.learning_rate) == (Status.COMPLETED, "tuned, not evaluated yet", 0.1)
    assert compare([]) == []


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=2, max_size=6))
def test_numbers_are_finite_and_ordered_for_any_scores(pairs: list[tuple[float, float]]) -> None:
    row = table({"adam": [a for a, _ in pairs], "x": [b for _, b in pairs]})["x"]
    for low, middle, high in ((row.interval[0], row.mean, row.interval[1]), (*row.difference_interval, row.difference)):
        assert all(map(math.isfinite, (low, middle, high)))
    assert row.interval[0] <= row.mean <= row.interval[1]
    assert row.difference_interval[0] <= row.difference <= row.difference_interval[1]
    assert row.p_value is None or 0 <= row.p_value <= 1
    assert all(value is None or not isinstance(value, np.generic) for value in dataclasses.astuple(row))
