"""Elimination keeps the best of each round, and nothing but the round decides."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optevolve.config import EliminationRound, Protocol, RunConfig, Stage
from optevolve.eliminate import Contestant, EliminationSource, best, contenders, seed_for
from optevolve.records import Job, Measurement, Outcome, Proposal, Split, Status
from optevolve.run.driver import drive
from optevolve.run.local import SerialRunner
from optevolve.run.store import Study

outcomes = st.one_of(
    st.builds(Outcome, st.just(Status.COMPLETED), st.floats(allow_nan=False)),
    st.builds(Outcome, st.sampled_from([s for s in Status if s is not Status.COMPLETED])),
)


@given(st.dictionaries(st.text(max_size=3), outcomes), st.integers(0, 5))
def test_the_best_are_completed_and_none_left_out_is_better(found: dict[str, Outcome], keep: int) -> None:
    kept = best({name: [outcome] for name, outcome in found.items()}, keep)
    completed = [name for name in found if found[name].status is Status.COMPLETED]
    assert len(kept) == len(set(kept)) == min(keep, len(completed))
    assert set(kept) <= set(completed)
    places = {name: place for place, name in enumerate(found)}
    keys = [(-found[name].fitness, places[name]) for name in kept]
    assert keys == sorted(keys)
    assert all((-found[name].fitness, places[name]) > key for name in completed if name not in kept for key in keys)


def measured(ident: str, rule: str, fitness: float | None, stage: str = "evolution", same_as: str = "") -> Measurement:
    outcome = Outcome(Status.FAILED if fitness is None else Status.COMPLETED, fitness)
    return Measurement(stage, Job(ident, rule, "digits", Protocol(), 0), outcome, Proposal(ident, rule, stage=stage), same_as)


def test_contenders_are_the_best_rules_of_the_search() -> None:
    search = [
        measured("i1", "g", 0.99, "initial"),
        measured("i2", "v_hat", 0.5, "initial"),
        measured("e1", "1", 0.3),
        measured("e2", "2", 0.7),
        measured("e3", "3", None),
        measured("e4", "2", 0.6),
        measured("e5", "4", 0.7),
        measured("e6", "5", 0.9, same_as="e2"),
        Measurement("eliminate/1", Job("x", "9", "digits", Protocol(), 0), Outcome(Status.COMPLETED, 1.0)),
    ]
    assert [c.rule for c in contenders(search, 9)] == ["2", "4", "1", "g", "v_hat"]
    assert contenders(search, 2) == [Contestant("evolved-01", "2"), Contestant("evolved-02", "4")]
    assert contenders([], 3) == []


def fitness_by_round(job: Job) -> Outcome:
    """Rule "A B": fitness A in round 1 and B in round 2; "-" fails."""
    number = int(job.id.split("/")[1])
    text = job.rule.split()[number - 1]
    return Outcome(Status.FAILED, reason="broken") if text == "-" else Outcome(Status.COMPLETED, float(text))


ROUNDS = [EliminationRound(3, protocol=Protocol(full_steps=10)), EliminationRound(2, "cifar10-convnet", {"width": 8, "augment": True})]


def eliminate(path: Path, rules: list[str], lookahead: int = 2) -> tuple[list[str], list[Measurement]]:
    contestants = [Contestant(f"c{number}", rule) for number, rule in enumerate(rules)]
    source = EliminationSource(contestants, ROUNDS, task="digits", seed=7)
    with Study.create(path, "x") as study:
        drive(source, SerialRunner(fitness_by_round), study, lookahead=lookahead)
        return [c.name for c in source.survivors], study.measurements()


@pytest.mark.parametrize("lookahead", [1, 9])
def test_survivors_pass_through_all_rounds(tmp_path: Path, lookahead: int) -> None:
    survivors, stored = eliminate(tmp_path / "study.db", ["5 1", "4 2", "- 9", "3 3", "1 9"], lookahead)
    assert survivors == ["c3", "c1"]
    assert [(m.stage, m.job.id) for m in stored] == [("eliminate/1", f"eliminate/1/c{n}") for n in range(5)] + [
        ("eliminate/2", f"eliminate/2/c{n}") for n in (0, 1, 3)
    ]
    assert {m.job.task for m in stored[:5]} == {"digits"}
    assert {m.job.task for m in stored[5:]} == {"cifar10-convnet@augment=true,width=8"}
    assert {m.job.protocol for m in stored[:5]} == {Protocol(full_steps=10)}
    assert len({m.job.seed for m in stored[:5]}) == len({m.job.seed for m in stored[5:]}) == 1
    assert len({m.job.seed for m in stored}) == 2
    assert {m.job.split for m in stored} == {Split.VALID}


def test_a_round_of_several_seeds_takes_their_mean_and_everyone_must_complete_all() -> None:
    budget = EliminationRound(2, seeds=2, more_tasks=("mlp-moons", "digits"))
    source = EliminationSource([Contestant(name, "g") for name in "abc"], [budget], task="digits", seed=3)
    jobs = [job for _, job, _ in iter(source.ask, None)]
    assert {job.task for job in jobs} == {"digits;mlp-moons"}
    assert [job.id for job in jobs] == [f"eliminate/1/{name}{end}" for end in ("", "/seed-1") for name in "abc"]
    assert len({job.seed for job in jobs[:3]}) == len({job.seed for job in jobs[3:]}) == 1
    assert jobs[0].seed != jobs[3].seed
    found = {"a": 0.5, "b": 0.9, "c": 1.0, "a/seed-1": 0.9, "b/seed-1": 0.3}
    for job in jobs:
        fitness = found.get(job.id.removeprefix("eliminate/1/"))
        source.tell(job.id, Outcome(Status.DIVERGED) if fitness is None else Outcome(Status.COMPLETED, fitness))
    assert source.done
    assert [c.name for c in source.survivors] == ["a", "b"]


def test_a_round_over_several_tasks_may_rank() -> None:
    tasks = {"a": (9.0, 0.1, 0.1), "b": (0.5, 0.6, 0.6), "c": (0.4, 0.5, 0.5)}
    outcomes = {name: [Outcome(Status.COMPLETED, sum(own) / 3, task_scores=own)] for name, own in tasks.items()}
    assert best(outcomes, 3) == ["a", "b", "c"]
    assert best(outcomes, 3, "rank") == ["b", "a", "c"]


def test_without_elimination_the_best_of_the_search_are_measured_again_as_the_evolution_measures() -> None:
    config = RunConfig(contenders=7, evolution=Stage({"width": 4}, Protocol(full_steps=9), ("mlp-moons",)))
    (again,) = config.rounds
    assert again == EliminationRound(7, config.task, {"width": 4}, Protocol(full_steps=9), ("mlp-moons",), seeds=1)
    assert replace(config, search=replace(config.search, remeasure=0)).rounds == ()
    assert replace(config, elimination=tuple(ROUNDS)).rounds == tuple(ROUNDS)


def test_fewer_survive_where_fewer_complete(tmp_path: Path) -> None:
    assert eliminate(tmp_path / "one.db", ["1 -", "- 1", "2 5"])[0] == ["c2"]
    survivors, stored = eliminate(tmp_path / "none.db", ["- 1", "- 2"])
    assert survivors == []
    assert len(stored) == 2


def test_no_rounds_keep_everybody_and_nobody_needs_no_rounds() -> None:
    one = EliminationSource([Contestant("a", "g")], [], task="digits", seed=0)
    assert (one.done, one.survivors, one.ask()) == (True, [Contestant("a", "g")], None)
    assert EliminationSource([], ROUNDS, task="digits", seed=0).done


def test_wrong_names_and_outcomes_that_nobody_awaits_are_refused() -> None:
    for names in (["a", "a"], ["a/b"], [""]):
        with pytest.raises(ValueError, match="names of contestants"):
            EliminationSource([Contestant(name, "g") for name in names], ROUNDS, task="digits", seed=0)
    source = EliminationSource([Contestant("a", "g"), Contestant("b", "g")], ROUNDS, task="digits", seed=0)
    source.ask()
    source.tell("eliminate/1/a", Outcome(Status.FAILED))
    for name in ("eliminate/1/a", "eliminate/1/z"):
        with pytest.raises(ValueError, match="not awaited"):
            source.tell(name, Outcome(Status.FAILED))


def test_seeds_differ_by_place_and_by_run() -> None:
    assert len({seed_for(seed, *path) for seed in range(5) for path in ((1, 2), (2, 1), (1,), (61, 0))}) == 20
    assert seed_for(3, 1, 2) == seed_for(3, 1, 2) < 2**32
