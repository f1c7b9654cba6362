"""THE table of operators, and of the leaves that they act on. Parser, printers, samplers, mutation, the numpy reference, torch and JAX
code, LaTeX and the documentation's tables read these rows and nothing else: adding an operator is adding one row.

A formula is text over the operator's arguments `x`, `y`, its parameters by name, and the primitives of `PRIMITIVES`, which every array
library spells in its own way (`optevolve.space.lower.SPELLINGS`). In the formula of a stateful operator `old` is its state before the
step and `new` after it. `EPS` is 1e-7 (method section "Notation").
"""

from __future__ import annotations

from dataclasses import dataclass

from optevolve.space.reductions import REDUCTIONS

__all__ = ["EPS", "LEAVES", "OPERATORS", "PRIMITIVES", "Leaf", "Operator", "Parameter", "own_operators", "register_operator"]

EPS = 1e-7

PRIMITIVES = (
    "abs", "exp", "log", "sqrt", "sign", "tanh", "arctan", "arcsinh", "erf", "erfc", "bessel_i1e", "sigmoid",
    "maximum", "minimum", "power", "where", "uniform", "normal", *REDUCTIONS,
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """A number that belongs to an operator, written after its arguments: `dropout(x, 0.3)`.

    Attributes:
        name: its name in the formula.
        low, high: allowed values: low <= value < high.
        default: value when left out; None if it must be given.
    """

    name: str
    low: float
    high: float
    default: float | None = None


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        name: native name, as in `tanh(x)`.
        arity: number of tensor arguments.
        formula: its value.
        latex: LaTeX with {x}, {y} and {parameter} to fill in.
        summary: what it does, in a few words.
        params: numeric parameters.
        infix: symbol and binding power if written between (or before) its arguments.
        commutative: whether f(x, y) = f(y, x).
        state: formula of the state's next value; empty if it keeps none. States start at 0.
        correction: formula over `t` (from 0) of a number, available to the formula as `correction`; for bias correction.
        random: the primitive that it draws ("uniform" or "normal"), available to the formula as `draw`; empty if deterministic.
        elementwise: whether each element of the result depends on the same element of the arguments alone.
        paper: the authors' spelling with {x}, {y} and {parameter}; empty if they have none.
        decay_paper: their spelling within a decay, where it differs.
        paper_forms: native template and their spelling, for each compound of this operator that they write as one: over x, y and `decay`,
            which stands for a function of the step alone.
        forms: native templates over x, y that the paper's grammar draws in update equations; (): none.
        decay_forms: likewise in decay functions.
    """

    name: str
    arity: int
    formula: str
    latex: str
    summary: str
    params: tuple[Parameter, ...] = ()
    infix: tuple[str, int] | None = None
    commutative: bool = False
    state: str = ""
    correction: str = ""
    random: str = ""
    elementwise: bool = True
    paper: str = ""
    decay_paper: str = ""
    paper_forms: tuple[tuple[str, str], ...] = ()
    forms: tuple[str, ...] = ()
    decay_forms: tuple[str, ...] = ()

    @property
    def pointwise_in_time(self) -> bool:
        """Whether its value now depends on its arguments now alone, so that on time functions it is one too."""
        return not self.state and not self.random and self.elementwise


@dataclass(frozen=True)
class Leaf:
    """A name without arguments.

    Attributes:
        name: native name.
        latex: LaTeX.
        summary: what it is.
        tensor: whether it has the parameter's shape; else it is a function of the step alone.
        formula: of a time leaf: over t, T, r = t/T, c = (2t mod T)/T and b = 0.95(1-(t+1)/T).
        random: the primitive that it draws; empty if deterministic.
        sampled: whether the paper's grammar draws it as a base decay.
    """

    name: str
    latex: str
    summary: str
    tensor: bool = True
    formula: str = ""
    random: str = ""
    sampled: bool = False


_BETA = Parameter("beta", 0.0, 1.0)
_RATE = Parameter("rate", 0.0, 1.0, 0.5)

_ROWS = (
    # Arithmetic, exact. Binding powers: + - 10, * / 20, unary minus 30, ** 40.
    Operator("add", 2, "x + y", "{x} + {y}", "sum", infix=("+", 10), commutative=True, paper="({x})+({y})",
             paper_forms=(("0.95 * x + 0.05 * y", "(0.95*({x})+0.05*({y}))"),), forms=("x + y", "0.95 * x + 0.05 * y"),
             decay_forms=("x + y",)),
    Operator("sub", 2, "x - y", "{x} - {y}", "difference", infix=("-", 10), paper="({x})-({y})", forms=("x - y",), decay_forms=("x - y",)),
    Operator("mul", 2, "x * y", r"{x} \, {y}", "product", infix=("*", 20), commutative=True, paper="({x})*({y})",
             paper_forms=(("decay * x", "[{decay}][{x}]"),), forms=("x * y",), decay_forms=("x * y",)),
    Operator("truediv", 2, "x / y", r"\frac{{{x}}}{{{y}}}", "exact quotient", infix=("/", 20),
             paper_forms=(("x / sqrt(1 + y ** 2)", "({x}) / (sqrt(1+({y})^2))"),), forms=("x / sqrt(1 + y ** 2)",),
             decay_forms=("x / sqrt(1 + y ** 2)",)),
    Operator("neg", 1, "-x", "-{x}", "negation", infix=("-", 30), paper="-({x})", forms=("-x",)),
    Operator("power", 2, "power(x, y)", "{x}^{{{y}}}", "exact power", infix=("**", 40),
             paper_forms=(("x ** 2", "({x})^2"),), decay_forms=("x ** 2",)),
    # The paper's unary operators.
    Operator("identity", 1, "x", "{x}", "the argument itself", paper="id({x})", forms=("identity(x)",), decay_forms=("identity(x)",)),
    Operator("ln", 1, "log(abs(x) + EPS)", r"\ln\left|{x}\right|", "logarithm of |x| + 1e-7", paper="ln(|{x}|)", forms=("ln(x)",)),
    Operator("sqrt", 1, "sqrt(abs(x))", r"\sqrt{{\left|{x}\right|}}", "square root of |x|", paper="sqrt(|{x}|)", decay_paper="sqrt({x})",
             forms=("sqrt(x)",), decay_forms=("sqrt(x)",)),
    Operator("exp", 1, "exp(x)", "e^{{{x}}}", "exponential", paper="exp({x})", forms=("exp(x)",)),
    Operator("abs", 1, "abs(x)", r"\left|{x}\right|", "absolute value", paper="|{x}|", forms=("abs(x)",)),
    Operator("sigmoid", 1, "sigmoid(x)", r"\sigma({x})", "logistic function 1/(1 + e^-x)", paper="sig({x})", decay_paper="1/(1+exp(-{x})",
             forms=("sigmoid(x)",), decay_forms=("sigmoid(x)",)),
    Operator("deriv_soft", 1, "1 / (1 + abs(x))", r"\frac{{1}}{{1+\left|{x}\right|}}", "1/(1 + |x|)",
             paper="1/(1+|{x}|)", decay_paper="deriv_soft({x})", forms=("deriv_soft(x)",), decay_forms=("deriv_soft(x)",)),
    Operator("softplus", 1, "log(abs(1 + exp(x)) + EPS)", r"\ln(1+e^{{{x}}})", "ln(|1 + e^x| + 1e-7)", paper="ln(|1+exp({x})|)",
             forms=("softplus(x)",)),
    Operator("erf", 1, "erf(x)", r"\operatorname{{erf}}({x})", "error function", paper="erf({x})", forms=("erf(x)",),
             decay_forms=("erf(x)",)),
    Operator("erfc", 1, "erfc(x)", r"\operatorname{{erfc}}({x})", "complementary error function", paper="erfc({x})",
             forms=("erfc(x)",), decay_forms=("erfc(x)",)),
    Operator("arcsinh", 1, "arcsinh(x)", r"\operatorname{{arcsinh}}({x})", "inverse hyperbolic sine", paper="arcsinh({x})",
             forms=("arcsinh(x)",)),
    Operator("tanh", 1, "tanh(x)", r"\tanh({x})", "hyperbolic tangent", paper="tanh({x})", forms=("tanh(x)",), decay_forms=("tanh(x)",)),
    Operator("arctan", 1, "arctan(x)", r"\arctan({x})", "inverse tangent", paper="arctan({x})",
             forms=("arctan(x)",), decay_forms=("arctan(x)",)),
    Operator("recip", 1, "1 / (x + EPS)", r"\frac{{1}}{{{x}}}", "1/(x + 1e-7)", paper="1/({x})", forms=("recip(x)",)),
    Operator("bessel_i1e", 1, "bessel_i1e(x)", r"\operatorname{{I_1e}}({x})", "scaled modified Bessel function e^-|x| I1(x)",
             paper="bessel_i1e({x})", forms=("bessel_i1e(x)",), decay_forms=("bessel_i1e(x)",)),
    Operator("relu", 1, "maximum(x, 0)", r"\max({x}, 0)", "positive part max(x, 0)", paper="max({x}, 0)", forms=("relu(x)",)),
    Operator("dropout", 1, "where(draw >= rate, x / (1 - rate), 0)", r"\operatorname{{dropout}}_{{{rate}}}({x})",
             "each element set to 0 with probability rate, the others divided by 1 - rate", params=(_RATE,), random="uniform",
             paper="drop({x}, {rate})", forms=("dropout(x, 0.5)", "dropout(x, 0.3)", "dropout(x, 0.1)")),
    Operator("clip_norm", 1, "x / maximum(norm(x), 1)", r"\frac{{{x}}}{{\max(\Vert {x} \Vert_2, 1)}}",
             "the tensor clipped to L2 norm 1", elementwise=False, paper="norm({x})", forms=("clip_norm(x)",)),
    Operator("softsign", 1, "x / (1 + abs(x))", r"\frac{{{x}}}{{1+\left|{x}\right|}}", "x/(1 + |x|)", paper="{x}/(1+|{x}|)",
             forms=("softsign(x)",), decay_forms=("softsign(x)",)),
    Operator("ema", 1, "new / correction", r"\operatorname{{EMA}}_{{{beta}}}({x})", "exponential moving average, bias-corrected",
             params=(_BETA,), state="beta * old + (1 - beta) * x", correction="1 - beta ** (t + 1)",
             paper_forms=(("ema(x, 0.95)", "expMovAvg({x})"),), forms=("ema(x, 0.95)",)),
    Operator("delta", 1, "x - old", r"\Delta {x}", "change x_t - x_(t-1), with x_(-1) = 0", state="x", paper="deltaChange({x})",
             forms=("delta(x)",)),
    Operator("running_max", 1, "new", r"\max_{{\tau \leq t}} {x}", "largest value so far, started at 0", state="maximum(old, x)",
             paper="MaxValue({x})", forms=("running_max(x)",)),
    # Used by operands, decays and the zoo.
    Operator("moment", 1, "new", r"\operatorname{{m}}_{{{beta}}}({x})", "exponential moving average from 0, not bias-corrected",
             params=(_BETA,), state="beta * old + (1 - beta) * x"),
    Operator("sign", 1, "sign(x)", r"\operatorname{{sign}}({x})", "sign: -1, 0 or 1", paper="sign({x})"),
    Operator("deriv_tanh", 1, "1 - tanh(x) * tanh(x)", r"(1-\tanh^2({x}))", "derivative of tanh", paper="deriv_tanh({x})",
             decay_forms=("deriv_tanh(x)",)),
    Operator("deriv_sig", 1, "sigmoid(x) * (1 - sigmoid(x))", r"\sigma'({x})", "derivative of the logistic function",
             paper="deriv_sig({x})", decay_forms=("deriv_sig(x)",)),
    # The paper's binary operators.
    Operator("max", 2, "maximum(x, y)", r"\max({x}, {y})", "larger of two", commutative=True, paper="max({x}, {y})",
             forms=("max(x, y)",), decay_forms=("max(x, y)",)),
    Operator("min", 2, "minimum(x, y)", r"\min({x}, {y})", "smaller of two", commutative=True, paper="min({x}, {y})",
             forms=("min(x, 0)", "min(x, y)"), decay_forms=("min(x, y)",)),
    Operator("div", 2, "x / (y + EPS)", r"\frac{{{x}}}{{{y}}}", "x/(y + 1e-7)", paper="({x}) / ({y})",
             forms=("div(x, y)",), decay_forms=("div(x, y)",)),
    Operator("clip", 2, "maximum(minimum(x, abs(y)), -abs(y))", r"\operatorname{{clip}}({x}, \pm\left|{y}\right|)",
             "x clipped to between -|y| and |y|", paper="clip({x}, {y})", forms=("clip(x, y)",)),
    Operator("pow", 2, "power(abs(x), y)", r"\left|{x}\right|^{{{y}}}", "|x| to the power y", paper="(|{x}|)^({y})", forms=("pow(x, y)",)),
    # Beyond the paper: drawn by other grammars.
    Operator("left", 2, "x", "{x}", "the first argument"),
    Operator("normalize", 1, "x / (rms(x) + EPS)", r"\frac{{{x}}}{{\operatorname{{rms}}({x})}}",
             "the tensor scaled to root mean square 1", elementwise=False),
    Operator("row_normalize", 1, "x / (row_rms(x) + EPS)", r"\frac{{{x}}}{{\operatorname{{rms}}_{{\mathrm{{row}}}}({x})}}",
             "each row scaled to root mean square 1", elementwise=False),
    Operator("column_normalize", 1, "x / (column_rms(x) + EPS)", r"\frac{{{x}}}{{\operatorname{{rms}}_{{\mathrm{{col}}}}({x})}}",
             "each column scaled to root mean square 1", elementwise=False),
    Operator("orthogonalize", 1, "orthogonalize(x)", r"\operatorname{{orth}}({x})",
             "nearly the closest matrix with equal singular values, by five Newton-Schulz steps", elementwise=False),
)  # fmt: skip

OPERATORS: dict[str, Operator] = {row.name: row for row in _ROWS}

_PI = "3.141592653589793"
_LEAF_ROWS = (
    Leaf("g", "g", "gradient"),
    Leaf("w", "w", "weights"),
    Leaf("noise", r"\mathcal{N}(0,1)", "standard normal noise, fresh at every step", random="normal"),
    Leaf("a1", "a_1", "linear decay 1 - r", False, "1 - r", sampled=True),
    Leaf("a2", "a_2", "linear growth r", False, "r", sampled=True),
    Leaf("a3", "a_3", "cosine decay", False, f"(1 + cos({_PI} * r)) / 2", sampled=True),
    Leaf("a4", "a_4", "cosine growth", False, f"(1 - cos({_PI} * r)) / 2", sampled=True),
    Leaf("a5", "a_5", "cosine valley: falls, then returns", False, f"(1 + cos(2 * {_PI} * r)) / 2", sampled=True),
    Leaf("a6", "a_6", "cosine hill: rises, then returns", False, f"(1 - cos(2 * {_PI} * r)) / 2", sampled=True),
    Leaf("a7", "a_7", "cosine decay with one restart", False, f"(1 + cos({_PI} * c)) / 2", sampled=True),
    Leaf("a8", "a_8", "cosine growth with one restart", False, f"(1 - cos({_PI} * c)) / 2", sampled=True),
    Leaf("a9", "a_9", "linear decay with one restart", False, "1 - c", sampled=True),
    Leaf("a10", "a_{10}", "linear growth with one restart", False, "c", sampled=True),
    Leaf("a11", "a_{11}", "exponential decay 0.01^r", False, "0.01 ** r", sampled=True),
    Leaf("a12", "a_{12}", "exponential growth 1 - 0.01^r", False, "1 - 0.01 ** r", sampled=True),
    Leaf("a13", "a_{13}", "Demon-like decay b/(0.05 + b)", False, "b / (0.05 + b)", sampled=True),
    Leaf("a14", "a_{14}", "0.95 - a13", False, "0.95 - b / (0.05 + b)", sampled=True),
    Leaf("b", "b", "linear decay 0.95(1 - (t+1)/T), behind a13 and L3", False, "b"),
)
LEAVES: dict[str, Leaf] = {row.name: row for row in _LEAF_ROWS}

BASE_DECAYS: tuple[str, ...] = tuple(name for name, row in LEAVES.items() if row.sampled)


def register_operator(row: Operator) -> None:
    """Add a row to the table: from then on it parses, prints, runs and can be drawn. The same row again changes nothing.

    Raises:
        ValueError: if the name is taken or is no identifier.
    """
    if OPERATORS.get(row.name) == row:
        return
    if not row.name.isidentifier() or row.name in OPERATORS or row.name in LEAVES:
        raise ValueError(f"Expected an unused identifier as the operator's name, got {row.name!r}. Choose another name.")
    OPERATORS[row.name] = row


def own_operators() -> tuple[Operator, ...]:
    """The rows that were registered beyond those of this file."""
    built_in = {row.name for row in _ROWS}
    return tuple(row for name, row in OPERATORS.items() if name not in built_in)
