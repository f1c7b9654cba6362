"""Rule to straight-line program, and program to source text for an array library.

`lower(expression)` shares common subexpressions, takes functions of the step alone out of the tensor code (a step computes them once, as
numbers), and gives each stateful operator its buffer; operators that keep the same average share one. The numpy reference
(`optevolve.space.interpret`) runs the program; `render` writes it as text for torch or JAX.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from optevolve.space.decays import depends_on_time, is_time_only
from optevolve.space.expression import NUMBER, Node
from optevolve.space.operators import EPS, LEAVES, OPERATORS, Operator
from optevolve.space.text import format_number

__all__ = ["SPELLINGS", "Draw", "Instruction", "Program", "Scalar", "State", "Value", "lower", "render_formula"]

Value = str | float


@dataclass(frozen=True)
class Instruction:
    """`target = formula`, with each variable of the formula bound to a name of the program or to a number."""

    target: str
    formula: str
    bindings: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Scalar:
    """A number per step, computed outside the tensor code.

    Attributes:
        name: its name in the program.
        node: a time-only expression, its value at step t of T; None for a correction.
        formula, parameters: of a correction such as `1 - beta ** (t + 1)`, which depends on t (from 0) alone.
    """

    name: str
    node: Node | None = None
    formula: str = ""
    parameters: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class State:
    """A buffer of the parameter's shape, 0 at first; after the step it takes the value called `next`."""

    name: str
    next: str


@dataclass(frozen=True)
class Draw:
    """A fresh random tensor of the parameter's shape: primitive "uniform" (in [0, 1)) or "normal"; one stream per occurrence."""

    name: str
    primitive: str
    stream: int


@dataclass(frozen=True)
class Program:
    """Straight-line code of one update equation.

    Attributes:
        instructions: in order; their targets are tensors of the parameter's shape.
        result: name of the update u, or a number.
        scalars, states, draws: see their classes.
        uses: which of "g" and "w" are read.
        elementwise: whether every element of the result depends on the same element of the inputs alone.
        needs_total_steps: whether a base decay occurs.
    """

    instructions: tuple[Instruction, ...]
    result: Value
    scalars: tuple[Scalar, ...] = ()
    states: tuple[State, ...] = ()
    draws: tuple[Draw, ...] = ()
    uses: frozenset[str] = field(default_factory=frozenset)
    elementwise: bool = True
    needs_total_steps: bool = False


def _formula(row: Operator, args: Sequence[Value | None]) -> str:
    return _POWERS.get(args[1], row.formula) if row.name == "power" else row.formula


class _Lowering:
    def __init__(self) -> None:
        self.values: dict[Node, Value] = {}
        self.states: dict[tuple[str, Value, tuple[float, ...]], State] = {}
        self.corrections: dict[tuple[str, tuple[float, ...]], str] = {}
        self.instructions: list[Instruction] = []
        self.scalars: list[Scalar] = []
        self.draws: list[Draw] = []
        self.uses: set[str] = set()
        self.tensors: set[Value] = set()
        self.elementwise = True

    def value(self, node: Node) -> Value:
        known = self.values.get(node)
        if known is None:
            known = self.values[node] = self._compute(node)
            if self._is_tensor(node):
                self.tensors.add(known)
        return known

    def _is_tensor(self, node: Node) -> bool:
        """Whether the value has the parameter's shape; else it is a number, perhaps another one at each step."""
        if not node.args:
            return node.name != NUMBER and LEAVES[node.name].tensor
        row = OPERATORS[node.name]
        if row.random or not row.elementwise:
            return True
        values = [self.values.get(arg) for arg in node.args]
        if not row.state:  # `left(1, g)` is a number: what a formula does not read makes no tensor of it
            words = _WORD.findall(_formula(row, values))
            values = [value for name, value in zip("xy", values, strict=False) if name in words]
        return any(value in self.tensors for value in values)

    def _compute(self, node: Node) -> Value:
        if node.name == NUMBER:
            return node.params[0]
        if is_time_only(node):
            name = f"d{sum(s.node is not None for s in self.scalars)}"
            self.scalars.append(Scalar(name, node))
            return name
        if not node.args:
            leaf = LEAVES[node.name]
            if leaf.random:
                return self._draw(leaf.random)
            self.uses.add(node.name)
            return node.name
        return self._operate(node, OPERATORS[node.name])

    def _operate(self, node: Node, row: Operator) -> Value:
        args = [self.value(arg) for arg in node.args]
        if not row.elementwise:
            args = [arg if arg in self.tensors else self._filled(arg) for arg in args]
        bindings: dict[str, Value] = dict(zip("xy", args, strict=False))
        bindings |= dict(zip((p.name for p in row.params), node.params, strict=True))
        self.elementwise &= row.elementwise
        formula = _formula(row, args)
        if row.state:
            state = self._state(row, bindings, node.params)
            if row.formula == "new":
                return state.next
            bindings |= {"old": state.name, "new": state.next}
        if row.correction:
            bindings["correction"] = self._correction(row, node.params)
        if row.random:
            bindings["draw"] = self._draw(row.random)
        return self._emit(f"n{len(self.instructions)}", formula, bindings)

    def _filled(self, value: Value) -> str:
        """A tensor full of a number: `clip_norm(1)` depends on how many elements there are. So does the authors' program: their log has
        `(sign(g))-(norm(1))`, which descends no sphere if the norm of 1 is 1."""
        self.uses.add("w")
        return self._emit(f"n{len(self.instructions)}", "x + 0 * w", {"x": value, "w": "w"})

    def _emit(self, target: str, formula: str, bindings: Mapping[str, Value]) -> str:
        used = set(_WORD.findall(formula))
        self.instructions.append(Instruction(target, formula, tuple((k, v) for k, v in bindings.items() if k in used)))
        return target

    def _state(self, row: Operator, bindings: Mapping[str, Value], params: tuple[float, ...]) -> State:
        key = (row.state, bindings["x"], params)
        state = self.states.get(key)
        if state is None:
            name = f"m{len(self.states)}"
            if row.state == "x":  # the state is the argument: nothing to compute
                state = State(name, str(bindings["x"]) if isinstance(bindings["x"], str) else self._emit(f"{name}_next", "x", bindings))
            else:
                state = State(name, self._emit(f"{name}_next", row.state, {**bindings, "old": name}))
            self.states[key] = state
        return state

    def _correction(self, row: Operator, params: tuple[float, ...]) -> str:
        key = (row.correction, params)
        if key not in self.corrections:
            self.corrections[key] = f"c{len(self.corrections)}"
            named = tuple(zip((p.name for p in row.params), params, strict=True))
            self.scalars.append(Scalar(self.corrections[key], None, row.correction, named))
        return self.corrections[key]

    def _draw(self, primitive: str) -> str:
        draw = Draw(f"r{len(self.draws)}", primitive, len(self.draws))
        self.draws.append(draw)
        return draw.name


_WORD = re.compile(r"[A-Za-z_]\w*")
_POWERS: dict[Value | None, str] = {2.0: "x * x", 3.0: "x * x * x"}  # exact and much cheaper than a general power


@lru_cache(maxsize=4096)
def lower(expression: Node) -> Program:
    """The program of an update equation. Two occurrences of one random subexpression draw once: they are one value."""
    lowering = _Lowering()
    result = lowering.value(expression)
    return Program(
        tuple(lowering.instructions),
        result,
        tuple(lowering.scalars),
        tuple(lowering.states.values()),
        tuple(lowering.draws),
        frozenset(lowering.uses),
        lowering.elementwise,
        depends_on_time(expression),
    )


_TORCH = {
    "abs": "torch.abs", "exp": "torch.exp", "log": "torch.log", "sqrt": "torch.sqrt", "sign": "torch.sign", "tanh": "torch.tanh",
    "arctan": "torch.atan", "arcsinh": "torch.asinh", "erf": "torch.erf", "erfc": "torch.erfc", "bessel_i1e": "torch.special.i1e",
    "sigmoid": "torch.sigmoid", "power": "torch.pow", "where": "torch.where", "cos": "torch.cos",
}  # fmt: skip
_JAX = {
    "abs": "jnp.abs", "exp": "jnp.exp", "log": "jnp.log", "sqrt": "jnp.sqrt", "sign": "jnp.sign", "tanh": "jnp.tanh",
    "arctan": "jnp.arctan", "arcsinh": "jnp.arcsinh", "erf": "jax.scipy.special.erf", "erfc": "jax.scipy.special.erfc",
    "bessel_i1e": "jax.scipy.special.i1e", "sigmoid": "jax.nn.sigmoid", "maximum": "jnp.maximum", "minimum": "jnp.minimum",
    "power": "jnp.power", "where": "jnp.where", "cos": "jnp.cos",
}  # fmt: skip

#: How each array library spells the primitives; one that is not listed keeps its own name and must be defined beside the code.
SPELLINGS: dict[str, dict[str, str]] = {"torch": _TORCH, "jax": _JAX}


def render_formula(formula: str, bindings: Mapping[str, Value], library: str, number: Callable[[float], str] = format_number) -> str:
    """The formula as source text: variables replaced by what they are bound to, primitives by the library's spelling.

    Args:
        formula: text over primitives and the keys of bindings.
        bindings: variable to name or number.
        library: a key of `SPELLINGS`.
        number: how to write a number, for those who want it as an argument instead of a literal.
    """
    spelling = SPELLINGS[library]

    def replace(match: re.Match[str]) -> str:
        word = match[0]
        if word in bindings:
            value = bindings[word]
            if isinstance(value, str):
                return value
            text = number(value)
            return f"({text})" if text[0] == "-" else text
        return format_number(EPS) if word == "EPS" else spelling.get(word, word)

    return _WORD.sub(replace, formula)
