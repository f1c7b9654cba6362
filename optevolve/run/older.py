"""What older versions took as values of a config, read as what it did: their runs keep opening."""

from __future__ import annotations

import math
import sys
import tomllib
from typing import Any

from optevolve.config_bounds import require_bounds, require_text_bounds
from optevolve.config_check import NONE

__all__ = ["read_as_now", "text_as_now"]

# Lists whose values were counted once, however often they stood there.
_ONCE = {"baselines", "tasks", "more_tasks", "learning_rates", "first_learning_rates", "weight_decays"}
_LIMITS = {"memory_limit", "time_limit"}


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

    A limit that is infinite is none. Any other number that is not finite is the largest, or the least: a floor of minus infinity, or of
    NaN, stops nobody. A value that is to be measured stands once.

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
    if isinstance(value, float) and not math.isfinite(value):
        return none if key in _LIMITS else math.copysign(sys.float_info.max, value if value > 0 else -1)
    return value
