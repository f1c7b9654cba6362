"""How the report draws: one palette for light and dark, and figures as SVG text that needs nothing beside itself.

Figures are drawn in the light palette. `svg` turns each of its colours into a CSS variable, so that the page recolours them with the
reader's theme; without the page's style sheet, `svg(..., standalone=True)` keeps the light colours. pyplot's global state is left alone.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sized
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from optevolve.printable import clipped, shielded

__all__ = ["INK", "MUTED", "RULES", "SERIES", "STAGES", "STYLE", "SURFACE", "labelled", "new_figure", "svg", "thinned", "tidy"]

INK, MUTED, RULES, SURFACE = "#1f2430", "#687084", "#d9dde6", "#fdfdfe"
# Six hues apart in lightness as well as in hue, so that they hold for colour-blind readers and in both themes. Source: Okabe and
# Ito (2008), darkened or lightened where contrast asks for it.
SERIES = ("#0a72b1", "#d1600e", "#00906b", "#b4508f", "#8a7a00", "#5b57c7")
STAGES = {"initial": SERIES[1], "evolution": SERIES[0]}
STYLE = {"ink": INK, "muted": MUTED, "rules": RULES, "surface": SURFACE, **{f"c{i}": colour for i, colour in enumerate(SERIES, start=1)}}

_VARIABLES = {colour: f"var(--{name})" for name, colour in STYLE.items()}
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: small files, selectable, escaped by the writer
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of the given size in inches, with a transparent ground and its own SVG canvas."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    FigureCanvasSVG(figure)
    return figure


def labelled(name: str, most: int = 60) -> str:
    """A name as a figure has room for it, with nothing in it that is obeyed and not shown."""
    return shielded(clipped(name, most), kept="")


def tidy(axes: Axes, *, x: str = "", y: str = "", title: str = "", grid: str = "y") -> None:
    """Gives axes the report's look: two quiet spines, a light grid behind the data, labels taken as plain text, never as formulas."""
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULES)
    axes.tick_params(which="minor", color=RULES, length=2)
    axes.tick_params(colors=MUTED, labelcolor=MUTED, length=3, labelsize=9)
    axes.grid(visible=True, axis="both" if grid == "both" else "x" if grid == "x" else "y", color=RULES, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel(x, color=MUTED, parse_math=False)
    axes.set_ylabel(y, color=MUTED, parse_math=False)
    if title:
        axes.set_title(title, color=INK, fontsize=10, loc="left", parse_math=False)


def svg(figure: Figure, name: str, description: str, *, standalone: bool = False) -> Markup:
    """A figure as the text of one `<svg>` element, safe to put into HTML: the SVG writer escapes every text in it.

    The same figure gives the same text: no date, and ids hashed from `name`, so that figures on one page do not share ids.

    Args:
        figure: the figure.
        name: unique on the page.
        description: what it shows, read out by screen readers.
        standalone: keep the XML header, name spaces and light colours, for an SVG file of its own.
    """
    buffer = io.StringIO()
    settings: Any = {**_SETTINGS, "svg.hashsalt": name}
    with mpl.rc_context(settings):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}, dpi=160)
    text = buffer.getvalue()
    if standalone:
        return Markup(text)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'<style type="text/css">.*?</style>\s*', "", text, flags=re.DOTALL)  # it would style the whole page; style.css has it
    text = re.sub(r"font-family: [^;]*; ?", "", text)
    text = re.sub(r"\n\s*(?=<)", "\n", text)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text)
    prefix = "f" + hashlib.sha256(name.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r'\sid="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(url\(#|href="#)([^")]+)', rf"\1{prefix}-\2", text)
    for colour, variable in _VARIABLES.items():
        text = re.sub(rf"(?<=[:\s]){colour}(?![0-9a-f])", variable, text)
    text = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", text, count=1)
    label = str(Markup.escape(shielded(description, kept="")))
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def thinned(points: Sized, most: int = 300) -> list[int]:
    """Indices of at most `most` points, evenly spread, first and last among them."""
    if len(points) <= most:
        return list(range(len(points)))
    return sorted({round(i * (len(points) - 1) / (most - 1)) for i in range(most)})
