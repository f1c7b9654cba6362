"""`UpdateRule`: what an optimizer is, apart from its learning rate: an update equation, a kind and a sign. Source: method section 2."""

from __future__ import annotations

from dataclasses import dataclass, field

from optevolve.space.expression import Node

__all__ = ["KINDS", "UpdateRule"]

KINDS = ("plain", "momentum", "nesterov")


@dataclass(frozen=True)
class UpdateRule:
    """An update rule. With u the expression's value, sigma the sign, alpha the learning rate and mu the momentum:

    plain: w <- w - alpha sigma u; momentum: m <- mu m - alpha sigma u, w <- w + m; nesterov: m likewise, w <- w + mu m - alpha sigma u.

    Attributes:
        expression: the update equation u.
        kind: "plain", "momentum" or "nesterov".
        sign: 1 or -1.
        weight_decay: decoupled weight decay that goes with it unless another is asked for, beside the update and no part of it: two rules
            that differ in it alone are equal, and no notation has it.
    """

    expression: Node
    kind: str = "plain"
    sign: int = 1
    weight_decay: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Expected a kind among {', '.join(KINDS)}, got {self.kind!r}.")
        if self.sign not in (1, -1):
            raise ValueError(f"Expected a sign of 1 or -1, got {self.sign!r}.")

    def __str__(self) -> str:
        from optevolve.space.text import format_rule

        return format_rule(self)

    def fingerprint(self, scale_free: bool = False) -> str:
        """What rules share if they do the same; see `optevolve.space.fingerprint`."""
        from optevolve.space.fingerprint import fingerprint

        return fingerprint(self, scale_free)

    def __repr__(self) -> str:
        return f"UpdateRule({str(self)!r})"
