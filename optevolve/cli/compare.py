"""The command that compares rules on tasks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from optevolve.cli.runs import Device, print_comparisons
from optevolve.cli.subject import RULE_HELP, Rank, find
from optevolve.cli.terminal import console, print_json, say

__all__ = ["compare"]


def compare(
    rules: Annotated[list[str], typer.Argument(metavar="RULE...", help=RULE_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the comparison; the same command goes on where it stopped.")],
    tasks: Annotated[list[str], typer.Option("--task", "-t", help="Task spec; may be repeated.")],
    protocol: Annotated[str, typer.Option("--protocol", help="paper or fast; both judge at the end of training.")] = "fast",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any value of the protocol.")] = None,
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="NAME", help="Whom the others are tested against. Default: adamw if it is given, else the first rule."
        ),
    ] = "",
    rank: Rank = 1,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Paired runs per rule and task.")] = 5,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of everything random.")] = 0,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-w", min=1, help="Processes that train. Default: one per core.")] = None,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to standard error.")] = False,
) -> None:
    """Compare rules on tasks: learning rate and weight decay tuned alike on validation data, then test scores over paired seeds.

    The folder gets study.db, comparison.json and comparison.png. Further rules, tasks and seeds may be added to it.

    \b
    Examples:
      optevolve compare adam nesterov opt6 opt10 --task digits --out runs/digits
      optevolve compare runs/demo --against adam --task cifar10-convnet@width=8 --set full_steps=2000 --out runs/mine
    """
    from optevolve.comparison import compare as measure
    from optevolve.comparison import name_of
    from optevolve.progress import Progress

    named = {}
    for text in rules:
        subject = find(text, rank)
        name = f"{Path(text).resolve().name}-{rank}" if Path(text).is_dir() else name_of(text)
        named[name] = subject.rule
    try:
        with Progress(console(stderr=json)) as progress:
            found = measure(
                named, tasks, out, protocol=protocol, settings=settings or (), against=against, seeds=seeds, seed=seed, data=data,
                workers=workers, device=device, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        console(stderr=True).print("Interrupted. Everything measured so far is kept; the same command goes on.", soft_wrap=True)
        raise typer.Exit(130) from None
    if json:
        print_json([asdict(row) for row in found])
        return
    for task in dict.fromkeys(row.task for row in found):
        say(f"\n{task}, test split", style="bold")
        print_comparisons([row for row in found if row.task == task])
    say(f"comparison.json, comparison.png: {out}")
