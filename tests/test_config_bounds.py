"""Whoever wrote it, a config is read in a blink or refused in one message.

The whole, 20,000 texts and settings: OPTEVOLVE_TEST_CONFIGS=20000 pytest tests/test_config_bounds.py
"""

import copy
import dataclasses
import math
import os
import random
import time
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import tomli_w

import optevolve
from optevolve.algorithms import ALGORITHMS
from optevolve.cli import main
from optevolve.config import RunConfig, Stage, Workers
from optevolve.config_text import apply_settings, checked, from_toml, preset, to_toml
from optevolve.contestants import Contestant
from optevolve.eliminate import EliminationSource
from optevolve.errors import ConfigError, TaskError
from optevolve.evaluation import EvaluationSource
from optevolve.integrity import check_integrity
from optevolve.records import Job, Outcome, Status
from optevolve.run.limits import most_steps
from optevolve.run.local import LocalRunner
from optevolve.run.session import make_runner
from optevolve.space.grammar import grammar
from optevolve.surrogate import measure

WANTED = os.environ.get("OPTEVOLVE_TEST_CONFIGS")
CONFIGS = int(WANTED or "150")
QUICK = preset("quick")
pytestmark = pytest.mark.timeout(0 if WANTED else 300)


def number_fields(owner: type, kind: type, prefix: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(owner):
        hint = get_type_hints(owner)[field.name]
        key = prefix + field.name
        if dataclasses.is_dataclass(hint):
            found += number_fields(hint, kind, f"{key}.")
        elif get_origin(hint) is tuple and kind in get_args(hint):
            found.append(f"{key}.0")
        elif hint is kind or (kind in get_args(hint) and get_origin(hint) is not dict):
            found.append(key)
    return found


KEYS = number_fields(RunConfig, float)
COUNTS = [*number_fields(RunConfig, int), "elimination.0.keep", "elimination.0.seeds", "elimination.0.protocol.rungs"]


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


def test_every_count_has_an_upper_bound() -> None:
    assert {"evaluation.seeds", "search.lookahead", "contenders", "workers.retries", "initial.protocol.rungs"} <= set(COUNTS)
    for key in COUNTS:
        for value in (10**14, 10**20) if key != "seed" else (2**63, 10**20):
            with pytest.raises(ConfigError, match=rf"--set: {key}: expected a number that is (at most|less than) [\d,]+, got {value}\."):
                apply_settings(QUICK, [f"{key}={value}"])
    assert apply_settings(QUICK, [f"seed={2**63 - 1}"]).seed == 2**63 - 1


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("search.timesteps", ["search.timesteps=1000000", "search.children=1000000"]),
        ("elimination.0.seeds", ["contenders=1000000", "elimination.0.seeds=10000", "search.population=1000000"]),
        ("search.remeasure", ["elimination=[]", "contenders=1000", "search.remeasure=10000", "search.population=1000"]),
        ("evaluation.seeds", ["elimination=[]", "search.remeasure=0", "contenders=1000", "evaluation.seeds=10000"]),
        ("evaluation.seeds", [f"evaluation.tasks={[f'a{number}' for number in range(1000)]}", "evaluation.seeds=1000"]),
    ],
)
def test_counts_that_only_together_are_too_large_are_refused(key: str, changes: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"{key}: expected at most [\d,]+ measurements of a stage, got [\d,]+ by its product"):
        apply_settings(QUICK, changes)


@pytest.mark.parametrize("value", ["8589934592", "1e300", "1048577"])
def test_a_limit_in_another_unit_is_refused_with_the_right_one(value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main(["search", "--task", "quadratics", "--preset", "quick", "--out", str(out), "--memory-limit", value])
    assert ended.value.code == 2
    assert "workers.memory_limit: expected a number that is at most 1,048,576 GiB, got" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    for made in (RunConfig(workers=Workers(memory_limit=float(value))), RunConfig(workers=Workers(time_limit=1e300))):
        with pytest.raises(ConfigError, match=r"expected a number that is at most [\d,]+ (GiB|seconds)"):
            checked(made)


@pytest.mark.parametrize("number", [0, -1, 10**5, 10**18])
def test_a_number_of_workers_that_no_machine_has_is_refused_before_there_is_a_folder(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"Expected 1 to 10,000 workers, got {number}"):
        optevolve.search("quadratics", "quick", out=tmp_path / "run", workers=number)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seeds", [0, 10**4 + 1, 10**20])
def test_seeds_that_are_no_part_of_a_config_have_the_same_bounds(seeds: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"1 to 10,000 seeds, got 'fast' and {seeds}"):
        optevolve.compare(["adam"], "quadratics", tmp_path / "out", seeds=seeds)
    with pytest.raises(ConfigError, match=f"1 to 10,000 seeds, got 'fast', 40 and {seeds}"):
        optevolve.calibrate(tmp_path / "none.csv", tmp_path / "out", repeats=seeds)
    assert list(tmp_path.iterdir()) == []


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
    for table in (deep, itself, {f"a{number}": 1 for number in range(10**5)}):
        with pytest.raises(ConfigError):
            checked(RunConfig(grammar=table))


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
    "extended", {"unary": []}, 8589934592, 10**4, 20_000,
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


def make_all(config: RunConfig) -> None:
    """Everything that a run makes of its config before it measures, tasks left out."""
    started = time.thread_time()
    runner = make_runner(measure, dataclasses.replace(config.workers, runner="local"), 1)
    assert isinstance(runner, LocalRunner)
    assert runner._memory is None or 0 <= runner._memory <= 2**50  # which a system takes as a limit
    protocols = [config.initial.protocol, config.evolution.protocol, *(r.protocol for r in config.rounds), config.evaluation.protocol]
    for protocol in protocols:
        for job in (Job("a", "g", "quadratics", protocol, config.seed), Job("a", "g", "quadratics", protocol, 0, learning_rate=0.1)):
            outcome = Outcome(Status.COMPLETED, 0.5, 0.1, steps=2**62, seconds=1e-300)
            runner._limit.learn(job, outcome)
            assert runner._limit.seconds(job) > 0
            assert sum(map(sum, most_steps(job).values())) < 2**63  # what a database keeps
    runner.close()
    ALGORITHMS[config.search.algorithm](config.search, grammar(config.grammar), check_integrity, config.seed).ask()
    rules = [Contestant("adam", "g")]
    EliminationSource(rules, config.rounds, task=config.task, seed=config.seed).ask()
    evaluation = config.evaluation
    counts = {"seeds": evaluation.seeds, "choice_seeds": evaluation.choice_seeds}
    source = EvaluationSource(rules, ["quadratics"], evaluation.protocol, seed=config.seed, **counts)
    while (asked := source.ask()) is not None:
        source.tell(asked[1].id, outcome)
    assert source.done
    assert time.thread_time() - started < 5


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
            try:
                make_all(config)
            except TaskError:  # its text is looked at when a task is made, which is before all else
                continue
            except Exception as error:
                raise AssertionError(f"made of {to_toml(config)}: {type(error).__name__}: {error}") from error
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
