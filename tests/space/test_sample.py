"""Frequencies of the method's sections 1 and 2, by chi-squared and binomial tests on seeded draws."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from optevolve.space.decays import values_of
from optevolve.space.genome import HIDDEN, DecayGenome, Genome
from optevolve.space.grammar import Grammar, paper_grammar
from optevolve.space.sample import sample_decay, sample_genome

PAPER = paper_grammar()
LEVEL = 1e-4  # the draws are seeded: a failure is a change of the sampler, not bad luck


@pytest.fixture(scope="module")
def genomes() -> list[Genome]:
    rng = np.random.default_rng(0)
    return [sample_genome(rng, PAPER) for _ in range(4000)]


@pytest.fixture(scope="module")
def decays() -> list[DecayGenome]:
    rng = np.random.default_rng(1)
    return [sample_decay(rng, PAPER) for _ in range(3000)]


def is_share(successes: int, total: int, p: float) -> bool:
    return bool(stats.binomtest(successes, total, p).pvalue > LEVEL)


def is_uniform(counts: Counter[str], choices: Sequence[str]) -> bool:
    assert set(counts) <= set(choices)
    return bool(stats.chisquare([counts[choice] for choice in choices]).pvalue > LEVEL)


def test_the_paper_has_20_operands_26_and_10_operators_13_and_7_for_decays_and_14_base_decays() -> None:
    sizes = [len(x) for x in (PAPER.operands, PAPER.unary, PAPER.binary, PAPER.decay_unary, PAPER.decay_binary, PAPER.base_decays)]
    assert sizes == [20, 26, 10, 13, 7, 14]


def test_active_graphs_are_acyclic_and_roots_reach_a_hidden_node(genomes: list[Genome]) -> None:
    assert all(genome.active is not None for genome in genomes)
    assert all(any(isinstance(item, int) for item in genome.slots[-1].inputs) for genome in genomes)


def test_kinds_are_uniform(genomes: list[Genome]) -> None:
    assert is_uniform(Counter(genome.kind for genome in genomes), PAPER.kinds)


@pytest.fixture(scope="module")
def plain() -> list[Genome]:
    """Genomes whose hidden nodes name operands only: none is ever cyclic, so redrawing cyclic ones does not shift the frequencies."""
    grammar = Grammar(**{**vars(PAPER), "p_operand": 1.0})
    rng = np.random.default_rng(2)
    return [sample_genome(rng, grammar) for _ in range(4000)]


def test_hidden_nodes_are_unary_three_times_in_four_and_the_root_once(plain: list[Genome]) -> None:
    hidden = [slot for genome in plain for slot in genome.slots[:-1]]
    assert is_share(sum(len(slot.inputs) == 1 for slot in hidden), len(hidden), 0.75)
    assert is_share(sum(len(genome.slots[-1].inputs) == 1 for genome in plain), len(plain), 0.25)


def test_unary_operators_are_the_identity_one_time_in_five_and_else_uniform(plain: list[Genome]) -> None:
    drawn = Counter(slot.operator for genome in plain for slot in genome.slots if len(slot.inputs) == 1)
    assert is_share(drawn["identity(x)"], drawn.total(), 0.2)
    others = Counter({name: count for name, count in drawn.items() if name != "identity(x)"})
    assert is_uniform(others, [name for name in PAPER.unary if name != "identity(x)"])


def test_binary_operators_and_operands_are_uniform(plain: list[Genome]) -> None:
    assert is_uniform(Counter(s.operator for genome in plain for s in genome.slots if len(s.inputs) == 2), PAPER.binary)
    first = Counter(str(slot.inputs[0]) for genome in plain for slot in genome.slots[:-1])
    assert is_uniform(first, PAPER.operands)


def test_inputs_are_operands_four_times_in_five(genomes: list[Genome]) -> None:
    # inactive slots are not conditioned on being acyclic
    inactive = [genome.slots[i] for genome in genomes for i in range(5) if i not in (genome.active or ())]
    assert is_share(sum(isinstance(slot.inputs[0], str) for slot in inactive), len(inactive), 0.8)


def test_a_unary_root_names_a_hidden_node_and_a_binary_root_follows_its_rule(plain: list[Genome]) -> None:
    rng = np.random.default_rng(3)
    grammar = Grammar(**{**vars(PAPER), "p_hidden_unary": 1.0})
    roots = [sample_genome(rng, grammar).slots[-1] for _ in range(4000)]
    assert all(isinstance(root.inputs[0], int) for root in roots if len(root.inputs) == 1)
    binary = [root for root in roots if len(root.inputs) == 2]
    first_operand = [root for root in binary if isinstance(root.inputs[0], str)]
    # cycles thin out the roots with two hidden inputs, so the share may only be above 0.8
    assert stats.binomtest(len(first_operand), len(binary), 0.8, alternative="less").pvalue > LEVEL
    assert all(isinstance(root.inputs[1], int) for root in first_operand)


def test_inputs_of_a_binary_node_differ(genomes: list[Genome]) -> None:
    assert all(slot.inputs[0] != slot.inputs[1] for genome in genomes for slot in genome.slots if len(slot.inputs) == 2)


def test_edges_carry_decays_as_often_as_the_method_says(plain: list[Genome]) -> None:
    hidden = [decay for genome in plain for slot in genome.slots[:-1] for decay in slot.decays]
    assert is_share(sum(decay is not None for decay in hidden), len(hidden), 0.15)
    under_unary_root = [genome.slots[-1].decays[0] for genome in plain if len(genome.slots[-1].inputs) == 1]
    assert is_share(sum(decay is not None for decay in under_unary_root), len(under_unary_root), 0.85)
    under_binary_root = [decay for genome in plain if len(genome.slots[-1].inputs) == 2 for decay in genome.slots[-1].decays]
    assert is_share(sum(decay is not None for decay in under_binary_root), len(under_binary_root), 0.15)


def test_decays_are_valid(decays: list[DecayGenome]) -> None:
    for decay in decays[:500]:
        values = values_of(decay.expression, 100)
        assert np.isfinite(values).all()
        assert values.min() >= 0
        assert values.max() <= 1


def test_decays_use_every_operator_and_base_and_their_inputs_differ(decays: list[DecayGenome]) -> None:
    slots = [slot for decay in decays for slot in (decay.hidden, decay.root)]
    assert {slot.operator for slot in slots} == {*PAPER.decay_unary, *PAPER.decay_binary}
    assert {name for slot in slots for name in slot.inputs} == {*PAPER.base_decays, HIDDEN}
    assert all(len(set(slot.inputs)) == len(slot.inputs) for slot in slots)


def test_the_hidden_node_of_a_decay_is_drawn_as_the_method_says(decays: list[DecayGenome]) -> None:
    # the hidden node of a decay that does not use it is not conditioned on validity
    unused = [decay.hidden for decay in decays if not decay.uses_hidden]
    assert is_share(sum(len(slot.inputs) == 1 for slot in unused), len(unused), 0.8)
    unary = Counter(slot.operator for slot in unused if len(slot.inputs) == 1)
    assert is_uniform(unary, PAPER.decay_unary)
    assert is_uniform(Counter(slot.inputs[0] for slot in unused), PAPER.base_decays)
