"""The report's figures, each a pure function from plain data to a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from optevolve.config import Schedule
from optevolve.records import Measurement, TrainingCurve
from optevolve.reporting.drawing import INK, MUTED, SERIES, STAGES, labelled, new_figure, thinned, tidy
from optevolve.reporting.factors import schedule_of
from optevolve.reporting.lineage import Line
from optevolve.reporting.tables import Cause, StageCost, fitness_of

if TYPE_CHECKING:
    from optevolve.final import Comparison

__all__ = ["causes", "comparison", "curves", "decays", "descent", "progress", "schedule"]

_VECTOR_DOTS = 1500  # more dots than this are drawn as pixels, so that the file stays small
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1.5)), (0, (8, 3)))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Limits that show the bulk: scores far below everything else (as a perplexity or reward may give) are left outside."""
    low, first, third, high = np.quantile(values, (0.0, 0.25, 0.75, 1.0)).tolist()
    low = max(low, first - 6 * max(third - first, (high - third) / 3, 1e-9))
    pad = 0.05 * ((high - low) or abs(high) or 1.0)
    return low - pad, high + pad


def _legend(axes: Axes, columns: int = 4) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        legend = axes.figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), frameon=False, fontsize=9, labelcolor=INK
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def progress(measurements: Sequence[Measurement], reference: float | None = None) -> Figure:
    """Fitness over evaluations: a dot per measured candidate, the best so far of each stage, a tick below for each without a fitness.

    Args:
        measurements: of the search, in order.
        reference: fitness of AdamW under the evolution's protocol, drawn as a level; None where it is not known.
    """
    figure = new_figure(9, 3.8)
    axes = figure.subplots()
    tidy(axes, x="evaluations", y="fitness")
    raster = len(measurements) > _VECTOR_DOTS
    scored = [f for m in measurements if (f := fitness_of(m)) is not None and math.isfinite(f)]
    if scored:
        axes.set_ylim(*_limits(scored if reference is None else [*scored, reference]))
    stages: dict[str, list[tuple[int, float]]] = {}
    lost: list[int] = []
    for index, m in enumerate(measurements, start=1):
        fitness = fitness_of(m)
        points = stages.setdefault(m.stage, [])
        if fitness is None or not math.isfinite(fitness):
            lost.append(index)
        else:
            points.append((index, fitness))
    for number, (stage, points) in enumerate(stages.items()):
        if not points:
            continue
        colour = STAGES.get(stage, SERIES[(number + 2) % len(SERIES)])
        x, y = np.array(points).T
        axes.scatter(x, y, s=9 if raster else 22, color=colour, alpha=0.35 if raster else 0.6, linewidths=0, rasterized=raster, label=stage)
        best = np.maximum.accumulate(y)
        rises = np.flatnonzero(np.r_[True, np.diff(best) > 0])
        axes.step(
            np.r_[x[rises], x[-1]], np.r_[best[rises], best[-1]], where="post", color=colour, linewidth=2, label=f"best so far, {stage}"
        )
    if reference is not None:
        axes.axhline(reference, color=INK, linewidth=1.4, linestyle=(0, (5, 3)), label="AdamW, measured as the evolution's rules are")
    if lost:
        axes.scatter(
            lost, np.full(len(lost), 0.015), marker="|", s=28, color=MUTED, alpha=0.12 if raster else 0.6, linewidths=0.8,
            transform=axes.get_xaxis_transform(), rasterized=raster, label="no fitness",
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, columns=3)
    return figure


def comparison(rows: Sequence[Comparison], reference: str, baselines: Sequence[str]) -> Figure:
    """A task's final scores: each seed a faint dot, the mean with its interval, and a line at the reference's mean."""
    shown = [row for row in rows if row.scores]
    figure = new_figure(9, 0.9 + 0.38 * max(len(shown), 1))
    draw_scores(figure.subplots(), shown, reference, baselines)
    return figure


def draw_scores(axes: Axes, shown: Sequence[Comparison], reference: str, baselines: Sequence[str]) -> None:
    """Draws what `comparison` shows; every row has scores."""
    for place, row in enumerate(shown):
        colour = INK if row.name == reference else MUTED if row.name in baselines else SERIES[0]
        axes.scatter(row.scores, [place + 0.22] * len(row.scores), s=20, color=colour, alpha=0.5, linewidths=0)
        mean = _number(row.mean)
        if mean is not None:
            low, high = row.interval if row.interval is not None else (mean, mean)
            axes.plot([low, high], [place, place], color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([mean], [place], marker="D", markersize=6, color=colour)
            if row.name == reference:
                axes.axvline(mean, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_yticks(range(len(shown)), [labelled(row.name) for row in shown], parse_math=False)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    tidy(axes, x="score on the test split", grid="x")
    for label, row in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(MUTED if row.name in baselines and row.name != reference else INK)


def _number(value: float | None) -> float | None:
    """What can be drawn: axes of larger numbers overflow."""
    return value if value is not None and abs(value) < 1e150 else None


def descent(lines: Sequence[Line]) -> Figure:
    """A panel per particle: its children at each timestep, joined to the parent they came from, and the way that it took."""
    columns = min(3, len(lines))
    rows = math.ceil(len(lines) / columns)
    figure = new_figure(9 if columns > 1 else 5, 0.4 + 2.1 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    values = [f for line in lines for step in line.steps for m in step.children if (f := _number(fitness_of(m))) is not None]
    for axes, line in zip(panels.flat, lines, strict=False):
        tidy(axes, title=f"particle {line.particle}")
        if values:
            axes.set_ylim(*_limits(values))
        _draw_line(axes, line)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in list(panels.flat)[len(lines) :]:
        axes.set_visible(False)
    figure.supxlabel("timestep", color=MUTED, fontsize=10)
    figure.supylabel("fitness", color=MUTED, fontsize=10)
    return figure


def _draw_line(axes: Axes, line: Line) -> None:
    """The children of each timestep, each joined to the position before it, those that failed at the foot, and the way of the positions."""
    before: tuple[float, float] | None = None
    way: list[tuple[float, float]] = []
    points: list[tuple[float, float]] = []
    joins: list[tuple[tuple[float, float], tuple[float, float]]] = []
    failed: list[float] = []
    for step in line.steps:
        spread = np.linspace(-0.14, 0.14, len(step.children)) if len(step.children) > 1 else np.zeros(1)
        here = before
        for offset, child in zip(spread.tolist(), step.children, strict=True):
            fitness = _number(fitness_of(child))
            place = step.timestep + offset
            if fitness is None:
                failed.append(place)
                continue
            if before is not None:
                joins.append((before, (place, fitness)))
            points.append((place, fitness))
            if child is step.position:
                here = (place, fitness)
        if here is not None and here is before:
            here = (float(step.timestep), before[1])
        if here is not None:
            way.append(here)
        before = here
    # One artist for each kind of mark: one for each mark is most of the time that a large run's report takes.
    if failed:
        at = axes.get_xaxis_transform()
        axes.scatter(failed, [0.03] * len(failed), marker="x", s=14, color=MUTED, linewidths=0.9, transform=at)
    if joins:
        axes.add_collection(LineCollection(joins, colors=MUTED, alpha=0.4, linewidths=0.7))
    if points:
        x, y = zip(*points, strict=True)
        axes.scatter(x, y, s=13, color=MUTED, alpha=0.7, linewidths=0)
    if way:
        x, y = zip(*way, strict=True)
        axes.plot(x, y, color=SERIES[0], linewidth=2, marker="o", markersize=5)


def _mean_curve(curves: Sequence[TrainingCurve], field: str) -> tuple[list[int], list[float]]:
    """Mean over seeds at the steps that all of them have, where the value was measured."""
    tables = [{s: v for s, v in zip(c.steps, getattr(c, field), strict=True) if _number(v) is not None} for c in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    steps = [steps[i] for i in thinned(steps)]
    return steps, [sum(table[s] for table in tables) / len(tables) for s in steps]


def curves(groups: Mapping[str, Sequence[TrainingCurve]], baselines: Sequence[str], reference: str = "") -> Figure:
    """Learning curves, the mean over seeds of each contestant: score on the evaluation split, and training loss on a logarithmic axis.

    Evolved rules are drawn in colour, the reference in ink, other baselines in grey with a dash pattern each.
    """
    figure = new_figure(9, 4.0)
    panels = dict(zip(("score", "train_loss"), figure.subplots(1, 2), strict=True))
    drawn: dict[str, list[float]] = {field: [] for field in panels}
    colour, dash = 0, 1
    for name, group in groups.items():
        look: dict[str, Any] = {"color": SERIES[colour % len(SERIES)], "linewidth": 2, "zorder": 3}
        if name == reference:
            look = {"color": INK, "linewidth": 1.8, "zorder": 4}
        elif name in baselines:
            look = {"color": MUTED, "linewidth": 1.2, "linestyle": _DASHES[dash % len(_DASHES)]}
            dash += 1
        else:
            colour += 1
        for field, axes in panels.items():
            steps, values = _mean_curve(group, field)
            axes.plot(steps, values, label=labelled(name), marker="o" if len(steps) == 1 else None, **look)
            drawn[field] += values
    left, right = panels.values()
    if drawn["score"]:
        left.set_ylim(*_limits(drawn["score"]))
    losses = drawn["train_loss"]
    if losses and min(losses) > 0:
        right.set_yscale("log")
        # A loss rarely spans a decade: powers of ten alone would leave the axis without numbers.
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(losses) < 1000 * min(losses) else (1,)))
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        right.yaxis.set_minor_formatter(NullFormatter())
    tidy(left, x="step", y="score")
    tidy(right, x="step", y="training loss")
    _legend(left, columns=5)
    return figure


def schedule(settings: Mapping[str, tuple[Schedule, int]]) -> Figure:
    """Learning rate (as a fraction of its peak) and momentum over a run, for each named (schedule, number of steps)."""
    figure = new_figure(9, 2.9)
    left, right = figure.subplots(1, 2)
    for number, (name, (plan, steps)) in enumerate(settings.items()):
        at = np.array(thinned(range(steps), 600))
        for axes, values in zip((left, right), schedule_of(plan, steps), strict=True):
            axes.plot(
                at / max(steps, 1), values[at], color=SERIES[number % len(SERIES)], linewidth=1.8, linestyle=_DASHES[number % 6], label=name
            )
    tidy(left, x="t / T", y="learning rate / peak")
    tidy(right, x="t / T", y="momentum")
    if len(settings) > 1:
        _legend(left)
    return figure


def decays(factors: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """Every decay of one rule over t/T, values in [0, 1] for a decay and any sign or size for a learning-rate factor."""
    figure = new_figure(5.2, 2.4 + 0.19 * len(factors))
    axes = figure.subplots()
    for number, (text, values) in enumerate(factors.items()):
        at = np.array(thinned(values))
        label = text if len(text) <= 70 else text[:69] + "…"
        axes.plot(
            at / max(len(values), 1),
            values[at],
            color=SERIES[number % 6],
            linestyle=_DASHES[number // 6 % 6],
            linewidth=1.8,
            label=label,
        )
    together = np.concatenate(list(factors.values()))
    if together.min() >= 0 and together.max() <= 1:
        axes.set_ylim(-0.04, 1.04)
    tidy(axes, x="t / T", y="factor")
    _legend(axes, columns=1)
    return figure


def causes(found: Sequence[Cause], total: StageCost | None) -> Figure:
    """How many candidates each cause took, beside those that completed and those that needed no measurement."""
    bars: dict[str, int] = {}
    for cause in found:
        bars[cause.what] = bars.get(cause.what, 0) + cause.count
    if total is not None:
        bars["taken over from a rule that behaves the same"] = total.reused
        bars["completed"] = total.completed
    figure = new_figure(9, 0.7 + 0.36 * max(len(bars), 1))
    axes = figure.subplots()
    names, counts = list(bars), list(bars.values())
    colours = [SERIES[2] if n == "completed" else SERIES[0] if n.startswith("taken") else SERIES[1] for n in names]
    drawn = axes.barh(range(len(names)), counts, color=colours, height=0.62)
    axes.bar_label(drawn, labels=[f"{count:,}" for count in counts], padding=4, color=INK, fontsize=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, max([1, *counts]) * 1.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    tidy(axes, x="candidates", grid="x")
    axes.tick_params(axis="y", labelcolor=INK, length=0)
    return figure
