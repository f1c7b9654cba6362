"""Checks a config table: names, types and ranges, and what numbers owe each other. Every mistake is one sentence about one dotted key."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from annotated_types import Unit

from optevolve.config import EliminationRound, Evaluation, FinalTask, Protocol, ProtocolTable, RunConfig
from optevolve.config_bounds import require_bounds
from optevolve.errors import ConfigError
from optevolve.run_size import FINAL_EVALUATION, most_of, sizes

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

__all__ = ["NONE", "hints_of", "nearest", "shown", "unknown_key", "validated", "validated_protocol"]

NONE = "none"  # TOML has no null


@functools.cache
def _adapter() -> TypeAdapter[RunConfig]:
    from pydantic import TypeAdapter

    return TypeAdapter(RunConfig)


def validated(table: dict[str, Any], source: str) -> RunConfig:
    """The config that a complete table describes; `source` names the text in messages.

    Raises:
        ConfigError: about the first mistake.
    """
    from pydantic import ValidationError

    require_bounds(table, source)
    table = _with_seconds(_with_grammar_read(table, source), source)
    try:
        # By way of JSON, since pydantic's strict mode takes lists for tuples and tables for dataclasses only there.
        config = _adapter().validate_json(json.dumps(_without_none(table, RunConfig), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(_telling(error.errors()), source)) from error
    config = dataclasses.replace(config, evaluation=_with_budgets(config.evaluation, source))
    _check(config, source)
    return config


def _with_budgets(evaluation: Evaluation, source: str) -> Evaluation:
    """The evaluation whose tasks' protocols are checked, their values of the types that a protocol has."""
    return dataclasses.replace(
        evaluation,
        tasks=tuple(
            task if isinstance(task, str) else dataclasses.replace(task, protocol=_budget(task, evaluation.protocol, source, place))
            for place, task in enumerate(evaluation.tasks)
        ),
    )


def _budget(task: FinalTask, protocol: Protocol, source: str, place: int) -> ProtocolTable:
    schedule = task.protocol.get("schedule", {})
    whole = dataclasses.asdict(protocol) | task.protocol
    if isinstance(schedule, dict):
        whole["schedule"] = dataclasses.asdict(protocol.schedule) | schedule
    found = validated_protocol(whole, source, f"evaluation.tasks.{place}.protocol.")
    values = {key: getattr(found, key) for key in task.protocol}
    if "schedule" in values:
        values["schedule"] = {key: getattr(found.schedule, key) for key in schedule}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


@functools.cache
def _protocols() -> TypeAdapter[Protocol]:
    from pydantic import TypeAdapter

    return TypeAdapter(Protocol)


def validated_protocol(table: dict[str, Any], source: str, prefix: str = "protocol.") -> Protocol:
    """The protocol that a table describes, what it leaves out being the paper's; arguments as of `validated`, and the key of the table.

    Raises:
        ConfigError: about the first mistake.
    """
    from pydantic import ValidationError

    require_bounds(table, source)
    try:
        return _protocols().validate_json(json.dumps(_without_none(table, Protocol), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(_explain(error.errors()[0], source, prefix)) from error


def _telling(errors: list[ErrorDetails]) -> ErrorDetails:
    """The error that says most: of a table in a list of texts or tables, what is wrong in it, not that it is no text."""
    return next((error for error in errors if not (error["loc"][-1:] == ("str",) and isinstance(error["input"], dict))), errors[0])


def _with_grammar_read(table: dict[str, Any], source: str) -> dict[str, Any]:
    """The table with what a grammar's file holds in place of its path, so that a run depends on no file beside it."""
    from optevolve.space.grammar import GRAMMARS, grammar, read_table

    value = table.get("grammar")
    if not isinstance(value, str | dict):
        raise ConfigError(f"{source}: grammar: expected a name, the path of a TOML file or a table, got {shown(value)}.")
    try:
        found = read_table(value) if isinstance(value, str) and value not in GRAMMARS else value
        grammar(found)
    except ConfigError as error:
        raise ConfigError(f"{source}: grammar: {error}") from error
    return {**table, "grammar": found}


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}


def _with_seconds(table: dict[str, Any], source: str) -> dict[str, Any]:
    """The table with the time limit of a measurement as a number of seconds, where it is said as "90s", "5m" or "1h30m"."""
    workers = table.get("workers")
    if not isinstance(workers, dict) or not isinstance(said := workers.get("time_limit"), str) or said == NONE:
        return table
    units = "".join(rf"(?:(\d+(?:\.\d+)?)\s*{unit}{'?' if unit == 's' else ''}\s*)?" for unit in _UNITS)  # 90 alone are seconds
    parts = re.fullmatch(f"(?=.){units}", said.strip().lower())
    if parts is None:
        raise ConfigError(f"{source}: workers.time_limit: expected seconds, or a time such as 90s, 5m or 1h30m, got {shown(said)}.")
    seconds = sum(float(number) * size for number, size in zip(parts.groups(), _UNITS.values(), strict=True) if number)
    return {**table, "workers": {**workers, "time_limit": seconds}}


def _without_none(value: Any, owner: Any) -> Any:
    """Reads the string "none" as None where None is allowed."""
    if isinstance(owner, type) and dataclasses.is_dataclass(owner) and isinstance(value, dict):
        hints = hints_of(owner)
        return {key: _without_none(item, hints.get(key)) for key, item in value.items()}
    if get_origin(owner) is tuple and isinstance(value, list):
        return [_without_none(item, get_args(owner)[0]) for item in value]
    return None if value == NONE and type(None) in get_args(owner) else value


@functools.cache
def hints_of(owner: type) -> dict[str, Any]:
    """Field → type of a dataclass, resolved."""
    return get_type_hints(owner)


def _check(config: RunConfig, source: str) -> None:
    """What types cannot say: names that must be known, and numbers that depend on each other."""
    from optevolve.algorithms import ALGORITHMS
    from optevolve.library import ZOO

    names: list[tuple[str, str, list[str]]] = [
        ("search.algorithm", config.search.algorithm, list(ALGORITHMS)),
        *((f"evaluation.baselines.{i}", name, list(ZOO)) for i, name in enumerate(config.evaluation.baselines)),
    ]
    for key, value, known in names:
        if value not in known:
            expected = f"one of {', '.join(known)}" if len(known) <= 10 else "a rule of 'optevolve zoo'"
            raise ConfigError(f"{source}: {key}: expected {expected}, got {value!r}.{nearest(value, known)}")
    if "\0" in config.data:
        raise ConfigError(f"{source}: data: expected the path of a folder, which has no NUL in it, got {shown(config.data)}.")
    for key, values in _lists(config):
        twice = [value for number, value in enumerate(values[:1000]) if value in values[:number]]
        if twice or len(values) > 1000:
            got = f"got {shown(twice[0])} twice. Remove one." if twice else f"and at most 1000, got {len(values)}."
            raise ConfigError(f"{source}: {key}: expected each value once, {got}")
    if config.search.particles > config.search.population:
        raise ConfigError(
            f"{source}: search.particles: expected at most search.population ({config.search.population}), "
            f"since the best of the population become the particles, got {config.search.particles}."
        )
    for i, (before, after) in enumerate(zip(config.elimination, config.elimination[1:], strict=False), start=1):
        if after.keep > before.keep:
            raise ConfigError(
                f"{source}: elimination.{i}.keep: expected at most {before.keep}, what the round before it keeps, got {after.keep}."
            )
    for stage, size in sizes(config).items():
        if size > most_of(stage):
            key, cause = _cause_of_size(stage, config)
            raise ConfigError(f"{source}: {key}: expected at most {most_of(stage):,} measurements of a stage, got {size:,} by {cause}.")


def _cause_of_size(stage: str, config: RunConfig) -> tuple[str, str]:
    """The key that a stage's size is said of, and what else makes it so large."""
    if stage == FINAL_EVALUATION:
        return "evaluation.seeds", "its product with the contestants and the tasks. Take fewer of one of them"
    if stage.startswith("eliminate/"):
        key = f"elimination.{int(stage.partition('/')[2]) - 1}.seeds" if config.elimination else "search.remeasure"
        return key, "its product with the rules that enter. Take fewer of one of them"
    return "search.timesteps", "its product with search.particles and search.children. Take fewer of one of them"


def _lists(config: RunConfig) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Lists whose values each stand for something to be measured, with their dotted keys."""
    yield "evaluation.baselines", config.evaluation.baselines
    yield "evaluation.tasks", config.evaluation.tasks
    stages = {"initial": config.initial, "evolution": config.evolution}
    rounds = {f"elimination.{number}": budget for number, budget in enumerate(config.elimination)}
    for name, stage in (stages | rounds).items():
        yield f"{name}.more_tasks", stage.more_tasks
    for name, owner in (stages | rounds | {"evaluation": config.evaluation}).items():
        for field in ("learning_rates", "first_learning_rates", "weight_decays"):
            yield f"{name}.protocol.{field}", getattr(owner.protocol, field)


_BOUNDS = {"greater_than_equal": "at least", "greater_than": "more than", "less_than_equal": "at most", "less_than": "less than"}
_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": 'a list, such as ["adam", "sgd"] or [0.1, 0.01]',
    "finite_number": "a finite number",
    "dict": "a table",
    "dataclass": "a table",
    "dataclass_exact": "a table",
}


def _explain(error: ErrorDetails, source: str, prefix: str = "") -> str:
    """One sentence or two from pydantic's first finding."""
    kind, context = error["type"], error.get("ctx", {})
    union = {"bool", "int", "float", "str"}  # the alternatives of an option's value, which pydantic adds to the path
    location = [str(part) for part in error["loc"] if part != FinalTask.__name__]
    if location[:2] == ["evaluation", "tasks"] and location[3:] == ["str"]:
        return f"{source}: {'.'.join(location[:3])}: expected a task's spec or a table [[evaluation.tasks]], got {shown(error['input'])}."
    if len(location) > 1 and location[-1] in union:
        location.pop()
        return f"{source}: {'.'.join(location)}: expected true, false, a number or text, got {shown(error['input'])}."
    key = prefix + ".".join(location)
    if kind == "unexpected_keyword_argument":
        return unknown_key(source, key)
    if kind == "missing":
        return f"{source}: {key}: expected a value, got none."
    if kind == "literal_error":
        expected = f"one of {context['expected']}"
    elif kind == "too_short":
        expected = f"at least {context['min_length']} value"
    elif bounds := {
        "greater_than_equal": "at least",
        "greater_than": "more than",
        "less_than_equal": "at most",
        "less_than": "less than",
    }.get(kind):
        limit = next(value for name, value in context.items() if name in {"ge", "gt", "le", "lt"})
        limit = int(limit) if limit == int(limit) else limit
        expected = f"a number that is {bounds} {limit:,}{_unit(location)}"
    else:
        expected = _EXPECTED.get(re.sub(r"_(type|parsing|from_float|exact_type)$", "", kind), error["msg"])
    return f"{source}: {key}: expected {expected}, got {shown(error['input'])}."


def _unit(location: list[str]) -> str:
    """What a value is counted in, as its field's type says; empty for mere numbers."""
    hint: Any = RunConfig
    for key in location:
        hint = get_type_hints(hint, include_extras=True).get(key) if dataclasses.is_dataclass(hint) else None
    notes = [note for part in (hint, *get_args(hint)) for note in getattr(part, "__metadata__", ())]
    return next((f" {note.unit}" for note in notes if isinstance(note, Unit)), "")


def unknown_key(source: str, key: str) -> str:
    """The message about a dotted key that no field has."""
    known = [name for name, _ in _known_keys(RunConfig)]
    general = re.sub(r"\.\d+(?=\.|$)", ".0", key)
    last = general.rsplit(".", 1)[-1]
    namesakes = [name for name in known if name.rsplit(".", 1)[-1] == last]
    near = difflib.get_close_matches(general, namesakes or known, n=1, cutoff=0.0 if namesakes else 0.6)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{source}: unknown key '{key}'.{hint} 'optevolve config' shows every key."


def _known_keys(owner: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(owner):
        hint = hints_of(owner)[field.name]
        yield prefix + field.name, hint
        if dataclasses.is_dataclass(hint):
            yield from _known_keys(hint, f"{prefix}{field.name}.")
        elif get_origin(hint) is tuple and (owners := [kind for kind in _ROWS if kind in _alternatives(get_args(hint)[0])]):
            yield from _known_keys(owners[0], f"{prefix}{field.name}.0.")
        elif owner is FinalTask and field.name == "protocol":
            yield from _known_keys(Protocol, f"{prefix}{field.name}.")


_ROWS = (EliminationRound, FinalTask)  # what lists of tables hold


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) or (hint,)


def nearest(name: str, known: Collection[str]) -> str:
    """A question to append to a message if a known name is near, else nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: Any) -> str:
    """A found value, shortened for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
