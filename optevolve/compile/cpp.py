"""The text of a rule's `advance` as C++ for the CPU: every tensor of a model in one call and one pass over memory. Needs no torch.

The arithmetic is translated from the Python text that runs in eager mode, operation for operation, into torch's own vector classes.
Numbers, those in the text included, are arguments, so that rules that differ in a number are one kernel. A norm needs a pass of its own.
"""

from __future__ import annotations

import ast
import re
import textwrap
from typing import NamedTuple

__all__ = ["OPERATIONS", "CppKernel", "Translator", "prelude", "translate"]


class CppKernel(NamedTuple):
    """C++ text of a rule's step, and what goes with it. The element types WEIGHT and GRADIENT, and MAXIMIZE, are left to be defined."""

    text: str
    constants: tuple[float, ...]  # numbers of the Python text, which follow the hyperparameters and the rule's own numbers
    uniforms: tuple[int, ...]  # positions among the rule's draws of those that the kernel makes itself
    normals: tuple[int, ...]  # positions of those that it is given as tensors


_METHODS = {
    "torch.abs": "{0}.abs()", "torch.exp": "{0}.exp()", "torch.log": "{0}.log()", "torch.sqrt": "{0}.sqrt()", "torch.tanh": "{0}.tanh()",
    "torch.atan": "{0}.atan()", "torch.asinh": "{0}.asinh()", "torch.erf": "error_function({0})", "torch.erfc": "{0}.erfc()",
    "torch.pow": "{0}.pow({1})", "torch.maximum": "at::vec::maximum({0}, {1})", "torch.minimum": "at::vec::minimum({0}, {1})",
    "torch.where": "V::blendv({2}, {1}, {0})", "torch.sign": "sign({0})", "torch.sigmoid": "sigmoid({0})", "bessel_i1e": "bessel_i1e({0})",
}  # fmt: skip
_NEGATIVE = "{0}.neg()"
_SYMBOLS: dict[type, str] = {
    ast.Add: "({0} + {1})", ast.Sub: "({0} - {1})", ast.Mult: "({0} * {1})", ast.Div: "({0} / {1})", ast.GtE: "({0} >= {1})",
}  # fmt: skip
OPERATIONS = (_NEGATIVE, *_SYMBOLS.values(), *_METHODS.values())  # every template that `Translator.apply` may meet


class Translator:
    """Walks over the expressions of an `advance` function; what is made of them is up to the other methods."""

    def __init__(self) -> None:
        self.constants: list[float] = []
        self.lines: list[str] = []
        self.norms: list[tuple[int, str]] = []  # lines before it, argument

    def apply(self, template: str, *args: str) -> str:
        """An operation on translated arguments."""
        return template.format(*args)

    def name(self, name: str) -> str:
        """An argument of the function, or what a statement has defined."""
        return name

    def number(self, value: float) -> str:
        """A number of the text."""
        if isinstance(value, int):
            return f"V({value}.0f)"
        self.constants.append(value)
        return f"k{len(self.constants) - 1}"

    def define(self, name: str, value: str) -> None:
        """What a statement defines, its value translated."""
        self.lines.append(f"const V {name} = {value};")

    def statements(self, function: ast.FunctionDef) -> list[str]:
        """All of a function, in order; what is made of its results."""
        for statement in function.body:
            if isinstance(statement, ast.Assign):
                self.define(ast.unparse(statement.targets[0]), self.expression(statement.value))
            elif isinstance(statement, ast.Return):
                assert isinstance(statement.value, ast.Tuple)
                return [self.expression(element) for element in statement.value.elts]
        raise AssertionError("an advance function returns")

    def expression(self, node: ast.expr) -> str:
        """An expression, translated."""
        folded = _constant(node)
        if folded is not None:
            return self.number(folded)
        if isinstance(node, ast.Name):
            return self.name(node.id)
        if isinstance(node, ast.UnaryOp):
            return self.apply(_NEGATIVE, self.expression(node.operand))
        if isinstance(node, ast.BinOp):
            return self.apply(_SYMBOLS[type(node.op)], self.expression(node.left), self.expression(node.right))
        if isinstance(node, ast.Compare):
            return self.apply(_SYMBOLS[type(node.ops[0])], self.expression(node.left), self.expression(node.comparators[0]))
        assert isinstance(node, ast.Call)
        return self._call(ast.unparse(node.func), node)

    def _call(self, name: str, node: ast.Call) -> str:
        if name == "torch.zeros_like":
            return self.number(0)
        args = [self.expression(arg) for arg in node.args]
        if name in ("reduce.norm", "reduce.rms"):
            return self.norm(args[0], mean=name == "reduce.rms")
        if name.startswith("reduce."):
            raise NotImplementedError(f"{name} has no kernel.")
        if name == "torch.clamp":
            (bound,) = node.keywords
            return self.apply(_METHODS["torch.maximum" if bound.arg == "min" else "torch.minimum"], args[0], self.expression(bound.value))
        return self.apply(_METHODS[name], *args)

    def norm(self, argument: str, mean: bool) -> str:
        """The norm of a tensor, or the root of its mean square."""
        self.norms.append((len(self.lines), argument))
        norm = f"norm{len(self.norms) - 1}"
        return f"({norm} / root_size)" if mean else norm


def _constant(node: ast.expr) -> float | None:
    """The value of an expression of numbers alone; None for any other."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int | float)
        return node.value
    if isinstance(node, ast.Attribute) and ast.unparse(node) in ("math.inf", "math.nan"):
        return float(node.attr)
    if isinstance(node, ast.UnaryOp):
        value = _constant(node.operand)
        return None if value is None else -value
    if isinstance(node, ast.BinOp):
        left, right = _constant(node.left), _constant(node.right)
        if left is None or right is None:
            return None
        if isinstance(node.op, ast.Div):
            return left / right
        return left + right if isinstance(node.op, ast.Add) else left - right if isinstance(node.op, ast.Sub) else left * right
    return None


def translate(advance: str, states: int, draws: tuple[str, ...]) -> CppKernel:
    """The kernel of an `advance` function.

    Args:
        advance: its Python text.
        states: how many of its arguments are states.
        draws: primitives of its random tensors.
    Raises:
        NotImplementedError: if the rule looks at rows, columns or singular values.
    """
    function = ast.parse(advance).body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [arg.arg for arg in function.args.args]
    state_names, draw_names = names[2 : 2 + states], names[len(names) - len(draws) :]
    given = [arg.arg for arg in function.args.kwonlyargs if arg.arg != "reduce"]
    scalars = [*given, *names[2 + states : len(names) - len(draws)]]
    translator = Translator()
    results = translator.statements(function)
    uniforms = tuple(i for i, draw in enumerate(draws) if draw == "uniform")
    normals = tuple(i for i, draw in enumerate(draws) if draw != "uniform")
    tensors = ["w", "g", *state_names, *(draw_names[d] for d in normals)]
    loads = [f"const V {name} = load<FULL>({name}_ + i, n);" for name in tensors]
    loads[1] = "const V g = MAXIMIZE ? load<FULL>(g_ + i, n).neg() : load<FULL>(g_ + i, n);"
    key = f"keys[{len(uniforms)} * piece.tensor + {{}}] + static_cast<uint32_t>(piece.start + i)"
    loads += [f"const V {draw_names[d]} = uniform({key.format(j)});" for j, d in enumerate(uniforms)]
    stores = [f"store<FULL>({target}_ + i, n, {result});" for target, result in zip(["w", *state_names], results, strict=True)]
    norms = translator.norms
    shared = [*(("const int64_t* sizes", "const float* norms") if norms else ()), *(("const uint32_t* keys",) if uniforms else ())]
    parameters = ", ".join(["const Piece& piece", "void* const* pointers", "const double* numbers", *shared])
    arguments = ", ".join(
        ["pieces[k]", "pointers", "numbers", *(("sizes", "norms.data()") if norms else ()), *(("keys",) if uniforms else ())]
    )
    constants = [*scalars, *(f"k{i}" for i in range(len(translator.constants)))]
    named = ", ".join(f"{name}(numbers[{i}])" for i, name in enumerate(constants))
    head = textwrap.wrap(f"const V {named};", 120, subsequent_indent="    ", break_long_words=False) if named else []
    head.append(f"void* const* tensors = pointers + {len(tensors)} * piece.tensor;")
    for i, name in enumerate(tensors):
        kind = ("WEIGHT", "GRADIENT")[i] if i < 2 else "float"
        head.append(f"{kind}* {name}_ = static_cast<{kind}*>(tensors[{i}]) + piece.start;")
    passes = []
    for phase, (count, argument) in enumerate(norms):
        body = [*loads, *translator.lines[:count], f"const V x = {argument};", "sum = sum + keep_first<FULL>(x * x, n);"]
        passes.append(_SQUARES.format(phase=phase, parameters=parameters, head=_lines(head, 2), body=_lines(body, 4)))
        known = [f"const V norm{phase}(norms[{len(norms)} * piece.tensor + {phase}]);"]
        head += known if phase else ["const V root_size(std::sqrt(static_cast<float>(sizes[piece.tensor])));", *known]
    body = [*loads, *translator.lines, *stores]
    passes.append(_ADVANCE.format(parameters=parameters, head=_lines(head, 2), body=_lines(body, 4)))
    code = "\n".join(passes)
    reductions = [_NORMS.format(norms=len(norms), arguments=arguments)] if norms else []
    reductions += [f"  take(squares{phase}, {phase});" for phase in range(len(norms))]
    text = _STEP.format(
        prelude=prelude(code), passes=code, keys=", const uint32_t* keys" if uniforms else "",
        norms="".join(line + "\n" for line in reductions), arguments=arguments,
    )  # fmt: skip
    return CppKernel(text, tuple(translator.constants), uniforms, normals)


def prelude(code: str) -> str:
    """What goes before code that uses V, WIDTH, load, store and the functions of `OPERATIONS`."""
    return _PRELUDE + "".join(text for name, text in _FUNCTIONS.items() if re.search(rf"\b{name}\b", code))


def _lines(lines: list[str], indent: int) -> str:
    return ("\n" + " " * indent).join(lines)


_PRELUDE = """\
#include <ATen/cpu/vec/vec.h>
#include <vector>
using V = at::vec::Vectorized<float>;
constexpr int64_t WIDTH = V::size(), CHUNK = 16384;
struct Piece { int64_t tensor, start, size; };

template <bool FULL, typename T> static inline V load(const T* p, int64_t n) {
  if constexpr (std::is_same_v<T, float>) return FULL ? V::loadu(p) : V::loadu(p, n);
  alignas(64) float b[WIDTH];
  for (int64_t j = 0; j < WIDTH; ++j) b[j] = FULL || j < n ? static_cast<float>(p[j]) : 0.0f;
  return V::loadu(b);
}
template <bool FULL, typename T> static inline void store(T* p, int64_t n, const V& x) {
  if constexpr (std::is_same_v<T, float>) return FULL ? x.store(p) : x.store(p, n);
  alignas(64) float b[WIDTH];
  x.store(b);
  for (int64_t j = 0; j < (FULL ? WIDTH : n); ++j) p[j] = static_cast<T>(b[j]);
}
"""

_KEEP_FIRST = """
template <bool FULL>
static inline V keep_first(const V& x, int64_t n) { return FULL ? x : V::set(V(0.0f), x, n); }
"""

_SIGN = """
static inline V sign(const V& x) {
  const V zero(0.0f), one(1.0f);
  return V::blendv(zero, one, x > zero) - V::blendv(zero, one, x < zero);
}
"""

_ERROR_FUNCTION = """
// torch's vector erf is accurate to an absolute 1e-7; near 0, where that is nothing left of it, its series.
static inline V error_function(const V& x) {
  const V y = x * x;
  V series(-1.0f / 6894720.0f);
  for (const float k : {1.0f / 685440.0f, -1.0f / 75600.0f, 1.0f / 9360.0f, -1.0f / 1320.0f, 1.0f / 216.0f, -1.0f / 42.0f, 0.1f,
                        -1.0f / 3.0f, 1.0f})
    series = series * y + V(k);
  return V::blendv(x.erf(), V(1.12837917f) * x * series, y < V(1.0f));
}
"""

_SIGMOID = """
static inline V sigmoid(const V& x) { return V(1.0f) / (V(1.0f) + x.neg().exp()); }
"""

_BESSEL = """
// exp(-|x|) I1(x), by polynomials in double precision, relative error below 3e-8 before rounding to float: one for |x| up to 1, which
// suffices where no lane is larger, one up to 8, one beyond.
using D = at::vec::Vectorized<double>;

template <typename... Coefficients>
static inline D polynomial(const D& x, double highest, Coefficients... rest) {
  D p(highest);
  ((p = at::vec::fmadd(p, x, D(rest))), ...);
  return p;
}

static inline D bessel_below_1(const D& x) {
  return x * polynomial(x.abs(), 9.977880059921e-05, -8.863175061411e-04, 4.441965347728e-03, -1.706372206964e-02, 5.464424433670e-02,
                        -1.458246879194e-01, 3.124991194873e-01, -4.999999647993e-01, 4.999999997624e-01);
}

static inline D bessel_any(const D& x) {
  const D y = x.abs(), eight(8.0);
  const D q = at::vec::maximum(y, eight);
  const D small = polynomial(
      at::vec::fmadd(y, D(0.25), D(-1.0)), 2.18372066397e-04, -6.84364508436e-04, 7.50004829844e-04, -9.37249555991e-04,
      2.84234928148e-03, -6.05396672676e-03, 9.77801121524e-03, -1.53278283973e-02, 2.35847336214e-02, -3.37331235165e-02,
      4.47007049540e-02, -5.52722073762e-02, 6.37642786395e-02, -6.84830145143e-02, 6.80577357261e-02, -6.11243327257e-02,
      4.46877089517e-02);
  const D large = polynomial(D(16.0) / q - D(1.0), -4.22580953030e-07, -2.00979292863e-06, -1.50020331441e-05, -2.19168084601e-04,
                             -9.74958185341e-03, 3.89398455224e-01) / q.sqrt();
  return D::blendv(x * small, D::blendv(large, large.neg(), x < D(0.0)), y > eight);
}

static inline V bessel_i1e(const V& x) {
  alignas(64) float b[WIDTH];
  alignas(64) double d[WIDTH];
  x.store(b);
  int beyond = 0;
  for (int64_t j = 0; j < WIDTH; ++j) beyond |= !(std::fabs(b[j]) <= 1.0f);
  for (int64_t j = 0; j < WIDTH; ++j) d[j] = b[j];
  if (beyond)
    for (int64_t j = 0; j < WIDTH; j += D::size()) bessel_any(D::loadu(d + j)).store(d + j);
  else
    for (int64_t j = 0; j < WIDTH; j += D::size()) bessel_below_1(D::loadu(d + j)).store(d + j);
  for (int64_t j = 0; j < WIDTH; ++j) b[j] = static_cast<float>(d[j]);
  return V::loadu(b);
}
"""

_UNIFORM = """
static inline V uniform(uint32_t first) {
  alignas(64) float b[WIDTH];
  for (int64_t j = 0; j < WIDTH; ++j) {
    uint32_t x = first + static_cast<uint32_t>(j);
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    x = (x ^ (x >> 16)) >> 8;
    b[j] = static_cast<float>(static_cast<int32_t>(x)) * 0x1p-24f;
  }
  return V::loadu(b);
}
"""

# What the passes call, by name.
_FUNCTIONS = {
    "keep_first": _KEEP_FIRST, "sign": _SIGN, "error_function": _ERROR_FUNCTION, "sigmoid": _SIGMOID, "bessel_i1e": _BESSEL,
    "uniform": _UNIFORM,
}  # fmt: skip

_LOOP = """\
  const auto at = [&](auto full, int64_t i, int64_t n) __attribute__((always_inline)) {{
    constexpr bool FULL = decltype(full)::value;
    {body}
  }};
  int64_t i = 0;
  for (; i + WIDTH <= piece.size; i += WIDTH) at(std::true_type{{}}, i, WIDTH);
  if (i < piece.size) at(std::false_type{{}}, i, piece.size - i);
"""

_ADVANCE = (
    """\
static void advance({parameters}) {{
  {head}
"""
    + _LOOP
    + "}}\n"
)

_SQUARES = (
    """
static float squares{phase}({parameters}) {{
  {head}
  V sum(0.0f);
"""
    + _LOOP
    + """\
  alignas(64) float b[WIDTH];
  sum.store(b);
  float total = 0.0f;
  for (int64_t j = 0; j < WIDTH; ++j) total += b[j];
  return total;
}}
"""
)

# Chunks do not depend on the number of threads, and the sums of a norm are added in their order, so neither do the results.
_NORMS = """\
  std::vector<float> norms({norms} * count), sums(pieces.size());
  const auto take = [&](auto squares, int phase) {{
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && elements > 2 * CHUNK)
    for (int64_t k = 0; k < static_cast<int64_t>(pieces.size()); ++k) sums[k] = squares({arguments});
    std::vector<double> totals(count, 0.0);
    for (size_t k = 0; k < pieces.size(); ++k) totals[pieces[k].tensor] += sums[k];
    for (int64_t t = 0; t < count; ++t) norms[{norms} * t + phase] = static_cast<float>(std::sqrt(totals[t]));
  }};"""

_STEP = """\
{prelude}{passes}\
extern "C" void step(int64_t count, void* const* pointers, const int64_t* sizes, const double* numbers, int threads{keys}) {{
  std::vector<Piece> pieces;
  int64_t elements = 0;
  for (int64_t t = 0; t < count; elements += sizes[t++])
    for (int64_t start = 0; start < sizes[t]; start += CHUNK) pieces.push_back({{t, start, std::min(CHUNK, sizes[t] - start)}});
{norms}#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1 && elements > 2 * CHUNK)
  for (int64_t k = 0; k < static_cast<int64_t>(pieces.size()); ++k) advance({arguments});
}}
"""
