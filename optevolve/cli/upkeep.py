"""Commands that look after runs: is one sound, and a copy of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from optevolve.cli.terminal import print_json, say

__all__ = ["backup", "verify"]

RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]


def verify(
    folder: RunFolder,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Copy the study, then take away what is not sound; 'optevolve resume' measures it again."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Say what is sound in a run's study and what is not: its file, its schema, every row. Exits with 1 if something is not.

    \b
    Examples:
      optevolve verify runs/demo
      optevolve verify runs/demo --repair
    """
    from optevolve.run.upkeep import verify_run

    found = verify_run(folder, repair=repair)
    if json:
        print_json(
            {
                "store": found.store,
                "sound": found.sound,
                "findings": [{"what": f.what, "count": f.count, "repair": f.repair} for f in found.findings],
                "repaired": found.repaired,
                "saved": found.saved and str(found.saved),
            }
        )
    else:
        say(f"{found.store}: " + ", ".join(f"{count:,} {table}" for table, count in found.sound.items()) + " are sound.")
        for finding in found.findings:
            say(f"Not sound: {finding.what}")
            if not finding.repair:
                say("  It cannot be repaired. Restore a copy, or start a new run.")
            else:
                say(f"  {'Repaired' if found.repaired else 'Can be repaired'}: {finding.repair}.")
        if found.saved is not None:
            say(f"As it was before: {found.saved}")
        if not found.findings:
            say("Nothing is wrong.")
        elif not found.repaired and any(finding.repair for finding in found.findings):
            say(f"Repair it: optevolve verify {folder} --repair")
    left = [finding for finding in found.findings if not (found.repaired and finding.repair)]
    if left:
        raise typer.Exit(1)


def backup(
    folder: RunFolder,
    to: Annotated[Path, typer.Argument(metavar="TO", help="New folder for the copy.")],
) -> None:
    """Copy a run into a new folder, also while it goes on. The copy can be looked at and resumed.

    A study in PostgreSQL is copied by the server's own pg_dump.

    \b
    Example:
      optevolve backup runs/demo copies/demo
    """
    from optevolve.run.upkeep import backup_run

    say(f"Copied to {backup_run(folder, to)}")
