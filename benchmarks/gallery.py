"""Writes docs/optimizers.md and its figures: every rule of the zoo, from what the package itself says about it.

    python benchmarks/gallery.py               # docs/optimizers.md and docs/optimizers/*.svg, half a minute on one core
    python benchmarks/gallery.py opt6 lion     # the page, and the figures of these rules alone

Deterministic: the same package writes the same files. The text holds no measurement, so a test regenerates and compares it; the paths
of the figures come from the numpy reference (`optevolve.space.interpret.ReferenceOptimizer`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optevolve.optim import class_name
from optevolve.report.drawing import INK, MUTED, RULES, SERIES, new_figure, svg, thinned, tidy
from optevolve.schedule import schedule_values
from optevolve.space.decays import values_of
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.latex import latex_expression
from optevolve.space.lower import lower
from optevolve.space.rule import UpdateRule
from optevolve.space.show import Description, describe
from optevolve.space.text import format_expression
from optevolve.zoo import SCHEDULES, ZOO, ZooRule

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "optimizers.md"
FIGURES = ROOT / "docs" / "optimizers"
PREFACE = FIGURES / "preface.md"

STEPS = 200  # of a path
MOMENTUM = 0.9
LEARNING_RATES = tuple(10 ** (k / 2) for k in range(-10, 3))  # 1e-5 … 10, two per decade
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
        (-1.5, 1.5), (1.0, 1.0), (-2.1, 2.1, -1.1, 3.1), (1, 10, 60, 250, 800),
    ),
    Surface(
        "Rastrigin", lambda w: np.sum(10 + w * w - 10 * np.cos(2 * np.pi * w), -1),
        lambda w: 2 * w + 20 * np.pi * np.sin(2 * np.pi * w),
        (-2.2, 1.8), (0.0, 0.0), (-3.1, 3.1, -3.1, 3.1), (8, 20, 36),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Path2D:
    """Where a rule went: points of shape (STEPS + 1, 2), the learning rate that ended lowest, and the loss there."""

    points: Array
    learning_rate: float
    loss: float


def best_path(rule: UpdateRule, surface: Surface) -> Path2D:
    """The rule's path from the surface's start at the learning rate of `LEARNING_RATES` whose last loss is lowest; all run at once."""
    peaks = np.array(LEARNING_RATES, dtype=np.float32)[:, None]
    factors, _ = schedule_values(1.0, STEPS, 0)
    optimizer = ReferenceOptimizer(rule, (2,), STEPS)
    w = np.tile(np.array(surface.start, dtype=np.float32), (len(peaks), 1))
    points = [w]
    with np.errstate(all="ignore"):  # a learning rate that is too large leaves for infinity
        for factor in factors:
            w = optimizer.step(w, surface.gradient(w).astype(np.float32), peaks * np.float32(factor), MOMENTUM)
            points.append(w)
        losses = np.nan_to_num(surface.loss(w.astype(np.float64)), nan=np.inf)
    best = int(np.argmin(losses))
    return Path2D(np.stack(points)[:, best], LEARNING_RATES[best], float(losses[best]))


def draw_path(axes: Axes, surface: Surface, paths: Mapping[str, Path2D]) -> None:
    """Contours, and each path from the shared start to where it ended."""
    left, right, low, high = surface.view
    x, y = np.meshgrid(np.linspace(left, right, 45), np.linspace(low, high, 45))
    axes.contour(x, y, surface.loss(np.stack([x, y], -1)), levels=surface.levels, colors=RULES, linewidths=0.8)
    for (label, path), colour, width in zip(paths.items(), (SERIES[1], SERIES[0]), (1.6, 1.3), strict=False):
        told = f"{label}: {path.loss:.1e} at learning rate {path.learning_rate:.2g}"
        points = np.clip(path.points, -50, 50)  # what lies far outside the view need not be exact
        axes.plot(*points.T, color=colour, linewidth=width, label=told)
        axes.plot(*points[-1], marker="o", markersize=5, color=colour)
    axes.plot(*surface.start, marker="o", markersize=6, color=INK, markerfacecolor="none")
    axes.plot(*surface.minimum, marker="*", markersize=11, color=INK)
    tidy(axes, title=surface.name, grid="y")
    axes.grid(visible=False)
    axes.set(xlim=(left, right), ylim=(low, high))
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
    at = np.array(thinned(values, 200))
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


def write_figure(figure: Figure, name: str, description: str) -> None:
    """The figure as a file of its own, on a light ground so that it reads in dark themes, coordinates to a tenth of a point."""
    figure.set_facecolor("#fdfdfe")
    with_ground = str(svg(figure, name, description, standalone=True))

    def rounded(found: re.Match[str]) -> str:
        short = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}".removesuffix(".0"), found[0])
        return re.sub(r"\s*L\s*|\s+", " ", short)  # after M further points are lines without saying so

    text = re.sub(r' d="[^"]*"', rounded, with_ground)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r'\sid="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    (FIGURES / f"{name}.svg").write_text(text, encoding="utf-8")


_NAMED = {
    r"\bsqrt\(": ("square root", "square roots"),
    r"\bexp\(": ("exponential", "exponentials"),
    r"\blog\(": ("logarithm", "logarithms"),
    r"\btanh\(": ("hyperbolic tangent", "hyperbolic tangents"),
    r"\barctan\(": ("arc tangent", "arc tangents"),
    r"\barcsinh\(": ("inverse hyperbolic sine", "inverse hyperbolic sines"),
    r"\bsigmoid\(": ("logistic function", "logistic functions"),
    r"\bsign\(": ("sign", "signs"),
    r"\bmaximum\(minimum\(": ("clipping", "clippings"),
    r"\bbessel_i1e\(": ("Bessel function (a fitted polynomial)", "Bessel functions (fitted polynomials)"),
    r" / (?!maximum)": ("division", "divisions"),
}


def arithmetic(rule: UpdateRule) -> str:
    """What a step computes per parameter, in words."""
    formulas = [step.formula for step in lower(rule.expression).instructions]
    if not formulas:
        return "Arithmetic: the weights' own update only; bound by memory."
    dear = []
    for pattern, (one, many) in _NAMED.items():
        count = sum(len(re.findall(pattern, formula)) for formula in formulas)
        if count:
            dear.append(f"one {one}" if count == 1 else f"{count} {many}")
    named = (" and ".join([", ".join(dear[:-1]), dear[-1]] if len(dear) > 1 else dear)) or "nothing dearer than a product"
    operations = f"{len(formulas)} operation{'s' if len(formulas) > 1 else ''}"
    text = f"Arithmetic per parameter: {operations} before the weights' own update, among them {named}."
    whole = " ".join(formulas)
    if "orthogonalize(" in whole:
        text += (
            " Orthogonalisation is five Newton–Schulz iterations, matrix products by torch's own kernels, far slower than memory;"
            " no fused kernel is made. A vector, as in the figure below, is one row: it is brought to a length of about 1."
        )
    elif re.search(r"\bnorm\(|\brms\(", whole):
        text += " A norm over each tensor needs a pass of its own before the one that writes."
    return text


def entry(row: ZooRule) -> str:
    """One rule of the gallery as Markdown."""
    shown = describe(row.rule, DECAY_STEPS)
    count, name = len(shown.buffers), class_name(row.name)
    buffers = ", ".join(f"`{buffer} ← {following}`" for buffer, following in shown.buffers)
    state = f"{count} buffer{'s' if count > 1 else ''}, {shown.bytes_per_parameter} bytes per parameter: {buffers}." if count else "none."
    moved = 12 + 8 * count
    arguments = ["params", "lr" if row.learning_rate is None else f"lr={row.learning_rate:g}"]
    arguments += ["total_steps"] if shown.needs_total_steps else []
    arguments += ["momentum=0.9"] if shown.kind != "plain" else []
    kind = {"plain": "", "momentum": "Momentum on top of u. ", "nesterov": "Nesterov momentum on top of u. "}[shown.kind]
    lines = [
        f"### {name}",
        "",
        f"{row.summary[:1].upper()}{row.summary[1:]}. {kind}Source: {row.source}. `optevolve.optim.{name}({', '.join(arguments)})`; "
        f"`{row.name}` on the command line.",
        "",
        f"${shown.latex}$",
        "",
        "```",
        shown.native,
        "```",
        "",
        f"- State: {state}",
        f"- Cost: {moved} bytes moved per parameter, {moved / 28:.2f} × fused AdamW's 28. {arithmetic(row.rule)}",
    ]
    if shown.decays:
        decays = ", ".join(f"`{text}`" for text in shown.decays)
        hidden = f" Factor on the learning rate: `{shown.schedule}`." if shown.schedule != "1" else ""
        lines += [f"- Functions of the step (`total_steps` is needed): {decays}.{hidden}"]
        lines += ["", f"![Decays and schedule of {name} over a run](optimizers/{row.name}-decays.svg)"]
    beside = "" if row.name == "adam" else " beside Adam"
    lines += ["", f"![Paths of {name}{beside} on Rosenbrock and Rastrigin](optimizers/{row.name}-path.svg)", ""]
    return "\n".join(lines)


def schedules() -> str:
    """L1–L9 as Markdown."""
    rows = [f"- `{name}`: ${latex_expression(node)}$, natively `{format_expression(node)}`" for name, node in SCHEDULES.items()]
    return "\n".join([*rows, "", "![L1 to L9 on warm-up and cosine; dashed: without the factor](optimizers/schedules.svg)"])


def page() -> str:
    """All of docs/optimizers.md."""
    preface = PREFACE.read_text(encoding="utf-8").replace("{schedules}", schedules())
    grid = f"{LEARNING_RATES[0]:g} … {LEARNING_RATES[-1]:g}, two values per decade"
    preface = preface.replace("{steps}", str(STEPS)).replace("{grid}", grid).replace("{momentum}", f"{MOMENTUM:g}")
    contents = " · ".join(f"[{class_name(name)}](#{class_name(name).lower()})" for name in ZOO)
    return "\n".join([preface, contents, "", *(entry(ZOO[name]) for name in ZOO)])


def main(names: list[str]) -> None:
    """Writes the page and the figures of these rules; of all, L1–L9 too, if none is named."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    adam = {surface.name: best_path(ZOO["adam"].rule, surface) for surface in SURFACES}
    for name in names or ZOO:
        write_figure(path_figure(name, adam), f"{name}-path", f"{name} on Rosenbrock and Rastrigin")
        shown = describe(ZOO[name].rule, DECAY_STEPS)
        if shown.decays:
            write_figure(decay_figure(shown), f"{name}-decays", f"decays of {name}")
    if not names:
        write_figure(schedule_figure(), "schedules", "L1 to L9")
    PAGE.write_text(page(), encoding="utf-8")
    sizes = [path.stat().st_size for path in FIGURES.glob("*.svg")]
    print(f"{PAGE.name}, and {len(sizes)} figures of {sum(sizes) / 1e6:.2f} MB in all, {max(sizes) / 1e3:.0f} kB the largest")


if __name__ == "__main__":
    main(sys.argv[1:])
