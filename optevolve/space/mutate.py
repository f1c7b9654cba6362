"""Mutation of genomes, the only way in which rules change. Source: method sections 1 and 2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optevolve.errors import ConfigError
from optevolve.space.decays import values_of
from optevolve.space.genome import HIDDEN, DecayGenome, DecaySlot, Genome, Input, Slot
from optevolve.space.grammar import Grammar
from optevolve.space.rule import UpdateRule
from optevolve.space.sample import choose, draw_hidden, draw_input, draw_operator, sample_decay

__all__ = ["Accept", "mutate", "mutate_decay"]

#: Says whether a child may leave `mutate`: its sign (+1 or -1) if so, 0 if not.
Accept = Callable[[UpdateRule], int]

MAX_DRAWS = 20_000
DECAY_STEPS = 100
DECAY_DISTANCE = 1e-4


def mutate(genome: Genome, rng: np.random.Generator, grammar: Grammar, accept: Accept) -> tuple[Genome, str]:
    """A child that differs in one active node, and what was changed, in words. Children that are cyclic, unchanged or refused are drawn
    again from the same parent, as are changes for which the grammar has nothing; the child takes the sign that `accept` returns.

    Args:
        genome: the parent; its active graph is acyclic.
        rng: source of all choices.
        grammar: what to draw from.
        accept: the integrity check and whatever else the caller asks of a child.
    Raises:
        ConfigError: if none of `MAX_DRAWS` children is accepted: the grammar leaves no room.
    """
    for _ in range(MAX_DRAWS):
        child, change = _mutate_once(genome, rng, grammar)
        if child is None or child.active is None or (child.kind == genome.kind and child.expression == genome.expression):
            continue
        sign = accept(replace(child, sign=1).rule)
        if sign:
            return replace(child, sign=sign), change
    raise ConfigError(
        f"Expected a child of {str(genome.rule)!r} that passes among {MAX_DRAWS} drawn from grammar {grammar.name!r}, got none. "
        "Give the grammar more operators and operands, among them the gradient g."
    )


def _mutate_once(genome: Genome, rng: np.random.Generator, grammar: Grammar) -> tuple[Genome | None, str]:
    assert genome.active is not None  # every genome that was sampled or has left `mutate` is acyclic
    number = choose(rng, genome.active)
    slot = genome.slots[number]
    where = "root" if number == genome.root else f"node {number}"
    p = rng.random()
    if p < 0.4:
        if len(grammar.operators(len(slot.inputs))) < 2:
            return None, ""
        new = replace(slot, operator=draw_operator(rng, grammar, len(slot.inputs), but=slot.operator))
        change = f"{where}: {slot.operator} to {new.operator}"
    elif p < 0.7:
        new, change = _rewire(slot, number, rng, grammar)
        change = f"{where}: {change}"
    elif p < 0.8:
        new = _change_arity(slot, number, rng, grammar)
        change = f"{where}: {slot.operator} to {new.operator}"
    elif p < 0.9:
        if len(grammar.kinds) == 1:
            return None, ""
        kind = choose(rng, grammar.kinds, but=(genome.kind,))
        return replace(genome, kind=kind), f"kind: {genome.kind} to {kind}"
    else:
        if not grammar.draws_decays:
            return None, ""
        changed, change = _change_decay(slot, rng, grammar)
        if changed is None:
            return None, ""
        new, change = changed, f"{where}: {change}"
    return replace(genome, slots=(*genome.slots[:number], new, *genome.slots[number + 1 :])), change


def _rewire(slot: Slot, number: int, rng: np.random.Generator, grammar: Grammar) -> tuple[Slot, str]:
    """Two inputs swapped (decays stay with their inputs), or one input drawn anew; a rewired edge loses its decay."""
    if len(slot.inputs) == 2 and rng.random() < 0.2:
        return replace(slot, inputs=slot.inputs[::-1], decays=slot.decays[::-1]), "inputs swapped"
    at = int(rng.random() * len(slot.inputs))
    others = slot.inputs[:at] + slot.inputs[at + 1 :]
    must_be_hidden = number == grammar.hidden_nodes and not any(isinstance(item, int) for item in others)
    new = (draw_hidden if must_be_hidden else draw_input)(rng, grammar, number, slot.inputs)
    inputs = (*slot.inputs[:at], new, *slot.inputs[at + 1 :])
    decays = (*slot.decays[:at], None, *slot.decays[at + 1 :])
    return replace(slot, inputs=inputs, decays=decays), f"input {_words(slot.inputs[at])} to {_words(new)}"


def _words(item: Input) -> str:
    return f"node {item}" if isinstance(item, int) else item


def _change_arity(slot: Slot, number: int, rng: np.random.Generator, grammar: Grammar) -> Slot:
    """Unary to binary, with a new input on either side; or binary to unary, keeping either input (the root a hidden one)."""
    if len(slot.inputs) == 1:
        new = draw_input(rng, grammar, number, slot.inputs)
        inputs, decays = (*slot.inputs, new), (*slot.decays, None)
        if rng.random() < 0.5:
            inputs, decays = inputs[::-1], decays[::-1]
        return Slot(draw_operator(rng, grammar, 2), inputs, decays)
    keep = [i for i, item in enumerate(slot.inputs) if number != grammar.hidden_nodes or isinstance(item, int)]
    at = choose(rng, keep)
    return Slot(draw_operator(rng, grammar, 1), (slot.inputs[at],), (slot.decays[at],))


def _change_decay(slot: Slot, rng: np.random.Generator, grammar: Grammar) -> tuple[Slot | None, str]:
    """A decay added to one edge where there is none; else removed or mutated, half each. None if the mutated decay is refused."""
    at = int(rng.random() * len(slot.inputs))
    old = slot.decays[at]
    new: DecayGenome | None
    if old is None:
        new, change = sample_decay(rng, grammar), "decay added"
    elif rng.random() < 0.5:
        new, change = None, "decay removed"
    else:
        new, change = mutate_decay(old, rng, grammar), "decay mutated"
        if new is None:
            return None, ""
    return replace(slot, decays=(*slot.decays[:at], new, *slot.decays[at + 1 :])), change


def mutate_decay(decay: DecayGenome, rng: np.random.Generator, grammar: Grammar) -> DecayGenome | None:
    """A decay that differs in one active node; None if it is refused: invalid, or within 1e-4 (L2 over 100 values) of what it was."""
    at_root = not decay.uses_hidden or rng.random() < 0.5
    slot = decay.root if at_root else decay.hidden
    choices = (*grammar.base_decays, HIDDEN) if at_root else grammar.base_decays
    arity = len(slot.inputs)
    p = rng.random()
    if p < 0.6:
        if len(grammar.decay_operators(arity)) < 2:
            return None
        new = replace(slot, operator=choose(rng, grammar.decay_operators(arity), but=(slot.operator,)))
    elif p < 0.85:
        if arity == 2 and rng.random() < 0.2:
            new = replace(slot, inputs=slot.inputs[::-1])
        else:
            at = int(rng.random() * arity)
            item = choose(rng, choices, but=slot.inputs)
            new = replace(slot, inputs=(*slot.inputs[:at], item, *slot.inputs[at + 1 :]))
    elif arity == 1:
        if not grammar.decay_binary:
            return None
        inputs = (slot.inputs[0], choose(rng, choices, but=slot.inputs))
        new = DecaySlot(choose(rng, grammar.decay_binary), inputs if rng.random() < 0.5 else inputs[::-1])
    else:
        new = DecaySlot(choose(rng, grammar.decay_unary), (choose(rng, slot.inputs),))
    child = replace(decay, root=new) if at_root else replace(decay, hidden=new)
    if not child.is_valid:
        return None
    distance = np.linalg.norm(values_of(child.expression, DECAY_STEPS) - values_of(decay.expression, DECAY_STEPS))
    return child if distance > DECAY_DISTANCE else None
