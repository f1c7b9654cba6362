"""THE table of operands: named subexpressions, with the authors' spelling. Source: method section 2.

An operand is nothing but a short name for an expression: `v_hat` is `ema(g, 0.9)`, and both parse to the same tree. The printer writes the
short name wherever the tree occurs; the paper's grammar draws those with `sampled`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OPERANDS", "Operand"]


@dataclass(frozen=True)
class Operand:
    """One operand.

    Attributes:
        name: native spelling, an identifier, or a macro of one such as `qhm(v)`.
        expression: what it stands for, in terms of leaves, operators and the operands above it; equal to `name` if it needs no short name.
        latex: LaTeX.
        summary: what it is.
        paper: the authors' spelling; empty if they have none.
        sampled: whether the paper's grammar draws it.
    """

    name: str
    expression: str
    latex: str
    summary: str
    paper: str = ""
    sampled: bool = True


_ROWS = (
    Operand("g", "g", "g", "gradient", "g"),
    Operand("g ** 2", "g ** 2", "g^2", "squared gradient", "g^2"),
    Operand("g ** 3", "g ** 3", "g^3", "cubed gradient", "g^3"),
    Operand("v", "moment(g, 0.9)", "v", "moving average of g from 0 (first moment)", sampled=False),
    Operand("s", "moment(g ** 2, 0.99)", "s", "moving average of g^2 from 0 (second moment)", sampled=False),
    Operand("l", "moment(g ** 3, 0.999)", r"\lambda", "moving average of g^3 from 0 (third moment)", sampled=False),
    Operand("v_hat", "ema(g, 0.9)", r"\hat v", "bias-corrected first moment", "v hat"),
    Operand("s_hat", "ema(g ** 2, 0.99)", r"\hat s", "bias-corrected second moment", "s hat"),
    Operand("l_hat", "ema(g ** 3, 0.999)", r"\hat \lambda", "bias-corrected third moment", "lam hat"),
    Operand("1", "1", "1", "one", "1"),
    Operand("2", "2", "2", "two", "2"),
    Operand("1e-6 * w", "1e-6 * w", "10^{-6} w", "a millionth of the weights", "10-6w"),
    Operand("1e-5 * w", "1e-5 * w", "10^{-5} w", "a hundred-thousandth of the weights", "10-5w"),
    Operand("1e-4 * w", "1e-4 * w", "10^{-4} w", "a ten-thousandth of the weights", "10-4w"),
    Operand("1e-3 * w", "1e-3 * w", "10^{-3} w", "a thousandth of the weights", "10-3w"),
    Operand("sign(g)", "sign(g)", r"\operatorname{sign}(g)", "sign of the gradient", "sign(g)"),
    Operand("sign(v_hat)", "sign(v_hat)", r"\operatorname{sign}(\hat v)", "sign of the first moment", "sign(v hat)"),
    Operand("qhm(v)", "0.3 * g + 0.7 * v_hat", r"\operatorname{QHM}(v)", "quasi-hyperbolic first moment", "((1-0.7)*g+0.7*v hat)"),
    Operand("qhm(s)", "0.05 * g ** 2 + 0.95 * s_hat", r"\operatorname{QHM}(s)", "quasi-hyperbolic second moment",
            "((1-0.95)*g^2+0.95*s hat)"),
    Operand("qhm(l)", "0.01 * g ** 3 + 0.99 * l_hat", r"\operatorname{QHM}(\lambda)", "quasi-hyperbolic third moment",
            "((1-0.99)*g^2+0.99*lam hat)"),
    # mean over three beta of (beta v - g); the mean of the betas is one number
    Operand("aggmo(v)", "0.633 * v - g", r"\operatorname{AggMo}(v)", "aggregated momentum, beta in 0, 0.9, 0.999", "mean(beta*v-g)"),
    Operand("aggmo(s)", "0.663 * s - g ** 2", r"\operatorname{AggMo}(s)", "aggregated second moment, beta in 0, 0.99, 0.999",
            "mean(beta*s-g^2)"),
    Operand("aggmo(l)", "0.6663 * l - g ** 3", r"\operatorname{AggMo}(\lambda)", "aggregated third moment, beta in 0, 0.999, 0.9999",
            "mean(beta*lam-g^3)"),
)  # fmt: skip

OPERANDS: dict[str, Operand] = {row.name: row for row in _ROWS}
