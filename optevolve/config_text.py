"""Config as text: TOML files, presets and `--set key=value` to `RunConfig`, and back.

A config is text on top of a preset: tables are merged key by key, rounds of elimination with the preset's rounds by their place, a round
beyond these with the last of them; other lists, and a grammar with lists of its own, are replaced as a whole. A text with all the tables
of a run, such as `to_toml` writes, says everything: there the options of tasks are replaced as a whole too. Options in a task's spec win
over the preset's. Every mistake becomes one `ConfigError` that names the dotted key, what was expected, what was found and the nearest
known key.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from optevolve.config import PROTOCOLS, EliminationRound, FinalTask, Options, RunConfig
from optevolve.config_bounds import read_text, require_bounds, require_text_bounds
from optevolve.config_check import NONE, hints_of, nearest, shown, unknown_key, validated
from optevolve.errors import ConfigError
from optevolve.printable import shielded
from optevolve.space.grammar import changed
from optevolve.task_spec import named

__all__ = [
    "DEFAULT_PRESET",
    "PRESETS",
    "about_preset",
    "apply_settings",
    "assemble",
    "checked",
    "difference",
    "from_toml",
    "load_config",
    "on_device",
    "preset",
    "to_toml",
    "with_task",
]

Table = dict[str, Any]

# Name → what it is for, in one line. The numbers are in optevolve/presets/NAME.toml.
PRESETS = {
    "quick": "the demo: every stage on a small language model, at most four minutes on two cores",
    "small": "CIFAR-10 with narrow models, about an hour on two cores",
    "paper": "the paper's numbers: a GPU cluster for days",
}
DEFAULT_PRESET = "small"

# Tables that are all there in what `to_toml` writes, and has written from the first version on.
_WHOLE = {"task", "initial", "evolution", "search", "elimination", "evaluation"}

_HEAD = """# Every number of a run. A file of your own may leave values out: they then come from the preset that it names by a line such as
# preset = "quick", else from "small".

"""


def preset(name: str) -> RunConfig:
    """The config of a preset.

    Raises:
        ConfigError: if there is no such preset.
    """
    return from_toml(_preset_text(name), base=RunConfig(), source=f"preset {name}")


def about_preset(name: str) -> str:
    """What a preset's file says about its numbers: the comment that it begins with.

    Raises:
        ConfigError: if there is no such preset.
    """
    lines = _preset_text(name).splitlines()
    return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), lines))


def _preset_text(name: str) -> str:
    if name not in PRESETS:
        raise ConfigError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.{nearest(name, PRESETS)}")
    return resources.files("optevolve").joinpath("presets", f"{name}.toml").read_text(encoding="utf-8")


def load_config(path: str | Path, base: RunConfig | None = None) -> RunConfig:
    """The config in a TOML file.

    Args:
        path: the file. Keys that it leaves out come from the preset that it names by `preset = "…"`, else from `base`.
        base: what to start from; by default the preset "small".
    Raises:
        ConfigError: if the file cannot be read, is no TOML, or says something unknown or out of range.
    """
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error
        raise ConfigError(
            f"Cannot read the config file '{path}': {reason}. Expected a TOML file; "
            "write one with: optevolve config --preset small > my_run.toml"
        ) from error
    return from_toml(text, base=base, source=str(path))


def from_toml(text: str, base: RunConfig | None = None, source: str = "config") -> RunConfig:
    """The config in TOML text; see `load_config`. `source` names the text in messages."""
    require_text_bounds(text, source)
    try:
        table = tomllib.loads(text)
        require_bounds(table, source)
    except (ValueError, RecursionError) as error:  # a ValueError is also what a whole number of thousands of digits gives
        raise ConfigError(
            f"{source} is no TOML: {str(error)[:500]}. Expected lines such as 'seed = 0' under tables such as '[search]'."
        ) from error
    chosen = table.pop("preset", None)
    if chosen is not None:
        if not isinstance(chosen, str):
            raise ConfigError(f"{source}: preset: expected the name of a preset ({', '.join(PRESETS)}), got {shown(chosen)}.")
        base = preset(chosen)
    elif base is None:
        base = preset(DEFAULT_PRESET)
    if isinstance(table.get("task"), str):
        base = with_task(base, table["task"])
    whole = table.keys() >= _WHOLE
    table = _with_protocols(_with_one_device(table), source)
    if isinstance(rounds := table.get("elimination"), list):
        table["elimination"] = [_round(base, number, own, whole) for number, own in enumerate(rounds)]
    return validated(_merge(_plain(base), table, {"task_options"} if whole else ()), source)


def apply_settings(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """A config with single values replaced.

    Args:
        config: what to start from.
        settings: "dotted.key=value" each, such as "search.particles=3" or "elimination.0.keep=5". Values are TOML values; what is none is
            taken as a string.
    Raises:
        ConfigError: if a key is unknown or a value is out of range.
    """
    values: list[tuple[str, Any]] = []
    for setting in settings:
        require_text_bounds(setting, f"--set {setting[:60]}")
        key, equals, text = setting.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"--set {setting}: expected key=value, such as search.particles=3.")
        values.append((key, _value(text.strip())))
        if isinstance(task := values[-1][1], str) and key == "task":
            config = with_task(config, task)
        elif isinstance(task, str) and (place := re.fullmatch(r"elimination\.(\d+)\.task", key)):
            config = _with_round_task(config, int(place[1]), task)
        if key.endswith("protocol.device"):
            raise ConfigError(
                f"--set {key}: expected a device for the whole run, got one for a protocol. Write --device {text.strip()} or "
                f"--set compute.device={text.strip()}."
            )
    table = _plain(config)
    for number, (key, value) in enumerate(values):
        if key == "elimination" and isinstance(value, list):
            values[number] = (
                key,
                [_round(config, place, own, False) for place, own in enumerate(_with_protocols({key: value}, "--set")[key])],
            )
    placed = [
        (key.split(".")[:-1], _protocol(value, f"--set {key}"), key) if key.endswith("protocol.preset") else (key.split("."), value, key)
        for key, value in values
    ]
    for path, value, key in sorted(placed, key=lambda item: len(item[0])):  # wholes before their parts, in whatever order they are said
        _put(table, path, value, key)
    return validated(table, "--set") if values else config  # as a whole: single values may only fit together


def with_task(config: RunConfig, task: str) -> RunConfig:
    """The config with another task, whose options win over those that its stages have for the run's task.

    Options in the stages are dropped where the spec says the same option, and all of them if the task's name is another, as are the final
    tasks of a preset.
    """
    left = functools.partial(_left, config.task, task)
    evaluation = dataclasses.replace(config.evaluation, task_options=left(config.evaluation.task_options))
    if evaluation.tasks and named(task)[0] != named(config.task)[0] and evaluation.tasks in _final_tasks_of_presets():
        evaluation = dataclasses.replace(evaluation, tasks=())
    return dataclasses.replace(
        config,
        task=task,
        initial=dataclasses.replace(config.initial, task_options=left(config.initial.task_options)),
        evolution=dataclasses.replace(config.evolution, task_options=left(config.evolution.task_options)),
        elimination=tuple(r if r.task else dataclasses.replace(r, task_options=left(r.task_options)) for r in config.elimination),
        evaluation=evaluation,
    )


@functools.cache
def _final_tasks_of_presets() -> list[tuple[str | FinalTask, ...]]:
    return [preset(name).evaluation.tasks for name in PRESETS]


def on_device(config: RunConfig, device: str | None) -> RunConfig:
    """The config computed with a device; as it is with None.

    Raises:
        ConfigError: if there is no such device.
    """
    return config if device is None else validated(_plain(config) | {"compute": {"device": device}}, "--device")


def _left(before: str, task: str, options: Options) -> Options:
    """What is left of the options beside one task when another spec takes its place."""
    name, said = named(task)
    return {key: value for key, value in options.items() if key not in said} if name == named(before)[0] else {}


def _with_round_task(config: RunConfig, place: int, task: str) -> RunConfig:
    """The config in which a round of elimination has a task of its own; a place that is not there is left to the caller."""
    rounds = list(config.elimination)
    if place < len(rounds):
        own = rounds[place]
        rounds[place] = dataclasses.replace(own, task=task, task_options=_left(own.task or config.task, task, own.task_options))
    return dataclasses.replace(config, elimination=tuple(rounds))


def checked(config: RunConfig) -> RunConfig:
    """A config made in Python as it is after being read: in range, and with a grammar's file read.

    Raises:
        ConfigError: if any of it is unknown or out of range.
    """
    try:
        table = _plain(config)
    except RecursionError as error:
        raise ConfigError("config: expected a few tables within each other, got one that is too deep or holds itself.") from error
    return validated(table, "config")


def assemble(
    source: RunConfig | str | Path | None = None,
    *,
    preset_name: str | None = None,
    task: str | None = None,
    seed: int | None = None,
    data: str | Path | None = None,
    settings: Sequence[str] = (),
) -> RunConfig:
    """The config of a run from all that can say something about it, the later the stronger: preset, file, task, seed and data, settings.

    Args:
        source: a file, which is read on top of the preset, or a config in place of both.
        preset_name: the preset; "small" if none is named.
        task, seed, data: values of the config.
        settings: see `apply_settings`.
    Raises:
        ConfigError: if any of it is unknown or out of range, or a config and a preset are given.
    """
    if isinstance(source, RunConfig):
        if preset_name is not None:
            raise ConfigError(
                f"Expected a config or a preset, got both: a config has all values, and preset {preset_name!r} would be lost."
            )
        config = source
    else:
        config = preset(preset_name or DEFAULT_PRESET)
        if source is not None:
            config = load_config(source, base=config)
    if task is not None:
        config = with_task(config, task)
    if seed is not None:
        config = dataclasses.replace(config, seed=seed)
    if data is not None:
        config = dataclasses.replace(config, data=str(data))
    return apply_settings(checked(config), settings)


def to_toml(config: RunConfig, about: str = "") -> str:
    """Complete TOML text of a config, each value explained at its first appearance. `from_toml` gives the same config back.

    Args:
        config: the config.
        about: lines of comment about it, such as those of `about_preset`.
    Raises:
        ConfigError: if the config has a value out of range, which could not be read back.
    """
    import tomli_w

    # Checked, so that whole numbers stand as floats where floats belong; shielded, since it is printed and escapes mean the same.
    text = shielded(tomli_w.dumps(_plain(checked(config))), kept="\n", long=True)
    text = re.sub(r"^(\w+ = )\[\n((?: {4}.*,\n)+)\]$", _on_one_line, text, flags=re.MULTILINE)
    lines: list[str] = []
    explained: set[str] = set()
    owner: type | None = RunConfig
    described: type | None
    for line in text.split("\n"):
        if header := re.fullmatch(r"\[+([\w.]+)\]+", line):
            *parents, key = header[1].split(".")
            described, owner = _class_at(parents), _class_at([*parents, key])
        elif value := re.match(r"(\w+) = ", line):
            described, key = owner, value[1]
        else:
            described, key = None, ""
        if described and f"{described.__name__}.{key}" not in explained:
            explained.add(f"{described.__name__}.{key}")
            lines += [f"# {text}" for text in _explanations(described).get(key, [])]
        lines.append(line)
    return _HEAD + (about and about + "\n\n") + "\n".join(lines).strip() + "\n"


def _on_one_line(array: re.Match[str]) -> str:
    return f"{array[1]}[{', '.join(line.strip().removesuffix(',') for line in array[2].split(chr(10)) if line)}]"


def difference(a: RunConfig, b: RunConfig) -> list[tuple[str, Any, Any]]:
    """Where two configs differ: (dotted key, value in a, value in b), in the order of the fields; None where one has no such key."""
    left, right = dict(_leaves(_plain(a))), dict(_leaves(_plain(b)))
    return [(key, left.get(key), right.get(key)) for key in {**left, **right} if left.get(key) != right.get(key)]


def _plain(value: Any) -> Any:
    """A config as dicts, lists and TOML's scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return NONE if value is None else value


def _merge(base: Table, table: Mapping[str, Any], replaced: Collection[str] = ()) -> Table:
    """`table` over `base`; the tables under the keys `replaced` take the place of those of the base."""
    merged = dict(base)
    for key, value in table.items():
        if key == "grammar" and isinstance(value, dict) and isinstance(merged.get(key), str | dict):
            merged[key] = changed(merged[key], value)
            continue
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value, replaced) if both_tables and key not in replaced else value
    return merged


def _round(base: RunConfig, number: int, own: Any, whole: bool) -> Any:
    """A round of elimination of a file over the base's at its place, its last, or, where it has none, the measuring of its evolution."""
    if not isinstance(own, dict) or (whole and not base.elimination):
        return own
    if base.elimination:
        start: EliminationRound = base.elimination[min(number, len(base.elimination) - 1)]
        table = _plain(start)
    else:
        table = _plain(base.evolution)
    if isinstance(task := own.get("task"), str) and task:
        table["task_options"] = _left(table.get("task") or base.task, task, table["task_options"])
    return _merge(table, own, {"task_options"} if whole else ())


def _with_protocols(table: Table, source: str) -> Table:
    """A table in which every protocol that names a preset is complete."""
    complete: Table = {}
    for key, value in table.items():
        if isinstance(value, list):
            complete[key] = [_with_protocols(item, source) if isinstance(item, dict) else item for item in value]
        elif not isinstance(value, dict) or key in {"task_options", "grammar"}:
            complete[key] = value
        elif key == "protocol" and "preset" in value:
            own = {name: item for name, item in value.items() if name != "preset"}
            complete[key] = _merge(_protocol(value["preset"], f"{source}: protocol.preset"), own)
        else:
            complete[key] = _with_protocols(value, source)
    return complete


def _with_one_device(table: Table) -> Table:
    """A table whose protocols name no device, as they did before there was one for a whole run: cuda if one of them said cuda."""
    named: list[Any] = []

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        if not isinstance(value, dict):
            return value
        if isinstance(protocol := value.get("protocol"), dict) and "device" in protocol:
            named.append(protocol["device"])
            value = value | {"protocol": {key: item for key, item in protocol.items() if key != "device"}}
        return {key: without(item) for key, item in value.items()}

    found = without(table)
    if named and "compute" not in found:
        found["compute"] = {"device": "cuda" if "cuda" in named else named[0]}
    return cast(Table, found)


def _protocol(name: Any, source: str) -> Table:
    if not isinstance(name, str) or name not in PROTOCOLS:
        raise ConfigError(f"{source}: expected the name of a protocol ({', '.join(PROTOCOLS)}), got {shown(name)}.")
    return cast(Table, _plain(PROTOCOLS[name]))


def _value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if table.keys() == {"value"} else text


def _put(table: Any, path: Sequence[str], value: Any, key: str) -> None:
    """Sets the value at a path of keys and list positions. A wrong last key is left to validation, which knows what is near."""
    *parents, last = path
    for parent in parents:
        if parent == "grammar" and isinstance(table, dict) and isinstance(table.get(parent), str):
            table[parent] = changed(table[parent], {})
        if isinstance(table, list):
            place = _position(table, parent, key)
            if isinstance(table[place], str) and path[:2] == ["evaluation", "tasks"]:
                table[place] = _plain(FinalTask(table[place]))
            table = table[place]
        elif parent in _OPEN and path[:2] == ["evaluation", "tasks"] and isinstance(table, dict):
            table = table.setdefault(parent, {})
        elif isinstance(table, dict) and isinstance(table.get(parent), dict | list):
            table = table[parent]
        else:
            raise ConfigError(unknown_key("--set", key))
    if isinstance(table, list):
        table[_position(table, last, key)] = value
    elif isinstance(table, dict):
        table[last] = value


_OPEN = ("task_options", "protocol", "schedule")  # tables of a final task that say only what is other


def _position(items: list[Any], text: str, key: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        raise ConfigError(f"--set {key}: expected a position below {len(items)}, the length of the list, instead of {text!r}.")
    return int(text)


def _class_at(path: Sequence[str]) -> type | None:
    """The dataclass whose fields stand under a TOML header; None for the options of a task."""
    hint: Any = RunConfig
    for name in path:
        hint = hints_of(hint)[name] if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None
        if get_origin(hint) is tuple:
            hint = get_args(hint)[0]
            hint = next((kind for kind in get_args(hint) if dataclasses.is_dataclass(kind)), hint)
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


@functools.cache
def _explanations(owner: type) -> dict[str, list[str]]:
    """Field → lines about it, from the section "Attributes" of the class's docstring."""
    _, _, section = (inspect.getdoc(owner) or "").partition("Attributes:\n")
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in inspect.cleandoc(section).splitlines():
        if start := re.match(r"([\w, ]+): (.*)", line):
            current = [start[2]]
            names = start[1].split(", ")
            found[names[0]] = current
        elif line.strip():
            current.append(line.strip())
    return found


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{prefix}.{key}" if prefix else key)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{prefix}.{i}")
    else:
        yield prefix, value
