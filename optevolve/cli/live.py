"""A running search, shown live from another terminal: looks into the store again and again."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from optevolve.cli.terminal import console, notice, say
from optevolve.errors import RunEndedError, StudyError
from optevolve.library.known import headline
from optevolve.printable import shielded, without_passwords
from optevolve.records import Measurement, Status
from optevolve.space import parse

__all__ = ["follow", "picture"]

_BEING_MADE = 5.0  # seconds that a study may take from its file to its first config


def follow(place: str, number: int, every: float) -> None:
    """Shows a run until it is finished or Ctrl-C; on no terminal, one look after the other, each under the last.

    Args:
        place: folder of the run, or URL of its study.
        number: rules to show.
        every: seconds between looks.
    Raises:
        RunEndedError: if the run ended before its end, and no rule has a fitness: why.
    """
    from optevolve.reporting import leaderboard
    from optevolve.run.early_end import ended
    from optevolve.run.folder import read_run

    screen = console()
    if not _there(place, every):
        return
    with read_run(place) as (study, config), Live(console=screen, auto_refresh=False, transient=False) as live:
        title = f"{without_passwords(place)}: {config.task}"
        known = -1
        try:
            while True:
                finished = study.finished
                count = len(study.jobs())
                if count != known or finished:  # reading everything anew is for when there is something new
                    known, measurements = count, study.measurements(with_curves=False, with_origins=False)
                    rows = leaderboard(measurements, number, config.search.over_tasks)
                    live.update(picture(title, measurements, rows, finished), refresh=True)
                if finished:
                    break
                time.sleep(every)
        except KeyboardInterrupt:
            return
        why = ended(study)
    if why and not any(row["fitness"] is not None for row in rows):
        raise RunEndedError(why)
    if why:
        notice(why)


def _there(place: str, every: float) -> bool:
    """Whether there is a run to look at, waiting for one that is about to start; not if Ctrl-C comes first.

    Raises:
        StudyError: if what is there does not become a study within seconds.
    """
    from optevolve.run.folder import has_run, read_run

    said, seen = False, 0.0
    try:
        while True:
            if has_run(place):
                seen = seen or time.monotonic()
                try:
                    with read_run(place):
                        return True
                except StudyError:  # its file comes before its tables
                    if time.monotonic() - seen > _BEING_MADE:
                        raise
            elif not said:
                say(f"No run in {place} yet: waiting for it to start. Ctrl-C leaves.")
                said = True
            time.sleep(min(every, 0.5))
    except KeyboardInterrupt:
        return False


def picture(title: str, measurements: list[Measurement], rows: list[dict[str, Any]], finished: bool) -> RenderableType:
    """What is shown at one look: counts by stage, then the best rules."""
    state = "finished" if finished else f"as of {datetime.now(UTC):%H:%M:%S} UTC"
    counts: dict[str, Counter[Status]] = {}
    for measurement in measurements:
        counts.setdefault(measurement.stage, Counter())[measurement.outcome.status] += 1
    stages = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("stage", *(status.value for status in Status)):
        stages.add_column(name, justify="left" if name == "stage" else "right")
    for stage, found in counts.items():
        stages.add_row(shielded(stage), *(str(found[status] or "–") for status in Status))
    rules = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("rank", "fitness", "lr", "stage", "rule"):
        rules.add_column(name, justify="right" if name in ("rank", "fitness", "lr") else "left", no_wrap=name != "rule", overflow="fold")
    for row in rows:
        if row["fitness"] is not None:
            numbers = (
                str(row["rank"]),
                f"{row['fitness']:.4f}",
                f"{row['learning_rate']:g}{'*' * row['edge']}" if row["learning_rate"] else "–",
            )
            rules.add_row(*numbers, Text(shielded(str(row.get("stage", "")))), Text(headline(parse(row["rule"]))))
    marks = [Text("* at the end of the learning rates that were tried")] if any(row["edge"] for row in rows) else []
    head = Text(shielded(f"{title}, {len(measurements)} measured, {state}"), style="bold")
    return Group(head, Text(), stages, Text(), rules, *marks)
