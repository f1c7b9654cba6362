"""Commands about rules: look at one, take one away."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optevolve import __version__
from optevolve.cli.picture import curve
from optevolve.cli.terminal import print_json, say
from optevolve.errors import StudyError

if TYPE_CHECKING:
    from optevolve.space import UpdateRule
    from optevolve.space.lower import Program

__all__ = ["export", "show"]

RuleArgument = Annotated[
    str,
    typer.Argument(metavar="RULE", help="A name of 'optevolve zoo', a rule such as 'v_hat / sqrt(s_hat)', or the folder of a run."),
]
Rank = Annotated[int, typer.Option("--rank", min=1, help="For the folder of a run: which place of 'optevolve top'.")]


@dataclass(frozen=True)
class Subject:
    """A rule that the user has named, and what is known about it.

    Attributes:
        rule: the rule.
        facts: what to show beside it, by name.
        provenance: where it comes from; empty if it was typed by hand.
        scores: what it reached, by stage.
        learning_rate: a good peak; None if not known.
    """

    rule: UpdateRule
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    learning_rate: float | None = None


def show(
    rule: RuleArgument,
    rank: Rank = 1,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Length of the run for which decays are drawn.")] = 1000,
    json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Show a rule: its equation, state, what a step computes, its decays drawn, and the verdict of the integrity check.

    \b
    Examples:
      optevolve show adam
      optevolve show "nesterov: tanh(max(a6, a10) * arcsinh(qhm(v)))"
      optevolve show runs/demo --rank 2
    """
    from optevolve.integrity import LEARNING_RATES, check_integrity
    from optevolve.space.decays import values_of
    from optevolve.space.lower import lower
    from optevolve.space.text import format_expression

    subject = _find(rule, rank)
    program = lower(subject.rule.expression)
    buffers = len(program.states) + (subject.rule.kind != "plain")
    decays = {format_expression(s.node): values_of(s.node, steps) for s in program.scalars if s.node is not None}
    verdict = check_integrity(subject.rule)
    if json:
        print_json(
            {
                "rule": str(subject.rule),
                "kind": subject.rule.kind,
                "sign": subject.rule.sign,
                **subject.facts,
                "buffers": buffers,
                "bytes_per_parameter": 4 * buffers,
                "needs_total_steps": program.needs_total_steps,
                "step": _steps(program, subject.rule),
                "decays": {text: list(map(float, values)) for text, values in decays.items()},
                "integrity": {
                    "ok": verdict.ok,
                    "sign": verdict.sign,
                    "reason": verdict.reason,
                    "learning_rates": LEARNING_RATES,
                    "losses": verdict.losses.tolist(),
                },
            }
        )
        return
    say(str(subject.rule), style="bold")
    for name, value in subject.facts.items():
        say(f"  {name}: {value}")
    say(f"State: {buffers} buffer{'' if buffers == 1 else 's'}, {4 * buffers} bytes per float32 parameter")
    say("A step computes (g gradient, w parameters, α learning rate, μ momentum, m… and m the state):")
    for line in _steps(program, subject.rule):
        say(f"  {line}")
    for text, values in decays.items():
        say(f"Decay {text} over {steps} steps:")
        for line in curve(values):
            say(f"  {line}")
    if program.needs_total_steps:
        say("Needs the run's length: total_steps.")
    sign = "" if verdict.sign == 1 else ", with sign -1"
    say(f"Integrity check: passes{sign}" if verdict.ok else f"Integrity check: fails, {verdict.reason}")


def export(
    rule: RuleArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    rank: Rank = 1,
) -> None:
    """Write a rule as one Python file with a torch optimizer that needs nothing but torch.

    \b
    Examples:
      optevolve export opt6 -o opt6.py
      optevolve export runs/demo -o my_optimizer.py
    """
    from optevolve.compile import export as write

    subject = _find(rule, rank)
    write(subject.rule, out, provenance=subject.provenance, scores=subject.scores, learning_rate=subject.learning_rate)
    say(f"Wrote {out}: {subject.rule}")


def _find(text: str, rank: int) -> Subject:
    """The rule that the user means.

    Raises:
        ParseError: if it is neither a rule, a name, nor a folder.
        StudyError: if the folder holds no run, or too few rules.
    """
    from optevolve.space import parse
    from optevolve.zoo import ZOO, rule_or_name

    if Path(text).is_dir():
        from optevolve import pipeline

        ranked = [row for row in pipeline.leaderboard(Path(text)) if row["fitness"] is not None]
        if rank > len(ranked):
            raise StudyError(
                f"Expected at least {rank} measured rules in {text}, found {len(ranked)}. See 'optevolve top {text}', or let the run go on."
            )
        row = ranked[rank - 1]
        place: dict[str, Any] = {name: row[name] for name in ("rank", "fitness", "learning_rate", "stage", "id") if name in row}
        provenance = f"found by optevolve {__version__} in run {Path(text).resolve().name}, place {rank} of its search ({row['id']})"
        return Subject(parse(row["rule"]), place, provenance, {f"fitness in stage {row['stage']}": row["fitness"]}, row["learning_rate"])
    name = text.strip().lower()
    if name in ZOO:
        entry = ZOO[name]
        facts = {"name": entry.name, "summary": entry.summary, "source": entry.source, "learning_rate": entry.learning_rate}
        known = {key: value for key, value in facts.items() if value is not None}
        return Subject(entry.rule, known, f"{entry.summary}; {entry.source}", learning_rate=entry.learning_rate)
    return Subject(rule_or_name(text))


def _steps(program: Program, rule: UpdateRule) -> list[str]:
    """What one step does, line by line, in the program's own order; then how the update moves the parameters."""
    from optevolve.space.lower import render_formula
    from optevolve.space.text import format_expression, format_number

    lines = []
    for scalar in program.scalars:
        if scalar.node is not None:
            value = format_expression(scalar.node)
        else:
            value = render_formula(scalar.formula, dict(scalar.parameters), "torch")
        lines.append(f"{scalar.name} = {value}")
    lines += [f"{draw.name} = random ({draw.primitive})" for draw in program.draws]
    lines += [f"{step.target} = {render_formula(step.formula, dict(step.bindings), 'torch')}" for step in program.instructions]
    lines += [f"{state.name} ← {state.next}" for state in program.states]
    lines = [line.replace("torch.special.", "").replace("torch.", "") for line in lines]
    update = program.result if isinstance(program.result, str) else format_number(program.result)
    minus = "-" if rule.sign == 1 else "+"
    if rule.kind == "plain":
        return [*lines, f"w ← w {minus} α · {update}"]
    lines.append(f"m ← μ · m {minus} α · {update}")
    return [*lines, "w ← w + m" if rule.kind == "momentum" else f"w ← w + μ · m {minus} α · {update}"]
