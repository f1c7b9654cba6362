"""Writes docs/optimizers.md and its figures: every rule of the zoo, from what the package itself says about it.

    python benchmarks/gallery.py               # docs/optimizers.md and docs/optimizers/*.svg, half a minute on one core
    python benchmarks/gallery.py opt6 lion     # the page, and the figures of these rules alone

Deterministic: the same package writes the same files, and a test compares the page. The one measurement on it, of what a step costs,
is read from docs/optimizers/cost.json, which `python benchmarks/optimizers.py --json docs/optimizers/cost.json` writes. The paths of
the figures come from the numpy reference (`optevolve.space.interpret.ReferenceOptimizer`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from optevolve.library import SCHEDULES, ZOO, ZooRule
from optevolve.optim import class_name
from optevolve.reporting.drawing import INK, MUTED, SERIES, SURFACE, new_figure, svg, thinned, tidy
from optevolve.schedule import schedule_values
from optevolve.space.decays import values_of
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.latex import latex_expression
from optevolve.space.lower import lower
from optevolve.space.rule import UpdateRule
from optevolve.space.show import Description, describe
from optevolve.space.text import format_expression

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PREFACE = DOCS / "optimizers" / "preface.md"
COST = DOCS / "optimizers" / "cost.json"
RATES = json.loads(resources.files("optevolve.library").joinpath("learning_rates.json").read_text(encoding="utf-8"))

STEPS = 300  # of a path
MOMENTUM = 0.9
LEARNING_RATES = tuple(10 ** (k / 4) for k in range(-56, 5))  # 1e-14 … 10; the rules that divide by squared gradients need the small ones
LONGEST_STEP = 0.5  # of an eligible path: longer ones jump about by luck, and draw scribbles
AS_LOW = 1.01  # last losses within this factor of the lowest are as low
CONTOURS = "#c3c9d5"
CONTOUR_POINTS, LINE_POINTS = 240, 60  # of the grid per axis; of a line drawn, at most
DECAY_STEPS, WARMUP = 1000, 50

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Surface:
    """A function of two weights to descend, and the part of it that is drawn.

    Attributes:
        loss, gradient: of points of shape (..., 2).
        start, minimum: points.
        view: limits of x, then of y.
        levels: of the contours.
    """

    name: str
    loss: Callable[[Any], Any]
    gradient: Callable[[Any], Any]
    start: tuple[float, float]
    minimum: tuple[float, float]
    view: tuple[float, float, float, float]
    levels: tuple[float, ...]


def _rosenbrock_gradient(w: Any) -> Any:
    x, y = w[..., 0], w[..., 1]
    return np.stack([-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)], -1)


SURFACES = (
    Surface(
        "Rosenbrock", lambda w: (1 - w[..., 0]) ** 2 + 100 * (w[..., 1] - w[..., 0] ** 2) ** 2, _rosenbrock_gradient,
        (-1.2, 1.0), (1.0, 1.0), (-2.1, 2.1, -1.1, 3.1), (2, 15, 80, 300, 900),
    ),
    Surface(
        "Rastrigin", lambda w: np.sum(10 + w * w - 10 * np.cos(2 * np.pi * w), -1),
        lambda w: 2 * w + 20 * np.pi * np.sin(2 * np.pi * w),
        (-1.65, 1.25), (0.0, 0.0), (-2.8, 0.6, -0.6, 2.8), (6, 16, 30),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Path2D:
    """Where a rule went: points of shape (STEPS + 1, 2), the learning rate that ended lowest, and the loss there."""

    points: Array
    learning_rate: float
    loss: float


def best_path(rule: UpdateRule, surface: Surface) -> Path2D:
    """The rule's path from the surface's start at the best learning rate of `LEARNING_RATES`; all run at once.

    Eligible are learning rates whose whole path stays in the view without a step longer than `LONGEST_STEP`; the best is the middle of
    those whose last loss is as low as the lowest.
    """
    peaks = np.array(LEARNING_RATES, dtype=np.float32)[:, None]
    factors, _ = schedule_values(1.0, STEPS, 0)
    optimizer = ReferenceOptimizer(rule, (2,), STEPS)
    w = np.tile(np.array(surface.start, dtype=np.float32), (len(peaks), 1))
    path = [w]
    with np.errstate(all="ignore"):  # a learning rate that is too large leaves for infinity
        for factor in factors:
            w = optimizer.step(w, surface.gradient(w).astype(np.float32), peaks * np.float32(factor), MOMENTUM)
            path.append(w)
        points = np.stack(path)
        left, right, low, high = surface.view
        inside = np.all((points >= (left, low)) & (points <= (right, high)), axis=(0, 2))
        steady = np.all(np.linalg.norm(np.diff(points, axis=0), axis=-1) <= LONGEST_STEP, axis=0)
        losses = np.where(inside & steady, surface.loss(w.astype(np.float64)), np.inf)
    as_low = np.flatnonzero(losses <= AS_LOW * losses.min())
    best = int(as_low[len(as_low) // 2])
    return Path2D(points[:, best], LEARNING_RATES[best], float(losses[best]))


def contours(surface: Surface) -> npt.NDArray[np.float64]:
    """Lines of equal loss in the view, shape (points, 2), with a row of NaN after each line: found on a fine grid, then thinned."""
    left, right, low, high = surface.view
    x, y = np.linspace(left, right, CONTOUR_POINTS), np.linspace(low, high, CONTOUR_POINTS)
    found = contour_generator(x, y, surface.loss(np.stack(np.meshgrid(x, y), -1)))
    lines = [np.asarray(line) for level in surface.levels for line in found.lines(level)]
    most = [min(LINE_POINTS, max(6, len(line) // 6)) for line in lines]
    gap = np.full((1, 2), np.nan)
    return np.concatenate([part for line, few in zip(lines, most, strict=True) for part in (line[thinned(line, few)], gap)])


def draw_path(axes: Axes, surface: Surface, paths: Mapping[str, Path2D]) -> None:
    """Contours, and each path from the shared start to where it ended."""
    axes.plot(*contours(surface).T, color=CONTOURS, linewidth=0.7)
    for (label, path), colour in zip(paths.items(), (SERIES[1], SERIES[0]), strict=False):
        told = f"{label}: loss {path.loss:.2g} at learning rate {path.learning_rate:.2g}"
        axes.plot(*path.points.T, color=colour, linewidth=1.4, label=told)
        axes.plot(*path.points[-1], marker="o", markersize=5, color=colour)
    axes.plot(*surface.start, marker="o", markersize=6, color=INK, markerfacecolor="none")
    axes.plot(*surface.minimum, marker="*", markersize=11, color=INK)
    tidy(axes, title=surface.name, grid="y")
    axes.grid(visible=False)
    axes.set(xlim=surface.view[:2], ylim=surface.view[2:], aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MultipleLocator(1))
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, fontsize=9, labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)


def path_figure(name: str, adam: Mapping[str, Path2D]) -> Figure:
    """A rule beside Adam on both surfaces."""
    figure = new_figure(8.4, 4.4)
    for axes, surface in zip(figure.subplots(1, 2), SURFACES, strict=True):
        paths = {"Adam": adam[surface.name]}
        if name != "adam":
            paths[class_name(name)] = best_path(ZOO[name].rule, surface)
        draw_path(axes, surface, paths)
    return figure


def _plot(axes: Axes, values: npt.NDArray[np.float64], **style: Any) -> None:
    at = np.array(thinned(values, 150))
    axes.plot(at / len(values), values[at], **{"linewidth": 1.7, **style})


def decay_figure(shown: Description) -> Figure:
    """Every function of the step in a rule; beside it warm-up and cosine, without and with the factor that multiplies the whole update."""
    hidden = shown.schedule != "1"
    figure = new_figure(8.4 if hidden else 4.6, 3.3)
    panels = np.atleast_1d(figure.subplots(1, 2 if hidden else 1))
    series = dict(shown.decays)
    if hidden and shown.schedule not in series:
        series[shown.schedule] = shown.schedule_values
    for number, (text, values) in enumerate(series.items()):
        _plot(panels[0], values, color=SERIES[number % len(SERIES)], label=text)
    tidy(panels[0], x="t / T", title="functions of the step")
    if hidden:
        cosine, _ = schedule_values(1.0, shown.total_steps, WARMUP)
        _plot(panels[1], cosine, color=MUTED, linestyle="--", label="warm-up and cosine")
        _plot(panels[1], cosine * shown.schedule_values, color=SERIES[0], label="times the rule's own factor")
        tidy(panels[1], x="t / T", title="effective learning rate / peak")
    for axes in panels:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, fontsize=9, labelcolor=INK)
        for told in legend.get_texts():
            told.set_parse_math(False)
    return figure


def schedule_figure() -> Figure:
    """L1–L9: warm-up and cosine, and the same times each evolved factor."""
    figure = new_figure(8.4, 6.6)
    cosine, _ = schedule_values(1.0, DECAY_STEPS, WARMUP)
    for axes, name in zip(figure.subplots(3, 3, sharex=True).flat, SCHEDULES, strict=True):
        _plot(axes, cosine, color=MUTED, linestyle="--", linewidth=1.1)
        _plot(axes, cosine * values_of(SCHEDULES[name], DECAY_STEPS), color=SERIES[0])
        tidy(axes, title=name)
        axes.set_ylim(bottom=0)
    figure.supxlabel("t / T", color=MUTED, fontsize=10)
    figure.supylabel("learning rate / peak", color=MUTED, fontsize=10)
    return figure


def _rounded(text: str) -> str:
    """Numbers to a tenth of a point."""

    def short(number: re.Match[str]) -> str:
        tenth = f"{float(number[0]):.1f}".removesuffix(".0")
        return "0" if tenth == "-0" else tenth

    return re.sub(r"-?\d+\.\d+", short, text)


def _short_path(found: re.Match[str]) -> str:
    """Path data without the L that M and L imply; after C a further point would be one of the curve, after z an error."""
    words, current = [], ""
    for word in _rounded(found[1]).split():
        if word == "L" and current in ("M", "L"):
            continue
        current = word if word.isalpha() else current
        words.append(word)
    return f' d="{" ".join(words)}"'


def write_figure(figure: Figure, path: Path, description: str) -> None:
    """The figure as an SVG file, on a light ground so that it reads in dark themes, without what a browser does not need."""
    figure.set_facecolor(SURFACE)
    text = str(svg(figure, path.stem, description, standalone=True))
    text = re.sub(r"<metadata>.*?</metadata>|<!DOCTYPE.*?>", "", text, flags=re.DOTALL)
    text = re.sub(r' d="([^"]*)"', _short_path, text)
    text = re.sub(r' transform="rotate\(-?0 [^"]*"', "", text)
    text = re.sub(r'(?<= )(?:x|y|width|height|transform)="[^"]*"', lambda found: _rounded(found[0]), text)
    text = re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", text)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r'\sid="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    path.write_text(text, encoding="utf-8")


def math(latex: str) -> str:
    """A block of math that GitHub renders: Markdown leaves its backslashes alone, and `\\operatorname` is not allowed there."""
    return "\n".join(["```math", latex.replace(r"\operatorname{", r"\mathrm{"), "```"])


def cost(row: ZooRule, measured: Mapping[str, Any]) -> str:
    """What a step of a rule costs, measured, in words."""
    memory, arithmetic = measured["byte_floor_ms"], measured["arithmetic_floor_ms"]
    text = (
        f"**{measured['ratio']:.2f} × fused AdamW** ({measured['ms']:.1f} ms beside {measured['adamw_ms']:.1f}), "
        f"{measured['bytes']} bytes moved per parameter beside 28. "
        f"Floors: {memory:.1f} ms by bandwidth, {arithmetic:.1f} ms by arithmetic."
    )
    formulas = " ".join(step.formula for step in lower(row.rule.expression).instructions)
    if "orthogonalize(" in formulas:
        text += (
            " Orthogonalisation is five Newton–Schulz iterations, matrix products by torch's own kernels; no fused kernel is made."
            " A vector, as in the measurement and in the figure below, is one row: it is brought to a length of about 1."
        )
    elif re.search(r"\b(?:norm|rms)\(", formulas):
        text += " A norm over each tensor needs a pass of its own before the one that writes."
    return text


def cited(source: str) -> str:
    """A source with its arXiv number as a link."""
    source = source.replace("paper, ", "arXiv 2404.06679, ")
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)


_KINDS = {
    "plain": "plain: the update is u itself",
    "momentum": "momentum: heavy-ball momentum on top of u",
    "nesterov": "nesterov: Nesterov momentum on top of u",
}


def entry(row: ZooRule, measured: Mapping[str, Any]) -> str:
    """One rule of the gallery as Markdown."""
    shown = describe(row.rule, DECAY_STEPS)
    count, name = len(shown.buffers), class_name(row.name)
    buffers = ", ".join(f"`{buffer} ← {following}`" for buffer, following in shown.buffers)
    if shown.kind != "plain":
        buffers += " (`momentum_buffer` in `state_dict`)"
    state = f"{count} buffer{'s' if count > 1 else ''}, {shown.bytes_per_parameter} bytes per parameter: {buffers}" if count else "none"
    arguments = ["params", "lr" if row.learning_rate is None else f"lr={row.learning_rate:g}"]
    arguments += ["total_steps"] if shown.needs_total_steps else []
    arguments += ["momentum=0.9"] if shown.kind != "plain" else []
    lines = [
        f"### {name}",
        "",
        f"{row.summary[:1].upper()}{row.summary[1:]}. Source: {cited(row.source)}. `optevolve.optim.{name}({', '.join(arguments)})`; "
        f"`{row.name}` on the command line.",
        "",
        math(shown.latex),
        "",
        "```",
        shown.native,
        "```",
        "",
        f"- Kind: {_KINDS[shown.kind]}. Sign: {shown.sign:+d} (w moves {'against' if shown.sign > 0 else 'along'} u).",
        f"- State: {state}.",
        f"- Cost: {cost(row, measured)}",
        f"- {rates(row)}",
    ]
    if shown.decays:
        decays = ", ".join(f"`{text}`" for text in shown.decays)
        hidden = f" Factor on the learning rate: `{shown.schedule}`." if shown.schedule != "1" else ""
        lines += [f"- Functions of the step (`total_steps` is needed): {decays}.{hidden}"]
        lines += ["", f"![Decays and schedule of {name} over a run](optimizers/{row.name}-decays.svg)"]
    beside = "" if row.name == "adam" else " beside Adam"
    lines += ["", f"![Paths of {name}{beside} on Rosenbrock and Rastrigin](optimizers/{row.name}-path.svg)", ""]
    return "\n".join(lines)


def rates(row: ZooRule) -> str:
    """A learning rate to start from, and what it comes from."""
    if row.learning_rate is None:
        return "Learning rate to start from: none given by the source, and none measured."
    text = f"Learning rate to start from: {row.learning_rate:g}, the default, "
    text += "measured." if row.recommended is None else "as the source recommends."
    if row.measured is None:
        return text
    found = []
    for kind, at in row.measured.tasks.items():
        end = ", where the grid ends" if at.edge else ""
        found.append(f"{kind} {at.best:g} ({at.low:g} … {at.high:g}{end})")
    missing = [kind for kind in RATES["tasks"] if kind not in row.measured.tasks]
    text += f" Best measured: {', '.join(found)}; {row.measured.learning_rate:g} lies in the middle."
    return text + (f" Diverged at every rate: {', '.join(missing)}." if missing else "")


def schedules() -> str:
    """L1–L9 as Markdown."""
    rows = [f"`{name}`, natively `{format_expression(node)}`:\n\n{math(latex_expression(node))}\n" for name, node in SCHEDULES.items()]
    return "\n".join([*rows, "![L1 to L9 on warm-up and cosine; dashed: without the factor](optimizers/schedules.svg)"])


def start(row: ZooRule) -> str:
    """The rate to start from; `*` where what was measured reaches the end of the grid."""
    edge = row.measured is not None and row.measured.edge
    return f"{row.learning_rate:g}{'*' * edge}" if row.learning_rate is not None else ""


def table(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """Contents: every rule with what it needs and costs."""
    lines = [
        "| rule | kind | functions of the step | state, bytes per parameter | time of a step / fused AdamW's | rate to start from |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, row in ZOO.items():
        shown = describe(row.rule)
        moving = "yes" if shown.decays else ""
        link = f"[{class_name(name)}](#{class_name(name).lower()})"
        lines.append(f"| {link} | {shown.kind} | {moving} | {shown.bytes_per_parameter} | {measured[name]['ratio']:.2f} | {start(row)} |")
    return "\n".join(lines)


def page() -> str:
    """All of docs/optimizers.md."""
    measured = json.loads(COST.read_text(encoding="utf-8"))
    given = {
        "schedules": schedules(),
        "steps": str(STEPS),
        "grid": f"{LEARNING_RATES[0]:g} … {LEARNING_RATES[-1]:g}, four values per decade",
        "longest": f"{LONGEST_STEP:g}",
        "momentum": f"{MOMENTUM:g}",
        "rate_tasks": "; ".join(f"{kind}: `{row['task']}`, {row['steps']} steps" for kind, row in RATES["tasks"].items()),
        "measured": (
            f"medians of paired runs, {measured['parameters'] / 1e6:g} M float32 parameters in {measured['tensors']} tensors, "
            f"{measured['threads']} threads of an {measured['cpu']}, torch {measured['torch']}"
        ),
    }
    preface = PREFACE.read_text(encoding="utf-8")
    for name, text in given.items():
        preface = preface.replace(f"{{{name}}}", text)
    return "\n".join([preface, table(measured["rules"]), "", *(entry(ZOO[name], measured["rules"][name]) for name in ZOO)])


def main(names: list[str], docs: Path = DOCS) -> None:
    """Writes the page and the figures of these rules; of all, L1–L9 too, if none is named."""
    unknown = sorted(set(names) - set(ZOO))
    if unknown:
        raise SystemExit(f"Expected names of the zoo ({', '.join(ZOO)}), got {', '.join(unknown)}.")
    figures = docs / "optimizers"
    figures.mkdir(parents=True, exist_ok=True)
    adam = {surface.name: best_path(ZOO["adam"].rule, surface) for surface in SURFACES}
    for name in names or ZOO:
        write_figure(path_figure(name, adam), figures / f"{name}-path.svg", f"{name} on Rosenbrock and Rastrigin")
        shown = describe(ZOO[name].rule, DECAY_STEPS)
        if shown.decays:
            write_figure(decay_figure(shown), figures / f"{name}-decays.svg", f"decays of {name}")
    if not names:
        write_figure(schedule_figure(), figures / "schedules.svg", "L1 to L9")
    (docs / "optimizers.md").write_text(page(), encoding="utf-8")
    sizes = [path.stat().st_size for path in figures.glob("*.svg")]
    print(f"optimizers.md, and {len(sizes)} figures of {sum(sizes) / 1e6:.2f} MB in all, {max(sizes) / 1e3:.0f} kB the largest")


if __name__ == "__main__":
    main(sys.argv[1:])
