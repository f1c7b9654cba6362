"""The tasks of a final evaluation, each with its protocol: those of a config, and those that someone asks for later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from optevolve.config import FinalTask, Protocol, RunConfig
from optevolve.config_text import apply_settings, checked
from optevolve.errors import ConfigError, StudyError
from optevolve.task_spec import named, spec_of

__all__ = ["asked_tasks", "final_tasks"]


def final_tasks(config: RunConfig) -> dict[str, Protocol]:
    """Spec of each final task → its protocol; of the run's own task where the config names none.

    Raises:
        ConfigError: if one task has two protocols.
    """
    evaluation = config.evaluation
    own = FinalTask(config.task, evaluation.task_options)
    found: dict[str, Protocol] = {}
    for place, item in enumerate(evaluation.tasks or [own]):
        task = FinalTask(item) if isinstance(item, str) else item
        spec, protocol = spec_of(task.task, task.task_options), task.protocol_over(evaluation.protocol)
        if found.setdefault(spec, protocol) != protocol:
            raise ConfigError(f"evaluation.tasks.{place}: expected each task once, got {spec!r} a second time with another protocol.")
    return found


def asked_tasks(
    config: RunConfig, tasks: Sequence[str | FinalTask], settings: Sequence[str], measured: Mapping[str, Protocol]
) -> dict[str, Protocol]:
    """The tasks that someone wants a finished run to be evaluated on, each with its protocol.

    A task keeps the protocol under which it was evaluated before; else it has that of the config, if the config names it among its final
    tasks, or the evaluation's.

    Args:
        config: of the run.
        tasks: specs, or tasks with budgets; none for the run's own final tasks.
        settings: changes to the protocols, "KEY=VALUE" for all of the tasks, "TASK.KEY=VALUE" for one, by its name or spec.
        measured: spec → protocol of what is evaluated already.
    Raises:
        ConfigError: if a setting names no task or no value of a protocol.
        StudyError: if a task was evaluated under another protocol.
    """
    of_config = final_tasks(config)
    wanted: dict[str, Protocol] = {}
    for task in tasks or of_config:
        if isinstance(task, str):
            spec = spec_of(task)
            wanted[spec] = measured.get(spec) or of_config.get(spec) or config.evaluation.protocol
        else:
            wanted[spec_of(task.task, task.task_options)] = task.protocol_over(config.evaluation.protocol)
    found = _changed(config, wanted, settings)
    for spec, protocol in found.items():
        if spec in measured and protocol != measured[spec]:
            old, new = asdict(measured[spec]), asdict(protocol)
            key = next(key for key in new if old[key] != new[key])
            raise StudyError(
                f"{spec} was evaluated under another protocol in this run ({key}: {old[key]!r} there, {new[key]!r} here), and scores "
                "are compared under one alone. Leave the change out, or compare the rules in a folder of their own: optevolve compare."
            )
    return found


def _changed(config: RunConfig, wanted: Mapping[str, Protocol], settings: Iterable[str]) -> dict[str, Protocol]:
    """The protocols with settings, by way of a config, which checks them."""
    rows = tuple(FinalTask(spec, protocol=asdict(protocol)) for spec, protocol in wanted.items())
    config = checked(replace(config, evaluation=replace(config.evaluation, tasks=rows)))
    dotted = [f"evaluation.tasks.{place}.protocol.{key}" for text in settings for place, key in _places(text, list(wanted))]
    return final_tasks(apply_settings(config, dotted))


def _places(setting: str, specs: Sequence[str]) -> list[tuple[int, str]]:
    """Which tasks a setting is for, by place, and the setting without their name."""
    for label in sorted({*specs, *(named(spec)[0] for spec in specs)}, key=len, reverse=True):  # a spec before the name in it
        if setting.startswith(label + "."):
            places = [place for place, spec in enumerate(specs) if label in (spec, named(spec)[0])]
            return [(place, setting[len(label) + 1 :]) for place in places]
    key = setting.partition("=")[0].strip()
    if "." in key and not key.startswith("schedule."):
        raise ConfigError(
            f"--set {setting}: expected KEY=VALUE for all tasks, or TASK.KEY=VALUE for one of {', '.join(specs)}, got the key {key!r}."
        )
    return [(place, setting) for place in range(len(specs))]
