"""A finished run as the Markdown tables of a page of results: what was measured, why candidates ended, and the final evaluation.

    optevolve search --preset small --out runs/small
    python benchmarks/run_tables.py runs/small

`make small` does both, and writes the pictures of docs/results/cifar10-small.md. Trains nothing.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from optevolve.evaluation import Comparison
from optevolve.pipeline import comparisons
from optevolve.records import Measurement
from optevolve.reporting.tables import deaths, stage_costs
from optevolve.run.folder import read_run

_P = [field.name for field in fields(Comparison) if field.name.startswith("p_")]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cost_table(measurements: Sequence[Measurement]) -> str:
    """What each stage measured, and at what cost."""
    rows = [
        (cost.stage, cost.measured, cost.completed, f"{cost.steps:,}", f"{cost.seconds:,.0f} s", cost.devices)
        for cost in stage_costs(measurements)
    ]
    return table(("stage", "measured", "completed", "training steps", "worker time", "computed on"), rows)


def death_table(measurements: Sequence[Measurement]) -> str:
    """Why candidates ended, the commonest cause first."""
    return table(("what became of it", "why", "how many"), [(cause.what, cause.reason, cause.count) for cause in deaths(measurements)])


def final_table(rows: Sequence[Comparison]) -> str:
    """The contestants on one task, best first, with each p-value that the comparison has."""
    head = ("", "mean", "95 % interval", *(name.replace("_", " ") for name in _P), "learning rate", "weight decay", "rule")

    def number(value: float | None, form: str) -> str:
        return "" if value is None else f"{value:{form}}"

    return table(
        head,
        [
            (
                row.name,
                number(row.mean, ".4f"),
                "" if row.interval is None else f"{row.interval[0]:.4f} to {row.interval[1]:.4f}",
                *(number(getattr(row, name), ".2g") for name in _P),
                number(row.learning_rate, "g"),
                number(row.weight_decay, "g"),
                f"`{row.rule}`",
            )
            for row in rows
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Prints the tables of a finished run in Markdown.")
    parser.add_argument("run", type=Path, help="folder of the run")
    options = parser.parse_args()
    with read_run(options.run) as (study, _):
        measurements = study.measurements()
    print(cost_table(measurements), death_table([m for m in measurements if m.proposal is not None]), sep="\n\n")
    found = comparisons(options.run)
    for task in dict.fromkeys(row.task for row in found):
        print(f"\n{task}, test split:\n", final_table([row for row in found if row.task == task]), sep="\n")


if __name__ == "__main__":
    main()
