"""Searches driven by a made-up fitness of the rule's text: fast, and a pure function of the proposal."""

import hashlib
import random
from dataclasses import dataclass, replace

import pytest

from optevolve.algorithms import ALGORITHMS, Evolution, ParticleSearch
from optevolve.config import Search
from optevolve.integrity import check_integrity
from optevolve.records import Outcome, Proposal, Status
from optevolve.space import parse
from optevolve.space.genome import Genome
from optevolve.space.grammar import paper_grammar

SMALL = Search(population=8, particles=3, timesteps=2, children=3, redraws=2, tournament=3)


def outcome_of(proposal: Proposal, *, fail_every: int = 4) -> Outcome:
    digest = int.from_bytes(hashlib.sha256((proposal.stage + proposal.rule).encode()).digest()[:4])
    if digest % fail_every == 0:
        return Outcome(Status.DIVERGED, reason="made up")
    return Outcome(Status.COMPLETED, fitness=digest / 2**32)


def make(algorithm: str, search: Search = SMALL, seed: int = 0) -> Evolution:
    return ALGORITHMS[algorithm](search, paper_grammar(), check_integrity, seed)


def run(search: Evolution, *, lookahead: int = 4, order: random.Random | None = None, fail_every: int = 4) -> list[Proposal]:
    """Drive to the end; with `order`, tell outcomes in random order."""
    asked: list[Proposal] = []
    waiting: list[Proposal] = []
    while True:
        while len(waiting) < lookahead and (proposal := search.ask()) is not None:
            asked.append(proposal)
            waiting.append(proposal)
        if not waiting:
            assert search.done
            assert search.ask() is None
            return asked
        told = waiting.pop(order.randrange(len(waiting)) if order else 0)
        search.tell(told.id, outcome_of(told, fail_every=fail_every))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_proposal_is_new_valid_and_passes_the_check(algorithm: str) -> None:
    asked = run(make(algorithm))
    assert len({proposal.id for proposal in asked}) == len(asked)
    for proposal in asked:
        rule = parse(proposal.rule)
        assert Genome.from_json(proposal.genome).rule == rule
        verdict = check_integrity(rule)
        assert verdict.ok
        assert verdict.sign == rule.sign
    drawn = [proposal.rule for proposal in asked if proposal.stage == "initial"]
    assert len(set(drawn)) == len(drawn) == SMALL.population


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_budgets_are_equal_when_nothing_fails(algorithm: str) -> None:
    search = make(algorithm)
    asked = run(search, fail_every=2**40)
    assert len(asked) == search.budget == 8 + 3 * (1 + 2 * 3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_same_seed_same_search_and_another_seed_another(algorithm: str) -> None:
    assert run(make(algorithm)) == run(make(algorithm))
    assert [p.rule for p in run(make(algorithm))] != [p.rule for p in run(make(algorithm, seed=1))]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("seed", range(3))
def test_outcomes_may_be_told_in_any_order(algorithm: str, seed: int) -> None:
    search = make(algorithm)
    asked = run(search, lookahead=7, order=random.Random(seed))
    assert len(asked) >= SMALL.population


def test_the_initial_population_does_not_depend_on_the_order_of_telling() -> None:
    orderly = [p for p in run(make("particle")) if p.stage == "initial"]
    shuffled = [p for p in run(make("particle"), lookahead=8, order=random.Random(1)) if p.stage == "initial"]
    assert orderly == shuffled


def test_the_best_of_the_population_become_particles() -> None:
    asked = run(make("particle"))
    fitness = {p.id: outcome_of(p).fitness for p in asked if p.stage == "initial"}
    best = sorted((id for id, f in fitness.items() if f is not None), key=lambda id: -(fitness[id] or 0))[:3]
    assert [p.parent for p in asked if p.stage == "evolution" and p.timestep == 0] == best


def test_the_best_child_becomes_the_position_and_the_parent_dies_of_age() -> None:
    asked = run(make("particle"))
    for number in range(SMALL.particles):
        children = [p for p in asked if p.particle == number and p.timestep == 1]
        alive = {p.id: f for p in children if (f := outcome_of(p).fitness) is not None}
        parents = {p.parent for p in asked if p.particle == number and p.timestep == 2}
        assert parents == {max(alive, key=lambda id: alive[id])}


def test_an_elitist_particle_keeps_a_parent_that_is_better() -> None:
    search = ParticleSearch(replace(SMALL, elitist=True), paper_grammar(), check_integrity, 0)
    fitness = iter([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    parents = set()
    while not search.done:
        proposal = search.ask()
        assert proposal is not None
        if proposal.stage == "initial":
            value = next(fitness)
        else:
            value = 0.9 if proposal.timestep == 0 else 0.1
            parents.add(proposal.parent) if proposal.timestep == 2 else None
        search.tell(proposal.id, Outcome(Status.COMPLETED, fitness=value))
    assert parents == {f"particle-{number:02d}/t0" for number in range(3)}


def test_a_child_that_fails_is_drawn_again_up_to_the_bound_and_a_particle_without_children_stays() -> None:
    search = make("particle")
    asked: list[Proposal] = []
    while not search.done:
        proposal = search.ask()
        assert proposal is not None
        asked.append(proposal)
        ok = proposal.timestep == 0
        search.tell(proposal.id, Outcome(Status.COMPLETED, fitness=0.5) if ok else Outcome(Status.STOPPED))
    children = [p for p in asked if p.particle == 0 and p.timestep == 1]
    assert len(children) == SMALL.children * (1 + SMALL.redraws)
    assert {p.parent for p in asked if p.particle == 0 and p.timestep == 2} == {"particle-00/t0"}


def test_no_rule_twice_within_a_particle() -> None:
    asked = run(make("particle", replace(SMALL, timesteps=4)))
    for number in range(SMALL.particles):
        rules = [p.rule for p in asked if p.particle == number]
        assert len(set(rules)) == len(rules)


def test_a_search_whose_population_dies_ends() -> None:
    for algorithm in ALGORITHMS:
        search = make(algorithm)
        while (proposal := search.ask()) is not None:
            search.tell(proposal.id, Outcome(Status.DIVERGED))
        if algorithm != "random":
            assert search.done


def test_rejected_draws_are_reported_with_their_reason() -> None:
    asked = run(make("particle"))
    rejected = [pair for proposal in asked for pair in proposal.rejected]
    assert rejected
    assert all(not check_integrity(parse(rule)).ok and reason for rule, reason in rejected)


def test_telling_what_was_not_asked_is_an_error() -> None:
    with pytest.raises(KeyError):
        make("particle").tell("initial/0000", Outcome(Status.COMPLETED, fitness=1.0))


@dataclass(frozen=True)
class _No:
    ok: bool = False
    sign: int = 1
    reason: str = "never"


def test_a_check_that_nothing_passes_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from optevolve.algorithms import base
    from optevolve.errors import ConfigError

    monkeypatch.setattr(base, "MAX_DRAWS", 50)
    search = ParticleSearch(SMALL, paper_grammar(), lambda rule: _No(), 0)
    with pytest.raises(ConfigError, match="got none"):
        search.ask()
