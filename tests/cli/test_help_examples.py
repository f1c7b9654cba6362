"""Every example in a help text is one that works: its options exist, and where it names a task or a config, these are what it says."""

import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from optevolve.cli.app import app
from optevolve.config_text import assemble, preset
from optevolve.pipeline import require_tasks
from optevolve.tasks import load

GROUP: Any = typer.main.get_command(app)
EXAMPLES = [
    (name, line.strip().split(" | ")[0].split(" > ")[0])
    for name, command in [("", GROUP), *GROUP.commands.items()]
    for line in (command.help or "").splitlines()
    if line.strip().startswith("optevolve ")
]
MOONS = """
from dataclasses import dataclass
from optevolve.tasks.synthetic import MlpMoons

@dataclass(frozen=True)
class Moons(MlpMoons): pass
"""


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """The command of an example and its values, parsed as the command line does, which refuses an option that is not there."""
    _, name, *arguments = shlex.split(line)
    with click.Context(GROUP) as parent:
        context = GROUP.commands[name].make_context(name, arguments, parent=parent)
    return name, context.params


def test_commands_have_examples() -> None:
    assert {name for name, _ in EXAMPLES} >= {"", "search", "resume", "top", "compare", "tasks", "config", "export"}


@pytest.mark.parametrize(("owner", "line"), EXAMPLES, ids=[line for _, line in EXAMPLES])
def test_an_example_names_what_there_is(owner: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tasks.py").write_text(MOONS, encoding="utf-8")
    (tmp_path / "my_run.toml").write_text('preset = "quick"\n', encoding="utf-8")
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name, values = parsed(line)
    if name in ("search", "config"):
        config = assemble(
            values["config_file"], preset_name=values["preset"], task=values["task"], settings=values["settings"] or ()
        )  # fmt: skip
        require_tasks(config)
    if name == "compare":
        for spec in values["tasks"]:
            load(spec)
    if values.get("check"):
        load(values["check"])


def test_the_example_of_a_narrower_network_gives_one() -> None:
    """What `tasks --help` shows: an option of the task, over the preset's own."""
    (line,) = [line for owner, line in EXAMPLES if owner == "tasks" and "search" in line]
    _, values = parsed(line)
    config = assemble(values["config_file"], preset_name=values["preset"], task=values["task"])
    assert preset("small").initial.task_options["width"] != 16
    for stage in (config.initial, config.evolution, *config.elimination, config.evaluation):
        assert "width" not in stage.task_options
    assert vars(load(config.task))["width"] == 16
