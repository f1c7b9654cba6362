"""Rule to source text of an optimizer class. What runs is this text, and what is exported is this text.

The text defines two functions of the rule: `numbers`, what depends on the step alone, computed in double precision; and `advance`, the step
itself as a pure function of tensors and numbers. Everything else is `optevolve.compile.contract.RuleOptimizer`.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from optevolve.compile.render import NUMBER, SCALAR, TENSOR, Term, number_term, render
from optevolve.space.decays import depends_on_time, values_of
from optevolve.space.expression import Node
from optevolve.space.lower import Instruction, Program, Scalar, lower
from optevolve.space.operators import LEAVES, OPERATORS
from optevolve.space.rule import UpdateRule

__all__ = ["MOMENTUM_BUFFER", "RuleText", "emit_class", "emit_text"]

MOMENTUM_BUFFER = "momentum_buffer"
_WORD = re.compile(r"[A-Za-z_]\w*")
_INLINE_LENGTH = 60
_TIME_VARIABLES = {"r": "t / T", "c": "(2 * t % T) / T", "b": "0.95 * (1 - (t + 1) / T)"}


@dataclass(frozen=True)
class _Line:
    target: str
    text: str


class _Emitter:
    """Body of both functions for one program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.decays: dict[str, str] = {}  # a4 → its formula
        self.scalars: list[_Line] = []  # body of `numbers`
        self.names: list[str] = []  # what `numbers` returns
        self.lines: list[_Line] = []  # body of `advance`
        self.terms: dict[str, Term] = {}
        for scalar in program.scalars:
            self.terms[scalar.name] = self._scalar(scalar)
        for name in ("g", "w", *(draw.name for draw in program.draws)):
            self.terms[name] = Term(name, TENSOR)
        for state in program.states:
            self.terms[state.name] = Term(state.name, TENSOR)
        uses = _uses(program)
        for instruction in program.instructions:
            self._instruction(instruction, uses)

    def _scalar(self, scalar: Scalar) -> Term:
        if scalar.node is None:
            bindings = {name: number_term(value) for name, value in scalar.parameters} | {"t": Term("t", SCALAR)}
            return self._name(scalar.name, render(scalar.formula, bindings))
        term = self._time_term(scalar.node)
        return term if term.level == NUMBER else self._name(scalar.name, term)

    def _time_term(self, node: Node) -> Term:
        if not depends_on_time(node):
            return number_term(float(values_of(node, 1)[0]))
        if not node.args:
            formula = LEAVES[node.name].formula
            if formula != node.name:
                self.decays[node.name] = render(formula, {name: Term(name, SCALAR) for name in ("t", "T", "r", "c", "b")}).text
            return Term(node.name, SCALAR)
        row = OPERATORS[node.name]
        terms = [self._time_term(arg) for arg in node.args] + [number_term(value) for value in node.params]
        names = (*"xy"[: row.arity], *(parameter.name for parameter in row.params))
        bindings = dict(zip(names, terms, strict=True))
        for name, term in bindings.items():  # an argument that the formula repeats is computed once
            if term.level == SCALAR and not term.text.isidentifier() and len(re.findall(rf"\b{name}\b", row.formula)) > 1:
                self.scalars.append(_Line(f"e{len(self.scalars)}", term.text))
                bindings[name] = Term(self.scalars[-1].target, SCALAR)
        return render(row.formula, bindings)

    def _name(self, name: str, term: Term) -> Term:
        self.scalars.append(_Line(name, term.text))
        self.names.append(name)
        return Term(name, SCALAR)

    def _hoist(self, term: Term) -> Term:
        """A number per step, given a name in `numbers`."""
        if term.text in self.names:
            return term
        known = next((line.target for line in self.scalars if line.text == term.text and line.target in self.names), None)
        return Term(known, SCALAR) if known else self._name(f"h{len(self.scalars)}", term)

    def _instruction(self, instruction: Instruction, uses: dict[str, int]) -> None:
        bindings = {name: self.value(value) for name, value in instruction.bindings}
        term = render(instruction.formula, bindings, self._hoist)
        inline = uses.get(instruction.target, 0) == 1 and len(term.text) <= _INLINE_LENGTH
        if term.level == TENSOR and not inline:
            self.lines.append(_Line(instruction.target, term.text))
            term = Term(instruction.target, TENSOR)
        self.terms[instruction.target] = term

    def value(self, value: str | float) -> Term:
        return self.terms[value] if isinstance(value, str) else number_term(value)

    def tensor(self, value: str | float, like: str) -> Term:
        """The value as a tensor, spread out if it is a number."""
        term = self.value(value)
        if term.level == TENSOR:
            return term
        named = self._hoist(term) if term.level == SCALAR else term
        return Term(f"torch.zeros_like({like}) + {named.text}", TENSOR, strength=1)


def _uses(program: Program) -> dict[str, int]:
    """How often each value is read; what a state takes over counts twice, so that it keeps its name."""
    uses: dict[str, int] = {}
    for instruction in program.instructions:
        bound = dict(instruction.bindings)
        for word in _WORD.findall(instruction.formula):
            value = bound.get(word)
            if isinstance(value, str):
                uses[value] = uses.get(value, 0) + 1
    for state in program.states:
        uses[state.next] = uses.get(state.next, 0) + 2
    if isinstance(program.result, str):
        uses[program.result] = uses.get(program.result, 0) + 1
    return uses


@dataclass(frozen=True)
class RuleText:
    """Source text of a rule's two functions, and what goes with them.

    Attributes:
        numbers: what depends on the step alone; "" if nothing does, when asked for what is needed alone.
        advance: the step.
        constants: class attributes by name.
        scalars: how many numbers `numbers` returns.
        equation: lines for a docstring.
    """

    numbers: str
    advance: str
    constants: dict[str, object]
    scalars: int
    equation: str


def emit_text(rule: UpdateRule, whole: bool = True, numbers: str = "numbers") -> RuleText:
    """The functions of a rule, which need `math`, `torch` and `bessel_i1e` around them.

    Args:
        rule: what to emit.
        whole: let `advance` take every hyperparameter; otherwise those that it needs.
        numbers: name of the function of the step alone.
    """
    program = lower(rule.expression)
    emitter = _Emitter(program)
    states = [state.name for state in program.states]
    update = emitter.tensor(program.result, "w")
    returned = [emitter.tensor(state.next, state.name).text for state in program.states]
    change = f"lr * {update.within(3)}"
    lines = [*emitter.lines]
    if rule.kind == "plain":
        lines.append(_Line("w_next", f"w * keep {'-' if rule.sign == 1 else '+'} {change}"))
    else:
        states.append(MOMENTUM_BUFFER)
        lines.append(_Line("change", change if rule.sign == 1 else f"-{change}"))
        lines.append(_Line("momentum_next", f"momentum * {MOMENTUM_BUFFER} - change"))
        returned.append("momentum_next")
        step = "momentum_next" if rule.kind == "momentum" else "momentum * momentum_next - change"
        lines.append(_Line("w_next", f"w * keep + {step}"))
    body = "\n".join(f"{line.target} = {line.text}" for line in lines) + f"\nreturn {_tuple(['w_next', *returned])}"
    needed = {"momentum": rule.kind != "plain", "reduce": "reduce." in body}
    arguments = ["w", "g", *states, *emitter.names, *(draw.name for draw in program.draws)]
    arguments += ["*", "lr", "keep", *(name for name, need in needed.items() if whole or need)]
    constants = {
        "RULE": str(rule), "KIND": rule.kind, "STATES": tuple(states), "DRAWS": tuple(draw.primitive for draw in program.draws),
        "ELEMENTWISE": program.elementwise, "NEEDS_TOTAL_STEPS": program.needs_total_steps,
    }  # fmt: skip
    return RuleText(
        _NUMBERS.format(name=numbers, body=textwrap.indent(_numbers_body(emitter), "    ")) if whole or emitter.names else "",
        _ADVANCE.format(arguments=", ".join(arguments), body=textwrap.indent(body, "    ")),
        constants,
        len(emitter.names),
        _equation(rule),
    )


def emit_class(rule: UpdateRule, name: str, summary: str = "", learning_rate: float | None = None, weight_decay: float = 0.0) -> str:
    """Source text of the class of a rule, which needs `math`, `torch`, `bessel_i1e` and `RuleOptimizer` around it.

    Args:
        rule: what to emit.
        name: of the class, an identifier.
        summary: first line of its docstring.
        learning_rate: default of its lr; None: none.
        weight_decay: default of its weight decay.
    """
    text = emit_text(rule)
    defaults = {"LEARNING_RATE": learning_rate, "WEIGHT_DECAY": weight_decay}
    docstring = textwrap.fill(summary or f"The update rule `{rule}`.", 132)
    return _CLASS.format(
        name=name,
        docstring=textwrap.indent(f'"""{docstring}\n\n{text.equation}\n"""', "    ").replace("\\", "\\\\"),
        constants="\n".join(f"    {key} = {value!r}" for key, value in (text.constants | defaults).items()),
        methods="\n".join(textwrap.indent(f"@staticmethod\n{method}", "    ") for method in (text.numbers, text.advance)),
    )


def _tuple(names: list[str]) -> str:
    return ", ".join(names) if len(names) > 1 else f"({names[0]},)" if names else "()"


def _equation(rule: UpdateRule) -> str:
    u = f"u = {rule}" if rule.kind == "plain" and rule.sign == 1 else f"u = {str(rule).split(':', 1)[1].strip()}"
    minus = "-" if rule.sign == 1 else "+"
    step = {
        "plain": f"w <- w {minus} lr u",
        "momentum": f"m <- momentum m {minus} lr u,  w <- w + m",
        "nesterov": f"m <- momentum m {minus} lr u,  w <- w + momentum m {minus} lr u",
    }[rule.kind]
    return textwrap.fill(u, 128, initial_indent="    ", subsequent_indent="        ") + f"\n    {step}"


def _numbers_body(emitter: _Emitter) -> str:
    lines: list[str] = []
    corrections = {scalar.name for scalar in emitter.program.scalars if scalar.node is None}
    first = [line for line in emitter.scalars if line.target in corrections]
    rest = [line for line in emitter.scalars if line.target not in corrections]
    lines += [f"{line.target} = {line.text}" for line in first]
    if emitter.program.needs_total_steps:
        lines.append("t = torch.clamp(t, max=T - 1)  # past the end decays hold")
        text = " ".join([*emitter.decays.values(), *(line.text for line in rest)])
        read = set(_WORD.findall(text))
        lines += [f"{name} = {formula}" for name, formula in _TIME_VARIABLES.items() if name in read]
        order = sorted(emitter.decays, key=list(LEAVES).index)
        lines += [f"{name} = {emitter.decays[name]}" for name in order]
    lines += [f"{line.target} = {line.text}" for line in rest]
    lines.append(f"return {_tuple(emitter.names)}")
    return "\n".join(lines)


_NUMBERS = '''def {name}(t, T):
    """What depends on the step alone, in double precision: t counts from 0, T is the run's length."""
{body}
'''

_ADVANCE = '''def advance({arguments}):
    """Weights and states after one step; keep is 1 - lr * weight_decay."""
{body}
'''

_CLASS = """class {name}(RuleOptimizer):
{docstring}

{constants}

{methods}"""
