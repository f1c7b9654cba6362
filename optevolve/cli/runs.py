"""Commands about a run: start it, go on with it, look at it, evaluate it anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optevolve.cli.terminal import console, notice, print_json, print_table, say
from optevolve.standing import Standing

if TYPE_CHECKING:
    from optevolve.final import Comparison
    from optevolve.verdict import Verdict

__all__ = ["Device", "evaluate", "print_comparisons", "report", "resume", "search", "top"]

RunFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", min=1, help="Processes that train in parallel. Default: one per core. It does not change the search."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME", help="Where to train: auto (cuda, mps or cpu, what there is), cpu, cuda or mps. Default: the config's."
    ),
]
Store = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="Database of the run: postgresql+psycopg://USER@HOST/DATABASE. Default: study.db in DIR."),
]
Runner = Annotated[
    str | None, typer.Option("--runner", help="What measures: local (processes of this machine) or ray (a Ray cluster, docs/cluster.md).")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", metavar="ADDRESS", help="Ray cluster: auto, or ray://HOST:10001. Default: RAY_ADDRESS.")
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--measurement-time",
        "--time-limit",
        metavar="TIME",
        help="Longest time per measurement (not of the run): 90s, 5m, 1h30m, or seconds. Default: ten times what its peers need.",
    ),
]
MemoryLimit = Annotated[float | None, typer.Option("--memory-limit", metavar="GIB", help="Memory per measurement. Default: none.")]
Metrics = Annotated[list[str] | None, typer.Option("--metrics", help="Send numbers to tensorboard or mlflow; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON; progress goes to standard error.")]


def search(
    config_file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="TOML file with config values; see 'optevolve config'.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="What to train: a name of 'optevolve tasks', or your own: file.py:Name, module:Name."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option("--preset", "-p", help="Size of the run: quick (minutes), small (an hour, the default), paper.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run. Default: runs/ and the name of the file or task.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", help="Seed of everything random. The same seed gives the same search.")
    ] = None,
    workers: Workers = None,
    device: Device = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of data sets in the Hub's parquet layout. Default: OPTEVOLVE_DATA, else the Hub.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any config value; may be repeated. Keys: 'optevolve config'.")
    ] = None,
    store: Store = "",
    runner: Runner = None,
    ray_address: RayAddress = None,
    time_limit: TimeLimit = None,
    memory_limit: MemoryLimit = None,
    metrics: Metrics = None,
    json: Json = False,
) -> None:
    """Evolve an optimizer: random rules, integrity check, training, mutation, elimination, and a final evaluation beside tuned baselines.

    The folder gets config.toml, study.db (everything measured), report.html (opens offline) and best_optimizer.py (needs only torch).
    Ctrl-C keeps everything; the same command goes on where it stopped.

    \b
    Examples:
      optevolve search --preset quick --out runs/demo
      optevolve search --preset small --data ../data --workers 2
      optevolve search --task my_tasks:Moons --out runs/moons
      optevolve search my_run.toml --set search.particles=3 --set seed=1
    """
    from optevolve.config_text import assemble

    place = _workers(runner, ray_address, time_limit, memory_limit)
    chosen = assemble(config_file, preset_name=preset, task=task, seed=seed, data=data, settings=[*(settings or ()), *place])
    folder = out or Path("runs") / (config_file.stem if config_file else re.sub(r"[^\w.-]+", "-", chosen.task).strip("-"))
    from optevolve import pipeline  # after the config is read, so that its mistakes are told at once

    told = _callbacks(metrics, folder)
    result = _with_progress(
        folder,
        json,
        lambda progress: pipeline.search(
            config=chosen, out=folder, workers=workers, device=device, progress=progress, store=store, callbacks=told
        ),
    )
    if result.found_finished and not json:
        say(f"This run is finished already: {folder}. Its result:")
    _show_result(folder, json)


def resume(
    folder: RunFolder,
    extend: Annotated[
        list[str] | None,
        typer.Option("--extend", metavar="KEY=VALUE", help="A larger search.timesteps, search.particles or evaluation.seeds; repeatable."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change what nothing was measured by yet: later stages, final tasks; repeatable."),
    ] = None,
    workers: Workers = None,
    device: Device = None,
    store: Store = "",
    runner: Runner = None,
    ray_address: RayAddress = None,
    time_limit: TimeLimit = None,
    memory_limit: MemoryLimit = None,
    metrics: Metrics = None,
    json: Json = False,
) -> None:
    """Go on with a run where it stopped. What is finished is not done again.

    An extended run ends as if it had been started with the larger values.

    \b
    Examples:
      optevolve resume runs/demo
      optevolve resume runs/demo --extend search.timesteps=12
      optevolve resume runs/demo --set 'evaluation.tasks=["digits"]'
    """
    from optevolve import pipeline

    place = [*(settings or ()), *_workers(runner, ray_address, time_limit, memory_limit)]
    told = _callbacks(metrics, folder)
    result = _with_progress(
        folder,
        json,
        lambda progress: pipeline.resume(
            folder, workers=workers, device=device, progress=progress, store=store, extend=extend or (), settings=place, callbacks=told
        ),
    )
    if result.found_finished and not json:
        say(f"This run is finished already: {folder}. Its result:")
    _show_result(folder, json)


def _workers(runner: str | None, ray_address: str | None, time_limit: str | None, memory_limit: float | None) -> list[str]:
    """Options about workers as settings of the config."""
    if ray_address is not None and runner is None:
        runner = "ray"
    values = {"runner": runner, "ray_address": ray_address, "time_limit": time_limit, "memory_limit": memory_limit}
    return [f"workers.{name}={value}" for name, value in values.items() if value is not None]


def _callbacks(names: list[str] | None, folder: Path) -> list[Any]:
    from optevolve.run.metrics import metrics

    return [metrics(name, folder) for name in names or ()]


def evaluate(
    folder: RunFolder,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", "-t", help="Tasks to evaluate on, separated by commas. Default: the run's own.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[TASK.]KEY=VALUE",
            help="Any value of the evaluation's protocol, for all of these tasks or for one of them; may be repeated.",
        ),
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", min=1, help="Paired seeds per contestant. Default: the run's own number.")] = None,
    workers: Workers = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Evaluate the survivors of a run beside tuned baselines, on test data that the search has not seen.

    A task that the run's config names has the budget that it has there; one that was evaluated before keeps its budget.

    \b
    Examples:
      optevolve evaluate runs/demo --tasks cifar10-convnet --seeds 5
      optevolve evaluate runs/demo --tasks mlp-moons,cifar10-convnet --set trial_steps=200 --set cifar10-convnet.full_steps=8000
    """
    from optevolve import pipeline

    specs = [spec for text in tasks or () for spec in _specs(text)]
    _with_progress(
        folder,
        json,
        lambda progress: pipeline.evaluate(
            folder, tasks=specs, seeds=seeds, settings=settings or (), workers=workers, device=device, progress=progress
        ),
    )
    from optevolve import results

    verdicts = results.verdict(folder)
    if json:
        print_json(_final_evaluation(folder, verdicts))
    else:
        _show_comparisons(folder)
        _say_verdicts(verdicts)


def top(
    place: Annotated[str, typer.Argument(metavar="DIR|URL", help="Folder of a run, or the URL of its study in a database.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many rules.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show a running search live, until it ends or Ctrl-C.")] = False,
    every: Annotated[float, typer.Option("--every", min=0.1, help="With --follow: seconds between looks.")] = 2.0,
    json: Annotated[bool, typer.Option("--json", help="Print all rules as a JSON list of objects.")] = False,
) -> None:
    """The best rules of a run, also while it is running.

    \b
    Examples:
      optevolve top runs/demo
      optevolve top runs/demo --follow
      optevolve top runs/demo --json | python -m json.tool
    """
    if follow:
        from optevolve.cli.live import follow as show

        show(place, number, every)
        return
    from optevolve.errors import RunEndedError
    from optevolve.run.early_end import ended
    from optevolve.run.folder import read_run
    from optevolve.standing import basis, ranking

    with read_run(place) as (study, config):
        why, finished = ended(study), study.finished
        rows = ranking(study.measurements(with_curves=False, with_origins=False), over_tasks=config.search.over_tasks)
    if json:
        print_json([asdict(row) for row in rows])
    elif rows:
        _print_ranking(rows[:number])
        say(basis(rows, finished))
    elif not why:
        say(f"Nothing is measured yet in {place}.")
    if why and not any(row.fitness is not None for row in rows):
        raise RunEndedError(why)
    if why:
        notice(why)


def report(
    folder: RunFolder,
    figures: Annotated[
        Path | None, typer.Option("--figures", metavar="FOLDER", help="Also write the main figures into this folder, as SVG files.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report's path as JSON.")] = False,
) -> None:
    """Write report.html of a run anew: one file that opens offline.

    \b
    Examples:
      optevolve report runs/demo
      optevolve report runs/demo --figures figures
    """
    from optevolve import pipeline

    path = pipeline.report(folder, figures=figures)
    if json:
        print_json({"report": str(path)})
    else:
        say(f"Report: {path}")
    if why := pipeline.why_ended(folder):
        notice(why)


def _with_progress(folder: Path, json: bool, action: Callable[[Any], Any]) -> Any:
    from optevolve.progress import Progress

    try:
        with Progress(console(stderr=json)) as progress:
            return action(progress)
    except KeyboardInterrupt:
        console(stderr=True).print(
            f"Interrupted. Everything measured so far is kept. Go on with: optevolve resume {folder}", soft_wrap=True
        )
        raise typer.Exit(130) from None


def _specs(text: str) -> list[str]:
    """Task specs separated by commas; a comma between options, as in "a@x=1,y=2", does not separate."""
    return [spec.strip() for spec in re.split(r",(?!\s*\w+\s*=)", text) if spec.strip()]


def _print_ranking(rows: Sequence[Standing]) -> None:
    from optevolve.library.known import headline
    from optevolve.space import parse

    named, chosen = any(row.name for row in rows), any(row.choice is not None for row in rows)
    again = any(row.remeasured is not None for row in rows)
    decayed = any(row.weight_decay for row in rows)  # most searches leave it at 0

    def cells(row: Standing) -> list[Any]:
        first = [row.rank, *([row.name or None] if named else []), *([row.choice] if chosen else []), *([row.remeasured] if again else [])]
        tuned = [_peak(row), *([_decay(row)] if decayed else [])]
        return [*first, row.fitness, *tuned, row.status, headline(parse(row.rule))]

    columns = ["rank", *(["name"] if named else []), *(["validation"] if chosen else []), *(["again"] if again else [])]
    columns += ["fitness", "lr", *(["wd"] if decayed else []), "status", "rule"]
    print_table(columns, map(cells, rows), right=["rank", "validation", "again", "fitness", "lr", "wd"])
    _say_edges(rows)


def _peak(row: Standing | Comparison) -> str | None:
    """The learning rate, with a mark where it ends the grid."""
    return None if row.learning_rate is None else f"{row.learning_rate:g}{'*' * row.edge}"


def _say_edges(rows: Sequence[Standing | Comparison]) -> None:
    if any(row.edge for row in rows):
        say("* at the end of the learning rates that were tried: others may be better. More are tried with protocol.learning_rates.")
    if any(row.decay_edge for row in rows):
        say("+ the largest weight decay that was tried: more may be better. More are tried with protocol.weight_decays.")


def _decay(row: Standing | Comparison) -> str | None:
    """The weight decay, with a mark where it is the largest of the grid."""
    return None if row.weight_decay is None else f"{row.weight_decay:g}{'+' * row.decay_edge}"


def _show_result(folder: Path, json: bool) -> None:
    from optevolve import results

    rows, verdicts = results.leaderboard(folder), results.verdict(folder)
    files = {name: str(folder / name) for name in ("report.html", "best_optimizer.py") if (folder / name).is_file()}
    if json:
        print_json({"out": str(folder), "files": files, "best": rows[:10], **_final_evaluation(folder, verdicts)})
        return
    _print_ranking([Standing(**row) for row in rows[:5]])
    _show_comparisons(folder)
    for name, path in files.items():
        say(f"{name}: {path}")
    _say_verdicts(verdicts)


def _say_verdicts(verdicts: Sequence[Verdict]) -> None:
    say()
    for verdict in verdicts:
        say(f"Verdict: {verdict}", style="bold")


def _final_evaluation(folder: Path, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Every contestant on every task and what can be said of the chosen rule, for JSON; the verdict on the first task also by itself."""
    from optevolve import results

    compared = [asdict(row) for row in results.comparisons(folder)]
    return {"comparisons": compared, "verdict": verdicts[0].as_dict(), "verdicts": [verdict.as_dict() for verdict in verdicts]}


def _show_comparisons(folder: Path) -> None:
    """The final evaluation: every contestant on every task."""
    from optevolve import results

    rows = results.comparisons(folder)
    for task in dict.fromkeys(row.task for row in rows):
        say(f"\nFinal evaluation on {task}, test split", style="bold")
        print_comparisons([row for row in rows if row.task == task])


def print_comparisons(rows: Sequence[Comparison]) -> None:
    """The contestants on one task, in the order given, beside the one that they are tested against."""
    from optevolve.final import lost_text
    from optevolve.library.known import rule_text
    from optevolve.number_text import interval, p_text

    reference = next((row.reference for row in rows if row.reference), "")
    difference = f"- {reference}" if reference else "difference"

    def cells(row: Comparison) -> list[Any]:
        tested = [row.difference, interval(row.difference_interval, 3), p_text(row.p_value), p_text(row.p_corrected)]
        tuned = [_peak(row), _decay(row)]
        seeds = lost_text(row) or str(len(row.seeds))
        return [row.name, row.mean, interval(row.interval), *tested, *tuned, seeds, rule_text(row.rule)]

    columns = ["name", "mean", "95 % interval", difference, "95 % interval ", "p", "p corrected", "lr", "wd", "seeds", "rule"]
    print_table(columns, map(cells, rows), right=["mean", difference, "p", "p corrected", "lr", "wd"])
    _say_edges(rows)
    say("Differences are paired by seed; p corrected (Holm) is the one to judge by. A lost run counts as the worst score.")
