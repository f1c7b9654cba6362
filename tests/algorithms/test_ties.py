"""Ties between children: told apart by intervals, settled by more seeds, the same for all, up to a bound."""

import hashlib
import random
from dataclasses import replace

import numpy as np
import pytest

from optevolve.algorithms import ParticleSearch
from optevolve.algorithms.ties import Scores, leading, seed_number, tied
from optevolve.config import Search
from optevolve.integrity import check_integrity
from optevolve.records import Outcome, Proposal, Status
from optevolve.space.grammar import paper_grammar

SMALL = Search(population=6, particles=2, timesteps=2, children=4, redraws=1, tie_seeds=3)


def truth(rule: str) -> float:
    return int.from_bytes(hashlib.sha256(rule.encode()).digest()[:4]) / 2**32


def run(search: ParticleSearch, noise: float, order: random.Random | None = None, fail: str = "") -> list[Proposal]:
    """Drives a search whose fitness is a number of the rule plus noise of rule and seed; the interval is twice the noise wide each way."""
    asked: list[Proposal] = []
    waiting: list[Proposal] = []
    while True:
        while len(waiting) < 4 and (proposal := search.ask()) is not None:
            asked.append(proposal)
            waiting.append(proposal)
        if not waiting:
            assert search.done
            return asked
        told = waiting.pop(order.randrange(len(waiting)) if order else 0)
        if fail and told.id.endswith(fail):
            search.tell(told.id, Outcome(Status.DIVERGED, reason="made up"))
            continue
        number = seed_number(told.id)
        drawn = np.random.default_rng([int(1e9 * truth(told.rule)), number]).normal()
        fitness = truth(told.rule) + noise * float(drawn)
        search.tell(told.id, Outcome(Status.COMPLETED, fitness, interval=(fitness - 2 * noise, fitness + 2 * noise)))


def make(search: Search = SMALL, seed: int = 0) -> ParticleSearch:
    return ParticleSearch(search, paper_grammar(), check_integrity, seed)


def test_intervals_decide_between_single_seeds() -> None:
    clear = {0: Scores([0.9], (0.88, 0.92)), 1: Scores([0.8], (0.78, 0.82))}
    assert tied(clear) == set()
    assert tied({**clear, 2: Scores([0.87], (0.85, 0.89))}) == {0, 2}
    assert tied({0: Scores([0.9]), 1: Scores([0.1])}) == {0, 1}
    assert tied({0: Scores([0.9])}) == set() == tied({})


def test_paired_differences_decide_between_several() -> None:
    best = Scores([0.90, 0.70, 0.80])
    behind_always = Scores([0.89, 0.69, 0.79 - 1e-4])
    behind_by_luck = Scores([0.95, 0.60, 0.81])
    assert tied({0: best, 1: behind_always}) == set()
    assert tied({0: best, 1: behind_by_luck}) == {0, 1}
    assert leading({0: best, 1: Scores([0.99])}) == {0: best}


def test_without_noise_no_seed_is_spent_and_the_search_is_as_without_the_option() -> None:
    asked = run(make(), 0.0)
    assert not any(seed_number(p.id) for p in asked)
    assert asked == run(make(replace(SMALL, tie_seeds=0)), 0.0)


def test_ties_spend_seeds_up_to_the_bound_and_the_same_ones_for_all() -> None:
    asked = run(make(), 10.0)
    again = [p for p in asked if seed_number(p.id)]
    assert {seed_number(p.id) for p in again} == {1, 2, 3}
    firsts = {p.id: p for p in asked}
    for p in again:
        first = firsts[p.id.rpartition("/seed-")[0]]
        assert (p.rule, p.genome, p.parent, p.timestep) == (first.rule, first.genome, first.parent, first.timestep)
    assert len({p.id for p in asked}) == len(asked)


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_the_order_of_outcomes_within_a_timestep_changes_nothing(noise: float) -> None:
    search = replace(SMALL, particles=1)
    expected = {p.id: p.rule for p in run(make(search), noise)}
    for seed in range(3):
        assert {p.id: p.rule for p in run(make(search), noise, random.Random(seed))} == expected


def test_more_seeds_find_the_truly_best_child_more_often() -> None:
    def found(tie_seeds: int) -> int:
        hits = 0
        for seed in range(12):
            search = make(Search(population=2, particles=1, timesteps=1, children=6, redraws=0, tie_seeds=tie_seeds), seed)
            children = {p.rule for p in run(search, 0.3) if p.timestep == 1}
            hits += search.particles[0].position.rule == max(children, key=truth)
        return hits

    assert found(12) > found(0)


def test_a_child_that_fails_under_another_seed_is_out_and_a_particle_survives_it() -> None:
    search = make(replace(SMALL, timesteps=1))
    asked = run(search, 10.0, fail="/seed-1")
    for particle in search.particles:
        tied_children = {p.rule for p in asked if p.particle == particle.number and seed_number(p.id) == 1}
        assert tied_children
        assert particle.position.rule not in tied_children
