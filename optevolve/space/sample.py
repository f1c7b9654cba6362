"""Random decays and genomes, by a grammar's probabilities. Source: method sections 1 and 2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from optevolve.errors import ConfigError
from optevolve.space.genome import HIDDEN, DecayGenome, DecaySlot, Genome, Input, Slot
from optevolve.space.grammar import Grammar

__all__ = ["choose", "sample_decay", "sample_genome"]

T = TypeVar("T")

MAX_DRAWS = 20_000


def choose(rng: np.random.Generator, items: Sequence[T], *, but: Sequence[object] = ()) -> T:
    """One of the items, uniformly, leaving out those in `but`."""
    if but:
        items = [item for item in items if item not in but]
    return items[int(rng.random() * len(items))]


def sample_decay(rng: np.random.Generator, grammar: Grammar) -> DecayGenome:
    """A valid random decay: invalid ones are drawn again.

    Raises:
        ConfigError: if `MAX_DRAWS` in a row are invalid.
    """
    for _ in range(MAX_DRAWS):
        hidden = _decay_slot(rng, grammar, grammar.base_decays)
        if rng.random() < grammar.p_decay_hidden:
            root = _decay_root_with_hidden(rng, grammar)
        else:
            root = _decay_slot(rng, grammar, (*grammar.base_decays, HIDDEN))
        decay = DecayGenome(hidden, root)
        if decay.is_valid:
            return decay
    raise ConfigError(
        f"Expected a decay with values in [0, 1] among {MAX_DRAWS} drawn from grammar {grammar.name!r}, got none. "
        "Give the grammar other base decays or operators."
    )


def _decay_arity(rng: np.random.Generator, grammar: Grammar) -> int:
    return 1 if rng.random() < grammar.p_decay_unary else 2


def _decay_slot(rng: np.random.Generator, grammar: Grammar, inputs: Sequence[str]) -> DecaySlot:
    arity = _decay_arity(rng, grammar)
    first = choose(rng, inputs)
    chosen = (first,) if arity == 1 else (first, choose(rng, inputs, but=(first,)))
    return DecaySlot(choose(rng, grammar.decay_operators(arity)), chosen)


def _decay_root_with_hidden(rng: np.random.Generator, grammar: Grammar) -> DecaySlot:
    arity = _decay_arity(rng, grammar)
    if arity == 1:
        return DecaySlot(choose(rng, grammar.decay_unary), (HIDDEN,))
    inputs = (HIDDEN, choose(rng, grammar.base_decays))
    return DecaySlot(choose(rng, grammar.decay_binary), inputs if rng.random() < 0.5 else inputs[::-1])


def draw_input(rng: np.random.Generator, grammar: Grammar, number: int, but: Sequence[Input] = ()) -> Input:
    """An operand with the grammar's probability, else a hidden node other than `number`."""
    if rng.random() < grammar.p_operand:
        return choose(rng, grammar.operands, but=but)
    return draw_hidden(rng, grammar, number, but)


def draw_hidden(rng: np.random.Generator, grammar: Grammar, number: int, but: Sequence[Input] = ()) -> int:
    """A hidden node other than `number` and those in `but`."""
    return choose(rng, range(grammar.hidden_nodes), but=(number, *but))


def draw_operator(rng: np.random.Generator, grammar: Grammar, arity: int, but: str = "") -> str:
    """An operator's template: among the unary ones the identity has its own probability."""
    if arity == 1 and grammar.identity in grammar.unary:
        others = [text for text in grammar.unary if text not in (grammar.identity, but)]
        drawn = rng.random() < grammar.p_identity
        return grammar.identity if but != grammar.identity and (drawn or not others) else choose(rng, others)
    return choose(rng, grammar.operators(arity), but=(but,))


def sample_genome(rng: np.random.Generator, grammar: Grammar) -> Genome:
    """A random genome whose active graph is acyclic: cyclic ones are drawn again.

    Raises:
        ConfigError: if `MAX_DRAWS` in a row are cyclic.
    """
    for _ in range(MAX_DRAWS):
        slots = tuple(_sample_slot(rng, grammar, number) for number in range(grammar.hidden_nodes + 1))
        genome = Genome(slots, choose(rng, grammar.kinds))
        if genome.active is not None:
            return genome
    raise ConfigError(
        f"Expected a rule without a circle among {MAX_DRAWS} drawn from grammar {grammar.name!r}, got none. Raise its p_operand."
    )


def _sample_slot(rng: np.random.Generator, grammar: Grammar, number: int) -> Slot:
    is_root = number == grammar.hidden_nodes
    arity = 1 if rng.random() < (grammar.p_root_unary if is_root else grammar.p_hidden_unary) else 2
    inputs = _root_inputs(rng, grammar, arity) if is_root else _hidden_inputs(rng, grammar, number, arity)
    p_decay = 0.0 if not grammar.draws_decays else grammar.p_root_decay if is_root and arity == 1 else grammar.p_decay
    decays = tuple(sample_decay(rng, grammar) if rng.random() < p_decay else None for _ in inputs)
    return Slot(draw_operator(rng, grammar, arity), inputs, decays)


def _hidden_inputs(rng: np.random.Generator, grammar: Grammar, number: int, arity: int) -> tuple[Input, ...]:
    first = draw_input(rng, grammar, number)
    return (first,) if arity == 1 else (first, draw_input(rng, grammar, number, (first,)))


def _root_inputs(rng: np.random.Generator, grammar: Grammar, arity: int) -> tuple[Input, ...]:
    """At least one hidden node. A unary root names one."""
    root = grammar.hidden_nodes
    if arity == 1:
        return (draw_hidden(rng, grammar, root),)
    first = draw_input(rng, grammar, root)
    if isinstance(first, int):
        return first, draw_input(rng, grammar, root, (first,))
    return first, draw_hidden(rng, grammar, root)
