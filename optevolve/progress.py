"""Progress for a person: a live display on a terminal, plain lines elsewhere.

Whoever drives a run calls `on_stage`, then `on_measurement` for everything that comes in, and `on_end` in the end, however it ends.
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optevolve.contestants import REFERENCE_STAGE
from optevolve.library.known import rule_text
from optevolve.printable import fitting, shielded
from optevolve.records import Measurement, Status

__all__ = ["Listener", "Progress", "Tally", "clock_text", "listener"]

_NUMBER = re.compile(r"[-+]?\b\d+(\.\d+)?(e[-+]?\d+)?\b")
_COLUMNS = 110  # of text in a notebook
_WINDOW = 24  # arrivals that the pace is taken from: long enough to even out, short enough to follow a stage that slows down


class Listener(Protocol):
    """What a run tells while it goes on."""

    def on_stage(self, name: str, total: int) -> None:
        """A stage begins and will make about `total` measurements; 0 if that is not known. Called again when the estimate changes."""

    def on_measurement(self, measurement: Measurement, stored: bool = False) -> None:
        """A measurement has come in, or was found in the store (`stored`), so that nothing was measured."""

    def on_end(self) -> None:
        """Nothing more will come: the run is finished or interrupted."""


@dataclass
class Tally:
    """What has come in so far, as numbers.

    Attributes:
        stage: the current stage.
        total: measurements that the stage will make; 0 if not known.
        counts: stage → measurements that have come in.
        failures: reason → how often, over the whole run; numbers within reasons are left out, so that equal causes meet.
        refused: rules drawn and refused before any training, over the whole run.
        best: stage → (fitness, rule) of the best measurement, in the order in which stages began; AdamW's own stage has none.
        clock: seconds, monotonic.
    """

    stage: str = ""
    total: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    best: dict[str, tuple[float, str]] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW + 1))

    def begin(self, stage: str, total: int) -> None:
        """Starts a stage, or corrects the total of the current one."""
        if stage != self.stage:
            self.stage = stage
            self._arrivals.clear()
            self._arrivals.append(self.clock())
        self.total = total

    def add(self, measurement: Measurement, stored: bool = False) -> bool:
        """Counts a measurement; whether it is the best of its stage so far. What was stored before says nothing about the pace."""
        self.counts[measurement.stage] += 1
        # Some measurements of a stage come in when the next has begun; they count where they belong.
        if measurement.stage == self.stage and not stored:
            self._arrivals.append(self.clock())
        elif len(self._arrivals) == 1:
            self._arrivals[0] = self.clock()
        if measurement.proposal is not None:
            self.refused += len(measurement.proposal.rejected)
        outcome = measurement.outcome
        if outcome.status is not Status.COMPLETED:
            # Stopped and diverged say it all in a line of progress; why something broke does not. Numbers would keep equal causes apart.
            reason = _NUMBER.sub("…", outcome.reason.partition("\n")[0]) if outcome.status is Status.FAILED else ""
            self.failures[f"{outcome.status.value}: {reason}" if reason else outcome.status.value] += 1
            return False
        if measurement.stage == REFERENCE_STAGE:  # AdamW, which is no rule of the search
            return False
        known = self.best.get(measurement.stage)
        if outcome.fitness is None or (known is not None and outcome.fitness <= known[0]):
            return False
        self.best[measurement.stage] = (outcome.fitness, measurement.job.rule)
        return True

    @property
    def done(self) -> int:
        """Measurements of the stage that have come in."""
        return self.counts[self.stage]

    @property
    def left(self) -> int:
        """Measurements of the stage still to come; 0 if not known."""
        return max(self.total - self.done, 0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the stage ends at its recent pace; None if there is no telling yet."""
        arrivals = len(self._arrivals) - 1
        if arrivals < 1 or not self.total:
            return None
        return self.left * (self._arrivals[-1] - self._arrivals[0]) / arrivals

    def counts_text(self) -> str:
        """Done, left and time left, such as "12 of 40 done, 28 left, about 3:20 to go"."""
        if not self.total:
            return f"{self.done} done"
        seconds = self.seconds_left
        ending = f", about {clock_text(seconds)} to go" if seconds is not None and self.left else ""
        return f"{self.done} of {max(self.total, self.done)} done, {self.left} left{ending}"  # the total is an estimate

    def best_text(self) -> str:
        """Best fitness and its rule, of the latest stage that has one."""
        if not self.best:
            return "none yet"
        stage, (fitness, rule) = list(self.best.items())[-1]
        return f"{fitness:.4f} ({stage}) {rule_text(rule)}"

    def failures_text(self, most: int = 4) -> str:
        """Failures by reason, the most frequent first."""
        parts = [f"{count} × {reason}" for reason, count in self.failures.most_common(most)]
        if (others := len(self.failures) - most) > 0:
            parts.append(f"{others} other reasons")
        if self.refused:
            parts.append(f"{self.refused} × refused before training")
        return "; ".join(parts) or "none"


class Progress:
    """A `Listener` that shows a `Tally` to a person. Use it as a context manager, so that the terminal is left in order.

    Args:
        console: where to show it; by default standard output, or in a notebook the cell that runs.
        every: seconds between plain lines; news of a better rule, and the ends of stages, do not wait.
        clock: seconds, monotonic.
    """

    def __init__(self, console: Console | None = None, *, every: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._cell = _Cell() if console is None and _in_notebook() else None
        self.console = console or Console(force_jupyter=False)
        self.tally = Tally(clock=clock)
        self._every = every
        self._clock = clock
        self._said = float("-inf")
        self._live: Live | None = None

    def on_stage(self, name: str, total: int) -> None:
        """See `Listener`."""
        new = name != self.tally.stage
        if new:
            self._close_stage()
        self.tally.begin(name, total)
        if self._cell is not None:
            self._cell.show(self._picture(), at_once=True)
        elif self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, get_renderable=self._picture, refresh_per_second=4, transient=True)
                self._live.start()
        elif new:
            self._say(f"[{name}] {f'about {total}' if total else 'unknown number of'} evaluations")

    def on_measurement(self, measurement: Measurement, stored: bool = False) -> None:
        """See `Listener`."""
        better = self.tally.add(measurement, stored)
        if self._cell is not None:
            self._cell.show(self._picture())
        elif not self.console.is_terminal and (better or self._clock() - self._said >= self._every):
            self._say(f"[{self.tally.stage}] {self.tally.counts_text()}{self._standing()}")

    def note(self, text: str) -> None:
        """Shows a lasting line."""
        self._say(text)

    def on_end(self) -> None:
        """See `Listener`."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._close_stage()
        self.tally.stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.on_end()

    def _close_stage(self) -> None:
        """One lasting line for the stage that ends."""
        tally = self.tally
        if tally.stage:
            self._say(f"[{tally.stage}] ended with {tally.done} evaluation{'' if tally.done == 1 else 's'}{self._standing()}")

    def _standing(self) -> str:
        return f" | best {self.tally.best_text()} | failed {self.tally.failures_text()}"

    def _say(self, text: str) -> None:
        self._said = self._clock()
        if self._cell is not None:
            self._cell.keep(shielded(text))
            return
        self.console.print(self._text(text), soft_wrap=True)

    def _text(self, text: str, **style: Any) -> Text:
        """What a task or a store may have had a hand in, as this terminal can show it and need not obey it."""
        return Text(fitting(shielded(text), self.console.encoding), **style)

    def _picture(self) -> RenderableType:
        tally = self.tally
        head = Table.grid(padding=(0, 1))
        head.add_row(
            self._text(tally.stage, style="bold"),
            ProgressBar(total=tally.total or None, completed=tally.done, width=30, pulse=not tally.total),
            self._text(tally.counts_text()),
        )
        facts = Table.grid(padding=(0, 1))
        facts.add_row(Text("best", style="green"), self._text(tally.best_text(), overflow="ellipsis", no_wrap=True))
        facts.add_row(Text("failed", style="yellow"), self._text(tally.failures_text(), overflow="ellipsis", no_wrap=True))
        return Group(head, facts)


class _Cell:
    """Output of a notebook's cell that is written anew as things change: lasting lines, and what is shown below them. Needs no widgets."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._shown = float("-inf")
        self._handle: Any = None

    def keep(self, text: str) -> None:
        """Adds a lasting line; what was below is gone."""
        self._lines.append(text)
        self.show(None, at_once=True)

    def show(self, below: RenderableType | None, *, at_once: bool = False) -> None:
        """Shows this below the lines, at most twice a second."""
        now = time.monotonic()
        if not at_once and now - self._shown < 0.5:
            return
        self._shown = now
        page = Console(file=io.StringIO(), width=_COLUMNS, force_jupyter=False, force_terminal=False, color_system=None)
        if below is not None:
            page.print(below)
        assert isinstance(page.file, io.StringIO)
        bundle = {"text/plain": "\n".join([*self._lines, page.file.getvalue().rstrip()]).strip("\n")}
        if self._handle is None:
            self._handle = sys.modules["IPython.display"].display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _in_notebook() -> bool:
    """Whether this is a kernel of IPython, which shows outputs in cells; IPython in a terminal is a terminal."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return hasattr(shell, "kernel") and "IPython.display" in sys.modules


def listener(progress: Listener | bool | None) -> Listener | None:
    """Who is told of progress.

    Args:
        progress: True for a display, False for nobody; None for a display where a person looks on, in a terminal or a notebook; or the
            listener itself.
    """
    if progress is None:
        progress = _in_notebook() or (sys.stdout is not None and sys.stdout.isatty())
    if isinstance(progress, bool):
        return Progress() if progress else None
    return progress


def clock_text(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
