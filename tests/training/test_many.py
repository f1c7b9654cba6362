"""Many runs of a task: which way they are trained, what falls back and why, and that a measurement is the same either way."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch

from optevolve.config import FAST, Compute, Protocol, Schedule
from optevolve.errors import ConfigError
from optevolve.records import Job, Outcome, Status
from optevolve.surrogate import measure
from optevolve.tasks import load
from optevolve.training import Engine, Terms, device_of, many, train_many, why_alone
from tests.training.replica_cases import assert_agree, one_at_a_time, runs_of

TERMS = Terms(epoch_steps=10, split=None)
TINY = replace(FAST, trial_steps=12, full_steps=40, epoch_steps=40, learning_rates=(1e-2, 1e-1, 1.0, 1e4), trial_seeds=2, full_seeds=2)
PAPER = Protocol(
    learning_rates=(1e4, 1e-1, 1e-2, 1e-3), first_learning_rates=(1e4, 1e-1), trial_steps=20, full_steps=30, epoch_steps=10,
    trial_epoch_steps=10, first_floor=0.0, floor=0.0, schedule=Schedule(warmup=0.1),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_alone", {})
    monkeypatch.setattr(many, "_pays", {})


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which way runs were trained."""
    taken: list[str] = []

    def spied(name: str) -> Callable[..., Any]:
        own = getattr(many, name)

        def spy(*args: Any, **options: Any) -> Any:
            taken.append(name)
            return own(*args, **options)

        return spy

    for name in ("train", "train_together"):
        monkeypatch.setattr(many, name, spied(name))
    return taken


def test_off_is_one_at_a_time_as_curves_are_taken(ways: list[str]) -> None:
    curves = train_many(load("mlp-moons"), runs_of("g", (0.1, 0.2, 0.3), steps=10), TERMS, "off")
    assert ways == []
    next(curves)
    assert ways == ["train"]


def test_on_is_together_and_gives_the_same(ways: list[str]) -> None:
    task, runs = load("mlp-moons"), runs_of("g", (0.1, 0.2, 1e4), seeds=(0, 1), steps=20)
    curves = list(train_many(task, runs, TERMS, "on"))
    assert ways == ["train_together"]
    assert_agree(curves, one_at_a_time(task, runs, TERMS))
    list(train_many(task, runs[:1], TERMS, "on"))  # one is no crowd
    assert ways == ["train_together", "train"]


def test_what_cannot_be_vectorised_is_trained_alone_and_the_log_says_why_once(ways: list[str], caplog: pytest.LogCaptureFixture) -> None:
    task, runs = load("mlp-moons+gradient-noise:0.1"), runs_of("g", (0.1, 0.2), steps=10)
    assert why_alone(task, TERMS.engine) == ""
    for _ in range(2):
        assert_agree(list(train_many(task, runs, TERMS, "on")), one_at_a_time(task, runs, TERMS), tolerance=0)
    assert "hooks" in why_alone(task, TERMS.engine)
    assert ways == ["train_together", *["train"] * 4]
    assert len([record for record in caplog.records if "hooks" in record.message]) == 1


@pytest.mark.parametrize("faster", [False, True])
def test_auto_goes_the_way_that_a_calibration_found_faster_once(faster: bool, monkeypatch: pytest.MonkeyPatch, ways: list[str]) -> None:
    asked: list[int] = []

    def seconds(train_short: Any, runs: Any, terms: Terms) -> float:
        train_short(runs, terms)
        asked.append(len(runs))
        return 1.0 if (len(asked) == 1) == faster else 3.0  # together is asked first; alone counts once per run

    monkeypatch.setattr(many, "_seconds", seconds)
    task, runs = load("mlp-moons"), runs_of("g", (0.1, 0.2), steps=10)
    for _ in range(2):
        ways.clear()
        curves = list(train_many(task, runs, TERMS, "auto"))
    assert asked == [2, 2]
    assert ways == (["train_together"] if faster else ["train", "train"])
    assert_agree(curves, one_at_a_time(task, runs, TERMS))


def test_a_calibration_trains_a_few_steps_each_way_and_changes_nothing() -> None:
    task, runs = load("mlp-moons"), runs_of("g", (0.1, 0.2, 0.3), steps=30)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    curves = list(train_many(task, runs, TERMS, "auto"))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(many._pays) == [((type(task), repr(task), TERMS.engine), 3)]
    assert_agree(curves, one_at_a_time(task, runs, TERMS))


def together_and_alone(protocol: Protocol, rule: str = "momentum: g") -> Iterator[Outcome]:
    for replicas in ("on", "off"):
        yield measure(Job("one", rule, "mlp-moons", replace(protocol, replicas=replicas), seed=3))  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", [TINY, PAPER, replace(PAPER, weight_decays=(0.0, 0.1))], ids=["fast", "paper", "weight decays"])
def test_a_measurement_is_the_same_with_replicas(protocol: Protocol, ways: list[str]) -> None:
    on, off = together_and_alone(protocol)
    assert ways.count("train_together") >= 2
    assert (on.status, on.learning_rate, on.weight_decay, on.steps) == (off.status, off.learning_rate, off.weight_decay, off.steps)
    assert on.status is Status.COMPLETED
    assert on.fitness == pytest.approx(off.fitness, abs=0.01)
    assert_agree(on.curves, off.curves, tolerance=0.01)


def test_with_replicas_too_runs_after_one_that_failed_do_not_count() -> None:
    """Full runs that learn too little are stopped at the first of them, either way."""
    on, off = together_and_alone(replace(TINY, full_steps=40, epoch_steps=20, floor=0.82, full_seeds=3, learning_rates=(1e-2,), rungs=1))
    assert (on.status, on.reason, on.steps) == (off.status, off.reason, off.steps)
    full = [[curve for curve in outcome.curves if curve.purpose == "full"] for outcome in (on, off)]
    assert on.status is Status.STOPPED
    assert len(full[0]) == len(full[1]) < 3


def test_a_measurement_does_not_depend_on_what_was_measured_before() -> None:
    """What a resumed run measures is what the uninterrupted one would have."""
    job = Job("one", "momentum: g", "digits@width=2", replace(TINY, replicas="on"), seed=3)
    first = measure(job)
    measure(replace(job, rule="g", seed=8))
    again = measure(job)
    assert [curve.train_loss for curve in again.curves] == [curve.train_loss for curve in first.curves]
    assert again.fitness == first.fitness


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")),
        pytest.param("mps", marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without MPS")),
    ],
)
def test_a_device_that_is_not_there_is_the_users_error(device: Literal["cuda", "mps"]) -> None:
    expected = rf"Expected a device '{device}' on .*, got a machine where torch sees .*cpu alone\. Choose --device auto or cpu"
    for act in (lambda: Engine.of(Protocol(), Compute(device)), lambda: measure(Job("one", "g", "mlp-moons", TINY, 0), Compute(device))):
        with pytest.raises(ConfigError, match=expected) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_auto_is_what_the_machine_has_and_is_recorded() -> None:
    found = device_of("auto")
    assert found == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    job = Job("one", "g", "mlp-moons", TINY, 0)
    on_auto, on_cpu = measure(job, Compute("auto")), measure(job)
    assert (on_auto.device, on_cpu.device) == (found, "cpu")
    if found == "cpu":
        assert on_auto.fitness == on_cpu.fitness


def test_the_device_of_several_tasks_is_that_of_the_run() -> None:
    job = Job("one", "momentum: g", "mlp-moons;logreg-digits", TINY, 0)
    assert measure(job, Compute("auto")).device == device_of("auto")
