"""The numpy reference: runs an update rule as the method states it. The oracle that every torch path is tested against."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from optevolve.space.decays import values_of
from optevolve.space.functions import Function, compile_formula
from optevolve.space.lower import Instruction, Program, Value, lower
from optevolve.space.random_bits import draw
from optevolve.space.rule import UpdateRule

__all__ = ["Interpreter", "ReferenceOptimizer"]

ARGUMENTS = ("x", "y")
Array = npt.NDArray[np.float32]


@lru_cache(maxsize=4096)
def _function(formula: str, names: tuple[str, ...], ndim: int = 1) -> Function:
    return compile_formula(formula, names, ndim)


@lru_cache(maxsize=4096)
def _table(formula: str, parameters: tuple[tuple[str, float], ...], steps: int, dtype: np.dtype[Any]) -> list[Any]:
    """A correction at t = 0 … steps-1."""
    return _numbers([_correction(formula, parameters, t) for t in range(steps)], dtype)


def _correction(formula: str, parameters: tuple[tuple[str, float], ...], t: int) -> float:
    value: float = _function(formula, ("t", *(name for name, _ in parameters)))(t, *(value for _, value in parameters))
    return value


def _numbers(values: npt.ArrayLike, dtype: np.dtype[Any]) -> list[Any]:
    """The values as arrays of no dimension."""
    with np.errstate(over="ignore"):
        array = np.asarray(values).astype(dtype)
    return [array[i, ...] for i in range(len(array))]


_Operation = tuple[int, Function, bool, Callable[[list[Any]], Any]]  # target slot, function, whether unary, argument(s) out of the slots


class Interpreter:
    """Update equation as a stateful function of gradient, weights and step.

    Every value of the program has a slot in one list: names are resolved once, not at every step.

    Args:
        program: from `lower`.
        shape: shape of one parameter tensor. Gradients and weights may have leading axes on top: a stack of independent tensors, each with
            its own state and all with the same random numbers.
        total_steps: length of the run T, for decays; ignored if there are none.
        seed: of dropout and noise.
        dtype: of gradients and weights. Decays, bias corrections and the rule's own numbers are computed in float64 and rounded to it;
            as arrays of no dimension they keep its precision (a Python number would become a float64 in `abs`) and are quicker.
    """

    def __init__(
        self, program: Program, shape: tuple[int, ...], total_steps: int = 1, seed: int = 0, dtype: npt.DTypeLike = np.float32
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.shape = shape
        self.seed = seed
        self.total_steps = total_steps
        self._slots: list[Any] = [None, None]
        self._index: dict[Value, int] = {"g": 0, "w": 1}
        states = [(self._slot(state.name, self._number(0.0)), state.next) for state in program.states]
        self._decays: list[tuple[int, list[Any]]] = []
        self._corrections: list[tuple[int, str, tuple[tuple[str, float], ...], list[Any]]] = []
        for scalar in program.scalars:
            slot = self._slot(scalar.name)
            if scalar.node is not None:
                self._decays.append((slot, _numbers(values_of(scalar.node, total_steps), self.dtype)))
            else:
                table = _table(scalar.formula, scalar.parameters, total_steps, self.dtype)
                self._corrections.append((slot, scalar.formula, scalar.parameters, table))
        self._draws = [(self._slot(random.name), random.primitive, random.stream) for random in program.draws]
        self._operations = [self._operation(instruction) for instruction in program.instructions]
        self._states = [(slot, self._slot_of(following)) for slot, following in states]
        self._result = self._slot_of(program.result)

    def _slot(self, name: Value, content: Any = None) -> int:
        self._index[name] = len(self._slots)
        self._slots.append(content)
        return self._index[name]

    def _slot_of(self, value: Value) -> int:
        """The slot of a name; a number gets one of its own."""
        if isinstance(value, str):
            return self._index[value]
        self._slots.append(self._number(value))
        return len(self._slots) - 1

    def _number(self, value: float) -> Any:
        with np.errstate(over="ignore"):
            return np.array(value, dtype=self.dtype)

    def _parameter(self, value: Value) -> int:
        """The slot of an operator's parameter, which formulas compute with as the number it is: `1 - beta`."""
        self._slots.append(value)
        return len(self._slots) - 1

    def _operation(self, instruction: Instruction) -> _Operation:
        function = _function(instruction.formula, tuple(name for name, _ in instruction.bindings), max(len(self.shape), 1))
        arguments = [
            self._slot_of(value) if isinstance(value, str) or name in ARGUMENTS else self._parameter(value)
            for name, value in instruction.bindings
        ]
        return self._slot(instruction.target), function, len(arguments) == 1, itemgetter(*arguments)

    def __call__(self, g: Array, w: Array, t: int) -> Any:
        """The update u at step t (from 0), of the shape of g, or a number; advances the state."""
        slots = self._slots
        slots[0] = g
        slots[1] = w
        at = min(t, self.total_steps - 1)
        for slot, table in self._decays:
            slots[slot] = table[at]
        for slot, formula, parameters, table in self._corrections:
            slots[slot] = table[t] if t < len(table) else self._number(_correction(formula, parameters, t))
        for slot, primitive, stream in self._draws:
            slots[slot] = draw(primitive, self.seed, t, stream, self.shape)
        for target, function, unary, arguments in self._operations:
            slots[target] = function(arguments(slots)) if unary else function(*arguments(slots))
        for slot, following in self._states:  # no state's next value is another state as it was: they may be replaced one by one
            slots[slot] = slots[following]
        return slots[self._result]


class ReferenceOptimizer:
    """An update rule on one parameter tensor (or a stack of them), in float32. Source: method section 2.

    Args:
        rule: what to run.
        shape, total_steps, seed: as for `Interpreter`.
    """

    def __init__(self, rule: UpdateRule, shape: tuple[int, ...], total_steps: int = 1, seed: int = 0) -> None:
        self.rule = rule
        self.update = Interpreter(lower(rule.expression), shape, total_steps, seed)
        self.momentum_buffer: Any = np.float32(0)
        self.t = 0

    def step(self, w: Array, g: Array, lr: Any, momentum: Any = 0.0, sign: Any = None) -> Array:
        """Weights after one step.

        Args:
            w, g: weights and gradient, shape (..., *shape), float32.
            lr: learning rate, a number or an array that broadcasts against w.
            momentum: for the momentum kinds.
            sign: overrides the rule's own; a number or an array that broadcasts.
        """
        sign = self.rule.sign if sign is None else sign
        with np.errstate(all="ignore"):
            return np.asarray(self.advance(w, g, lr * sign, momentum))

    def advance(self, w: Array, g: Array, signed_lr: Any, momentum: Any) -> Any:
        """`step` with learning rate and sign already multiplied, and floating-point warnings left to the caller: for tight loops."""
        change = signed_lr * self.update(g, w, self.t)
        self.t += 1
        if self.rule.kind == "plain":
            return w - change
        self.momentum_buffer = momentum * self.momentum_buffer - change
        if self.rule.kind == "momentum":
            return w + self.momentum_buffer
        return w + momentum * self.momentum_buffer - change
