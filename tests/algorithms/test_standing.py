"""How rules compare over several tasks: by fitness or by mean rank, in the whole search, and whoever is told first."""

import hashlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optevolve.algorithms import ALGORITHMS, Evolution
from optevolve.algorithms.standing import Score, mean_ranks, merits
from optevolve.algorithms.ties import Scores, by_rank, tied
from optevolve.config import Search
from optevolve.integrity import check_integrity
from optevolve.records import Outcome, Proposal, Status
from optevolve.space.grammar import paper_grammar

SMALL = Search(population=8, particles=2, timesteps=2, children=4, redraws=0, tournament=3, over_tasks="rank")


def test_ranks_count_from_the_best_and_equals_share_theirs() -> None:
    assert mean_ranks([(0.9, 0.1), (0.5, 0.5), (0.1, 0.9)]) == [2, 2, 2]
    assert mean_ranks([(3.0,), (1.0,), (3.0,), (2.0,)]) == [1.5, 4, 1.5, 3]
    assert mean_ranks([]) == []


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=12), st.randoms())
def test_ranks_are_of_the_group_whatever_its_order_and_every_tasks_scale(table: list[tuple[float, float]], order: random.Random) -> None:
    found = mean_ranks(table)
    assert sum(found) == pytest.approx(len(table) * (len(table) + 1) / 2)
    assert mean_ranks([(2 * a, b / 4) for a, b in table]) == found
    shuffled = list(range(len(table)))
    order.shuffle(shuffled)
    assert mean_ranks([table[place] for place in shuffled]) == [found[place] for place in shuffled]


def test_one_lucky_task_decides_the_mean_but_not_the_rank() -> None:
    scores = [Score(4.5, (8.9, 0.1)), Score(1.0, (1.0, 1.0)), Score(0.75, (0.7, 0.8))]
    assert merits(scores) == [4.5, 1.0, 0.75]
    assert merits(scores, "rank") == [-2.0, -1.5, -2.5]
    assert merits([Score(0.3), Score(0.4)], "rank") == [-2, -1]  # with one task, as by fitness


def test_ranks_of_children_are_taken_seed_by_seed_among_those_still_running() -> None:
    scores = {
        0: Scores([4.5, 1.0], None, [(8.9, 0.1), (1.0, 1.0)]),
        1: Scores([1.0, 1.2], None, [(1.0, 1.0), (1.2, 1.2)]),
        2: Scores([9.0], None, [(9.0, 9.0)]),  # dropped out
    }
    assert {child: score.values for child, score in by_rank(scores).items()} == {0: [-1.5, -2.0], 1: [-1.5, -1.0]}
    assert tied(by_rank(scores)) == {0, 1}


def outcome(proposal: Proposal) -> Outcome:
    """Two tasks, the first of which is now and then won by far by a rule that is nothing on the second."""
    bits = hashlib.sha256(proposal.rule.encode()).digest()
    tasks = (50.0 if bits[0] < 64 else bits[1] / 256, 0.0 if bits[0] < 64 else bits[2] / 256)
    if bits[3] < 20:
        return Outcome(Status.DIVERGED, reason="made up")
    return Outcome(Status.COMPLETED, sum(tasks) / 2, 0.1, task_scores=tasks)


def run(algorithm: str, search: Search, order: random.Random | None = None, ahead: int = 3) -> tuple[Evolution, list[Proposal]]:
    found = ALGORITHMS[algorithm](search, paper_grammar(), check_integrity, 0)
    asked: list[Proposal] = []
    waiting: list[Proposal] = []
    while True:
        while len(waiting) < ahead and (proposal := found.ask()) is not None:
            asked.append(proposal)
            waiting.append(proposal)
        if not waiting:
            assert found.done
            return found, asked
        told = waiting.pop(order.randrange(len(waiting)) if order else 0)
        found.tell(told.id, outcome(told))


def test_the_best_of_the_population_are_so_by_rank_among_it() -> None:
    search, asked = run("particle", SMALL)
    told = {p.id: s for p in asked if p.stage == "initial" and (s := Score.of(outcome(p))) is not None}
    by = {}
    for mode in ("rank", "score"):
        merit = dict(zip(told, merits(list(told.values()), mode), strict=True))
        by[mode] = sorted(told, key=merit.__getitem__, reverse=True)[:2]
    founders = [p.parent for p in asked if p.timestep == 0 and p.stage == "evolution"]
    assert founders == by["rank"] != by["score"]
    assert search.done


def test_a_particle_moves_to_the_child_that_ranks_best_among_its_siblings() -> None:
    _, asked = run("particle", SMALL)
    parents = {(p.particle, p.timestep - 1): p.parent for p in asked if p.timestep > 1}
    assert parents
    for (particle, timestep), parent in parents.items():
        children = [p for p in asked if (p.particle, p.timestep) == (particle, timestep)]
        alive = {p.id: s for p in children if (s := Score.of(outcome(p))) is not None}
        merit = dict(zip(alive, merits(list(alive.values()), "rank"), strict=True))
        assert merit[parent] == max(merit.values())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_outcomes_give_the_same_search(algorithm: str) -> None:
    first = [(p.id, p.rule) for p in run(algorithm, SMALL)[1]]
    assert [(p.id, p.rule) for p in run(algorithm, SMALL)[1]] == first
    assert len(first) >= SMALL.population


def test_the_order_of_outcomes_within_a_timestep_changes_nothing() -> None:
    search = replace(SMALL, particles=1, elitist=True, tie_seeds=1)
    expected = {p.id: p.rule for p in run("particle", search)[1]}
    assert {p.id: p.rule for p in run("particle", search, random.Random(1))[1]} == expected
