"""Published rules and schedules as data: `rules.toml`, compiled like any other rule.

`ZOO["opt6"].rule` is an `UpdateRule`; `SCHEDULES["L1"]` a factor on the learning rate as an expression of the step.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any, TypeAlias

from optevolve.errors import ParseError
from optevolve.space.expression import Node
from optevolve.space.paper_notation import parse_paper
from optevolve.space.rule import UpdateRule
from optevolve.space.text import parse, parse_expression

__all__ = ["NAMED", "SCHEDULES", "ZOO", "AnyRule", "MeasuredRate", "TaskRate", "ZooRule", "entry_of", "rule_of", "rule_or_name", "zoo"]


@dataclass(frozen=True)
class TaskRate:
    """What a rule's runs on one kind of task say of its learning rate.

    Attributes:
        best: the peak with the best mean score.
        low, high: from which peak to which scores are as good, within the noise.
        score: of the best, on validation data at the end.
        edge: whether that range ends with the grid that was tried, so that what lies beyond may be as good.
    """

    best: float
    low: float
    high: float
    score: float
    edge: bool


@dataclass(frozen=True)
class MeasuredRate:
    """A learning rate to start from, as `benchmarks/learning_rates.py` measured it.

    Attributes:
        learning_rate: the geometric mean over the tasks of the middles of their ranges, rounded to 1, 2 or 5 times a power of ten.
        tasks: by kind of task (language, images, table); without those on which every run diverged.
    """

    learning_rate: float
    tasks: Mapping[str, TaskRate]

    @property
    def edge(self) -> bool:
        """Whether the range of any task ends with the grid."""
        return any(task.edge for task in self.tasks.values())


@dataclass(frozen=True)
class ZooRule:
    """A published optimizer.

    Attributes:
        name: its key in `ZOO`.
        title: what people call it, such as "Nesterov momentum".
        rule: what it does, with its default of weight decay.
        summary: in a few words.
        source: who published it, where.
        recommended: peak learning rate that the source recommends; None if it gives none.
        measured: what was measured on three kinds of task; None for a rule that was not.
    """

    name: str
    title: str
    rule: UpdateRule
    summary: str
    source: str
    recommended: float | None = None
    measured: MeasuredRate | None = None

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay that is the optimizer's default, beside the rule; 0 for most."""
        return self.rule.weight_decay

    @property
    def provenance(self) -> str:
        """What it is and where it comes from, as exported files say it."""
        return f"{self.summary}; {self.source}"

    @property
    def learning_rate(self) -> float | None:
        """A peak to start from, the default of its class: the source's where it recommends one, else the measured one."""
        return self.recommended if self.recommended is not None or self.measured is None else self.measured.learning_rate


# A rule as public functions take it: itself, an entry of the zoo, a name there, or a text in the native or the paper's notation.
AnyRule: TypeAlias = UpdateRule | ZooRule | str


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(resources.files(__name__).joinpath("rules.toml").read_text(encoding="utf-8"))


@cache
def _rates() -> dict[str, Any]:
    return dict(json.loads(resources.files(__name__).joinpath("learning_rates.json").read_text(encoding="utf-8")))


def _measured(name: str) -> MeasuredRate | None:
    row = _rates()["rules"].get(name)
    return row and MeasuredRate(row["learning_rate"], {kind: TaskRate(**found) for kind, found in row["tasks"].items()})


def _row(table: str, name: str) -> Any:
    rows = _data()[table]
    if name not in rows:
        near = get_close_matches(str(name), rows, 1) or get_close_matches(str(name).lower(), rows, 1)
        raise KeyError(f"No {name!r} among the zoo's {table}." + (f" Did you mean {near[0]!r}?" if near else ""))
    return rows[name]


class _Zoo(Mapping[str, ZooRule]):
    """`ZOO`: every published rule by name, parsed when first asked for."""

    def __getitem__(self, name: str) -> ZooRule:
        row = _row("rules", name)
        title = row.get("title") or name.capitalize().replace("_static", " without its decays")
        rule = replace(parse(row["rule"]), weight_decay=row.get("weight_decay", 0.0))
        return ZooRule(name, title, rule, row["summary"], row["source"], row.get("learning_rate"), _measured(name))

    def __iter__(self) -> Iterator[str]:
        return iter(_data()["rules"])

    def __len__(self) -> int:
        return len(_data()["rules"])


class _Rules(Mapping[str, UpdateRule]):
    """Published rules by name: `optevolve.zoo["opt6"]` is an `UpdateRule`. `ZOO` says of each who published it, too."""

    def __getitem__(self, name: str) -> UpdateRule:
        return ZOO[name].rule

    def __iter__(self) -> Iterator[str]:
        return iter(ZOO)

    def __len__(self) -> int:
        return len(ZOO)

    def __repr__(self) -> str:
        return f"<published rules by name: {', '.join(self)}>"


class _Schedules(Mapping[str, Node]):
    """`SCHEDULES`: every published schedule factor by name."""

    def __getitem__(self, name: str) -> Node:
        return parse_expression(_row("schedules", name))

    def __iter__(self) -> Iterator[str]:
        return iter(_data()["schedules"])

    def __len__(self) -> int:
        return len(_data()["schedules"])


class _Named(Mapping[str, UpdateRule]):
    """`NAMED`: further forms that have a name, by that name."""

    def __getitem__(self, name: str) -> UpdateRule:
        return parse(_row("named", name))

    def __iter__(self) -> Iterator[str]:
        return iter(_data()["named"])

    def __len__(self) -> int:
        return len(_data()["named"])


ZOO: Mapping[str, ZooRule] = _Zoo()
NAMED: Mapping[str, UpdateRule] = _Named()
zoo: Mapping[str, UpdateRule] = _Rules()
SCHEDULES: Mapping[str, Node] = _Schedules()


def rule_or_name(text: str) -> UpdateRule:
    """The rule of that name in the zoo, else the rule that the text spells, natively or as the paper does (`Nest ~ bessel_i1e(g)`).

    The name of a schedule (L1 … L9) stands for gradient descent on it.

    Raises:
        ParseError: if it is neither; names near it are suggested.
    """
    name = text.strip().lower()
    if name in ZOO:
        return ZOO[name].rule
    if name.upper() in SCHEDULES:
        return UpdateRule(Node("mul", (SCHEDULES[name.upper()], Node("g"))))
    if "~" in text:  # no native text has one
        return parse_paper(text)
    try:
        return parse(text)
    except ParseError as error:
        near = get_close_matches(name, list(ZOO), 1, cutoff=0.7) if name.isidentifier() else []
        if near:
            raise ParseError(f"{error} Or did you mean {near[0]!r} of the zoo?", error.column) from None
        raise


def rule_of(rule: AnyRule) -> UpdateRule:
    """The rule that somebody gives in whatever form, with the weight decay that goes with it.

    Raises:
        ParseError: if it is a text that is neither a name nor a rule, or none of these forms.
    """
    if isinstance(rule, str):
        return rule_or_name(rule)
    if isinstance(rule, ZooRule):
        return rule.rule
    if not isinstance(rule, UpdateRule):
        raise ParseError(f"Expected a rule: a name of 'optevolve zoo', a text or an UpdateRule, got {type(rule).__name__}.")
    return rule


def entry_of(rule: AnyRule) -> ZooRule | None:
    """What the zoo says of a rule that is given by its name there or as an entry; None of others."""
    if isinstance(rule, ZooRule):
        return rule
    return ZOO.get(rule.strip().lower()) if isinstance(rule, str) else None
