"""The protocol: which learning rates are tried, when a rule is dropped, how the full run is judged, what costs only its own measurement."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn

from optevolve import surrogate
from optevolve.compile import build
from optevolve.config import Protocol, Schedule
from optevolve.errors import ConfigError, DataError, ParseError, TaskError
from optevolve.racing import neighbours
from optevolve.records import Job, Outcome, Split, Status, TrainingCurve
from optevolve.schedule import schedule_values
from optevolve.space import parse
from optevolve.surrogate import FIRST_LEARNING_RATE, best_end, best_trial, measure, step_values
from optevolve.tasks import TASKS, Batch
from optevolve.tasks.synthetic import MlpMoons
from optevolve.training import Engine, many, train, untrained_score

SHORT = Protocol(
    learning_rates=(10.0, 1.0, 1e-1, 1e-2, 1e-5),
    first_learning_rates=(10.0, 1e-1, 1e-5),
    trial_steps=40,
    full_steps=120,
    trial_schedule="compressed",
    epoch_steps=30,
    trial_epoch_steps=10,
    schedule=Schedule(warmup=0.1),
)
JOB = Job("one", "momentum: g", "mlp-moons", SHORT, seed=0)


def timeless(outcome: Outcome) -> Outcome:
    return replace(outcome, seconds=0.0, curves=tuple(replace(curve, seconds=0.0) for curve in outcome.curves))


def of(outcome: Outcome, purpose: str) -> list[TrainingCurve]:
    return [curve for curve in outcome.curves if curve.purpose == purpose]


def test_the_papers_trials_are_the_start_of_the_full_run() -> None:
    paper = Protocol()
    rates, momenta = step_values(paper, 0.5, trial=False)
    exact, exact_momenta = schedule_values(0.5, 8000, 800)
    assert rates[0] == FIRST_LEARNING_RATE
    assert np.array_equal(rates[1:], exact[1:])
    assert np.array_equal(momenta, exact_momenta)
    trial, trial_momenta = step_values(paper, 0.5, trial=True)
    assert np.array_equal(trial, rates[:800])
    assert np.array_equal(trial_momenta, momenta[:800])
    assert trial.max() < 0.5  # wholly inside warm-up


def test_a_compressed_trial_has_the_whole_schedule() -> None:
    protocol = Protocol(trial_steps=100, full_steps=1000, trial_schedule="compressed", schedule=Schedule(warmup=200, hold=0.1))
    trial, momenta = step_values(protocol, 2.0, trial=True)
    exact, exact_momenta = schedule_values(2.0, 100, 20, 10)
    assert np.array_equal(trial[1:], exact[1:])
    assert np.array_equal(momenta, exact_momenta)


def test_without_warmup_the_first_step_has_the_peak() -> None:
    rates, _ = step_values(Protocol(schedule=Schedule(warmup=0)), 0.3, trial=False)
    assert rates[0] == 0.3


def test_a_schedule_that_does_not_fit_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match="more than full_steps = 500"):
        measure(replace(JOB, protocol=Protocol(full_steps=500)))


def test_trials_choose_the_learning_rate_and_the_full_run_gives_the_fitness() -> None:
    outcome = measure(JOB)
    trials, (full,) = of(outcome, "trial"), of(outcome, "full")
    assert outcome.status is Status.COMPLETED
    assert [trial.learning_rate for trial in trials] == [10.0, 1e-1, 1e-5, 1.0, 1e-2]
    chosen = best_trial(trials)
    assert chosen is not None
    assert outcome.learning_rate == full.learning_rate == chosen.learning_rate
    assert all(math.isnan(score) for trial in trials for score in trial.score)
    assert full.steps == (30, 60, 90, 120)
    assert outcome.fitness == max(full.score) > 0.8
    assert outcome.steps == sum(curve.steps[-1] for curve in outcome.curves)
    assert outcome.seconds >= sum(curve.seconds for curve in outcome.curves)


def test_judged_at_the_end_the_last_score_counts() -> None:
    outcome = measure(replace(JOB, protocol=replace(SHORT, judge="last")))
    assert outcome.fitness == of(outcome, "full")[0].score[-1]


@pytest.mark.parametrize("rule", ["momentum: g", "dropout(g, 0.5) * a1", "g / sqrt(s)"])
def test_an_outcome_is_a_function_of_the_job(rule: str) -> None:
    job = replace(JOB, rule=rule)
    first = timeless(measure(job))
    assert repr(timeless(measure(job))) == repr(first)  # by text, for NaN differs from itself
    assert repr(timeless(measure(replace(job, seed=1)))) != repr(first)


def test_a_rule_is_dropped_after_the_first_learning_rates_or_after_all() -> None:
    early = measure(replace(JOB, protocol=replace(SHORT, first_floor=0.999)))
    assert early.status is Status.STOPPED
    assert early.fitness is None
    assert [curve.learning_rate for curve in early.curves] == list(SHORT.first_learning_rates)
    assert "of 3 learning rates" in early.reason
    assert "below 0.999" in early.reason
    late = measure(replace(JOB, protocol=replace(SHORT, floor=0.999)))
    assert late.status is Status.STOPPED
    assert len(late.curves) == 5
    assert not of(late, "full")


def test_a_weak_trial_ends_at_its_floor_epoch() -> None:
    outcome = measure(replace(JOB, task="digits@width=2", protocol=replace(SHORT, trial_floor_epoch=2)))
    weakest = outcome.curves[2]
    assert weakest.learning_rate == 1e-5
    assert weakest.status is Status.STOPPED
    assert weakest.steps == (10, 20)


def test_a_weak_full_run_ends_at_its_floor_epoch() -> None:
    outcome = measure(replace(JOB, learning_rate=1e-6, protocol=replace(SHORT, floor=0.99, floor_epoch=2)))
    assert outcome.status is Status.STOPPED
    assert outcome.fitness is None
    assert outcome.learning_rate == 1e-6
    assert outcome.curves[0].steps == (30, 60)


def test_a_rule_that_diverges_everywhere() -> None:
    wild = replace(SHORT, learning_rates=(1e4, 1e5), first_learning_rates=(1e6,))
    outcome = measure(replace(JOB, task="rosenbrock", rule="g", protocol=wild))
    assert outcome.status is Status.DIVERGED
    assert outcome.learning_rate is None
    assert len(outcome.curves) == 1
    assert outcome.reason.startswith("every trial diverged; at learning rate 1e+06: ")
    full = measure(replace(JOB, task="rosenbrock", rule="g", learning_rate=1e6))
    assert full.status is Status.DIVERGED
    assert outcome.steps < 20


def test_a_fixed_learning_rate_needs_no_trials() -> None:
    outcome = measure(replace(JOB, learning_rate=0.3))
    assert [(curve.purpose, curve.learning_rate) for curve in outcome.curves] == [("full", 0.3)]
    assert outcome.learning_rate == 0.3


def test_without_weight_decays_a_run_is_what_it_would_be_if_there_were_no_such_thing() -> None:
    found = measure(replace(JOB, learning_rate=0.3))
    rates, momenta = step_values(SHORT, 0.3, trial=False)
    curve = train(
        MlpMoons(),
        lambda parameters: build(parse(JOB.rule), parameters, lr=0.3, total_steps=120, seed=0, flat=Engine.of(SHORT).flat),
        rates,
        momenta,
        seed=0,
        epoch_steps=30,
        learning_rate=0.3,
        engine=Engine.of(SHORT),
    )
    assert timeless(found).curves == (replace(curve, seconds=0.0),)
    assert found.weight_decay == 0.0


DECAYS = replace(SHORT, weight_decays=(0.0, 0.1, 1.0, 0.1))


def test_weight_decays_are_tried_at_the_best_learning_rate_and_its_neighbours_at_the_best_of_them() -> None:
    job = replace(JOB, task="mlp-moons", protocol=DECAYS)
    outcome = measure(job)
    plain = measure(JOB)
    trials, (full,) = of(outcome, "trial"), of(outcome, "full")
    before, decayed, beside = trials[:5], trials[5:7], trials[7:]
    for trial, same in zip(before, of(plain, "trial"), strict=True):  # the choice of the learning rate is the paper's
        assert (trial.learning_rate, trial.train_score, trial.weight_decay) == (same.learning_rate, same.train_score, 0.0)
    assert [(trial.learning_rate, trial.weight_decay) for trial in decayed] == [(plain.learning_rate, 0.1), (plain.learning_rate, 1.0)]
    best = best_trial(before)
    assert best is not None
    chosen = best_end([best, *decayed])
    assert [(trial.learning_rate, trial.weight_decay) for trial in beside] == [
        (rate, chosen.weight_decay) for rate in neighbours(chosen.learning_rate)
    ]
    winner = best_end([chosen, *beside])
    assert (outcome.learning_rate, outcome.weight_decay) == (winner.learning_rate, winner.weight_decay)
    assert (full.learning_rate, full.weight_decay) == (winner.learning_rate, winner.weight_decay)


def test_with_weight_decays_choices_and_fitness_see_different_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[tuple[str, str | None, str]] = []
    real = many.train

    def noting(*args: Any, **options: Any) -> TrainingCurve:
        parts.append((options["purpose"], options["split"], options["part"]))
        return real(*args, **options)

    monkeypatch.setattr(many, "train", noting)
    measure(replace(JOB, protocol=DECAYS))
    assert set(parts) == {("trial", Split.VALID, "choice"), ("full", Split.VALID, "judgement")}
    parts.clear()
    measure(replace(JOB, protocol=DECAYS, split=Split.TEST))
    assert set(parts) == {("trial", Split.VALID, "choice"), ("full", Split.TEST, "all")}
    parts.clear()
    measure(replace(JOB, protocol=replace(SHORT, weight_decays=(0.1,))))  # nothing to choose
    assert set(parts) == {("trial", None, "all"), ("full", Split.VALID, "all")}


def test_a_fixed_weight_decay_is_decoupled_and_nothing_else_is_tried() -> None:
    outcome = measure(replace(JOB, protocol=DECAYS, weight_decay=0.1))
    assert {curve.weight_decay for curve in outcome.curves} == {0.1}
    assert len(outcome.curves) == 6
    # The rule stands still, so that the loss of the shrunk model is all there is.
    still = replace(JOB, rule="g - g", learning_rate=0.5, protocol=replace(SHORT, floor=0.0))
    shrunk = measure(replace(still, weight_decay=2.0)).curves[0].train_loss
    assert measure(still).curves[0].train_loss[-1] != pytest.approx(math.log(2), abs=1e-3)
    assert shrunk[-1] == pytest.approx(math.log(2), abs=1e-3)


def test_where_a_task_names_no_floors_standing_still_is_too_little() -> None:
    outcome = measure(replace(JOB, task="rosenbrock", rule="g - g"))
    assert outcome.status is Status.STOPPED
    assert len(outcome.curves) == 3
    moving = measure(replace(JOB, task="quadratics", rule="g"))
    assert moving.status is Status.COMPLETED
    assert moving.fitness is not None
    assert moving.fitness > untrained_score(TASKS["quadratics"](), 0) + 0.5


def test_the_best_trial_leaves_diverged_ones_out_and_breaks_ties_by_loss() -> None:
    def trial(rate: float, scores: tuple[float, ...], loss: float, status: Status = Status.COMPLETED) -> TrainingCurve:
        return TrainingCurve(rate, 0, train_score=scores, train_loss=(9.0, loss), status=status)

    diverged = trial(1.0, (0.9, math.nan), 1.0, Status.DIVERGED)
    assert best_trial([diverged]) is None
    stopped = trial(0.5, (0.8, 0.1), 3.0, Status.STOPPED)
    assert best_trial([diverged, stopped, trial(0.1, (0.2, 0.7), 0.5)]) == stopped
    better = trial(0.2, (0.3, 0.8), 2.0)
    assert best_trial([stopped, better]) == better


@pytest.mark.parametrize(("mode", "expected"), [("cut", {120}), ("compressed", {40, 120})])
def test_decays_last_as_long_as_the_schedule(mode: Any, expected: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    build = surrogate.build

    def spy(*args: Any, **options: Any) -> Any:
        lengths.append(options["total_steps"])
        return build(*args, **options)

    monkeypatch.setattr(surrogate, "build", spy)
    measure(replace(JOB, protocol=replace(SHORT, trial_schedule=mode)))
    assert lengths[-1] == 120
    assert set(lengths) == expected


def test_a_test_job_trains_alike_and_reads_the_test_split_in_the_full_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Split] = []

    @dataclass(frozen=True)
    class Spy(MlpMoons):
        def batches(self, split: Split, seed: int) -> Iterator[Batch]:
            read.append(split)
            return super().batches(split, seed)

    monkeypatch.setitem(TASKS, "spy", Spy)
    on_valid = measure(replace(JOB, task="spy"))
    assert Split.TEST not in read
    read.clear()
    on_test = measure(replace(JOB, task="spy", split=Split.TEST))
    assert Split.VALID not in read
    assert read.count(Split.TEST) == len(of(on_test, "full")[0].steps)
    assert on_test.learning_rate == on_valid.learning_rate
    assert of(on_test, "full")[0].train_loss == of(on_valid, "full")[0].train_loss
    assert of(on_test, "full")[0].score != of(on_valid, "full")[0].score


@pytest.mark.parametrize("kind", ["paper", "fast"])
def test_a_share_of_the_batches_is_what_every_step_takes(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[int] = set()

    @dataclass(frozen=True)
    class Counted(MlpMoons):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            sizes.add(len(batch.y))
            return super().loss(model, batch)

    monkeypatch.setitem(TASKS, "counted", Counted)
    whole = replace(JOB, task="counted", protocol=replace(SHORT, kind=kind))
    share = replace(whole, protocol=replace(whole.protocol, batch_share=0.25))
    quarter = measure(share)
    assert sizes == {16}
    assert timeless(quarter) == timeless(measure(replace(share, task="counted@batch_size=16", protocol=whole.protocol)))
    measure(whole)
    assert sizes == {16, 64}


def test_an_exception_costs_its_own_measurement_and_a_users_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    error: Exception = ZeroDivisionError("a slip in the task")
    calls: list[int] = []

    @dataclass(frozen=True)
    class Failing(MlpMoons):
        def loss(self, model: nn.Module, batch: Batch) -> Tensor:
            calls.append(1)
            if len(calls) == 60:
                raise error
            return super().loss(model, batch)

    monkeypatch.setitem(TASKS, "failing", Failing)
    job = replace(JOB, task="failing")
    outcome = measure(job)
    assert outcome.status is Status.FAILED
    assert outcome.reason == "ZeroDivisionError: a slip in the task"
    assert [curve.steps[-1] for curve in outcome.curves] == [10, 40]  # the run that diverged at once and the one after it are kept
    assert outcome.steps == 50
    calls.clear()
    error = DataError("gone")
    with pytest.raises(DataError, match="gone"):
        measure(job)


def test_text_that_names_nothing_is_raised() -> None:
    with pytest.raises(ParseError):
        measure(replace(JOB, rule="softsgn(g)"))
    with pytest.raises(TaskError):
        measure(replace(JOB, task="moons"))
