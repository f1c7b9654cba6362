"""The report as one HTML file: rows, words and figures put into the template. Everything shown is escaped; nothing is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from optevolve import __version__
from optevolve.config import RunConfig, Schedule
from optevolve.contestants import EVALUATE, FINAL, REFERENCE_STAGE, place_of
from optevolve.errors import ParseError, StudyError
from optevolve.files import write_whole
from optevolve.final import lost_text
from optevolve.final_tasks import final_tasks
from optevolve.library.known import rule_text
from optevolve.number_text import duration, interval, number, p_text
from optevolve.printable import shielded
from optevolve.records import Measurement, TrainingCurve
from optevolve.reporting import CURVES, plots
from optevolve.reporting.drawing import svg
from optevolve.reporting.factors import decays_of
from optevolve.reporting.lineage import Line, Step, lines_of_descent
from optevolve.reporting.summary import opening
from optevolve.reporting.tables import (
    by_task,
    config_rows,
    deaths,
    fitness_of,
    is_search,
    leaderboard,
    reference_level,
    reference_of,
    stage_costs,
)
from optevolve.standing import basis, ranking
from optevolve.verdict import verdicts

if TYPE_CHECKING:
    from optevolve.final import Comparison

__all__ = ["render_report", "write_report"]

LEADERS = 40  # rows of the leaderboard
LEADERS_OPEN = 12  # of these, seen without a click
PARTICLES = 24  # lines of descent in words
PANELS = 9  # lines of descent drawn
EVOLVED_CURVES = 4  # evolved rules among the learning curves of one task
DECAY_RULES = 6  # rules whose decays are drawn
# Whatever the size of a run, its page stays one that a browser opens at once. What is left out is said beside what is shown.
TASKS = 12  # tasks of the final evaluation
ROWS = 60  # contestants of one task; stages in the table of costs
STEPS = 40  # timesteps of a line of descent, the latest
CHILDREN = 300  # children drawn in one panel, the latest
VALUES = 600  # values of the config
CONFIG = 200_000  # characters of its text
DEFAULT_COMMAND = "optevolve search config.toml --out again"


def _clip(text: object, most: int = 800) -> str:
    """Text cut to a length that a page can bear."""
    whole = str(text)
    return whole if len(whole) <= most else f"{whole[:most]}… ({len(whole) - most:,} more characters)"


def _harmless(value: object) -> object:
    """Whatever the page shows: markup as it is, texts bounded and with nothing in them that hides or reorders what stands beside it."""
    return shielded(_clip(value, CONFIG)) if isinstance(value, str) and not isinstance(value, Markup) else value


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("optevolve.reporting", ".")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_harmless)
    environment.filters.update(
        clip=_clip,
        number=lambda value, digits=4: _typographic(number(value, digits)),
        interval=lambda pair, digits=4: _typographic(interval(pair, digits)),
        p=p_text,
        duration=duration,
        lost=lost_text,
        rule=rule_text,
    )
    return environment


def _typographic(text: str) -> str:
    return text.replace("-", "−")


def _final(comparisons: Sequence[Comparison], baselines: Sequence[str]) -> list[dict[str, Any]]:
    found = []
    for index, (task, every) in enumerate(islice(by_task(comparisons).items(), TASKS)):
        rows, figure = every[:ROWS], None
        if any(row.scores for row in rows):
            drawing = plots.comparison(rows, reference_of(rows), baselines)
            figure = svg(
                drawing, f"comparison-{index}", f"Scores on the test split of {_clip(task, 80)}, each contestant with its interval"
            )
        found.append({"name": task, "rows": rows, "figure": figure, "left_out": len(every) - len(rows), "reference": reference_of(every)})
    return found


def _step(step: Step) -> dict[str, Any]:
    completed = sum(fitness_of(child) is not None for child in step.children)
    position = step.position
    proposal = position.proposal if position is not None else None
    if step.moved:
        children = f"best of {completed} that completed" if step.timestep else ""
    else:
        children = f"stayed: {completed} of {len(step.children)} children completed" if position is not None else "nothing completed"
    return {
        "name": f"timestep {step.timestep}",
        "moved": step.moved,
        "fitness": fitness_of(position) if position is not None else None,
        "children": children,
        "mutation": proposal.mutation if proposal is not None and step.moved else "",
        "rule": position.job.rule if position is not None and (step.moved or step.timestep == 0) else "",
    }


def _line(line: Line) -> dict[str, Any]:
    steps = line.steps[-STEPS:]
    fitnesses = [fitness_of(step.position) for step in steps if step.position is not None]
    return {
        "particle": line.particle,
        "way": ("… → " if len(steps) < len(line.steps) else "") + (" → ".join(map(number, fitnesses)) or "none"),
        "steps": [_step(step) for step in steps],
        "left_out": len(line.steps) - len(steps),
    }


def latest(line: Line) -> Line:
    """A line of descent as far back as one panel can bear."""
    kept: list[Step] = []
    children = 0
    for step in reversed(line.steps):
        children += len(step.children)
        if kept and (children > CHILDREN or len(kept) == STEPS):
            break
        kept.append(step)
    return replace(line, steps=tuple(reversed(kept)))


def curve_groups(
    measurements: Sequence[Measurement], comparisons: Sequence[Comparison]
) -> Iterable[tuple[str, dict[str, list[TrainingCurve]]]]:
    """Full training runs of the final evaluation by task and contestant, contestants in the order of the comparison.

    Tasks where scores were taken once in a run, at its end, are left out: a point is no curve.
    """
    runs: dict[tuple[str, str], list[TrainingCurve]] = {}
    for m in measurements:
        if m.stage == EVALUATE:
            name = place_of(m).name
            runs.setdefault((m.job.task, name), []).extend(c for c in m.outcome.curves if c.purpose == "full" and c.steps)
    for task, rows in by_task(comparisons).items():
        groups = {row.name: runs[task, row.name] for row in rows if runs.get((task, row.name))}
        if _are_curves(groups):
            yield task, groups


def _are_curves(groups: Mapping[str, Sequence[TrainingCurve]]) -> bool:
    return any(len(curve.steps) > 1 for group in groups.values() for curve in group)


def _curves(
    measurements: Sequence[Measurement], comparisons: Sequence[Comparison], baselines: Sequence[str], over_tasks: str
) -> list[dict[str, Any]]:
    found = []
    for index, (task, groups) in enumerate(islice(curve_groups(measurements, comparisons), TASKS)):
        evolved = [name for name in groups if name not in baselines]
        shown = {name: group for name, group in groups.items() if name not in evolved[EVOLVED_CURVES:]}
        if shown:
            drawing = svg(
                plots.curves(shown, baselines, reference_of(by_task(comparisons)[task])),
                f"curves-{index}",
                f"Learning curves on {_clip(task, 80)}: score and training loss over steps",
            )
            caption = (
                "Means over the seeds of the final evaluation. Evolved rules in colour, baselines grey; score on the evaluation split."
            )
            found.append({"name": task, "figure": drawing, "caption": caption})
    if found:
        return found
    # Before the final evaluation, or where it has no curves, the search's own best rules are all there is to draw.
    search = {m.job.id: m for m in measurements if is_search(m)}
    best = [search[row["id"]] for row in leaderboard(measurements, CURVES, over_tasks) if row["fitness"] is not None]
    groups = {_clip(m.job.id, 60): [c for c in m.outcome.curves if c.purpose == "full" and c.steps] for m in best}
    groups = {name: group for name, group in groups.items() if group}
    if not _are_curves(groups):
        return []
    drawing = svg(plots.curves(groups, ()), "curves-search", "Learning curves of the best rules of the search")
    caption = "The best rules of the search, named by id as in the leaderboard. " + (
        "The final evaluation took scores once in a run, at its end: it has no curves to draw."
        if comparisons
        else "The baselines join them in the final evaluation."
    )
    return [{"name": "Search", "figure": drawing, "caption": caption}]


def _schedules(config: RunConfig) -> dict[str, tuple[Schedule, int]]:
    """Schedules of the stages that train in full, stages with the same one named together."""
    named = {"initial": config.initial.protocol, "evolution": config.evolution.protocol}
    named |= {f"eliminate/{i}": r.protocol for i, r in enumerate(config.rounds, start=1)}
    for task, protocol in final_tasks(config).items():
        named["evaluate" if protocol == config.evaluation.protocol else f"evaluate {task}"] = protocol
    grouped: dict[tuple[Schedule, int], list[str]] = {}
    for name, protocol in named.items():
        grouped.setdefault((protocol.schedule, protocol.full_steps), []).append(name)
    return {f"{', '.join(names)} ({key[1]:,} steps)": key for key, names in grouped.items()}


def _decays(comparisons: Sequence[Comparison], leaders: Sequence[Mapping[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    named = {row.rule: row.name for rows in by_task(comparisons).values() for row in rows if row.name not in baselines}
    named = named or {row["rule"]: f"rank {row['rank']}" for row in leaders}
    found: list[dict[str, Any]] = []
    for index, (rule, name) in enumerate(list(named.items())[:DECAY_RULES]):
        figure, note = None, "No decay in this rule: it leaves the schedule to the run."
        try:
            factors = decays_of(rule)
        except ParseError as error:
            factors, note = {}, f"Its decays cannot be drawn. {error}"
        if factors:
            figure = svg(plots.decays(factors), f"decays-{index}", "Decays of this rule over the run")
        found.append({"name": name, "rule": rule, "figure": figure, "note": note})
    return found


def render_report(
    *,
    title: str,
    config: RunConfig,
    measurements: Sequence[Measurement],
    comparisons: Sequence[Comparison],
    finished: bool,
    config_text: str = "",
    command: str = DEFAULT_COMMAND,
    notes: Sequence[str] = (),
    floors: str = "",
) -> str:
    """The report as HTML text. Arguments as in `write_report`."""
    baselines = config.evaluation.baselines
    search = [m for m in measurements if is_search(m)]
    ranked = [row for row in leaderboard(measurements, over_tasks=config.search.over_tasks) if row["fitness"] is not None]
    lines = lines_of_descent(search, elitist=config.search.elitist)
    costs = stage_costs(measurements)
    own = [m for m in search if not m.same_as]
    # Baselines and survivors of the final evaluation are no candidates any more; what became of them is in its table.
    candidates = [m for m in measurements if m.stage not in {*FINAL, REFERENCE_STAGE}]
    found = deaths(candidates)
    measures = {(m.job.task, m.job.protocol) for m in search}
    again = [row["remeasured"] for row in ranked if row["remeasured"] is not None]
    best = leaderboard(search, 1)[0]["fitness"] if ranked else None
    level = reference_level(measurements)
    tiles = [(number(best), "best fitness of the search")]
    if again:
        tiles.append((number(again[0]), "fitness of the leader, measured again"))
    tiles += [(f"{len(own):,}", "candidates measured")]
    if costs:
        tiles += [
            (f"{costs[-1].steps:,}", "training steps"),
            (duration(costs[-1].seconds), "worker time"),
            (f"{costs[-1].reused:,}", "measurements reused"),
        ]
    progress = plots.progress(own, level) if ranked else None
    descent = plots.descent([latest(line) for line in lines[:PANELS]]) if lines and ranked else None
    drawings = {
        "progress": progress and svg(progress, "progress", "Fitness of each measured candidate and the best so far"),
        "descent": descent and svg(descent, "descent", "Children of the best particles by timestep"),
        "schedule": svg(plots.schedule(_schedules(config)), "schedule", "Learning rate and momentum over a run"),
        "deaths_figure": svg(plots.causes(found, stage_costs(candidates)[-1]), "deaths", "Candidates by how they ended")
        if candidates
        else None,
    }
    values = config_rows(config)
    template = _environment().get_template("page.html.j2")
    return template.render(
        title=_clip(title),
        style=Markup((Path(__file__).parent / "style.css").read_text(encoding="utf-8")),
        version=__version__,
        finished=finished,
        yet="" if finished else " yet",
        notes=notes,
        floors=floors,
        opening=_clip(opening(config, measurements, finished)),
        verdicts=verdicts(comparisons, finished)[:TASKS],
        basis=basis(ranking(measurements, 1, config.search.over_tasks), finished),
        tiles=tiles,
        level=level,
        chosen=next((row for row in ranked if row["ranked_by"] == "choice"), None),
        comparisons=_final(comparisons, baselines),
        tasks_left_out=max(0, len(by_task(comparisons)) - TASKS),
        decays_tuned=any(len(protocol.weight_decays) > 1 for protocol in final_tasks(config).values()),
        leaders=ranked[:LEADERS],
        leaders_open=LEADERS_OPEN,
        leaders_total=len(ranked),
        remeasured=len(again),
        several_measures=len(measures) > 1,
        particles=config.search.algorithm == "particle",
        elitist=config.search.elitist,
        lines=[_line(line) for line in lines[:PARTICLES]],
        lines_total=len(lines),
        points_only=any(c.purpose == "full" and c.steps for m in measurements for c in m.outcome.curves),
        curves=_curves(measurements, comparisons, baselines, config.search.over_tasks),
        decays=_decays(comparisons, ranked[:3], baselines),
        deaths=found,
        reused=costs[-1].reused if costs else 0,
        costs=costs if len(costs) <= ROWS else [*costs[: ROWS - 1], costs[-1]],
        costs_left_out=max(0, len(costs) - ROWS),
        command=command,
        config_text=_clip(config_text, CONFIG),
        config=values[:VALUES],
        config_left_out=max(0, len(values) - VALUES),
        **drawings,
    )


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    config: RunConfig,
    measurements: Sequence[Measurement],
    comparisons: Sequence[Comparison],
    finished: bool,
    config_text: str = "",
    command: str = DEFAULT_COMMAND,
    notes: Sequence[str] = (),
    floors: str = "",
) -> None:
    """Writes the report of a run as one HTML file that loads nothing: no script, no font, no picture from elsewhere.

    The file appears as a whole or not at all: a report that was there before stays until the new one is complete. The same arguments give
    the same bytes.

    Args:
        path: the file to write, replaced if it exists.
        title: heading of the page.
        config: the run's config.
        measurements: all of the study, in the order told; may be empty.
        comparisons: of the final evaluation; empty before it has run.
        finished: whether the run has come to its end.
        config_text: the config as TOML, so that the report alone suffices to repeat the run; without it, only the values are listed.
        command: the shell command that repeats the run from `config.toml`.
        notes: sentences that stand above everything else, such as why the run ended early.
        floors: a sentence on what early stopping asks of a rule.
    Raises:
        StudyError: if the file cannot be written.
    """
    text = render_report(
        title=title,
        config=config,
        measurements=measurements,
        comparisons=comparisons,
        finished=finished,
        config_text=config_text,
        command=command,
        notes=notes,
        floors=floors,
    )
    try:
        write_whole(Path(path), text)
    except OSError as error:
        raise StudyError(
            f"Cannot write the report '{path}': {error.strerror or error}. Expected a folder that can be written to; "
            "free some space or name another place for it."
        ) from error
