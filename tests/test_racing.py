"""The protocol `fast`: which learning rates are raced, on what they are judged, and what the fitness and its interval are made of."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from optevolve.config import FAST, Protocol
from optevolve.racing import Point, Race, full_seed
from optevolve.records import Job, Split, Status, TrainingCurve
from optevolve.statistics import mean_interval
from optevolve.surrogate import measure
from optevolve.tasks import TASKS, Batch, load
from optevolve.tasks.synthetic import MlpMoons
from optevolve.training import scoring
from optevolve.training.halves import part_of

TINY = replace(FAST, trial_steps=24, full_steps=60, epoch_steps=60, full_seeds=2)
ENDS = replace(TINY, trial_judge="end")
SINGLE = replace(TINY, full_seeds=1)
EXACT = replace(FAST, trial_steps=40, rate_slack=0.0)
JOB = Job("one", "momentum: g", "mlp-moons", TINY, seed=3)


class Landscape:
    """Runs whose score is a parabola of the logarithm of the learning rate; above `limit` they diverge.

    The score falls with the distance of the weight decay from `decay`; a larger weight decay shifts the best learning rate by `shift`.
    """

    def __init__(self, peak: float, limit: float = math.inf, decay: float = 0.0, shift: float = 0.0) -> None:
        self.peak, self.limit, self.decay, self.shift = peak, limit, decay, shift
        self.decays: list[float] = []
        self.runs: list[tuple[float, int, int]] = []

    def __call__(self, asked: Sequence[tuple[Point, int]], steps: int) -> list[TrainingCurve]:
        return [self.run(rate, decay, steps, seed) for (rate, decay), seed in asked]

    def run(self, rate: float, decay: float, steps: int, seed: int) -> TrainingCurve:
        self.runs.append((rate, steps, seed))
        self.decays.append(decay)
        status = Status.DIVERGED if rate > self.limit else Status.COMPLETED
        distance = math.log10(rate) - self.peak - self.shift * (decay > 0)
        score = math.nan if rate > self.limit else 1 - distance**2 / 100 - abs(decay - self.decay)
        return TrainingCurve(rate, seed, (steps,), (1.0,), (score,), (score,), status)


@given(st.floats(-7, 3), st.integers(1, 3), st.integers(1, 4))
def test_the_best_learning_rate_is_found_to_half_a_decade_also_beyond_the_grid(peak: float, seeds: int, rungs: int) -> None:
    landscape = Landscape(peak)
    found = Race(Protocol(kind="fast", trial_seeds=seeds, rungs=rungs), 0, landscape).winner()
    assert found is not None
    assert abs(math.log10(found[0]) - peak) <= 0.2501
    assert set(landscape.decays) == {0.0}
    assert len(landscape.runs) <= seeds * (7 + 3 + 3 * (rungs - 1) + 2)


def test_rungs_double_in_length_and_share_seeds_between_rates() -> None:
    landscape = Landscape(-2.1)
    Race(replace(EXACT, trial_seeds=2, rungs=3), 5, landscape).winner()
    by_steps = {steps: [(rate, seed) for rate, s, seed in landscape.runs if s == steps] for steps in (40, 80, 160)}
    assert [len(runs) for runs in by_steps.values()] == [14, 6, 6]
    for runs in by_steps.values():
        assert len({seed for _, seed in runs}) == 2
    assert len({seed for _, _, seed in landscape.runs}) == 6


def test_weight_decays_are_tried_at_the_best_rate_and_its_neighbours_at_the_best_of_them() -> None:
    landscape = Landscape(-2.1, decay=0.1, shift=0.5)
    found = Race(replace(EXACT, weight_decays=(0.0, 0.01, 0.1)), 0, landscape).winner()
    assert found == pytest.approx((10**-1.5, 0.1))
    last = [(rate, decay, steps) for (rate, steps, _), decay in zip(landscape.runs, landscape.decays, strict=True)][-4:]
    assert last == [(0.01, 0.01, 80), (0.01, 0.1, 80), (pytest.approx(10**-2.5), 0.1, 80), (pytest.approx(10**-1.5), 0.1, 80)]
    assert len({seed for _, _, seed in landscape.runs}) == 2
    assert landscape.decays[:-4] == [0.0] * (len(landscape.decays) - 4)


@pytest.mark.parametrize(
    ("slack", "peak", "untrained", "limit", "expected"),
    [
        (0.0, -2.1, 0.0, math.inf, -2.0),
        (0.02, -2.1, 0.0, math.inf, -1.0),  # 1e-1 scores 0.9879, 1e-2 0.9999
        (0.02, -2.1, 0.9, math.inf, -2.0),  # of a gain of 0.0999 that is too much
        (0.02, -2.1, 0.0, 0.05, -2.0),  # 1e-1 diverges
        (0.02, -2.1, 1.1, math.inf, -2.0),  # nothing has gained anything: the best is the best
        (0.3, -2.5, 0.99, math.inf, -2.5),  # off the grid, and better by a third: 0.01 for 0.0075
        (0.4, -2.5, 0.99, math.inf, -2.0),  # a third is not enough, and of the two nearest of the grid the larger is taken
        (0.02, 3.0, 0.99, math.inf, 3.0),  # beyond the edge of the grid, and better
        (0.5, 1.6, 0.0, math.inf, 1.0),  # a little better, beyond the edge
    ],
)
def test_with_slack_the_largest_rate_of_the_grid_that_is_nearly_as_good_is_chosen(
    slack: float, peak: float, untrained: float, limit: float, expected: float
) -> None:
    race = Race(replace(EXACT, rate_slack=slack), 0, Landscape(peak, limit), untrained)
    found = race.winner()
    assert found is not None
    assert math.log10(found[0]) == pytest.approx(expected)


@pytest.mark.parametrize(("untrained", "expected"), [(0.0, -1.0), (-math.inf, -0.5)])
def test_slack_takes_no_rate_that_diverged(untrained: float, expected: float) -> None:
    found = Race(replace(EXACT, rate_slack=0.5), 0, Landscape(2.0, limit=0.5), untrained).winner()
    assert found == pytest.approx((10**expected, 0.0))


def test_a_floor_is_for_the_best_trial_not_for_the_bolder_rate() -> None:
    """Of the trials of a rule some lie between the floor and the best: whichever of them is chosen, the rule is not dropped."""
    bold = replace(TINY, rate_slack=0.9)
    job = replace(JOB, rule="momentum: sign(g)")
    chosen = measure(replace(job, protocol=bold))
    last = [curve for curve in chosen.curves if curve.purpose == "trial" and curve.steps[-1] == 48]
    best = max(curve.train_score[-1] for curve in last if curve.status is Status.COMPLETED)
    own = next(curve.train_score[-1] for curve in last if curve.learning_rate == chosen.learning_rate)
    assert own < best
    assert measure(replace(job, protocol=replace(bold, floor=(own + best) / 2))).learning_rate == chosen.learning_rate
    dropped = measure(replace(job, protocol=replace(bold, floor=best + 1e-6)))
    assert dropped.status is Status.STOPPED
    assert f"best trial score {best:.4g}" in dropped.reason


def test_a_bolder_rate_that_diverges_in_the_full_run_gives_way_to_the_best() -> None:
    """Weights that grow by themselves: within a trial a large rate is nearly as good as the best, over a long run it explodes."""
    careful = replace(TINY, full_steps=150, epoch_steps=150, rate_slack=0.0)
    growing = replace(JOB, rule="sign(g) - 0.1 * w", protocol=careful)
    cautious = measure(growing)
    bold = measure(replace(growing, protocol=replace(careful, rate_slack=0.9)))
    assert cautious.status is bold.status is Status.COMPLETED
    assert bold.learning_rate == cautious.learning_rate
    assert bold.fitness == cautious.fitness
    more = [curve for curve in bold.curves if curve.status is Status.DIVERGED and curve.steps[-1] > 48]
    assert [curve.purpose for curve in more] == ["trial"]
    assert more[0].learning_rate > cautious.learning_rate
    assert [curve.purpose for curve in bold.curves].count("full") == TINY.full_seeds


def test_a_bolder_rate_is_not_given_up_for_its_fitness() -> None:
    """Else what gives the fitness, in a final evaluation the test split, would have had a say in the choice."""
    ruined = replace(TINY, full_steps=220, epoch_steps=220, max_loss_ratio=1e30)
    job = replace(JOB, rule="sign(g) - 0.1 * w", protocol=replace(ruined, rate_slack=0.9))
    bold, cautious = measure(job), measure(replace(job, protocol=replace(ruined, rate_slack=0.0)))
    assert bold.fitness is not None
    assert cautious.fitness is not None
    assert bold.fitness < cautious.fitness
    assert bold.learning_rate == 1.0
    assert measure(replace(job, split=Split.TEST)).learning_rate == 1.0


def test_slack_is_for_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a loss most is gained by rates that ruin the end."""

    @dataclass(frozen=True)
    class Loss(MlpMoons):
        scores_accuracy: ClassVar[bool] = False

    monkeypatch.setitem(TASKS, "loss", Loss)
    job = replace(JOB, rule="momentum: sign(g)")
    rates = {
        (task, slack): measure(replace(job, task=task, protocol=replace(TINY, rate_slack=slack))).learning_rate
        for task in ("mlp-moons", "loss")
        for slack in (0.0, 0.9)
    }
    assert rates["loss", 0.9] == rates["loss", 0.0] == rates["mlp-moons", 0.0]
    assert rates["mlp-moons", 0.9] != rates["mlp-moons", 0.0]
    assert TASKS["text-gpt"].scores_accuracy is TASKS["quadratics"].scores_accuracy is False
    assert load("mlp-moons+label-noise:0.1").scores_accuracy is True


def test_the_slack_is_for_rates_of_the_best_weight_decay_alone() -> None:
    found = Race(replace(EXACT, rate_slack=0.02, weight_decays=(0.1, 0.0)), 0, Landscape(-2.1)).winner()
    assert found == pytest.approx((10**-2, 0.0))  # 1e-1 was tried with the other weight decay alone


def test_diverged_rates_lose_and_if_all_do_there_is_no_winner() -> None:
    found = Race(EXACT, 0, Landscape(2.0, limit=0.5)).winner()
    assert found == pytest.approx((10**-0.5, 0.0))
    landscape = Landscape(0.0, limit=0.0)
    assert Race(FAST, 0, landscape).winner() is None
    assert len(landscape.runs) == 7


def test_a_candidate_costs_at_most_an_eighth_of_the_papers() -> None:
    paper = Protocol()
    cost = len(paper.learning_rates) * paper.trial_steps + paper.full_steps
    for peak in (-9.0, -5.2, -2.0, 1.3, 5.0):
        landscape = Landscape(peak)
        Race(FAST, 0, landscape).winner()
        step = 0.18  # of one on whole images, rounded up from docs/results/calibration.md, for FAST.resolution_share of their edge
        assert 8 * step * (sum(steps for _, steps, _ in landscape.runs) + FAST.full_seeds * FAST.full_steps) <= cost


def test_the_fitness_is_the_mean_of_the_full_runs_with_its_interval() -> None:
    outcome = measure(JOB)
    full = [curve for curve in outcome.curves if curve.purpose == "full"]
    assert outcome.status is Status.COMPLETED
    assert [curve.seed for curve in full] == [full_seed(3, 0), full_seed(3, 1)]
    assert {curve.learning_rate for curve in full} == {outcome.learning_rate}
    scores = [curve.score[-1] for curve in full]
    assert outcome.fitness == pytest.approx(np.mean(scores))
    assert np.mean(scores) > 0.7
    assert outcome.interval == pytest.approx(stats.t.interval(0.95, 1, np.mean(scores), stats.sem(scores)))
    assert outcome == replace(measure(JOB), seconds=outcome.seconds, curves=outcome.curves)
    assert outcome.fitness != measure(replace(JOB, seed=4)).fitness


def test_the_interval_of_a_single_full_run_is_over_the_examples_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[tuple[float, int]] = []
    real = scoring.margin

    def noting(values: Any, sizes: Any) -> float:
        batches[:] = zip(values, sizes, strict=True)
        return real(values, sizes)

    monkeypatch.setattr(scoring, "margin", noting)
    outcome = measure(replace(JOB, protocol=SINGLE))
    (full,) = [curve for curve in outcome.curves if curve.purpose == "full"]
    assert full.seed == full_seed(3, 0)
    assert outcome.fitness == full.score[-1]
    values = [value for value, _ in batches]
    assert len(values) > 1
    assert len({size for _, size in batches}) == 1  # so that the textbook's formula is right
    assert outcome.interval == pytest.approx(stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values)))
    assert outcome.interval[0] < outcome.fitness < outcome.interval[1]


def test_the_interval_goes_with_the_epoch_that_gives_the_fitness() -> None:
    outcome = measure(replace(JOB, protocol=replace(SINGLE, judge="best", epoch_steps=5), rule="momentum: g + dropout(g, 0.5)"))
    (full,) = [curve for curve in outcome.curves if curve.purpose == "full"]
    assert len(full.score) == 12
    best = int(np.argmax(full.score))
    assert full.margin[best] != full.margin[-1]
    assert outcome.interval == pytest.approx((full.score[best] - full.margin[best], full.score[best] + full.margin[best]))


def test_where_a_single_run_has_no_interval_a_second_one_gives_it() -> None:
    exact = replace(JOB, task="quadratics", protocol=SINGLE)
    outcome = measure(exact)
    scores = {curve.seed: curve.score[-1] for curve in outcome.curves if curve.purpose == "full"}
    assert list(scores) == [full_seed(3, 0), full_seed(3, 1)]
    assert outcome.fitness == pytest.approx(np.mean(list(scores.values())))
    assert outcome.interval == pytest.approx(mean_interval(list(scores.values())))
    assert measure(replace(exact, learning_rate=0.1)).interval is None  # one run was asked for


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=2, max_size=20))
def test_the_margin_weighs_batches_by_size(batches: list[tuple[float, int]]) -> None:
    values, sizes = (np.array(column, dtype=float) for column in zip(*batches, strict=True))
    found = scoring.margin(values, sizes)
    assert found == pytest.approx(scoring.margin(values + 3, 7 * sizes), abs=1e-9)
    even = scoring.margin(values, np.full(len(values), 4))  # the textbook's
    assert even == pytest.approx(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1), abs=1e-9)
    assert math.isnan(scoring.margin(values[:1], sizes[:1]))
    assert math.isnan(scoring.margin([*values, math.nan], [*sizes, 1]))


@pytest.mark.parametrize("sizes", [[500] * 6 + [250] * 2, [500, 50], [500, 500, 20], [32, 32, 32, 3]])
def test_the_margin_holds_the_mean_as_often_as_it_says(sizes: list[int]) -> None:
    """Batches of unlike sizes of examples that are right with probability 0.6."""
    rng = np.random.default_rng(0)
    draws = rng.binomial(sizes, 0.6, size=(2000, len(sizes))) / np.array(sizes)
    held = [abs(np.average(values, weights=sizes) - 0.6) <= scoring.margin(values, sizes) for values in draws]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_each_run_has_the_whole_schedule() -> None:
    outcome = measure(JOB)
    trials = [curve for curve in outcome.curves if curve.purpose == "trial"]
    assert {curve.steps[-1] for curve in trials if curve.status is Status.COMPLETED} == {24, 48}
    assert all(math.isnan(curve.score[-1]) for curve in trials)  # judged by their training scores, they need no evaluation
    ends = [curve for curve in measure(replace(JOB, protocol=ENDS)).curves if curve.purpose == "trial"]
    assert not any(math.isnan(curve.score[-1]) for curve in ends if curve.status is Status.COMPLETED)


@dataclass(frozen=True)
class Turned(MlpMoons):
    """The labels of one half of the validation split are turned round (1: that of choices, 2: that of the judgement), or of neither."""

    turned: int = 3

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        for batch in super().batches(split, seed):
            y = batch.y.clone()
            if split is Split.VALID and self.turned < 3:
                y[self.turned - 1 :: 2] = 1 - y[self.turned - 1 :: 2]
            yield Batch(batch.x, y)


def test_judged_at_the_end_choice_and_judgement_see_different_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The half that judges is turned round: the choice stays, the fitness turns."""
    monkeypatch.setitem(TASKS, "turned", Turned)
    ends = replace(JOB, protocol=ENDS)
    plain = measure(replace(ends, task="turned"))
    judged = measure(replace(ends, task="turned@turned=2"))
    assert judged.learning_rate == plain.learning_rate
    assert plain.fitness is not None
    assert judged.fitness == pytest.approx(1 - plain.fitness, abs=1e-6)
    chosen = measure(replace(ends, task="turned@turned=1"))
    assert chosen.learning_rate != plain.learning_rate


@pytest.mark.parametrize("half", [1, 2])
def test_judged_by_training_the_choice_sees_no_validation_data_and_the_fitness_all_of_it(
    half: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "turned", Turned)
    plain, turned = measure(replace(JOB, task="turned")), measure(replace(JOB, task=f"turned@turned={half}"))
    assert turned.learning_rate == plain.learning_rate
    assert plain.fitness is not None
    assert turned.fitness is not None
    assert plain.fitness > 0.7
    assert turned.fitness == pytest.approx(0.5, abs=0.15)  # half of it turned


def test_several_weight_decays_are_judged_at_the_end() -> None:
    """A strong weight decay does not show in the training score of a few steps, and what is judged there is the other half."""
    several = replace(TINY, weight_decays=(0.0, 0.1))
    found, ends = (measure(replace(JOB, protocol=replace(several, trial_judge=judge))) for judge in ("training", "end"))
    assert found == replace(ends, seconds=found.seconds, curves=found.curves)
    assert all(not math.isnan(curve.score[-1]) for curve in found.curves if curve.status is Status.COMPLETED)


def test_a_fixed_learning_rate_is_one_run_and_a_test_job_is_judged_on_test(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = measure(replace(JOB, learning_rate=0.3))
    assert [(curve.purpose, curve.seed) for curve in outcome.curves] == [("full", 3)]
    assert outcome.interval is not None
    on_test = measure(replace(JOB, split=Split.TEST))
    on_valid = measure(JOB)
    assert on_test.learning_rate == on_valid.learning_rate
    assert on_test.fitness != on_valid.fitness


def test_the_chosen_weight_decay_is_that_of_the_full_runs() -> None:
    outcome = measure(replace(JOB, protocol=replace(TINY, weight_decays=(1.0, 0.0))))
    decays = [curve.weight_decay for curve in outcome.curves if curve.purpose == "trial"]
    assert decays == [1.0] * (len(decays) - 3) + [0.0] * 3  # so strong a decay holds the model back
    full = [(curve.learning_rate, curve.weight_decay) for curve in outcome.curves if curve.purpose == "full"]
    assert full == [(outcome.learning_rate, outcome.weight_decay)] * 2
    assert outcome.weight_decay == 0.0
    fixed = measure(replace(JOB, learning_rate=0.3, weight_decay=5.0))
    assert fixed.fitness != measure(replace(JOB, learning_rate=0.3)).fitness


def test_trials_of_one_step_are_judged_at_the_end() -> None:
    """Their training score is that of the untrained model, whatever the rule."""
    short = replace(TINY, trial_steps=1, rungs=1)
    outcome, ends = (measure(replace(JOB, protocol=replace(short, trial_judge=judge))) for judge in ("training", "end"))
    assert outcome.status is Status.COMPLETED
    assert outcome == replace(ends, seconds=outcome.seconds, curves=outcome.curves)


@pytest.mark.parametrize(
    ("seed", "protocol"),
    list(enumerate([TINY, ENDS, replace(TINY, trial_seeds=2), replace(TINY, rungs=1, rate_slack=0.0), TINY, ENDS])),
)
def test_what_learns_nothing_is_dropped_after_the_race(protocol: Protocol, seed: int) -> None:
    """Whatever the luck of an untrained model on the examples that it is shown."""
    job = replace(JOB, protocol=protocol, seed=seed)
    for rule in ("g - g", "1e-30 * sign(g)"):
        outcome = measure(replace(job, rule=rule))
        assert outcome.status is Status.STOPPED
        assert not [curve for curve in outcome.curves if curve.purpose == "full"]
    assert measure(job).status is Status.COMPLETED
    assert measure(replace(job, protocol=replace(protocol, floor=0.999))).status is Status.STOPPED


@given(st.integers(1, 10), st.integers(1, 40))
def test_halves_are_disjoint_and_together_all(batches: int, size: int) -> None:
    all_of_it = [Batch(torch.arange(size) + size * n, torch.arange(size)) for n in range(batches)]

    def seen(part: Any) -> list[int]:
        return [int(value) for batch in part_of(iter(all_of_it), part) for value in batch.x]

    choice, judgement = seen("choice"), seen("judgement")
    assert sorted(seen("both")) == seen("all")
    assert seen("all") == list(range(batches * size))
    if batches * size > 1:
        assert sorted(choice + judgement) == list(range(batches * size))
        assert choice
        assert judgement
        for part in ("choice", "judgement"):
            own = list(part_of(iter(all_of_it), part))
            assert len(own) >= min(4, batches // 2 if size == 1 else batches * (size // 2))
            assert max(len(batch.x) for batch in own) - min(len(batch.x) for batch in own) <= 1
    else:
        assert choice == judgement


def test_an_interval_needs_two_values() -> None:
    assert mean_interval([0.5]) is None
    assert mean_interval([0.4, 0.6]) == pytest.approx(stats.t.interval(0.95, 1, 0.5, 0.1))
