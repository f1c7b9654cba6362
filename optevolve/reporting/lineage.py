"""Each particle's line of descent, recovered from measurements alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from optevolve.records import Measurement
from optevolve.reporting.tables import fitness_of, is_search

__all__ = ["Line", "Step", "lines_of_descent"]


@dataclass(frozen=True)
class Step:
    """One timestep of a particle.

    Attributes:
        timestep: 0 for where the particle began.
        position: measurement of the rule where the particle stood afterwards; None if nothing there was ever measured with success.
        moved: whether that is a child of this timestep, rather than the parent that stayed.
        children: everything measured in this timestep, redraws included.
    """

    timestep: int
    position: Measurement | None
    moved: bool
    children: tuple[Measurement, ...]


@dataclass(frozen=True)
class Line:
    """A particle's way through the space.

    Attributes:
        particle: its number.
        steps: its timesteps, ascending.
        best: its measurement with the highest fitness, None if it has none.
    """

    particle: int
    steps: tuple[Step, ...]
    best: Measurement | None


def _best(measurements: Iterable[Measurement]) -> Measurement | None:
    scored = [(fitness, m) for m in measurements if (fitness := fitness_of(m)) is not None and fitness == fitness]
    # max() keeps the first of equals.
    return max(scored, key=lambda pair: pair[0])[1] if scored else None


def _place(measurement: Measurement) -> list[int]:
    """Numbers in a measurement's id, so that a child drawn again keeps its place among its siblings."""
    return [int(digits) for digits in re.findall(r"[0-9]+", measurement.job.id)]


def lines_of_descent(measurements: Iterable[Measurement], *, elitist: bool = False) -> list[Line]:
    """The line of every particle, the one with the best rule first.

    What a particle moved to is read from its next timestep, whose children name their parent; at its last timestep it is the best child, or
    the parent if no child completed or, with `elitist`, none is better. Empty where the search has no particles.
    """
    found = [m for m in measurements if is_search(m)]
    by_id = {m.proposal.id: m for m in found if m.proposal is not None}
    grouped: dict[int, dict[int, list[Measurement]]] = defaultdict(lambda: defaultdict(list))
    for m in found:
        if m.proposal is not None and m.proposal.particle >= 0:
            grouped[m.proposal.particle][m.proposal.timestep].append(m)

    lines: list[Line] = []
    for particle, timesteps in grouped.items():
        ordered = sorted(timesteps)
        steps: list[Step] = []
        position: Measurement | None = None
        for index, timestep in enumerate(ordered):
            children = tuple(timesteps[timestep])
            heirs = timesteps[ordered[index + 1]] if index + 1 < len(ordered) else []
            named = next((by_id[m.proposal.parent] for m in heirs if m.proposal is not None and m.proposal.parent in by_id), None)
            if named is not None:
                # The first timestep measures a rule of the initial population anew: that measurement is the particle's, not the older one.
                named = next((child for child in children if child.job.rule == named.job.rule), named)
            rivals = [*([position] if elitist and position is not None else []), *sorted(children, key=_place)]
            moved_to = named or _best(rivals) or position
            moved = moved_to is not None and any(child is moved_to for child in children)
            steps.append(Step(timestep, moved_to, moved, children))
            position = moved_to
        lines.append(Line(particle, tuple(steps), _best(m for group in timesteps.values() for m in group)))

    def standing(line: Line) -> tuple[float, int]:
        fitness = fitness_of(line.best) if line.best is not None else None
        return (-fitness if fitness is not None else float("inf")), line.particle

    return sorted(lines, key=standing)
