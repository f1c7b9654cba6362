"""Immutable expression trees: what an update equation or a decay is made of.

A `Node` is a name from the tables (an operator, a leaf, or `number`), its arguments and its numeric parameters. Nodes compare and hash by
structure, so equal subexpressions are one key in a dictionary, and nothing here knows what a name means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

__all__ = ["NUMBER", "Node", "number"]

NUMBER = "number"


class Node:
    """One node of an expression.

    Attributes:
        name: a key of `OPERATORS` or `LEAVES`, or `NUMBER`.
        args: operands of the node.
        params: numeric parameters: a decay rate, a dropout rate; the value of a number.
        size: nodes in the tree under this one, itself included.
        depth: longest path from this node to a leaf, in nodes.
    """

    __slots__ = ("_hash", "args", "depth", "name", "params", "size")
    _ZERO: ClassVar[tuple[float, ...]] = ()

    name: str
    args: tuple[Node, ...]
    params: tuple[float, ...]
    size: int
    depth: int
    _hash: int

    def __init__(self, name: str, args: tuple[Node, ...] = (), params: tuple[float, ...] = ()) -> None:
        put = object.__setattr__
        put(self, "name", name)
        put(self, "args", args)
        put(self, "params", params)
        size, depth = 1, 0
        for arg in args:
            size += arg.size
            depth = max(depth, arg.depth)
        put(self, "size", size)
        put(self, "depth", depth + 1)
        put(self, "_hash", hash((name, args, params)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A Node is immutable: cannot set {name!r}. Build a new Node instead.")

    def __reduce__(self) -> tuple[type[Node], tuple[str, tuple[Node, ...], tuple[float, ...]]]:
        return Node, (self.name, self.args, self.params)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Node):
            return NotImplemented
        return (
            self._hash == other._hash
            and self.name == other.name
            and self.params == other.params
            and self.args == other.args
            # 0.0 == -0.0 but they are not the same number: 1/x tells them apart
            and (not self.params or all(math.copysign(1, a) == math.copysign(1, b) for a, b in zip(self.params, other.params, strict=True)))
        )

    def __repr__(self) -> str:
        inner = ", ".join([*map(repr, self.args), *map(repr, self.params)])
        return f"{self.name}({inner})" if inner else self.name

    @property
    def value(self) -> float | None:
        """The value of a number; None for any other node."""
        return self.params[0] if self.name == NUMBER else None

    def walk(self) -> Iterator[Node]:
        """Every node of the tree, arguments before the node that uses them; a shared subtree as often as it occurs."""
        for arg in self.args:
            yield from arg.walk()
        yield self

    def map_leaves(self, replace: Callable[[Node], Node]) -> Node:
        """The same tree with every leaf replaced."""
        if not self.args:
            return replace(self)
        args = tuple(arg.map_leaves(replace) for arg in self.args)
        return self if args == self.args else Node(self.name, args, self.params)

    def substitute(self, values: Mapping[str, Node]) -> Node:
        """The same tree with every leaf whose name is a key replaced by its value."""
        return self.map_leaves(lambda leaf: values.get(leaf.name, leaf))


def number(value: float) -> Node:
    """The node of a finite number.

    Raises:
        ValueError: if value is not finite.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"Expected a finite number, got {value}.")
    return Node(NUMBER, (), (value,))
