"""What can be asked of a rule in whatever form: itself, an entry of the zoo, a name there, or a text in the native or the paper's notation.

`library.rule_of` is the one door from such a form to an `UpdateRule`; a text that is neither a name nor a rule is a `ParseError`. The
functions of these names in `integrity`, `space`, `library` and `compile` take an `UpdateRule`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from optevolve import integrity as checks
from optevolve.integrity import STEPS, Verdict
from optevolve.library import AnyRule, entry_of, known, rule_of
from optevolve.space import fingerprint, paper_notation, schedule_split, show, symbolic
from optevolve.space import latex as typeset
from optevolve.space import simplify as shortest
from optevolve.space.expression import Node
from optevolve.space.rule import UpdateRule
from optevolve.space.show import Description

__all__ = ["check_integrity", "describe", "explain", "export", "latex", "nearly_same", "schedule_of", "simplify"]
__all__ += ["to_paper", "to_sympy", "trajectory"]


def check_integrity(rule: AnyRule) -> Verdict:
    """Whether the rule can minimise a shifted sphere, and with which sign: +1 is tried first. Ignores the rule's own sign.

    Source: method section 3.
    """
    return checks.check_integrity(rule_of(rule))


def trajectory(rule: AnyRule, lr: float, steps: int = STEPS) -> npt.NDArray[np.float32]:
    """Positions on the shifted sphere, shape (steps+1, 5), the start first.

    Args:
        rule: what descends, with its own sign.
        lr: peak learning rate.
        steps: steps to take, at least 1; also the run's length T, with a warm-up of 6 steps.
    Raises:
        ValueError: if steps is below 1.
    """
    return checks.trajectory(rule_of(rule), lr, steps)


def describe(rule: AnyRule, total_steps: int = 1000, integrity: Mapping[str, Any] | None = None) -> Description:
    """Everything there is to show about a rule.

    Args:
        rule: what to show.
        total_steps: length of the run for the values of decays, at least 1.
        integrity: facts of its integrity check (such as ok, sign, reason, losses), kept as they are.
    """
    return show.describe(rule_of(rule), total_steps, integrity)


def explain(rule: AnyRule) -> str:
    """A few paragraphs of plain text on what the rule does, for someone who knows gradients and no more; its name first, if it has one."""
    return known.explain(rule_of(rule))


def latex(rule: AnyRule) -> str:
    """What one step does, in math mode without delimiters: alpha the learning rate, mu the momentum, m its buffer."""
    return typeset.latex(rule_of(rule))


def nearly_same(a: AnyRule, b: AnyRule, gradient_scale: float = 1e-3, tolerance: float = 1e-3) -> bool:
    """Whether real training could not tell the rules apart: same kind, and at each step their updates differ by less than a small part.

    Args:
        a, b: rules; a factor or a sign between them counts as a difference, a weight decay beside them does not.
        gradient_scale: size of the largest elements of a gradient, above 0. Weights have a typical size of 0.1.
        tolerance: largest difference of two updates, as a part of the larger one (L2 norms), at any step.
    Raises:
        ValueError: if gradient_scale or tolerance is not above 0.
    """
    return fingerprint.nearly_same(rule_of(a), rule_of(b), gradient_scale, tolerance)


def schedule_of(rule: AnyRule) -> tuple[Node, UpdateRule]:
    """A factor f of the step alone and a rest, with update(rule) = f · update(rest) at every step: f is a schedule of the learning rate.

    Returns:
        The factor, the number 1 if there is none; the rest, of the same kind and sign.
    """
    return schedule_split.schedule_of(rule_of(rule))


@overload
def simplify(rule: AnyRule) -> UpdateRule: ...
@overload
def simplify(rule: Node) -> Node: ...
def simplify(rule: AnyRule | Node) -> UpdateRule | Node:
    """A rule (or expression) that does exactly the same, with nothing in it that carries nothing; no longer than it was."""
    return shortest.simplify(rule) if isinstance(rule, Node) else shortest.simplify(rule_of(rule))


def to_paper(rule: AnyRule) -> str:
    """The rule in the authors' notation; `parse_paper` reads it back as the same rule.

    Raises:
        ExportError: if their notation has no spelling for something in the rule.
    """
    return paper_notation.to_paper(rule_of(rule))


def to_sympy(rule: AnyRule | Node) -> Any:
    """The update, its sign included, as a sympy expression over g, w, noise, t and T; an expression or decay likewise.

    Numbers are exact: 0.3 is 3/10. What keeps a state, draws or looks at the whole tensor is an undefined function of its argument.
    """
    return symbolic.to_sympy(rule if isinstance(rule, Node) else rule_of(rule))


def export(
    rule: AnyRule,
    path: str | Path,
    *,
    name: str | None = None,
    provenance: str | None = None,
    scores: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    format: str = "torch",
) -> Path:
    """Writes the rule as one file: a torch optimizer that needs only torch and tests itself by `python FILE`, an optax one, or LaTeX.

    Args:
        rule: what to write.
        path: of the file; an existing one is replaced.
        name: of the class; None: made from the file's name, and changed if the file has another use for it.
        provenance: where the rule comes from, for the docstring; None: what the zoo says of a rule that is given by its name there.
        scores: what it reached, by task.
        notes: paragraphs for the docstring, such as how the rule compares with others.
        learning_rate: a peak learning rate that it is known to work with, which becomes the default; None: the zoo's, likewise.
        weight_decay: decoupled, the default likewise; None: what goes with the rule, AdamW's 0.01.
        format: "torch"; "optax": a function that returns a `GradientTransformation`; "latex": the equation.
    Returns:
        The path.
    Raises:
        ParseError: if the text is neither a name nor a rule.
        ExportError: if name is no identifier or has another use in the file, the path is called as a module that the file imports, the
            format is unknown, the learning rate or weight decay is not finite, or the file cannot be written.
    """
    from optevolve.compile import export as write  # loads torch

    found, entry = rule_of(rule), entry_of(rule)
    if entry is not None:
        provenance = entry.provenance if provenance is None else provenance
        learning_rate = entry.learning_rate if learning_rate is None else learning_rate
    weight_decay = found.weight_decay if weight_decay is None else weight_decay
    return write(
        found, path, name=name, provenance=provenance or "", scores=scores, notes=notes, learning_rate=learning_rate,
        weight_decay=weight_decay, format=format,
    )  # fmt: skip
