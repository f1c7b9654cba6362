"""Everything there is to show about a rule, as one record; the command line, the report and notebooks render it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from optevolve.errors import ExportError
from optevolve.space.decays import values_of
from optevolve.space.explain import explain
from optevolve.space.expression import NUMBER
from optevolve.space.latex import latex
from optevolve.space.lower import Program, lower
from optevolve.space.operators import EPS
from optevolve.space.paper_notation import to_paper
from optevolve.space.rule import UpdateRule
from optevolve.space.schedule_split import decay_factors, schedule_of
from optevolve.space.text import format_expression, format_number

__all__ = ["Description", "describe", "step_lines"]

_BYTES = 4  # of a float32
_WORD = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Description:
    """What there is to show about a rule.

    Attributes:
        native, paper, latex: the rule in each notation; paper empty where the authors' has no spelling for it.
        equation: the update u alone, in native notation.
        kind, sign: see `UpdateRule`.
        buffers: what is kept between steps: name and next value, such as ("m0", "0.9 * m0 + (1 - 0.9) * g"); "m" is the momentum buffer.
        bytes_per_parameter: state per weight in float32.
        steps: what one step computes, line by line.
        needs_total_steps: whether it depends on the run's length.
        total_steps: length of the run for which the values below are given.
        decays: values at each step of every function of the step in the rule, by native text, shape (total_steps,).
        schedule: the factor on the learning rate hidden in the rule, in native notation; "1" if none.
        schedule_values: its values, shape (total_steps,).
        rest: the rule without that factor.
        words: `explain(rule)`.
        integrity: the verdict of the integrity check as the caller passed it.
    """

    native: str
    paper: str
    latex: str
    equation: str
    kind: str
    sign: int
    buffers: tuple[tuple[str, str], ...]
    bytes_per_parameter: int
    steps: tuple[str, ...]
    needs_total_steps: bool
    total_steps: int
    decays: Mapping[str, npt.NDArray[np.float64]]
    schedule: str
    schedule_values: npt.NDArray[np.float64]
    rest: str
    words: str
    integrity: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The same with lists for arrays, ready for JSON (values that are not finite become None)."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain["buffers"] = [{"name": name, "next": following} for name, following in self.buffers]
        plain["decays"] = {text: _json(values) for text, values in self.decays.items()}
        plain["schedule_values"] = _json(self.schedule_values)
        plain["steps"] = list(self.steps)
        plain["integrity"] = {key: _json(value) for key, value in self.integrity.items()}
        return plain


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray | list | tuple):
        return [_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def describe(rule: UpdateRule, total_steps: int = 1000, integrity: Mapping[str, Any] | None = None) -> Description:
    """Everything there is to show about a rule.

    Args:
        rule: what to show.
        total_steps: length of the run for the values of decays, at least 1.
        integrity: facts of its integrity check (such as ok, sign, reason, losses), kept as they are.
    """
    if total_steps < 1:
        raise ValueError(f"Expected total_steps of at least 1, got {total_steps}.")
    program = lower(rule.expression)
    factor, rest = schedule_of(rule)
    buffers = tuple(_buffers(program, rule))
    return Description(
        native=str(rule),
        paper=_paper(rule),
        latex=latex(rule),
        equation=format_expression(rule.expression),
        kind=rule.kind,
        sign=rule.sign,
        buffers=buffers,
        bytes_per_parameter=_BYTES * len(buffers),
        steps=step_lines(rule),
        needs_total_steps=program.needs_total_steps,
        total_steps=total_steps,
        decays={text: values_of(node, total_steps) for text, node in decay_factors(rule).items()},
        schedule=format_expression(factor),
        schedule_values=values_of(factor, total_steps),
        rest=str(rest) if factor.name != NUMBER else str(rule),
        words=explain(rule),
        integrity=dict(integrity or {}),
    )


def _paper(rule: UpdateRule) -> str:
    try:
        return to_paper(rule)
    except ExportError:  # no spelling there is an answer, and a common one
        return ""


def step_lines(rule: UpdateRule) -> tuple[str, ...]:
    """What one step does, in the order of the program that runs: α the learning rate, μ the momentum, m its buffer, m0 … the others."""
    program = lower(rule.expression)
    lines = [
        f"{scalar.name} = {_filled(scalar.formula, dict(scalar.parameters)) if scalar.node is None else format_expression(scalar.node)}"
        for scalar in program.scalars
    ]
    lines += [f"{draw.name} = a fresh random tensor ({draw.primitive})" for draw in program.draws]
    lines += [f"{step.target} = {_filled(step.formula, dict(step.bindings))}" for step in program.instructions]
    lines += [f"{state.name} ← {state.next}" for state in program.states]
    return (*lines, *_moves(rule, _text(program.result)))


def _moves(rule: UpdateRule, update: str) -> list[str]:
    minus = "-" if rule.sign == 1 else "+"
    if rule.kind == "plain":
        return [f"w ← w {minus} α * {update}"]
    last = "m" if rule.kind == "momentum" else f"μ * m {minus} α * {update}"
    return [f"m ← μ * m {minus} α * {update}", f"w ← w + {last}"]


def _buffers(program: Program, rule: UpdateRule) -> list[tuple[str, str]]:
    formulas = {step.target: _filled(step.formula, dict(step.bindings)) for step in program.instructions}
    buffers = [(state.name, formulas.get(state.next, state.next)) for state in program.states]
    if rule.kind != "plain":
        buffers.append(("m", _moves(rule, "u")[0].removeprefix("m ← ")))
    return buffers


def _filled(formula: str, bindings: Mapping[str, str | float]) -> str:
    """A row's formula with what its variables are bound to."""

    def replace(match: re.Match[str]) -> str:
        if match[0] == "EPS":
            return format_number(EPS)
        return _text(bindings[match[0]]) if match[0] in bindings else match[0]

    return _WORD.sub(replace, formula)


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return format_number(value) if value >= 0 else f"({format_number(value)})"
