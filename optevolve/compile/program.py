"""A rule's step as a program for one kernel that knows every operator, so that nothing is compiled for the rule. Needs only torch.

It is what a search runs: a rule that is trained for seconds is not worth a second of compilation, and as torch operations a step on a small
model is mostly their overhead. The kernel works on blocks that stay in the first-level cache, one operation after the other.
"""

from __future__ import annotations

import ast
import ctypes
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from optevolve.compile.cpp import OPERATIONS, Translator, prelude
from optevolve.compile.kernel import library, pointers_of

__all__ = ["Program", "program_for", "program_of"]

_RUN = r"""
constexpr int64_t BLOCK = 256;  // elements of a register
extern "C" void run(int64_t count, const int64_t* sizes, float* const* pointers, int64_t inputs, const double* scalars, int64_t numbers,
                    const int32_t* code, int64_t lines, int64_t registers, const int32_t* results, int64_t states) {
  static thread_local std::vector<float> memory;
  if (int64_t(memory.size()) < registers * BLOCK) memory.resize(registers * BLOCK);
  float* const r = memory.data();
  for (int64_t k = 0; k < numbers; ++k) std::fill_n(r + (inputs + k) * BLOCK, BLOCK, static_cast<float>(scalars[k]));
  for (int64_t tensor = 0; tensor < count; ++tensor) {
    float* const* tensors = pointers + inputs * tensor;
    for (int64_t start = 0; start < sizes[tensor]; start += BLOCK) {
      const int64_t n = std::min(BLOCK, sizes[tensor] - start);
      for (int64_t t = 0; t < inputs; ++t) std::copy_n(tensors[t] + start, n, r + t * BLOCK);
      for (const int32_t* line = code; line < code + 5 * lines; line += 5) {
        float* const out = r + line[1] * BLOCK;
        const float *a = r + line[2] * BLOCK, *b = r + line[3] * BLOCK, *c = r + line[4] * BLOCK;
        switch (line[0]) {
@CASES@
        }
      }
      for (int64_t j = 0; j <= states; ++j) std::copy_n(r + results[j] * BLOCK, n, tensors[j ? j + 1 : 0] + start);
    }
  }
}
"""
_CASE = """\
        case {number}:
          for (int64_t i = 0; i < n; i += WIDTH) {{
            const V x = V::loadu(a + i), y = V::loadu(b + i), z = V::loadu(c + i);
            ({operation}).store(out + i);
          }}
          break;"""


class _Assembler(Translator):
    """Translates into lines of five numbers: operation, result and up to three arguments, all of these registers."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.registers = {name: number for number, name in enumerate(names)}
        self.used = len(names)
        self.code: list[int] = []

    def apply(self, template: str, *args: str) -> str:
        register, self.used = self.used, self.used + 1
        self.code += [OPERATIONS.index(template), register, *map(int, args), *[int(args[0])] * (3 - len(args))]
        return str(register)

    def name(self, name: str) -> str:
        return str(self.registers[name])

    def define(self, name: str, value: str) -> None:
        self.registers[name] = int(value)

    def number(self, value: float) -> str:  # after the arguments, before what is computed
        self.constants.append(value)
        return str(self.registers[f"constant {len(self.constants) - 1}"])

    def norm(self, argument: str, mean: bool) -> str:
        raise NotImplementedError("A norm is of a whole parameter, and blocks know none.")


class _Counter(Translator):
    """Counts the numbers of the text, whose registers come before the others."""

    def number(self, value: float) -> str:
        self.constants.append(value)
        return ""

    def apply(self, template: str, *args: str) -> str:
        return ""


class Program:
    """One step of a rule on tensors laid end to end.

    Args:
        advance: text of the rule's function.
        states: how many of its arguments are states.
        run: the kernel.
    Raises:
        NotImplementedError: if the rule looks at more than single elements.
    """

    def __init__(self, advance: str, states: int, run: Any) -> None:
        function = ast.parse(advance).body[0]
        assert isinstance(function, ast.FunctionDef)
        names = [arg.arg for arg in function.args.args]
        tensors, numbers = names[: 2 + states], names[2 + states :]
        given = [arg.arg for arg in function.args.kwonlyargs if arg.arg != "reduce"]
        counter = _Counter()
        counter.statements(function)
        names = [*tensors, *given, *numbers, *(f"constant {number}" for number in range(len(counter.constants)))]
        assembler = _Assembler(names)
        results = [int(register) for register in assembler.statements(function)]
        self.run = run
        self.states, self.inputs = states, len(tensors)
        self.constants = tuple(float(value) for value in assembler.constants)
        self.lines, self.registers = len(assembler.code) // 5, assembler.used
        self.code = (ctypes.c_int32 * len(assembler.code))(*assembler.code)
        self.results = (ctypes.c_int32 * len(results))(*results)

    def __call__(self, tensors: Sequence[Sequence[Tensor]], scalars: Sequence[float], _: object = None) -> None:
        """Advances weights and states in place.

        Args:
            tensors: for each parameter its weights, gradient and states, float32, contiguous, on the CPU, of one size.
            scalars: the hyperparameters and the rule's numbers of this step.
        Raises:
            RuntimeError: if the memory of a tensor was freed.
        """
        values = (*scalars, *self.constants)
        pointers = pointers_of([tensor for row in tensors for tensor in row])
        self.run(
            len(tensors),
            (ctypes.c_int64 * len(tensors))(*[row[0].numel() for row in tensors]),
            (ctypes.c_void_p * len(pointers))(*pointers),
            self.inputs,
            (ctypes.c_double * len(values))(*values),
            len(values),
            self.code,
            self.lines,
            self.registers,
            self.results,
            self.states,
        )


def program_for(rule: Any, group: Mapping[str, Any], weights: torch.dtype, gradient: torch.dtype) -> Program | None:
    """The program of a step; None where there is none, or another execution is asked for.

    Args:
        rule: the optimizer's class.
        group: the settings of the parameters.
        weights, gradient: element types.
    """
    if group["fused"] is not None or group["maximize"] or rule.DRAWS or not rule.ELEMENTWISE:
        return None
    return program_of(rule.advance, len(rule.STATES)) if weights is gradient is torch.float32 else None


@lru_cache(maxsize=256)  # a search has many rules, and few at a time
def program_of(advance: Callable[..., Any], states: int) -> Program | None:
    """The program of an `advance` function; None if the rule can have none, or there is no compiler for the kernel."""
    run = _kernel()
    if run is None:
        return None
    try:
        return Program(textwrap.dedent(inspect.getsource(advance)), states, run)
    except NotImplementedError:  # norms, rows, columns, orthogonalisation
        return None


@cache
def _kernel() -> Any:
    """The compiled kernel, one for all rules; None without a compiler."""
    cases = "\n".join(_CASE.format(number=i, operation=text.format("x", "y", "z")) for i, text in enumerate(OPERATIONS))
    loaded = library(prelude(cases) + _RUN.replace("@CASES@", cases), "run")
    if loaded is None:
        return None
    run = loaded.run
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    run.argtypes = [integer, pointer, pointer, integer, pointer, integer, pointer, integer, integer, pointer, integer]
    return run
