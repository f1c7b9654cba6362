from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from optevolve.errors import ConfigError
from optevolve.integrity import check_integrity
from optevolve.space import KINDS, UpdateRule
from optevolve.space import mutate as mutate_module
from optevolve.space.decays import values_of
from optevolve.space.genome import Genome, Slot
from optevolve.space.grammar import paper_grammar
from optevolve.space.mutate import mutate, mutate_decay
from optevolve.space.sample import sample_decay, sample_genome

PAPER = paper_grammar()
PLAINEST = Genome((*[Slot("identity(x)", ("g",), (None,))] * 5, Slot("identity(x)", (0,), (None,))))


def passes(rule: UpdateRule) -> int:
    verdict = check_integrity(rule)
    return verdict.sign if verdict.ok else 0


def anything(rule: UpdateRule) -> int:
    return 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_children_are_valid_differ_and_pass(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parent = sample_genome(rng, PAPER)
    child, change = mutate(parent, rng, PAPER, passes)
    assert change
    assert child.active is not None
    assert (child.kind, child.expression) != (parent.kind, parent.expression)
    assert any(isinstance(item, int) for item in child.slots[-1].inputs)
    assert all(len(set(slot.inputs)) == len(slot.inputs) == len(slot.decays) for slot in child.slots)
    assert all(decay is None or decay.is_valid for slot in child.slots for decay in slot.decays)
    assert passes(child.rule) == child.sign
    assert sum(a != b for a, b in zip(parent.slots, child.slots, strict=True)) + (parent.kind != child.kind) == 1


def test_shares_of_the_kinds_of_mutation() -> None:
    rng = np.random.default_rng(0)
    # one active node besides the root, all choices open: no child is refused but for the rare decay
    counts: Counter[str] = Counter()
    for _ in range(3000):
        _, change = mutate(PLAINEST, rng, PAPER, anything)
        word = change.split(": ", 1)[1]
        both = change.split(" to ")
        if change.startswith("kind"):
            counts["kind"] += 1
        elif word.startswith("decay"):
            counts["decay"] += 1
        elif word.startswith("input"):
            counts["rewire"] += 1
        elif "y" in both[1]:
            counts["arity"] += 1
        else:
            counts["operator"] += 1
    expected = {"operator": 0.4, "rewire": 0.3, "arity": 0.1, "kind": 0.1, "decay": 0.1}
    # rewiring the root to another node that also holds identity(g) changes nothing and is drawn again: shares given that it changed
    lost = expected["rewire"] * 0.5
    shares = [(expected[k] - (lost if k == "rewire" else 0)) / (1 - lost) for k in expected]
    assert stats.chisquare([counts[k] for k in expected], [3000 * share for share in shares]).pvalue > 1e-4


def test_every_operator_operand_kind_and_decay_part_is_reached_from_any_genome() -> None:
    for start in (PLAINEST, sample_genome(np.random.default_rng(5), PAPER)):
        rng = np.random.default_rng(0)
        genome = start
        kinds: set[str] = set()
        operators: set[str] = set()
        operands: set[str] = set()
        decay_operators: set[str] = set()
        bases: set[str] = set()
        for _ in range(12_000):
            genome, _ = mutate(genome, rng, PAPER, anything)
            kinds.add(genome.kind)
            for number in genome.active or ():
                slot = genome.slots[number]
                operators.add(slot.operator)
                operands.update(item for item in slot.inputs if isinstance(item, str))
                for decay in slot.decays:
                    if decay is not None:
                        for part in (decay.root, decay.hidden):
                            decay_operators.add(part.operator)
                            bases.update(part.inputs)
        assert operators == {*PAPER.unary, *PAPER.binary}
        assert operands == set(PAPER.operands)
        assert kinds == set(KINDS)
        assert decay_operators == {*PAPER.decay_unary, *PAPER.decay_binary}
        assert set(PAPER.base_decays) <= bases


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_a_mutated_decay_is_valid_and_visibly_different(seed: int) -> None:
    rng = np.random.default_rng(seed)
    decay = sample_decay(rng, PAPER)
    child = mutate_decay(decay, rng, PAPER)
    if child is not None:
        assert child.is_valid
        assert np.linalg.norm(values_of(child.expression, 100) - values_of(decay.expression, 100)) > 1e-4
        assert (child.root != decay.root) != (child.hidden != decay.hidden)


def test_a_decay_on_a_rewired_edge_is_lost_and_moves_with_its_input_when_swapped() -> None:
    rng = np.random.default_rng(1)
    decay = sample_decay(rng, PAPER)
    parent = Genome((*[Slot("tanh(x)", ("g",), (None,))] * 5, Slot("x - y", (0, "w"), (decay, None))))
    parent = Genome((*parent.slots[:-1], Slot("x - y", (0, "v_hat"), (decay, None))))
    swapped = rewired = 0
    for _ in range(600):
        child, change = mutate(parent, rng, PAPER, anything)
        root = child.slots[-1]
        if change == "root: inputs swapped":
            swapped += 1
            assert (root.inputs, root.decays) == (("v_hat", 0), (None, decay))
        elif change.startswith("root: input node 0"):
            rewired += 1
            assert root.decays == (None, None)
    assert swapped > 5
    assert rewired > 5


def test_a_check_that_refuses_everything_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutate_module, "MAX_DRAWS", 20)
    with pytest.raises(ConfigError, match="got none"):
        mutate(PLAINEST, np.random.default_rng(0), PAPER, lambda rule: 0)
