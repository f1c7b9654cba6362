"""The genome: the graph that is mutated. Hidden nodes and a root, each an operator with inputs; an edge may carry a decay, itself a graph.

Nodes that the root does not reach are inactive: they take no part in the rule, but a mutation may wire them in again. Genomes are immutable
and travel as JSON. Source: method sections 1 and 2.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from optevolve.errors import ParseError
from optevolve.space.decays import is_valid_decay
from optevolve.space.expression import Node
from optevolve.space.grammar import arity_of, template
from optevolve.space.rule import UpdateRule

__all__ = ["HIDDEN", "DecayGenome", "DecaySlot", "Genome", "Input", "Slot"]

HIDDEN = "hidden"  # how a decay's root names the decay's hidden node
Input = str | int  # an operand's template, or the number of a hidden node


def _apply(operator: str, arguments: list[Node]) -> Node:
    return template(operator).substitute(dict(zip("xy", arguments, strict=False)))


@dataclass(frozen=True)
class DecaySlot:
    """A node of a decay: an operator's template and one or two inputs, base decays or `HIDDEN`."""

    operator: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class DecayGenome:
    """A decay function: a root over the base decays and one hidden node over the base decays."""

    hidden: DecaySlot
    root: DecaySlot

    @property
    def uses_hidden(self) -> bool:
        """Whether the hidden node is active."""
        return HIDDEN in self.root.inputs

    @cached_property
    def expression(self) -> Node:
        """The decay as an expression."""
        hidden = _apply(self.hidden.operator, [template(name) for name in self.hidden.inputs])
        return _apply(self.root.operator, [hidden if name == HIDDEN else template(name) for name in self.root.inputs])

    @property
    def is_valid(self) -> bool:
        """Whether all its values lie within [0, 1]; see `is_valid_decay`."""
        return is_valid_decay(self.expression)


@dataclass(frozen=True)
class Slot:
    """A node of the graph.

    Attributes:
        operator: template over x, or over x and y.
        inputs: one or two operands or hidden nodes; two differ.
        decays: for each input a decay on its edge, or None.
    """

    operator: str
    inputs: tuple[Input, ...]
    decays: tuple[DecayGenome | None, ...]


@dataclass(frozen=True)
class Genome:
    """A rule as a graph.

    Attributes:
        slots: hidden nodes, then the root.
        kind, sign: of the rule.
    """

    slots: tuple[Slot, ...]
    kind: str = "plain"
    sign: int = 1

    @property
    def root(self) -> int:
        """Number of the root's slot."""
        return len(self.slots) - 1

    @cached_property
    def active(self) -> tuple[int, ...] | None:
        """Numbers of the slots that the root reaches, each after its inputs (the root last); None if they form a cycle."""
        order: list[int] = []
        state: dict[int, bool] = {}  # False while on the path from the root, True when done

        def visit(number: int) -> bool:
            if number in state:
                return state[number]
            state[number] = False
            for item in self.slots[number].inputs:
                if isinstance(item, int) and not visit(item):
                    return False
            state[number] = True
            order.append(number)
            return True

        return tuple(order) if visit(self.root) else None

    @cached_property
    def expression(self) -> Node:
        """The update equation.

        Raises:
            ValueError: if the active graph has a cycle.
        """
        if self.active is None:
            raise ValueError("Expected an acyclic graph, got one whose root reaches a cycle. Draw it anew.")
        values: dict[Input, Node] = {}
        for number in self.active:
            slot = self.slots[number]
            arguments = []
            for item, decay in zip(slot.inputs, slot.decays, strict=True):
                value = values[item] if isinstance(item, int) else template(item)
                arguments.append(value if decay is None else Node("mul", (decay.expression, value)))
            values[number] = _apply(slot.operator, arguments)
        return values[self.root]

    @property
    def rule(self) -> UpdateRule:
        """The rule that the active graph stands for."""
        return UpdateRule(self.expression, self.kind, self.sign)

    def to_json(self) -> str:
        """The genome as one line of JSON; see `from_json`."""

        def decay(item: DecayGenome | None) -> Any:
            return item and [[slot.operator, *slot.inputs] for slot in (item.hidden, item.root)]

        slots = [[slot.operator, list(slot.inputs), [decay(d) for d in slot.decays]] for slot in self.slots]
        return json.dumps({"kind": self.kind, "sign": self.sign, "slots": slots}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Genome:
        """The genome behind `to_json`'s text. Text from elsewhere is checked, and never evaluated.

        Raises:
            ParseError: if the text is no genome.
        """
        try:
            data = json.loads(text)
            slots = tuple(
                Slot(str(operator), tuple(i if type(i) is int else str(i) for i in inputs), tuple(map(_decay_from, decays)))
                for operator, inputs, decays in data["slots"]
            )
            if not slots:
                raise ValueError("no nodes")
            genome = cls(slots, data["kind"], data["sign"])
            for slot in slots:
                if not len(slot.inputs) == len(slot.decays) == arity_of(slot.operator):
                    raise ValueError(f"operator {slot.operator!r} has {len(slot.inputs)} inputs")
                if any(isinstance(i, int) and not 0 <= i < genome.root for i in slot.inputs):
                    raise ValueError(f"inputs {slot.inputs} name a node that does not exist")
                for decay in slot.decays:
                    if decay is not None and not decay.is_valid:
                        raise ValueError(f"decay {decay.expression!r} leaves [0, 1]")
            _ = genome.rule
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ParseError(f"Expected a genome as written by Genome.to_json, got {text[:80]!r}: {error}.") from error
        return genome


def _decay_from(data: Any) -> DecayGenome | None:
    if data is None:
        return None
    hidden, root = (DecaySlot(str(operator), tuple(map(str, inputs))) for operator, *inputs in data)
    for slot in (hidden, root):
        if len(slot.inputs) != arity_of(slot.operator):
            raise ValueError(f"decay operator {slot.operator!r} has {len(slot.inputs)} inputs")
    return DecayGenome(hidden, root)
