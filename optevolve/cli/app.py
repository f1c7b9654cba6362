"""All commands under one name, and what becomes of errors: one message on standard error, exit code 2, no traceback."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from optevolve import __version__
from optevolve.cli import calibrate, catalogue, compare, rules, runs, upkeep
from optevolve.cli.terminal import error_line
from optevolve.errors import OptevolveError
from optevolve.printable import tolerate

__all__ = ["app", "main"]

app = typer.Typer(
    name="optevolve",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("search", rich_help_panel="Runs")(runs.search)
app.command("resume", rich_help_panel="Runs")(runs.resume)
app.command("top", rich_help_panel="Runs")(runs.top)
app.command("evaluate", rich_help_panel="Runs")(runs.evaluate)
app.command("compare", rich_help_panel="Runs")(compare.compare)
app.command("calibrate", rich_help_panel="Runs")(calibrate.calibrate)
app.command("report", rich_help_panel="Runs")(runs.report)
app.command("verify", rich_help_panel="Runs")(upkeep.verify)
app.command("backup", rich_help_panel="Runs")(upkeep.backup)
app.command("show", rich_help_panel="Rules")(rules.show)
app.command("export", rich_help_panel="Rules")(rules.export)
app.command("zoo", rich_help_panel="Rules")(catalogue.zoo)
app.command("tasks", rich_help_panel="What there is")(catalogue.tasks)
app.command("config", rich_help_panel="What there is")(catalogue.config)

# What the system may say about files and disks that a user can mend; anything else is a programming error and keeps its traceback.
_REMEDIES = {
    errno.ENOSPC: "The disk is full. Free some space, then go on with the same command; what was stored is kept.",
    errno.EDQUOT: "Your disk quota is used up. Free some space, then go on with the same command; what was stored is kept.",
    errno.EROFS: "The disk is read-only. Choose a folder that can be written to.",
    errno.EACCES: "Permission denied. Choose a place that you may read and write, or change its permissions.",
    errno.EPERM: "Permission denied. Choose a place that you may read and write, or change its permissions.",
    errno.ENOENT: "There is no such file or folder. Check the path.",
    errno.EISDIR: "A file was expected, this is a folder. Name a file.",
    errno.ENOTDIR: "A folder was expected, this is a file. Name a folder.",
    errno.EEXIST: "There is a file where a folder was expected. Choose another folder.",
    errno.ENAMETOOLONG: "The name is too long for this disk. Choose a shorter one.",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"optevolve {__version__}")
        raise typer.Exit


@app.callback()
def _optevolve(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    """Evolve neural-network optimizers: update equation, decays and learning-rate schedule together.

    \b
    Start here:
      optevolve search --preset quick --out runs/demo
      optevolve top runs/demo
      optevolve export runs/demo -o my_optimizer.py
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 if it went well, 2 if the user has something to mend, 130 if interrupted."""
    tolerate()
    try:
        app(args=_with_rules_apart(sys.argv[1:] if arguments is None else list(arguments)))
    except OptevolveError as error:
        error_line(str(error))
        sys.exit(2)
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        place = f"{error.filename}: " if error.filename is not None else ""
        error_line(f"{place}{_REMEDIES[error.errno]}")
        sys.exit(2)


def _with_rules_apart(arguments: list[str]) -> list[str]:
    """Moves a rule that begins with a minus, such as "-momentum: g", behind "--", lest it be taken for options."""
    if not arguments or arguments[0] not in {"show", "export", "compare"} or "--" in arguments:
        return arguments
    rules = [text for text in arguments if text[:1] == "-" and text[:2] != "--" and text not in {"-", "-o", "-f", "-h", "-t", "-s", "-w"}]
    return [text for text in arguments if text not in rules] + (["--", *rules] if rules else [])
