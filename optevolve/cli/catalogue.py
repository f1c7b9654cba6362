"""Commands that list what there is: published rules, tasks, and every number of a run."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optevolve.cli.terminal import print_json, print_table, say

if TYPE_CHECKING:
    from optevolve.library import ZooRule
    from optevolve.tasks import Task

__all__ = ["config", "names", "tasks", "zoo"]


def zoo(json: Annotated[bool, typer.Option("--json", help="Print the rules as a JSON list.")] = False) -> None:
    """List published optimizers and learning-rate schedules; each name can be used wherever a rule can.

    \b
    Examples:
      optevolve zoo
      optevolve show opt6
    """
    from optevolve.library import SCHEDULES, ZOO
    from optevolve.space.text import format_expression

    rows = list(ZOO.values())
    schedules = {name: format_expression(factor) for name, factor in SCHEDULES.items()}
    if json:
        rules = [{**asdict(row), "rule": str(row.rule), "learning_rate": row.learning_rate} for row in rows]
        print_json([*rules, *({"name": name, "schedule": factor} for name, factor in schedules.items())])
        return
    print_table(
        ["name", "learning rate", "measured", "rule", "summary"],
        ([row.name, _rate(row.learning_rate), _measured(row), str(row.rule), row.summary] for row in rows),
        right=["learning rate"],
    )
    say(
        "\nLearning rate: a peak to start from, the default of the class: the source's where it recommends one, else the middle of\n"
        "what was measured. Measured: the best peaks on three kinds of task (a language model, images, a table), from the smallest\n"
        "to the largest; * where the best scores reach the end of the grid. Ranges, tasks and the command: docs/optimizers.md."
    )
    say("\nLearning-rate schedules, as factors on warm-up + cosine; shown and exported as gradient descent on them:", style="bold")
    print_table(["name", "factor"], schedules.items())


def _rate(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _measured(row: ZooRule) -> str | None:
    """The span of the best peaks over the tasks."""
    if row.measured is None:
        return None
    best = [task.best for task in row.measured.tasks.values()]
    return f"{min(best):g} … {max(best):g}{'*' * row.measured.edge}" if min(best) < max(best) else f"{best[0]:g}{'*' * row.measured.edge}"


def names(json: bool) -> None:
    """Every name that a rule can be made of, from the tables."""
    from optevolve.space.operands import OPERANDS
    from optevolve.space.operators import LEAVES, OPERATORS
    from optevolve.space.tables import signature

    groups = {
        "leaves": [(row.name, row.summary) for row in LEAVES.values() if row.tensor],
        "short names": [(row.name, f"{row.summary}: {row.expression}") for row in OPERANDS.values() if row.name != row.expression],
        "operators": [(signature(row), row.summary) for row in OPERATORS.values()],
        "decays": [(row.name, row.summary) for row in LEAVES.values() if not row.tensor],
    }
    if json:
        print_json({group: [{"name": name, "summary": summary} for name, summary in rows] for group, rows in groups.items()})
        return
    for group, rows in groups.items():
        say(group.capitalize(), style="bold")
        width = max(len(name) for name, _ in rows)
        for name, summary in rows:
            say(f"  {name.ljust(width)}  {summary}")
    say("\nA rule is an expression of these, after 'plain:', 'momentum:' or 'nesterov:' (plain if left out), with '-' before it to climb.")
    say("What each stands for: docs/search-space.md.")


def tasks(
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="TASK", help="Try a task out (your own: module:Name): steps, passes, repetition."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the tasks, or the check's findings, as JSON.")] = False,
) -> None:
    """List tasks with their options and data, or try one out.

    --check trains a model for a pass with Adam and two steps with Muon, scores one on the other splits, and calls everything twice: what
    would end every rule of a search is found there, a minute at most for each pass. A search checks the same for five seconds.

    \b
    Examples:
      optevolve tasks
      optevolve tasks --check my_tasks:Moons
      optevolve search --task cifar10-convnet@width=16 --out runs/narrow
    """
    from optevolve.floors import floors_in_words
    from optevolve.run.trial import check_tasks
    from optevolve.tasks import TASKS, WRAPPERS, load

    if check is not None:
        found = check_tasks([check], thorough=True)[check]
        task = load(check)
        if json:
            print_json({"task": check, "ok": True, **asdict(found)})
        else:
            say(f"{check} is sound: {found.parameters} parameters, untrained loss {found.loss:.4g}, untrained score {found.score:.4g}")
            say(f"Early stopping asks for {floors_in_words(task)}.")
            for note in found.notes:
                say(f"Note: {note}")
        return
    if json:
        print_json(
            [
                {"name": name, "options": _options(kind), **{fact: getattr(kind, fact) for fact in (*_FACTS, "floors", "floors_from")}}
                for name, kind in TASKS.items()
            ]
        )
        return
    for name, kind in TASKS.items():
        say(name, style="bold")
        options = ", ".join(f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in _options(kind).items())
        facts = {_FACTS[fact]: getattr(kind, fact) for fact in _FACTS}
        floors = floors_in_words(kind)
        for label, text in {"": facts.pop(""), "options": options, **facts, "early stopping": floors}.items():
            if text:
                say(f"  {label}: {text}" if label else f"  {text}")
    say(f"\nUnder other conditions, each a number after a colon: {', '.join(f'TASK+{name}:…' for name in WRAPPERS)}.")
    say("Your own: optevolve search --task module:Name; see CONTRIBUTING.md.")


_FACTS = {"summary": "", "budget": "budget", "data_source": "data", "licence": "licence", "citation": "cite"}


def _options(kind: type[Task]) -> dict[str, Any]:
    """Option → default of a task."""
    return {f.name: None if f.default is MISSING else f.default for f in fields(kind) if f.init}


def config(
    config_file: Annotated[Path | None, typer.Argument(metavar="FILE", help="TOML file with config values to check and complete.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", "-p", help="What to start from: quick, small (the default) or paper.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="What to train.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any config value; may be repeated.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the config as JSON.")] = False,
) -> None:
    """Print every number of a run as TOML, explained, for a file of your own.

    \b
    Examples:
      optevolve config --preset paper > my_run.toml
      optevolve config my_run.toml --set search.particles=3
    """
    from optevolve.config_text import DEFAULT_PRESET, about_preset, assemble, to_toml

    chosen = assemble(config_file, preset_name=preset, task=task, settings=settings or ())
    if config_file or task or settings:  # a preset as it is need not be checked, nor torch be loaded for that
        from optevolve.pipeline import require_tasks

        require_tasks(chosen)
    if json:
        print_json(asdict(chosen))
    else:
        about = about_preset(preset or DEFAULT_PRESET) if config_file is None and task is None else ""
        typer.echo(to_toml(chosen, about), nl=False)
