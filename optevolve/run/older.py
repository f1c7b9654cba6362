"""What older versions took as values of a config, read as what it did: their runs keep opening."""

from __future__ import annotations

import math
import sys
import tomllib
from typing import Any, get_args, get_type_hints

from annotated_types import Interval

from optevolve.config import Protocol, Workers
from optevolve.config_bounds import require_bounds, require_text_bounds
from optevolve.config_check import NONE

__all__ = ["read_as_now", "text_as_now"]

# Lists whose values were counted once, however often they stood there.
_ONCE = {"baselines", "tasks", "more_tasks", "learning_rates", "first_learning_rates", "weight_decays"}
_LIMITS = {"memory_limit", "time_limit"}
_BEYOND_ALL = {"halving", "trial_floor_epoch", "floor_epoch"}  # counts of which no run meets the largest, so that more did the same


def _largest() -> dict[str, float]:
    """The largest value of each of these keys."""
    hints = {**get_type_hints(Protocol, include_extras=True), **get_type_hints(Workers, include_extras=True)}
    found: dict[str, Any] = {}
    for key in _LIMITS | _BEYOND_ALL:
        for hint in (hints[key], *get_args(hints[key])):
            bounds = [bound for bound in getattr(hint, "__metadata__", ()) if isinstance(bound, Interval)]
            found.update((key, bound.le) for bound in bounds)
    return found


_LARGEST = _largest()


def text_as_now(text: str, source: str) -> str:
    """The TOML text of a config with the values that are taken now.

    Raises:
        ConfigError: if it is too large or too deep.
        ValueError: if it is no TOML.
    """
    import tomli_w

    require_text_bounds(text, source)
    table = tomllib.loads(text)
    require_bounds(table, source)
    return tomli_w.dumps(read_as_now(table, NONE))


def read_as_now(value: Any, none: str | None = None, key: str = "") -> Any:
    """A table, list or value as it is said now.

    A limit that is infinite, or larger than any that is taken, is none. Any other number that is not finite is the largest, or the least: a
    floor of minus infinity, or of NaN, stops nobody. A value that is to be measured stands once.

    Args:
        value: of a config or a protocol, from TOML or JSON.
        none: how the absence of a limit is spelled there.
        key: under which it stands.
    """
    if isinstance(value, dict):
        return {name: read_as_now(item, none, name) for name, item in value.items()}
    if isinstance(value, list):
        items = [read_as_now(item, none) for item in value]
        return [item for place, item in enumerate(items) if item not in items[:place]] if key in _ONCE and len(items) < 1000 else items
    if isinstance(value, int | float) and value > _LARGEST.get(key, math.inf):
        return none if key in _LIMITS else int(_LARGEST[key])
    if isinstance(value, float) and not math.isfinite(value):
        return none if key in _LIMITS else math.copysign(sys.float_info.max, value if value > 0 else -1)
    return value
