"""Whoever wrote it, a config is read in a blink or refused in one message.

The whole, 20,000 texts and settings: OPTEVOLVE_TEST_CONFIGS=20000 pytest tests/test_config_bounds.py
"""

import copy
import dataclasses
import math
import os
import random
import time
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import tomli_w

from optevolve.config import RunConfig, Stage, Workers
from optevolve.config_text import apply_settings, checked, from_toml, preset, to_toml
from optevolve.errors import ConfigError

WANTED = os.environ.get("OPTEVOLVE_TEST_CONFIGS")
CONFIGS = int(WANTED or "150")
QUICK = preset("quick")
pytestmark = pytest.mark.timeout(0 if WANTED else 300)


def float_fields(owner: type, prefix: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(owner):
        hint = get_type_hints(owner)[field.name]
        key = prefix + field.name
        if dataclasses.is_dataclass(hint):
            found += float_fields(hint, f"{key}.")
        elif get_origin(hint) is tuple and float in get_args(hint):
            found.append(f"{key}.0")
        elif hint is float or (float in get_args(hint) and get_origin(hint) is not dict):
            found.append(key)
    return found


KEYS = float_fields(RunConfig)


def test_every_number_is_finite() -> None:
    assert {"workers.memory_limit", "evaluation.protocol.floor", "initial.protocol.schedule.warmup", "workers.time_limit"} <= set(KEYS)
    assert "evolution.protocol.learning_rates.0" in KEYS
    for key in [*KEYS, "initial.task_options.width", "elimination.0.protocol.floor"]:
        for value in ("nan", "inf", "-inf"):
            with pytest.raises(ConfigError, match=key.split(".")[-2 if key.endswith(".0") else -1]):
                apply_settings(QUICK, [f"{key}={value}"])
    for made in (RunConfig(workers=Workers(memory_limit=math.inf)), RunConfig(initial=Stage({"width": math.nan}))):
        with pytest.raises(ConfigError):
            checked(made)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"a{number} = 1" for number in range(10**6)),
        ".".join(["a"] * 5000) + " = 1",
        ".".join(['"a"'] * 5000) + " = 1",
        "grammar." + ".".join(["a"] * 5000) + " = 1",
        "[" + ".".join(["a"] * 5000) + "]",
        "x = " + "[" * 5000 + "]" * 5000,
        "x = " + "{a = " * 5000 + "1" + "}" * 5000,
        "x = { " + " . ".join(["a"] * 5000) + " = 1 }",
        "initial.protocol.learning_rates = [" + "0.1, " * 40_000 + "]",
        "seed = " + "9" * 100_000,
        "a" * 240_000,
        '"' * 240_001,
        "grammar = {" + ", ".join(f"a{number} = 1" for number in range(15_000)) + "}",
    ],
    ids=range(13),
)  # fmt: skip
def test_what_is_too_large_or_too_deep_is_refused_at_once(text: str) -> None:
    started = time.thread_time()
    with pytest.raises(ConfigError) as caught:
        from_toml(text, base=QUICK)
    assert time.thread_time() - started < 2
    assert len(str(caught.value)) < 2000
    if len(text) < 100_000 and "=" in text:
        with pytest.raises(ConfigError):
            apply_settings(QUICK, [text])


def test_what_is_made_in_python_is_bounded_as_well() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(5000):
        inner["a"] = inner = {}
    itself: dict[str, Any] = {}
    itself["a"] = itself
    for grammar in (deep, itself, {f"a{number}": 1 for number in range(10**5)}):
        with pytest.raises(ConfigError):
            checked(RunConfig(grammar=grammar))


def test_what_is_measured_is_named_once() -> None:
    for key, value in [
        ("evaluation.baselines", '["adam", "sgd", "adam"]'),
        ("evaluation.tasks", '["digits", "digits"]'),
        ("initial.more_tasks", '["quadratics", "quadratics"]'),
        ("elimination.0.protocol.learning_rates", "[0.1, 0.01, 0.1]"),
        ("evaluation.protocol.weight_decays", "[0.0, 0.0]"),
    ]:
        with pytest.raises(ConfigError, match=rf"{key}: expected each value once, got .* twice"):
            apply_settings(QUICK, [f"{key}={value}"])


VALUES: list[Any] = [
    0, -1, 1, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, math.inf, -math.inf, math.nan, True, False, "", "none", "nan", "x", "é\u202e",
    "a" * 3000, "\x01", [], [[]], [1], [0.1, 0.1], ["adam"], ["adam", "adam"], [None], {}, {"a": 1}, {"a": {"b": [1]}}, [{}], [{"keep": 1}],
    {"kind": "fast"}, {"preset": "fast"}, "quadratics", "a\0b", "a\0.toml", "digits@width=nan", "a+b", "../x", ["quadratics"], 10**18,
    "extended", {"unary": []},
]  # fmt: skip


def _keys(table: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found = [prefix] if prefix else []
    if isinstance(table, dict):
        for key, value in table.items():
            found += _keys(value, (*prefix, key))
    elif isinstance(table, list):
        for number, value in enumerate(table):
            found += _keys(value, (*prefix, number))
    return found


def test_text_that_is_no_unicode_is_refused() -> None:
    for changes in (["task=a\ud800"], ["data=\udcff"], ["a\ud800=1"]):
        with pytest.raises(ConfigError):
            apply_settings(QUICK, changes)
    with pytest.raises(ConfigError, match="expected text in Unicode"):
        from_toml('task = "a\ud800"', base=QUICK)


def test_hostile_configs_are_read_or_refused() -> None:
    import tomllib

    draw = random.Random(0)
    whole = to_toml(QUICK)
    keys = _keys(tomllib.loads(whole))
    read = 0
    for number in range(CONFIGS):
        table: Any = tomllib.loads(whole)
        said = []
        for _ in range(draw.choice([1, 1, 2, 5])):
            path, value = draw.choice(keys), copy.deepcopy(draw.choice(VALUES))  # which a later value may change
            name = ".".join(map(str, path))
            if draw.random() < 0.15:
                name += draw.choice([".x", "x", ".0", ".-1", "..", " ", ".99999999999999999999"])
            said.append(f"{name}={value!r}" if draw.random() < 0.5 else f"{name}={_spelled(value)}")
            owner = table
            try:
                for key in path[:-1]:
                    owner = owner[key]
                owner[path[-1]] = value
            except (KeyError, IndexError, TypeError):  # an earlier value has taken the place
                continue
        text = _document(table) if number % 3 else _garbled(whole, draw)
        for attempt in (lambda text=text: from_toml(text, base=QUICK), lambda said=said: apply_settings(QUICK, said)):
            try:
                config = attempt()
            except ConfigError:
                continue
            except Exception as error:
                raise AssertionError(f"{said} and {text[:200]!r}: {type(error).__name__}: {error}") from error
            read += 1
            assert from_toml(to_toml(config)) == config
    assert CONFIGS / 20 < read < 2 * CONFIGS


def _spelled(value: Any) -> str:
    try:
        return tomli_w.dumps({"value": value}).partition("=")[2].strip()
    except (TypeError, ValueError):
        return str(value)


def _document(table: Any) -> str:
    try:
        return tomli_w.dumps(table)
    except (TypeError, ValueError, AttributeError):
        return str(table)


def _garbled(text: str, draw: random.Random) -> str:
    letters = list(text)
    for _ in range(draw.randrange(1, 6)):
        place = draw.randrange(len(letters))
        letters[place] = draw.choice(["", "\n", '"', "[", "]", "=", ".", "\x00", "'", "#", "9", "e", "{", "\ud800", letters[place] * 2])
    return "".join(letters)
