"""What the driver does, told to a progress listener stage by stage."""

from __future__ import annotations

from collections.abc import Callable

from optevolve.progress import Listener
from optevolve.records import Measurement
from optevolve.run.driver import Happening

__all__ = ["Listening"]


class Listening:
    """A listener of the driver that speaks to a person's progress display.

    Args:
        progress: told of stages and of what comes in, stored measurements included.
        stage_of: the stage as a person sees it, by the driver's name for it.
        size_of: measurements that such a stage makes if none fails.
    """

    def __init__(self, progress: Listener, stage_of: Callable[[str], str], size_of: Callable[[str], int]) -> None:
        self._progress, self._stage_of, self._size_of = progress, stage_of, size_of
        self._stage = ""

    def __call__(self, event: Happening) -> None:
        """Takes one happening."""
        stage = self._stage_of(event.stage)
        if event.kind == "asked" and stage != self._stage:
            self._stage = stage
            self._progress.on_stage(stage, self._size_of(stage))
        if event.outcome is not None and (event.kind == "measured" or (event.kind == "told" and event.stored)):
            self._progress.on_measurement(Measurement(stage, event.job, event.outcome, event.proposal, event.same_as), event.stored)
