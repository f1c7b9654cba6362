"""Rules in words: what goes in, what is computed in which order, what changes over the run, how the update answers to the gradient.

Words come from the `summary` of the tables' rows; what a rule does as a whole is measured on it, with the numpy reference.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from optevolve.space.decays import is_time_only, values_of
from optevolve.space.expression import NUMBER, Node
from optevolve.space.interpret import Interpreter
from optevolve.space.latex import operand_rows
from optevolve.space.lower import lower
from optevolve.space.operators import LEAVES, OPERATORS, Operator
from optevolve.space.rule import UpdateRule
from optevolve.space.schedule_split import decay_factors, schedule_of
from optevolve.space.text import format_expression, format_number

__all__ = ["describe_course", "explain", "gradient_response"]

_KINDS = {
    "plain": "Each step moves the weights {way} the update u, as far as the learning rate says.",
    "momentum": "Each step adds the update u to a fading sum of earlier updates and moves the weights {way} that sum: directions that "
    "persist gather speed, directions that alternate cancel.",
    "nesterov": "Nesterov's momentum: each step adds the update u to a fading sum of earlier updates and moves the weights {way} that sum "
    "as it will be one step on: directions that persist gather speed, and the brake comes a step earlier.",
}
_COURSE_STEPS = 1000
_FLAT = 1e-9
_SINGLE = re.compile(r"[\w.]+(e-\d+)?|\w+\([^()]*\)")  # a name, a number, a call: what needs no brackets


def explain(rule: UpdateRule) -> str:
    """A few paragraphs of plain text on what the rule does, for someone who knows gradients and no more."""
    way = "against" if rule.sign == 1 else "along"
    paragraphs = [_KINDS[rule.kind].format(way=way), *_ingredients(rule), *_computation(rule), *_over_time(rule), *_character(rule)]
    return "\n\n".join(paragraphs)


def describe_course(values: npt.NDArray[np.float64]) -> str:
    """The course of a function of the step in words, such as "rises from 0 to 1 at 50 % of the run, then falls to 0".

    Args:
        values: at each step of a run, shape (steps,), at least one.
    """
    if not np.all(np.isfinite(values)):
        return "is not finite everywhere"
    shown = [_short(value) for value in (values[0], values[-1], values.min(), values.max())]
    changes = np.diff(values)
    moves = changes[np.abs(changes) > _FLAT * max(1.0, float(np.abs(values).max()))]
    if moves.size == 0:
        return f"stays at {shown[0]}"
    turns = np.flatnonzero(np.diff(np.sign(moves)))
    up = moves[0] > 0
    first, last = ("rises", "falls") if up else ("falls", "rises")
    if turns.size == 0:
        return f"{first} from {shown[0]} to {shown[1]}"
    if turns.size == 1:
        at = int(values.argmax() if up else values.argmin())
        return f"{first} from {shown[0]} to {_short(values[at])} at {100 * at / len(values):.0f} % of the run, then {last} to {shown[1]}"
    return f"starts at {shown[0]}, moves between {shown[2]} and {shown[3]} with {turns.size} turns, and ends at {shown[1]}"


def gradient_response(rule: UpdateRule, factor: float = 10.0, scale: float = 1e-3, steps: int = 20) -> float:
    """By what factor the update grows when all gradients do: 1 for Adam, `factor` for gradient descent.

    Measured on random gradients at half of a run of `steps` steps, as the distance from the update that no gradient at all would give (if
    that is finite); NaN if there is no such distance or it is not finite.

    Args:
        factor: how much larger the gradients become.
        scale: standard deviation of the gradients; 1e-3 is typical of network training.
        steps: length of the run.
    """
    none, small, large = (_update(rule, scale * times, steps) for times in (0.0, 1.0, factor))
    with np.errstate(all="ignore"):
        base = none if np.all(np.isfinite(none)) else np.zeros_like(none)
        ratio = float(np.linalg.norm(large - base) / np.linalg.norm(small - base))
    return ratio if np.isfinite(ratio) else float("nan")


def _update(rule: UpdateRule, scale: float, steps: int) -> npt.NDArray[np.float64]:
    shape = (64,)
    generator = np.random.default_rng(0)
    update = Interpreter(lower(rule.expression), shape, steps, dtype=np.float64)
    # a steady part and noise about it, as gradients of mini-batches have
    steady, weights = generator.normal(size=shape), generator.normal(scale=0.1, size=shape)
    value: Any = 0.0
    with np.errstate(all="ignore"):
        for t in range(steps // 2 + 1):
            gradient: Any = scale * (steady + generator.normal(size=shape))
            value = update(gradient, cast(Any, weights), t)
    return np.broadcast_to(np.asarray(value, dtype=np.float64), shape)


def _short(value: float) -> str:
    return f"{0.0 if abs(value) < 5e-4 else value:.3g}"


def _ingredients(rule: UpdateRule) -> list[str]:
    found: dict[str, str] = {}
    _collect(rule.expression, found)
    return [_listing("It is made of:", found)] if found else []


def _collect(node: Node, found: dict[str, str]) -> None:
    if is_time_only(node):
        return
    row = operand_rows().get(node)
    if row is not None:
        found.setdefault(format_expression(node), row.summary)
    elif not node.args:
        found.setdefault(node.name, LEAVES[node.name].summary)
    for arg in node.args if row is None else ():
        _collect(arg, found)


def _listing(title: str, rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join([title, *(f"  {name.ljust(width)}  {text}" for name, text in rows.items())])


def _computation(rule: UpdateRule) -> list[str]:
    """One line per operator, innermost first, each result under a letter that later lines use."""
    names: dict[Node, str] = {}
    lines: dict[str, str] = {}
    for node in _steps(rule.expression):
        if node in names:
            continue
        if node in operand_rows() or is_time_only(node) or not node.args:
            names[node] = format_expression(node)
            continue
        name = "u" if node == rule.expression else _letter(len(lines))
        args = [names[arg] for arg in node.args]
        lines[f"{name} = {_call(node, args)}"] = _words(OPERATORS[node.name], args, node.params)
        names[node] = name
    return [_listing("It is computed in this order:", lines) if lines else f"The update u is {names[rule.expression]}."]


def _steps(node: Node) -> Iterator[Node]:
    """As `Node.walk`, but operands and functions of the step are not taken apart."""
    if node not in operand_rows() and not is_time_only(node):
        for arg in node.args:
            yield from _steps(arg)
    yield node


def _letter(index: int) -> str:
    """A, B, … Z, A1, B1, …"""
    return chr(ord("A") + index % 26) + (str(index // 26) if index >= 26 else "")


def _call(node: Node, args: list[str]) -> str:
    """The operator on names, in native notation."""
    row = OPERATORS[node.name]
    if row.infix:
        bracketed = [arg if _SINGLE.fullmatch(arg) else f"({arg})" for arg in args]
        return f" {row.infix[0]} ".join(bracketed) if row.arity == 2 else row.infix[0] + bracketed[0]
    return f"{row.name}({', '.join([*args, *map(format_number, node.params)])})"


def _words(row: Operator, args: list[str], params: tuple[float, ...]) -> str:
    values = dict(zip("xy", args, strict=False)) | {p.name: format_number(v) for p, v in zip(row.params, params, strict=True)}
    text = re.sub(rf"\b({'|'.join(values)})\b", lambda match: values[match[0]], row.summary)
    extra = [f"{name} {values[name]}" for name in (p.name for p in row.params) if not re.search(rf"\b{name}\b", row.summary)]
    return f"{text} ({', '.join(extra)})" if extra else text


def _over_time(rule: UpdateRule) -> list[str]:
    decays = decay_factors(rule)
    if not decays:
        return []
    rows = {text: describe_course(values_of(node, _COURSE_STEPS)) for text, node in decays.items()}
    paragraphs = [_listing("Over the run:", rows)]
    factor, rest = schedule_of(rule)
    if factor.name != NUMBER:
        course = describe_course(values_of(factor, _COURSE_STEPS))
        paragraphs.append(
            f"All of it is multiplied by {format_expression(factor)}, a learning-rate schedule of its own on top of the run's. "
            f"It {course}. Without it the rule is {rest}."
        )
    return paragraphs


def _character(rule: UpdateRule) -> list[str]:
    program = lower(rule.expression)
    sentences = []
    ratio = gradient_response(rule)
    if "g" not in program.uses:
        sentences.append("It does not look at the gradient at all.")
    elif 0.9 < ratio < 1.1:
        sentences.append("Ten times larger gradients leave the update as it is: their scale hardly matters.")
    elif 9 < ratio < 11:
        sentences.append("The update grows in proportion to the gradients.")
    elif not np.isnan(ratio):
        sentences.append(f"Ten times larger gradients make the update about {ratio:.2g} times as large.")
    if any(leaf.name == "w" for leaf in rule.expression.walk()):
        sentences.append("It looks at the weights themselves, as weight decay does.")
    if program.draws:
        sentences.append("It draws random numbers at every step.")
    buffers = len(program.states) + (rule.kind != "plain")
    kept = "nothing" if not buffers else f"{buffers} number{'s' if buffers > 1 else ''} per weight"
    sentences.append(f"Between steps it remembers {kept}.")
    return [" ".join(sentences)]
