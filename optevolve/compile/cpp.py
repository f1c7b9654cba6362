"""The text of a rule's `advance` as C++ for the CPU: every tensor of a model in one call and one pass over memory. Needs no torch.

The arithmetic is translated from the Python text that runs in eager mode, operation for operation, into torch's own vector classes.
Numbers, those in the text included, are arguments, so that rules that differ in a number are one kernel. A norm needs a pass of its own.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

__all__ = ["CppKernel", "translate"]


class CppKernel(NamedTuple):
    """C++ text and how to call it.

    Attributes:
        text: source, with a function `step` in it; see `_STEP`.
        constants: numbers of the Python text, which follow lr, keep, momentum and the rule's own numbers.
        tensors: number of tensors per parameter: weights, gradient, states, normal draws.
        uniforms: positions among the rule's draws of those that the kernel makes itself.
        normals: positions of those that it is given as tensors.
    """

    text: str
    constants: tuple[float, ...]
    tensors: int
    uniforms: tuple[int, ...]
    normals: tuple[int, ...]


_METHODS = {
    "torch.abs": "{0}.abs()", "torch.exp": "{0}.exp()", "torch.log": "{0}.log()", "torch.sqrt": "{0}.sqrt()", "torch.tanh": "{0}.tanh()",
    "torch.atan": "{0}.atan()", "torch.asinh": "{0}.asinh()", "torch.erf": "error_function({0})", "torch.erfc": "{0}.erfc()",
    "torch.pow": "{0}.pow({1})", "torch.maximum": "at::vec::maximum({0}, {1})", "torch.minimum": "at::vec::minimum({0}, {1})",
    "torch.where": "V::blendv({2}, {1}, {0})", "torch.sign": "sign({0})", "torch.sigmoid": "sigmoid({0})", "bessel_i1e": "bessel_i1e({0})",
}  # fmt: skip
_SYMBOLS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.GtE: ">="}


class _Translator:
    def __init__(self) -> None:
        self.constants: list[float] = []
        self.lines: list[str] = []
        self.norms: list[tuple[int, str]] = []  # lines before it, argument

    def _number(self, value: float) -> str:
        if isinstance(value, int):
            return f"V({value}.0f)"
        self.constants.append(value)
        return f"k{len(self.constants) - 1}"

    def expression(self, node: ast.expr) -> str:
        folded = _constant(node)
        if folded is not None:
            return self._number(folded)
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.UnaryOp):
            return f"{self.expression(node.operand)}.neg()"
        if isinstance(node, ast.BinOp):
            return f"({self.expression(node.left)} {_SYMBOLS[type(node.op)]} {self.expression(node.right)})"
        if isinstance(node, ast.Compare):
            return f"({self.expression(node.left)} {_SYMBOLS[type(node.ops[0])]} {self.expression(node.comparators[0])})"
        assert isinstance(node, ast.Call)
        return self._call(ast.unparse(node.func), node)

    def _call(self, name: str, node: ast.Call) -> str:
        if name == "torch.zeros_like":
            return "V(0.0f)"
        args = [self.expression(arg) for arg in node.args]
        if name in ("reduce.norm", "reduce.rms"):
            self.norms.append((len(self.lines), args[0]))
            norm = f"norm{len(self.norms) - 1}"
            return norm if name == "reduce.norm" else f"({norm} / root_size)"
        if name.startswith("reduce."):
            raise NotImplementedError(f"{name} has no kernel.")
        if name == "torch.clamp":
            (bound,) = node.keywords
            return f"at::vec::{'maximum' if bound.arg == 'min' else 'minimum'}({args[0]}, {self.expression(bound.value)})"
        return _METHODS[name].format(*args)


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


def translate(
    advance: str, states: int, draws: tuple[str, ...], weights: str = "float", gradient: str = "float", maximize: bool = False
) -> CppKernel:
    """The kernel of an `advance` function.

    Args:
        advance: its Python text.
        states: how many of its arguments are states.
        draws: primitives of its random tensors.
        weights, gradient: C++ element types; states are float.
        maximize: whether the gradient is negated.
    Raises:
        NotImplementedError: if the rule looks at rows, columns or singular values.
    """
    function = ast.parse(advance).body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [arg.arg for arg in function.args.args]
    state_names, draw_names = names[2 : 2 + states], names[len(names) - len(draws) :]
    scalars = ["lr", "keep", "momentum", *names[2 + states : len(names) - len(draws)]]
    translator = _Translator()
    results: list[str] = []
    for statement in function.body:
        if isinstance(statement, ast.Assign):
            text = translator.expression(statement.value)
            translator.lines.append(f"const V {ast.unparse(statement.targets[0])} = {text};")
        elif isinstance(statement, ast.Return):
            assert isinstance(statement.value, ast.Tuple)
            results = [translator.expression(element) for element in statement.value.elts]
    uniforms = tuple(i for i, draw in enumerate(draws) if draw == "uniform")
    normals = tuple(i for i, draw in enumerate(draws) if draw != "uniform")
    loads = ["const V w = load<FULL>(a.w, i, n);", f"const V g = load<FULL>(a.g, i, n){'.neg()' if maximize else ''};"]
    loads += [f"const V {name} = load<FULL>(a.{name}, i, n);" for name in state_names]
    loads += [f"const V {draw_names[d]} = load<FULL>(a.{draw_names[d]}, i, n);" for d in normals]
    loads += [f"const V {draw_names[d]} = uniform(a.keys[{j}] + static_cast<uint32_t>(i));" for j, d in enumerate(uniforms)]
    stores = [f"const V next{i} = {result};" for i, result in enumerate(results)]
    targets = ["w", *state_names]
    stores += [f"store<FULL>(a.{target}, i, n, next{k});" for k, target in enumerate(targets)]
    numbers = [f"const V {name}(static_cast<float>(numbers[{i}]));" for i, name in enumerate(scalars)]
    numbers += [f"const V k{i}(static_cast<float>(numbers[{len(scalars) + i}]));" for i in range(len(translator.constants))]
    passes = []
    for phase in range(len(translator.norms) + 1):
        known = ["const V root_size(a.root_size);", *(f"const V norm{j}(a.norms[{j}]);" for j in range(phase))]
        if phase < len(translator.norms):
            count, argument = translator.norms[phase]
            body = [*loads, *translator.lines[:count], f"const V x = {argument};", "sum = sum + keep_first<FULL>(x * x, n);"]
        else:
            body = [*loads, *translator.lines, *stores]
        passes.append(_PASS.format(phase=phase, head="\n  ".join([*numbers, *known]), body="\n    ".join(body)))
    tensors = ["w", "g", *state_names, *(draw_names[d] for d in normals)]
    pointer_types = [weights, gradient] + ["float"] * (len(tensors) - 2)
    members = "\n".join(f"  {kind}* {name};" for kind, name in zip(pointer_types, tensors, strict=True))
    assigned = "\n".join(
        f"  a.{name} = static_cast<{kind}*>(p[{i}]) + start;" for i, (kind, name) in enumerate(zip(pointer_types, tensors, strict=True))
    )
    calls = "\n".join(
        f"  run(pass<{phase}>, {'true' if phase < len(translator.norms) else 'false'}, {phase});"
        for phase in range(len(translator.norms) + 1)
    )
    text = _STEP.format(
        prelude=_PRELUDE + (_BESSEL if "bessel_i1e" in advance else "") + (_UNIFORM if uniforms else ""),
        members=members, assigned=assigned, passes="\n".join(passes), calls=calls, tensors=len(tensors), uniforms=len(uniforms),
        keys=max(1, len(uniforms)), norms=max(1, len(translator.norms)),
    )  # fmt: skip
    return CppKernel(text, tuple(translator.constants), len(tensors), uniforms, normals)


_PRELUDE = """\
#include <ATen/cpu/vec/vec.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>
#include <cmath>
#include <cstdint>
#include <vector>

using V = at::vec::Vectorized<float>;
constexpr int64_t WIDTH = V::size();

template <bool FULL, typename T>
static inline V load(const T* p, int64_t i, int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    return FULL ? V::loadu(p + i) : V::loadu(p + i, n);
  } else {
    alignas(64) float b[WIDTH];
    for (int64_t j = 0; j < WIDTH; ++j) b[j] = FULL || j < n ? static_cast<float>(p[i + j]) : 0.0f;
    return V::loadu(b);
  }
}

template <bool FULL, typename T>
static inline void store(T* p, int64_t i, int64_t n, const V& x) {
  if constexpr (std::is_same_v<T, float>) {
    if (FULL) x.store(p + i); else x.store(p + i, n);
  } else {
    alignas(64) float b[WIDTH];
    x.store(b);
    for (int64_t j = 0; j < (FULL ? WIDTH : n); ++j) p[i + j] = static_cast<T>(b[j]);
  }
}

template <bool FULL>
static inline V keep_first(const V& x, int64_t n) {
  return FULL ? x : V::set(V(0.0f), x, n);
}

static inline V sign(const V& x) {
  const V zero(0.0f), one(1.0f);
  return V::blendv(zero, one, x > zero) - V::blendv(zero, one, x < zero);
}

// torch's vector erf is accurate to an absolute 1e-7; near 0, where that is nothing left of it, its series.
static inline V error_function(const V& x) {
  const V y = x * x;
  V series(-1.0f / 6894720.0f);
  for (const float k : {1.0f / 685440.0f, -1.0f / 75600.0f, 1.0f / 9360.0f, -1.0f / 1320.0f, 1.0f / 216.0f, -1.0f / 42.0f, 0.1f,
                        -1.0f / 3.0f, 1.0f})
    series = series * y + V(k);
  return V::blendv(x.erf(), V(1.12837917f) * x * series, y < V(1.0f));
}

static inline V sigmoid(const V& x) { return V(1.0f) / (V(1.0f) + x.neg().exp()); }
"""

_BESSEL = """
// exp(-|x|) I1(x): two polynomials in double precision, relative error below 3e-8 before rounding to float.
static inline V bessel_i1e(const V& x) {
  alignas(64) float b[WIDTH];
  x.store(b);
  for (int64_t j = 0; j < WIDTH; ++j) {
    const double y = std::fabs(static_cast<double>(b[j])), u = y * 0.25 - 1.0, q = y > 8.0 ? y : 8.0, z = 16.0 / q - 1.0;
    constexpr double A[] = {
        4.46877089517e-02, -6.11243327257e-02, 6.80577357261e-02, -6.84830145143e-02, 6.37642786395e-02,
        -5.52722073762e-02, 4.47007049540e-02, -3.37331235165e-02, 2.35847336214e-02, -1.53278283973e-02,
        9.77801121524e-03, -6.05396672676e-03, 2.84234928148e-03, -9.37249555991e-04, 7.50004829844e-04,
        -6.84364508436e-04, 2.18372066397e-04};
    constexpr double B[] = {
        3.89398455224e-01, -9.74958185341e-03, -2.19168084601e-04, -1.50020331441e-05, -2.00979292863e-06,
        -4.22580953030e-07};
    double small = A[16], large = B[5];
    for (int k = 15; k >= 0; --k) small = small * u + A[k];
    for (int k = 4; k >= 0; --k) large = large * z + B[k];
    large /= std::sqrt(q);
    const double value = y > 8.0 ? large : y <= 8.0 ? small * y : y;
    b[j] = std::copysign(static_cast<float>(value), b[j]);
  }
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

_PASS = """\
template <>
float pass<{phase}>(const Tensors& a, int64_t size, const double* numbers) {{
  {head}
  V sum(0.0f);
  const auto at = [&](auto full, int64_t i, int64_t n) __attribute__((always_inline)) {{
    constexpr bool FULL = decltype(full)::value;
    {body}
  }};
  int64_t i = 0;
  for (; i + WIDTH <= size; i += WIDTH) at(std::true_type{{}}, i, WIDTH);
  if (i < size) at(std::false_type{{}}, i, size - i);
  alignas(64) float b[WIDTH];
  sum.store(b);
  float total = 0.0f;
  for (int64_t j = 0; j < WIDTH; ++j) total += b[j];
  return total;
}}
"""

# Chunks do not depend on the number of threads, and the sums of a norm are added in their order, so neither do the results.
_STEP = """\
{prelude}
struct Tensors {{
{members}
  uint32_t keys[{keys}];
  float norms[{norms}];
  float root_size;
}};

template <int PHASE>
float pass(const Tensors& a, int64_t size, const double* numbers);

{passes}
// pointers: {tensors} per parameter; keys: {uniforms} per parameter.
extern "C" void step(
    int64_t count, void* const* pointers, const int64_t* sizes, const uint32_t* keys, const double* numbers, int threads) {{
  constexpr int64_t CHUNK = 16384;
  struct Piece {{ int64_t tensor, start, size; }};
  std::vector<Piece> pieces;
  int64_t elements = 0;
  for (int64_t t = 0; t < count; ++t) {{
    elements += sizes[t];
    for (int64_t start = 0; start < sizes[t]; start += CHUNK)
      pieces.push_back({{t, start, sizes[t] - start < CHUNK ? sizes[t] - start : CHUNK}});
  }}
  std::vector<float> norms(count * {norms}, 0.0f), sums(pieces.size());
  const auto run = [&](auto pass, bool norm, int phase) {{
#pragma omp parallel for num_threads(threads) schedule(static) if (elements > 2 * CHUNK && threads > 1)
    for (int64_t i = 0; i < static_cast<int64_t>(pieces.size()); ++i) {{
      const auto [t, start, size] = pieces[i];
      void* const* p = pointers + t * {tensors};
      Tensors a;
{assigned}
      for (int k = 0; k < {uniforms}; ++k) a.keys[k] = keys[t * {uniforms} + k] + static_cast<uint32_t>(start);
      for (int k = 0; k < {norms}; ++k) a.norms[k] = norms[t * {norms} + k];
      a.root_size = std::sqrt(static_cast<float>(sizes[t]));
      sums[i] = pass(a, size, numbers);
    }}
    if (!norm) return;
    std::vector<double> totals(count, 0.0);
    for (size_t i = 0; i < pieces.size(); ++i) totals[pieces[i].tensor] += sums[i];
    for (int64_t t = 0; t < count; ++t) norms[t * {norms} + phase] = static_cast<float>(std::sqrt(totals[t]));
  }};
{calls}
}}
"""
