"""A stand-in for the model when a training batch is scored: the output that the loss had, without a second forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

__all__ = ["Echo"]


class Echo(nn.Module):
    """Answers like the model, and without asking it where it was heard before.

    Without it every step would pay for a second forward pass, or every task would need a method that returns loss and score together.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.__dict__["model"] = model  # not as a submodule: what this one lacks is looked up there
        self.heard: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []
        self.listens = False
        model.register_forward_hook(self._hear, with_kwargs=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["model"], name)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, what the model answers is remembered."""
        self.listens = True
        try:
            yield
        finally:
            self.listens = False

    def _hear(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.listens:
            self.heard.append((args, kwargs, output))

    def forget(self) -> None:
        """Lets go of what was heard."""
        self.heard.clear()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The answer heard for these very arguments, else the model's own."""
        for known_args, known_kwargs, output in self.heard:
            same = len(args) == len(known_args) and all(a is b for a, b in zip(args, known_args, strict=True))
            if same and kwargs.keys() == known_kwargs.keys() and all(kwargs[key] is known_kwargs[key] for key in kwargs):
                return output
        return self.__dict__["model"](*args, **kwargs)
