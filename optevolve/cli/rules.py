"""Commands about rules: look at one, take one away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optevolve.cli.catalogue import names as list_names
from optevolve.cli.picture import curve, draw
from optevolve.cli.subject import RULE_HELP, Rank, Subject, find
from optevolve.cli.terminal import print_json, say

if TYPE_CHECKING:
    from optevolve.space.show import Description

__all__ = ["export", "show"]


class Format(StrEnum):
    """What `export` writes."""

    torch = "torch"
    optax = "optax"
    latex = "latex"


def show(
    rule: Annotated[str | None, typer.Argument(metavar="RULE", help=RULE_HELP)] = None,
    rank: Rank = 1,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Length of the run for which decays are drawn.")] = 1000,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw decays and schedule into a file (.svg, .png, .pdf).")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="List every name that a rule can be made of.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show a rule: its equation in each notation, in words and step by step, its state, decays, schedule and integrity verdict.

    \b
    Examples:
      optevolve show adam
      optevolve show "nesterov: tanh(max(a6, a10) * arcsinh(qhm(v)))"
      optevolve show "Nest ~ bessel_i1e(bessel_i1e([(a13)*(a2)][g]))" --plot opt10.svg
      optevolve show runs/demo --rank 2
      optevolve show --names
    """
    if names:
        list_names(json)
        return
    if rule is None:
        raise typer.BadParameter("Missing RULE: a name of 'optevolve zoo', a rule, or the folder of a run.")
    from optevolve.integrity import LEARNING_RATES, check_integrity
    from optevolve.library.known import known_as
    from optevolve.space.show import describe
    from optevolve.space.simplify import simplify

    subject = find(rule, rank)
    verdict = check_integrity(subject.rule)
    integrity = {"ok": verdict.ok, "sign": verdict.sign, "reason": verdict.reason}
    integrity |= {"learning_rates": LEARNING_RATES, "losses": verdict.losses.tolist()}
    shown = describe(subject.rule, steps, integrity)
    simplified, known = str(simplify(subject.rule)), known_as(subject.rule)
    if plot is not None:
        draw(_drawn(shown), plot)
    if json:
        facts = shown.as_dict()
        print_json(
            {
                "rule": facts.pop("native"),
                **subject.facts,
                "simplified": simplified,
                "behaves_as": None if known is None else asdict(known),
                **facts,
            }
        )
        return
    say(simplified, style="bold")
    if known is not None and known.name != subject.facts.get("name"):
        say(f"  behaves as: {known}")
    for line in _sheet(shown, subject, simplified):
        say(line)
    if plot is not None:
        say(f"Drawn into {plot}")


def _sheet(shown: Description, subject: Subject, simplified: str) -> Iterator[str]:
    """Everything about a rule, line by line."""
    spellings = {"as written": shown.native if simplified != shown.native else "", "paper": shown.paper, "LaTeX": shown.latex}
    for name, value in {**subject.facts, **spellings}.items():
        if value != "":
            yield f"  {name}: {value}"
    count = len(shown.buffers)
    yield ""
    yield f"State: {count} buffer{'' if count == 1 else 's'}, {shown.bytes_per_parameter} bytes per float32 parameter"
    for name, following in shown.buffers:
        yield f"  {name} ← {following}"
    yield "A step computes (g gradient, w parameters, α learning rate, μ momentum, t the step from 0):"
    yield from (f"  {line}" for line in shown.steps)
    for title, values in _drawn(shown).items():
        yield f"{title}, over {shown.total_steps} steps:"
        yield from (f"  {line}" for line in curve(values))
    if shown.schedule != "1":
        yield f"Without that factor: {shown.rest}"
    if shown.needs_total_steps:
        yield "Needs the run's length: total_steps."
    verdict = shown.integrity
    sign = "" if verdict["sign"] == 1 else ", with sign -1"
    yield f"Integrity check: passes{sign}" if verdict["ok"] else f"Integrity check: fails, {verdict['reason']}"
    yield ""
    yield from shown.words.splitlines()


def _drawn(shown: Description) -> dict[str, Any]:
    """What there is to draw: each decay, and the learning rate that the rule's own factor makes of warm-up and cosine."""
    from optevolve.schedule import schedule_values

    found: dict[str, Any] = {f"Decay {text}": values for text, values in shown.decays.items() if text != shown.schedule}
    if shown.schedule != "1":
        found[f"Factor on the learning rate: {shown.schedule}"] = shown.schedule_values
        warmup_and_cosine, _ = schedule_values(1.0, shown.total_steps, shown.total_steps // 10)
        found["Warm-up and cosine with that factor"] = warmup_and_cosine * shown.schedule_values
    return found


def export(
    rule: Annotated[str, typer.Argument(metavar="RULE", help=RULE_HELP)],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    rank: Rank = 1,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="A torch optimizer, an optax one (for JAX), or the equation as LaTeX.")
    ] = Format.torch,
) -> None:
    """Write a rule as one Python file with a torch optimizer that needs nothing but torch; or for optax, or as an equation.

    \b
    Examples:
      optevolve export opt6 -o opt6.py
      optevolve export runs/demo -o my_optimizer.py
      optevolve export opt6 -o opt6.tex --format latex
    """
    from optevolve.compile import export as write

    subject = find(rule, rank)
    write(
        subject.rule,
        out,
        provenance=subject.provenance,
        scores=subject.scores,
        notes=subject.notes,
        learning_rate=subject.learning_rate,
        weight_decay=subject.rule.weight_decay,
        format=format.value,
    )
    say(f"Wrote {out}: {subject.rule}")
