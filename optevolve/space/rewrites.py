"""THE table of simplifications: one row each, as patterns in native notation over the holes x, y and z.

Every row keeps each result bit for bit, for every input: infinities, NaN, denormals and the guards' 1e-7 included. That is why `x - x`
alone is no 0 (it is NaN where x is infinite or NaN) and `div(x, x)` no 1. A row that may turn 0 into -0 says so with `zero`; such rows
apply only to expressions in which no division or power can tell the two zeros apart.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EVEN", "ODD", "REWRITES", "Rewrite"]


@dataclass(frozen=True)
class Rewrite:
    """One simplification.

    Attributes:
        name: what it does.
        pattern, result: templates; arguments of commutative operators match in either order.
        where: a condition on the holes, a key of `optevolve.space.simplify.CONDITIONS`; empty if none.
        zero: whether 0 may become -0 or the reverse.
    """

    name: str
    pattern: str
    result: str
    where: str = ""
    zero: bool = False


#: f(-x) = -f(x) with the same parameters; 0 may become -0.
ODD = frozenset(
    ["tanh", "erf", "arctan", "arcsinh", "bessel_i1e", "softsign", "sign", "clip_norm", "delta", "ema", "moment", "dropout"]
)  # fmt: skip
#: f(-x) = f(x) = f(abs(x)).
EVEN = frozenset(["abs", "ln", "sqrt", "deriv_soft", "deriv_tanh"])

REWRITES: tuple[Rewrite, ...] = (
    Rewrite("identity", "identity(x)", "x"),
    Rewrite("first argument", "left(x, y)", "x", "tensor x"),
    Rewrite("dropout of nothing", "dropout(x, 0)", "x", "tensor x"),
    # What carries nothing.
    Rewrite("times one", "1 * x", "x"),
    Rewrite("over one", "x / 1", "x"),
    Rewrite("power of one", "x ** 1", "x", "tensor x"),
    Rewrite("times minus one", "-1 * x", "-x"),
    Rewrite("zero added", "x + 0", "x", zero=True),
    Rewrite("zero subtracted", "x - 0", "x"),
    Rewrite("subtracted from zero", "0 - x", "-x", zero=True),
    Rewrite("cancelling difference added", "x + (y - y)", "x", "y vanishes beside x", zero=True),
    Rewrite("cancelling difference subtracted", "x - (y - y)", "x", "y vanishes beside x", zero=True),
    Rewrite("nothing added", "x + 0 * y", "x", "y vanishes beside x", zero=True),
    Rewrite("nothing subtracted", "x - 0 * y", "x", "y vanishes beside x", zero=True),
    Rewrite("difference of equal decays", "x - x", "0", "x a finite time function"),
    Rewrite("decay times zero", "0 * x", "0", "x a finite time function", zero=True),
    # The same operand twice.
    Rewrite("larger of one", "max(x, x)", "x"),
    Rewrite("smaller of one", "min(x, x)", "x"),
    Rewrite("clipped to itself", "clip(x, x)", "x", zero=True),
    Rewrite("clipped twice", "clip(clip(x, y), y)", "clip(x, y)"),
    Rewrite("larger of it again", "max(max(x, y), y)", "max(x, y)", zero=True),
    Rewrite("smaller of it again", "min(min(x, y), y)", "min(x, y)", zero=True),
    Rewrite("larger of both signs", "max(x, -x)", "abs(x)", zero=True),
    Rewrite("smaller of both signs", "min(x, -x)", "-abs(x)", zero=True),
    Rewrite("doubling", "x + x", "2 * x"),
    Rewrite("squaring", "x * x", "x ** 2", "long tensor x"),
    Rewrite("cubing", "x ** 2 * x", "x ** 3", "tensor x"),
    Rewrite("cubing a product", "x * x * x", "x ** 3", "tensor x"),
    Rewrite("times its sign", "x * sign(x)", "abs(x)", zero=True),
    Rewrite("absolute value times sign", "abs(x) * sign(x)", "x", zero=True),
    Rewrite("product of absolute values", "abs(x) * abs(y)", "abs(x * y)"),
    Rewrite("quotient of absolute values", "abs(x) / abs(y)", "abs(x / y)"),
    # Done twice or in vain.
    Rewrite("sign of a sign", "sign(sign(x))", "sign(x)"),
    Rewrite("positive part of what is not negative", "relu(x)", "x", "x not negative", zero=True),
    Rewrite("absolute value of what is not negative", "abs(x)", "x", "x not negative", zero=True),
    Rewrite("running maximum twice", "running_max(running_max(x))", "running_max(x)"),
    Rewrite("running maximum of a positive part", "running_max(relu(x))", "running_max(x)", zero=True),
    Rewrite("never the larger", "max(x, y)", "x", "x never below the time function y", zero=True),
    Rewrite("never the smaller", "min(x, y)", "x", "x never above the time function y", zero=True),
    Rewrite("clip that never clips", "clip(x, y)", "x", "x within the time function y", zero=True),
    # Shorter names for the same formula.
    Rewrite("positive part", "max(x, 0)", "relu(x)", zero=True),
    Rewrite("guarded quotient", "x / (y + 1e-7)", "div(x, y)", "tensor y"),
    Rewrite("guarded reciprocal", "div(1, x)", "recip(x)"),
    Rewrite("softsign", "x / (1 + abs(x))", "softsign(x)"),
    Rewrite("derivative of softsign", "1 / (1 + abs(x))", "deriv_soft(x)"),
    Rewrite("derivative of tanh", "1 - tanh(x) ** 2", "deriv_tanh(x)", "tensor x"),
    Rewrite("derivative of the logistic function", "sigmoid(x) * (1 - sigmoid(x))", "deriv_sig(x)"),
    # Signs move outwards, until they meet another, a sum, or the rule's own.
    Rewrite("double negation", "-(-x)", "x"),
    Rewrite("minus a negation", "x - -y", "x + y"),
    Rewrite("plus a negation", "x + -y", "x - y"),
    Rewrite("negation minus", "-x - y", "-(x + y)", zero=True),
    Rewrite("minus a negative multiple", "x - y", "x + -y", "y a negative number"),
    Rewrite("plus a negative number", "x + y", "x - -y", "y a negative number"),
    Rewrite("negative factor", "y * x", "-(-y * x)", "y a negative number"),
    Rewrite("negative dividend", "y / x", "-(-y / x)", "y a negative number"),
    Rewrite("negative divisor", "x / y", "-(x / -y)", "y a negative number"),
    Rewrite("negated difference", "-(x - y)", "y - x", "no name for x - y", zero=True),
    Rewrite("product of a negation", "-x * y", "-(x * y)"),
    Rewrite("quotient of a negation", "-x / y", "-(x / y)"),
    Rewrite("quotient by a negation", "x / -y", "-(x / y)"),
    Rewrite("guarded quotient of a negation", "div(-x, y)", "-div(x, y)"),
    Rewrite("clipped negation", "clip(-x, y)", "-clip(x, y)", zero=True),
    Rewrite("larger of negations", "max(-x, -y)", "-min(x, y)", zero=True),
    Rewrite("smaller of negations", "min(-x, -y)", "-max(x, y)", zero=True),
    # Signs that are lost anyway.
    Rewrite("clip to a negation", "clip(x, -y)", "clip(x, y)"),
    Rewrite("clip to an absolute value", "clip(x, abs(y))", "clip(x, y)"),
    Rewrite("power of a negation", "pow(-x, y)", "pow(x, y)"),
    Rewrite("power of an absolute value", "pow(abs(x), y)", "pow(x, y)"),
    Rewrite("square of a negation", "(-x) ** 2", "x ** 2"),
    Rewrite("square of an absolute value", "abs(x) ** 2", "x ** 2"),
    Rewrite("cube of a negation", "(-x) ** 3", "-(x ** 3)", "tensor x"),
)
