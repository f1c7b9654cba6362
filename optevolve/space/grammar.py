"""Grammars: what random rules are made of and how likely each part is. The paper's follows from the tables of operators and operands.

A grammar is data: templates in native notation (an operand has no hole, a unary operator the hole `x`, a binary one `x` and `y`) and
probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from optevolve.errors import ConfigError
from optevolve.space.expression import Node
from optevolve.space.operands import OPERANDS
from optevolve.space.operators import BASE_DECAYS, OPERATORS
from optevolve.space.rule import KINDS
from optevolve.space.text import parse_expression

__all__ = ["GRAMMARS", "Grammar", "grammar", "paper_grammar", "template"]

HOLES = ("x", "y")


@lru_cache(maxsize=4096)
def template(text: str) -> Node:
    """The expression of a template; its holes are leaves named x and y."""
    return parse_expression(text, holes=HOLES)


def arity_of(text: str) -> int:
    """Number of distinct holes in a template."""
    return len({node.name for node in template(text).walk()} & set(HOLES))


@dataclass(frozen=True)
class Grammar:
    """What rules are drawn from. The defaults of the probabilities are the paper's (method sections 1 and 2).

    Attributes:
        name: how it is called.
        operands, unary, binary: templates of update equations.
        base_decays, decay_unary, decay_binary: the same for decay functions; base_decays empty for a grammar without decays.
        kinds: kinds of rule, drawn uniformly.
        identity: the unary template drawn with probability `p_identity`; the others share the rest.
        hidden_nodes: hidden nodes beside the root.
        p_hidden_unary, p_root_unary: probability that a hidden node, the root, is unary.
        p_operand: probability that an input that may be either is an operand and no hidden node.
        p_decay, p_root_decay: probability that an edge, the edge under a unary root, carries a decay.
        p_decay_unary, p_decay_hidden: within a decay, that a node is unary, and that the root surely names the hidden node.
    """

    name: str
    operands: tuple[str, ...]
    unary: tuple[str, ...]
    binary: tuple[str, ...]
    base_decays: tuple[str, ...] = BASE_DECAYS
    decay_unary: tuple[str, ...] = ()
    decay_binary: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    identity: str = "identity(x)"
    hidden_nodes: int = 5
    p_hidden_unary: float = 0.75
    p_root_unary: float = 0.25
    p_identity: float = 0.2
    p_operand: float = 0.8
    p_decay: float = 0.15
    p_root_decay: float = 0.85
    p_decay_unary: float = 0.8
    p_decay_hidden: float = 0.2

    def __post_init__(self) -> None:
        for what, templates, arity in (
            ("operand", self.operands, 0),
            ("unary operator", self.unary, 1),
            ("binary operator", self.binary, 2),
            ("base decay", self.base_decays, 0),
            ("unary decay operator", self.decay_unary, 1),
            ("binary decay operator", self.decay_binary, 2),
        ):
            for text in templates:
                if arity_of(text) != arity:
                    raise ConfigError(
                        f"Expected a template with {arity} of the holes x, y for a {what} of grammar {self.name!r}, got {text!r}. "
                        "Write operands without holes, unary operators over x, binary ones over x and y."
                    )
        if not self.operands or not self.unary or not self.binary:
            raise ConfigError(f"Grammar {self.name!r} needs operands, unary and binary operators: add at least one of each.")

    def operators(self, arity: int) -> tuple[str, ...]:
        """Templates of the given arity for update equations."""
        return self.unary if arity == 1 else self.binary

    def decay_operators(self, arity: int) -> tuple[str, ...]:
        """Templates of the given arity for decays."""
        return self.decay_unary if arity == 1 else self.decay_binary


def paper_grammar() -> Grammar:
    """The method's grammar, read from the tables as they stand."""
    forms = [form for row in OPERATORS.values() for form in row.forms]
    decay_forms = [form for row in OPERATORS.values() for form in row.decay_forms]
    return Grammar(
        "paper",
        operands=tuple(name for name, row in OPERANDS.items() if row.sampled),
        unary=tuple(form for form in forms if arity_of(form) == 1),
        binary=tuple(form for form in forms if arity_of(form) == 2),
        decay_unary=tuple(form for form in decay_forms if arity_of(form) == 1),
        decay_binary=tuple(form for form in decay_forms if arity_of(form) == 2),
    )


GRAMMARS = {"paper": paper_grammar}


def grammar(name: str) -> Grammar:
    """The grammar of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in GRAMMARS:
        raise ConfigError(f"Unknown grammar {name!r}. Expected one of {', '.join(GRAMMARS)}.")
    return GRAMMARS[name]()
