"""Grammars: what random rules are made of and how likely each part is. The paper's follows from the tables of operators and operands.

A grammar is data: templates in native notation (an operand has no hole, a unary operator the hole `x`, a binary one `x` and `y`) and
probabilities.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from optevolve.errors import ConfigError
from optevolve.space.expression import Node
from optevolve.space.operands import OPERANDS
from optevolve.space.operators import BASE_DECAYS, OPERATORS
from optevolve.space.rule import KINDS
from optevolve.space.text import parse_expression

__all__ = ["GRAMMARS", "Grammar", "arity_of", "from_toml", "grammar", "paper_grammar", "template"]

GRAMMARS = ("paper", "bello2017", "extended")
HOLES = ("x", "y")
_PACKAGED = "optevolve.space.grammars"


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
        for what, least in (("operands", 2), ("unary", 1), ("binary", 1), ("kinds", 1)):
            if len(getattr(self, what)) < least:
                raise ConfigError(f"Grammar {self.name!r} needs at least {least} {what}, got {len(getattr(self, what))}. Add some.")
        if self.base_decays and (len(self.base_decays) < 2 or not self.decay_unary or (not self.decay_binary and self.p_decay_unary < 1)):
            raise ConfigError(
                f"Grammar {self.name!r} has base decays, so it needs two of them, decay_unary, and decay_binary or p_decay_unary = 1."
            )
        if not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"Expected kinds among {', '.join(KINDS)} in grammar {self.name!r}, got {', '.join(self.kinds)}.")

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


def grammar(name: str | Path) -> Grammar:
    """The grammar of that name, or in that TOML file.

    Args:
        name: one of `GRAMMARS`, or the path of a file that ends in .toml; see `from_toml`.
    Raises:
        ConfigError: if there is no such grammar, or the file is none.
    """
    if name in GRAMMARS:
        return paper_grammar() if name == "paper" else from_toml(resources.files(_PACKAGED).joinpath(f"{name}.toml").read_text("utf-8"))
    if not str(name).endswith(".toml"):
        near = get_close_matches(str(name), GRAMMARS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"Unknown grammar {str(name)!r}. Expected one of {', '.join(GRAMMARS)} or a path that ends in .toml.{hint}")
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read the grammar {str(name)!r}: {error}. Expected a TOML file of templates.") from error
    return from_toml(text)


def from_toml(text: str) -> Grammar:
    """A grammar as a TOML table: the fields of `Grammar`, lists of templates in native notation. With `extends`, the lists are added to
    those of the named grammar and the other fields replace its own.

    Raises:
        ConfigError: if the text is no TOML, or a field is unknown, missing or of the wrong type, or a template does not parse.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"Expected a grammar in TOML, got text that is none: {error}.") from error
    base = grammar(str(table.pop("extends"))) if "extends" in table else None
    values: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(Grammar)} if base else {}
    known = {field.name: field for field in fields(Grammar)}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise ConfigError(
                f"Unknown key {key!r} in a grammar. Expected one of {', '.join(known)}." + (f" Did you mean {near[0]!r}?" if near else "")
            )
        values[key] = _checked(key, value, str(known[key].type))
        if base and isinstance(value, list):
            values[key] = tuple(dict.fromkeys((*getattr(base, key), *values[key])))
    try:
        return Grammar(**values)
    except TypeError as error:
        missing = [key for key in ("name", "operands", "unary", "binary") if key not in values]
        raise ConfigError(f'A grammar needs {", ".join(missing)}: add them, or extend another with: extends = "paper".') from error


def _checked(key: str, value: Any, wanted: str) -> Any:
    if wanted.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        expected = "a list of texts"
    elif wanted == "str":
        if isinstance(value, str):
            return value
        expected = "a text"
    elif wanted == "int":
        if type(value) is int and 1 <= value <= 100:
            return value
        expected = "a whole number from 1 to 100"
    else:
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
            return float(value)
        expected = "a probability from 0 to 1"
    raise ConfigError(f"Expected {expected} for {key!r} of a grammar, got {value!r}.")
