"""Grammars: what random rules are made of and how likely each part is. The paper's follows from the tables of operators and operands.

A grammar is data: templates in native notation (an operand has no hole, a unary operator the hole `x`, a binary one `x` and `y`) and
probabilities.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from optevolve.config_bounds import read_text, require_text_bounds
from optevolve.errors import ConfigError, ParseError
from optevolve.space.decays import is_time_only
from optevolve.space.expression import Node
from optevolve.space.operands import OPERANDS
from optevolve.space.operators import BASE_DECAYS, LEAVES, OPERATORS
from optevolve.space.rule import KINDS
from optevolve.space.text import parse_expression

__all__ = ["GRAMMARS", "Grammar", "arity_of", "changed", "from_table", "from_toml", "grammar", "paper_grammar", "read_table", "template"]

GRAMMARS = ("paper", "bello2017", "extended")
HOLES = ("x", "y")
_PACKAGED = "optevolve.space.grammars"
_ARITIES = {"operands": 0, "unary": 1, "binary": 2, "base_decays": 0, "decay_unary": 1, "decay_binary": 2}
_OWN = {"operands", "unary", "binary", "extends"}  # a table with none of these changes a grammar that there is
_STEP_LEAVES = {row.name for row in LEAVES.values() if not row.tensor}
_ANY_DECAY = {hole: Node("a1") for hole in HOLES}


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
        base_decays, decay_unary, decay_binary: the same for decay functions; base_decays may be empty, and no decay is then drawn.
        decays: whether rules have decay functions. False: none is drawn, and no mutation adds one; the share of mutations that would have
            changed a decay falls to the others, in proportion.
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
    decays: bool = True
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
        """Refuses what cannot be drawn from, as a `ConfigError`."""
        for key, arity in _ARITIES.items():
            for text in getattr(self, key):
                self._check_template(key, text, arity)
        if not self.decays:
            self._require_no_decays()
        for key, least in self._least().items():
            if len(set(getattr(self, key))) < least:
                raise ConfigError(f"Expected at least {least} {key} in grammar {self.name!r}, got {len(getattr(self, key))}. Add some.")
        if not set(self.kinds) <= set(KINDS):
            raise ConfigError(f"Expected kinds among {', '.join(KINDS)} in grammar {self.name!r}, got {', '.join(self.kinds)}.")
        if self.p_operand == 0:
            raise ConfigError(f"Expected p_operand above 0 in grammar {self.name!r}, got 0: without operands every rule would be a circle.")
        # A rewired node of two hidden inputs takes a third, and none takes itself.
        least = 4 if self.p_operand < 1 else 2
        if self.hidden_nodes < least:
            raise ConfigError(
                f"Expected at least {least} hidden_nodes in grammar {self.name!r} with p_operand = {self.p_operand:g}, "
                f"got {self.hidden_nodes}. Add some, or set p_operand = 1."
            )

    def _check_template(self, key: str, text: str, arity: int) -> None:
        try:
            found = arity_of(text)
        except ParseError as error:
            raise ConfigError(f"Grammar {self.name!r}, {key}: {error}") from error
        if found != arity:
            raise ConfigError(
                f"Expected a template with {arity} of the holes x, y among {key} of grammar {self.name!r}, got {text!r}. "
                "Write operands without holes, unary operators over x, binary ones over x and y."
            )
        if "decay" in key and not is_time_only(template(text).substitute(_ANY_DECAY)):
            raise ConfigError(f"Expected a function of the step alone among {key} of grammar {self.name!r}, got {text!r}. Use a1 … a14.")

    def _require_no_decays(self) -> None:
        """Refuses templates of update equations that are made of functions of the step."""
        for key in ("operands", "unary", "binary"):
            for text in getattr(self, key):
                if found := sorted({node.name for node in template(text).walk()} & _STEP_LEAVES):
                    raise ConfigError(
                        f"Expected {key} without functions of the step in grammar {self.name!r}, whose decays are switched off, got "
                        f"{text!r} with {found[0]}. Leave it out, or set decays = true."
                    )

    @property
    def draws_decays(self) -> bool:
        """Whether there are decays to draw and to mutate."""
        return self.decays and bool(self.base_decays)

    def _least(self) -> dict[str, int]:
        """How many different entries a list needs so that a mutation finds another: a rewired binary node has two inputs already."""
        least = {"operands": 3, "unary": 1, "binary": 1, "kinds": 1}
        if self.draws_decays:
            least |= {"base_decays": 3 if self.decay_binary else 2, "decay_unary": 1, "decay_binary": int(self.p_decay_unary < 1)}
        return least

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


def grammar(source: str | Path | Mapping[str, Any]) -> Grammar:
    """The grammar of that name, in that TOML file, or of that table.

    Args:
        source: one of `GRAMMARS`; the path of a file that ends in .toml; or what such a file holds, see `from_table`.
    Raises:
        ConfigError: if there is no such grammar, or it is none.
    """
    if isinstance(source, Mapping):
        return from_table(source)
    if source in GRAMMARS:
        return paper_grammar() if source == "paper" else from_toml(resources.files(_PACKAGED).joinpath(f"{source}.toml").read_text("utf-8"))
    return from_table(read_table(source))


def read_table(path: str | Path) -> dict[str, Any]:
    """The table in a TOML file that describes a grammar, not yet checked.

    Raises:
        ConfigError: if the name does not end in .toml, or the file cannot be read or is no TOML.
    """
    if not str(path).endswith(".toml"):
        near = get_close_matches(str(path), GRAMMARS, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"Unknown grammar {str(path)!r}. Expected one of {', '.join(GRAMMARS)} or a path that ends in .toml.{hint}")
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ConfigError(f"Cannot read the grammar {str(path)!r}: {reason}. Expected a TOML file of templates.") from error
    return _table(text)


def changed(base: str | Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a grammar with changes, or of another where the changes are a whole grammar or say what they extend.

    Args:
        base: what is changed: as `grammar` takes it.
        table: some fields, such as {"decays": False}.
    """
    if table.keys() & _OWN:
        return dict(table)
    if not isinstance(base, str):
        return {**base, **table}
    return {"extends": base, **table} if base in GRAMMARS else {**read_table(base), **table}


def _table(text: str) -> dict[str, Any]:
    require_text_bounds(text, "grammar")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a ValueError is also what a whole number of thousands of digits gives
        raise ConfigError(f"Expected a grammar in TOML, got text that is none: {str(error)[:500]}.") from error


def from_toml(text: str) -> Grammar:
    """The grammar that a TOML text describes; see `from_table`."""
    return from_table(_table(text))


def from_table(table: Mapping[str, Any]) -> Grammar:
    """A grammar from the fields of `Grammar`, lists of templates in native notation. With `extends`, one of `GRAMMARS`, these lists are
    added to those of that grammar and the other fields replace its own. A table without operands and operators extends the paper's.

    Raises:
        ConfigError: if a field is unknown, missing or of the wrong type, or a template does not parse.
    """
    table = dict(table)
    if table and not table.keys() & _OWN:
        table = {"extends": "paper"} | table
    base = None
    if "extends" in table:
        name = table.pop("extends")
        if name not in GRAMMARS:
            raise ConfigError(f"Expected one of {', '.join(GRAMMARS)} for 'extends' of a grammar, got {name!r}.")
        base = grammar(name)
    values: dict[str, Any] = {field.name: getattr(base, field.name) for field in fields(Grammar)} if base else {}
    known = {field.name: field for field in fields(Grammar)}
    for key, value in table.items():
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise ConfigError(
                f"Unknown key {key!r} in a grammar. Expected one of {', '.join(known)}." + (f" Did you mean {near[0]!r}?" if near else "")
            )
        values[key] = _checked(key, value, str(known[key].type))
        if base and key in _ARITIES:
            values[key] = tuple(dict.fromkeys((*getattr(base, key), *values[key])))
    if missing := [key for key in ("name", "operands", "unary", "binary") if key not in values]:
        raise ConfigError(f'A grammar needs {", ".join(missing)}: add them, or extend another with: extends = "paper".')
    return Grammar(**values)


def _checked(key: str, value: Any, wanted: str) -> Any:
    if wanted.startswith("tuple"):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        expected = "a list of texts"
    elif wanted == "bool":
        if isinstance(value, bool):
            return value
        expected = "true or false"
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
