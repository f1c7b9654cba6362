"""The numpy reference: runs an update rule as the method states it. The oracle that every torch path is tested against."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from optevolve.space.decays import values_of
from optevolve.space.functions import Function, compile_formula
from optevolve.space.lower import Instruction, Program, lower
from optevolve.space.random_bits import draw
from optevolve.space.rule import UpdateRule

__all__ = ["Interpreter", "ReferenceOptimizer"]

Array = npt.NDArray[np.float32]


@lru_cache(maxsize=4096)
def _function(formula: str, names: tuple[str, ...]) -> Function:
    return compile_formula(formula, names)


class Interpreter:
    """Update equation as a stateful function of gradient, weights and step.

    Args:
        program: from `lower`.
        shape: shape of one parameter tensor. Gradients and weights may have leading axes on top: a stack of independent tensors, each with
            its own state and all with the same random numbers.
        total_steps: length of the run T, for decays; ignored if there are none.
        seed: of dropout and noise.
    """

    def __init__(self, program: Program, shape: tuple[int, ...], total_steps: int = 1, seed: int = 0) -> None:
        self.program = program
        self.shape = shape
        self.seed = seed
        self.total_steps = total_steps
        self.decays = [(scalar.name, values_of(scalar.node, total_steps).tolist()) for scalar in program.scalars if scalar.node is not None]
        self.corrections = [
            (scalar.name, _function(scalar.formula, ("t", *(name for name, _ in scalar.parameters))), [v for _, v in scalar.parameters])
            for scalar in program.scalars
            if scalar.node is None
        ]
        self.operations = [self._operation(instruction) for instruction in program.instructions]
        self.states: dict[str, Any] = {state.name: np.float32(0) for state in program.states}

    @staticmethod
    def _operation(instruction: Instruction) -> tuple[str, Function, tuple[Any, ...]]:
        function = _function(instruction.formula, tuple(name for name, _ in instruction.bindings))
        return instruction.target, function, tuple(value for _, value in instruction.bindings)

    def __call__(self, g: Array, w: Array, t: int) -> Any:
        """The update u at step t (from 0), of the shape of g; advances the state."""
        values: dict[Any, Any] = {"g": g, "w": w, **self.states}
        at = min(t, self.total_steps - 1)
        for name, table in self.decays:
            values[name] = table[at]
        for name, function, parameters in self.corrections:
            values[name] = function(t, *parameters)
        for random in self.program.draws:
            values[random.name] = draw(random.primitive, self.seed, t, random.stream, self.shape)
        get = values.get
        for target, function, bindings in self.operations:
            values[target] = function(*[get(value, value) for value in bindings])
        for state in self.program.states:
            self.states[state.name] = values[state.next]
        return get(self.program.result, self.program.result)


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
            change = (lr * sign) * self.update(g, w, self.t)
            self.t += 1
            if self.rule.kind == "plain":
                return np.asarray(w - change)
            self.momentum_buffer = momentum * self.momentum_buffer - change
            if self.rule.kind == "momentum":
                return np.asarray(w + self.momentum_buffer)
            return np.asarray(w + momentum * self.momentum_buffer - change)
