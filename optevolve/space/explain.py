"""Rules in words: what goes in, what is computed in which order, what changes over the run, how the update answers to the gradient.

Words come from the `summary` of the tables' rows; what a rule does as a whole is measured on it (`optevolve.space.behaviour`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from optevolve.space.behaviour import Behaviour, behaviour
from optevolve.space.decays import is_time_only, values_of
from optevolve.space.expression import NUMBER, Node
from optevolve.space.latex import operand_rows
from optevolve.space.lower import lower
from optevolve.space.operators import LEAVES, OPERATORS, Operator
from optevolve.space.rule import UpdateRule
from optevolve.space.schedule_split import decay_factors, schedule_of
from optevolve.space.simplify import simplify
from optevolve.space.text import format_expression, format_number

__all__ = ["describe_course", "explain"]

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


def _short(value: float) -> str:
    """Three digits, and nothing in place of what is hardly more."""
    return "0" if abs(value) < 5e-4 else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}" if abs(value) < 1e6 else f"{value:.2e}"


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

    def value(match: re.Match[str]) -> str:
        text = values[match[0]]
        return f"({text})" if match.string[: match.start()].endswith(("^", "-")) and not _SINGLE.fullmatch(text) else text

    text = re.sub(rf"\b({'|'.join(values)})\b", value, row.summary)
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
    """What `behaviour` found. Each word for a property stands where the property does: no sentence says what a rule is not."""
    found = behaviour(rule)
    uses = lower(simplify(rule).expression).uses
    if not found.finite:
        sentences = ["On gradients of ordinary size it can give updates that are not finite."]
    else:
        sentences = [*_of_gradients(found, "g" in uses), *_of_weights(found), *_of_the_rest(found)]
    program = lower(rule.expression)
    buffers = len(program.states) + (rule.kind != "plain")
    kept = "nothing" if not buffers else f"{buffers} number{'s' if buffers > 1 else ''} per weight"
    return [" ".join([*sentences, f"Between steps it remembers {kept}."])]


def _of_gradients(found: Behaviour, used: bool) -> Iterator[str]:
    if not found.answers:
        yield "No gradient of the sizes tried changes the update." if used else "It does not look at the gradient at all."
        return
    what = "What the gradients add to the update" if found.offset else "The update"
    told = found.holds_from == 0 and found.holds_to == np.inf
    if found.signs_only:
        yield "Only the signs of the gradients count."
    elif found.power == 1 and told:
        yield f"{what} grows in proportion to the gradients."
    elif found.power == 0:
        span = "" if found.holds_from == 0 else f" from {found.holds_from:g} on"
        span += "" if found.holds_to == np.inf else f" up to {found.holds_to:g}"
        yield f"Ten times larger gradients leave {_as_object(what)} as it is: their scale hardly matters" + (f",{span}." if span else ".")
    elif found.power is not None and told:
        yield f"Ten times larger gradients make {_as_object(what)} {_short(10**found.power)} times as large."
    elif found.growth:
        factors = [f"{_factor(row.factor)} at {row.scale:g}" for row in found.growth]
        listed = " and ".join([", ".join(factors[:-1]), factors[-1]] if len(factors) > 1 else factors)
        yield f"How {_as_object(what)} answers to ten times larger gradients depends on their size: it becomes {listed}."
    if found.bounded and found.bound is not None:
        yield f"No element of the update exceeds {_rounded_up(found.bound):g}, however large the gradients."
    elif found.bounded:
        yield "However large the gradients, the elements of the update stay below a bound."
    elif found.bounded is False and not (found.power is not None and told):
        yield "Larger gradients make larger updates without end."
    if found.overflows_at is not None:
        yield f"Gradients of {found.overflows_at:g} and more overflow in float32."
    if found.symmetry == 0:
        yield "The sign of the gradients does not matter."
    elif found.symmetry is None and not found.random:
        yield "Positive and negative gradients are treated differently."


def _as_object(what: str) -> str:
    return what[0].lower() + what[1:]


def _factor(value: float) -> str:
    if value == np.inf:
        return "more than 100 times as large"
    return "no larger" if 0.95 < value < 1.05 else f"{float(f'{value:.2g}'):g} times as large"


def _rounded_up(value: float) -> float:
    """To three digits."""
    digit = 10.0 ** (np.floor(np.log10(value)) - 2) if value > 0 else 1.0
    return float(f"{np.ceil(value / digit - 1e-6) * digit:.6g}")


def _of_weights(found: Behaviour) -> Iterator[str]:
    term = found.weight_term
    if term is not None and term.free:
        share = (
            f"{max(abs(term.low), abs(term.high)):.3g} times the weights"
            if term.constant
            else "a share of the weights that changes with the step"
        )
        part = f"Whatever the gradients, {share} is part of the update"
        if term.low >= 0:
            yield f"{part}: weight decay."
        elif term.high <= 0:
            yield f"{part}, and drives them away from 0."
        else:
            yield f"{part}, which now shrinks them and now drives them away from 0."
    elif term is not None:
        decides = "gradients, step and chance have" if found.random else "gradients and step have"
        yield f"The update pulls the weights towards 0, by at most {term.high:.3g} of their size, as {decides} it."
    elif found.weights_matter:
        yield "The weights themselves have a say in the update" + (
            f": such as are common, of about 0.1, change it by less than {_percent(found.weights_change)} %."
            if found.weights_change < 1e-3
            else "."
        )


def _percent(share: float) -> str:
    """A power of ten, at least ten times the share, in percent."""
    return f"{10.0 ** np.ceil(np.log10(1000 * share)):g}"


def _of_the_rest(found: Behaviour) -> Iterator[str]:
    if not found.zero_finite:
        yield "Where there never was a gradient the update is not finite."
    elif found.rests:
        yield "A weight that never has a gradient stays where it is."
    elif found.drifts and found.answers and found.weight_term is None:
        yield "Weights move even without a gradient."
    if found.remembers:
        yield "Earlier gradients count too."
    elif found.remembers is False and found.answers:
        yield "Of the gradients, the present one alone makes the update."
    if found.couples:
        yield "The gradient of each weight has a say in the updates of others of its tensor."
    if found.random:
        yield "It draws random numbers at every step."
