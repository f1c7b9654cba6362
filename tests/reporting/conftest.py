"""A study as a search might leave it behind: made up, but of the shape and proportions of a real one."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from optevolve.config import EliminationRound, Evaluation, Protocol, RunConfig, Search
from optevolve.evaluation import Comparison, compare
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status, TrainingCurve

RULES = (
    "nesterov: bessel_i1e(bessel_i1e(a13 * a2 * g))",
    "v_hat / sqrt(s_hat)",
    "momentum: tanh(max(a6, a10) * arcsinh(v_hat))",
    "(1 / deriv_tanh(a8)) * v_hat * erfc(erfc(a4))",
    "nesterov: erfc(a11) * g * exp(arctan(s_hat))",
)
BASELINES = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop")
PROTOCOL = Protocol(full_steps=2000, epoch_steps=100, trial_steps=200)


def curve(rng: np.random.Generator, level: float, purpose: str = "full", seed: int = 0) -> TrainingCurve:
    steps = np.arange(100, 2001, 100)
    rise = 1 - np.exp(-steps / 400)
    noise = rng.normal(0, 0.01, (2, len(steps)))
    return TrainingCurve(
        learning_rate=0.01,
        seed=seed,
        steps=tuple(steps.tolist()),
        train_loss=tuple((2.3 * (1.05 - rise * level) + 0.05 * abs(noise[0])).tolist()),
        train_score=tuple((level * rise).tolist()),
        score=tuple((level * rise + noise[1]).tolist()),
        purpose=purpose,
        seconds=4.0,
    )


def rule(rng: np.random.Generator) -> str:
    return f"{RULES[rng.integers(len(RULES))]} + {rng.integers(1, 10**6)} * g"


def outcome(rng: np.random.Generator, level: float, curves: bool = True) -> Outcome:
    fate = rng.random()
    if fate < 0.08:
        return Outcome(
            Status.DIVERGED, reason="every trial diverged; at learning rate 10: the loss became non-finite", steps=300, seconds=1.2
        )
    if fate < 0.3:
        reached = rng.uniform(0.1, 0.25)
        return Outcome(
            Status.STOPPED, reason=f"best trial score {reached:.4g} of 3 learning rates (at 0.01) below 0.25", steps=600, seconds=2.0
        )
    if fate < 0.33:
        return Outcome(Status.FAILED, reason="MemoryError: worker exceeded 4 GiB", steps=10, seconds=0.4)
    return Outcome(Status.COMPLETED, level, 0.01, curves=(curve(rng, level),) if curves else (), steps=3400, seconds=11.5)


def search_measurements(
    rng: np.random.Generator, population: int = 60, particles: int = 6, timesteps: int = 3, children: int = 4, curves: bool = True
) -> list[Measurement]:
    found: list[Measurement] = []

    def add(proposal: Proposal, level: float) -> Measurement:
        result = outcome(rng, level, curves)
        job = Job(proposal.id, proposal.rule, "digits@width=8", PROTOCOL, seed=int(rng.integers(2**31)))
        same = found[int(rng.integers(len(found)))] if found and rng.random() < 0.06 else None
        m = Measurement(proposal.stage, job, same.outcome if same else result, proposal, same.job.id if same else "")
        found.append(m)
        return m

    refused = "the shifted sphere stays at 4.3412 at every learning rate", "the loss became non-finite"
    for i in range(population):
        rejected = tuple((rule(rng), refused[int(rng.random() < 0.3)]) for _ in range(rng.integers(0, 12)))
        add(Proposal(f"initial/{i:04d}", rule(rng), stage="initial", rejected=rejected), rng.beta(5, 2))
    best = sorted((m for m in found if m.outcome.fitness is not None), key=lambda m: -m.outcome.fitness)[:particles]
    for p, start in enumerate(best):
        here = add(
            Proposal(f"particle-{p:02d}/t0", start.job.rule, parent=start.job.id, particle=p, mutation="becomes a particle"),
            start.outcome.fitness,
        )
        for t in range(1, timesteps + 1):
            base = here.outcome.fitness or 0.5
            brood = [
                add(
                    Proposal(
                        f"particle-{p:02d}/t{t}/c{c}", rule(rng), parent=here.job.id, particle=p, timestep=t,
                        mutation="tanh became arcsinh",
                    ),
                    float(1 - (1 - base) * rng.lognormal(0.05, 0.25)),
                )
                for c in range(children)
            ]  # fmt: skip
            here = max(brood, key=lambda m: m.outcome.fitness or -1.0)
    return found


def final_measurements(rng: np.random.Generator, task: str, contestants: dict[str, tuple[str, float]]) -> list[Measurement]:
    found = []
    for name, (text, level) in contestants.items():
        tuned = Outcome(Status.COMPLETED, level, 0.01, curves=(curve(rng, level, "trial"), curve(rng, level)), steps=3400, seconds=11.5)
        found.append(Measurement("tune", Job(f"tune/{task}/{name}", text, task, PROTOCOL, 0), tuned))
        for seed in range(5):
            job = Job(f"evaluate/{task}/{name}/seed-{seed}", text, task, PROTOCOL, seed, Split.TEST, 0.01)
            run = curve(rng, float(np.clip(rng.normal(level, 0.01), 0, 1)), seed=seed)
            found.append(
                Measurement("evaluate", job, Outcome(Status.COMPLETED, run.score[-1], 0.01, curves=(run,), steps=2000, seconds=8.0))
            )
    return found


@dataclasses.dataclass
class Fake:
    config: RunConfig
    measurements: list[Measurement]
    comparisons: list[Comparison]


@pytest.fixture(scope="session")
def config() -> RunConfig:
    return RunConfig(
        task="digits",
        search=Search(population=60, particles=6, timesteps=3, children=4),
        elimination=(EliminationRound(keep=3, protocol=PROTOCOL),),
        evaluation=Evaluation(seeds=5, protocol=PROTOCOL),
    )


@pytest.fixture(scope="session")
def make_study(config: RunConfig) -> Callable[..., Fake]:
    """Builds a finished study: `advantage` is what the evolved rules score above Adam, whose scores vary by 0.01."""

    def make(advantage: float = 0.04, seed: int = 0, **size: int | bool) -> Fake:
        rng = np.random.default_rng(seed)
        measurements = search_measurements(rng, **size)
        for number, task in enumerate(("digits@width=8", "cifar10-convnet@width=16")):
            level = 0.85 - 0.2 * number
            contestants = {f"evolved-{i + 1:02d}": (RULES[i], level + advantage - 0.01 * i) for i in range(3)}
            contestants |= {name: (f"v_hat * {i + 1}", level - 0.004 * abs(i - 3)) for i, name in enumerate(BASELINES)}
            measurements += final_measurements(rng, task, contestants)

        return Fake(config, measurements, compare(measurements))

    return make
