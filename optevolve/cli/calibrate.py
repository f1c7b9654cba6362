"""The command that holds a protocol against a search log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from optevolve.cli.runs import Device
from optevolve.cli.terminal import print_json, say

__all__ = ["calibrate"]


def calibrate(
    reference: Annotated[Path, typer.Option("--reference", metavar="CSV", help="Search log: columns phase, status, acc, expr.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the calibration; the same command goes on where it stopped.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Where the rules are measured.")] = "cifar10-convnet@width=8",
    protocol: Annotated[str, typer.Option("--protocol", help="paper or fast.")] = "fast",
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any value of the protocol.")] = None,
    rules: Annotated[int, typer.Option("--rules", min=3, help="How many.")] = 40,
    spread: Annotated[str, typer.Option("--spread", help="Over what they are spread evenly: accuracy or rank.")] = "accuracy",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Seeds per rule.")] = 2,
    seed: Annotated[int, typer.Option("--seed", "-s", help="Seed of everything random.")] = 0,
    phases: Annotated[list[str] | None, typer.Option("--phase", help="Phases of the log to take. Default: particle, mutation.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", "-w", min=1, help="Processes that train. Default: one per core.")] = None,
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure rules of a search log under a protocol, and say how well the ranks agree with the log's accuracies.

    The folder gets study.db, calibration.json and calibration.png.

    \b
    Examples:
      optevolve calibrate --reference authors_log.csv --data data --out runs/calibration
      optevolve calibrate --reference log.csv --task digits --protocol paper --set full_steps=800 --out runs/paper
    """
    from optevolve.calibration import calibrate as measure

    found = measure(
        reference, out, task=task, protocol=protocol, settings=settings or (), rules=rules, spread=spread, repeats=repeats, seed=seed,
        phases=phases or ("particle", "mutation"), data=data, workers=workers, device=device,
    )  # fmt: skip
    if json:
        print_json(asdict(found))
        return
    say(f"Rank correlation with the log: {found.correlation:.3f}, 95 % interval {found.interval[0]:.3f} to {found.interval[1]:.3f}")
    if found.ceiling is not None:
        say(f"Noise ceiling: {found.ceiling:.3f} (ours {found.own_reliability:.3f}, the log's {found.log_reliability:.3f})")
    if found.told_apart is not None:
        say(f"Of two measurements of one rule, the intervals do not overlap in {found.told_apart:.0%} of the pairs")
    say(f"{found.completed} of {found.rules} rules completed; {found.steps} steps, {found.seconds:.0f} s of worker time. See {out}.")
