"""How jobs are handed to a Ray cluster: to long-lived actors. `optevolve.run.ray` decides what ends mean.

An actor keeps what a new process would have to make again for every job: its CUDA context, compiled kernels and the data. Jobs go only
to actors that are there, so that none waits for a node that has left while another actor has nothing to do.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from optevolve.errors import ConfigError

__all__ = ["Actors", "Ended", "SilentError"]

J = TypeVar("J")
_SILENT = 60.0  # seconds without an answer after which an actor is ended
_GENEROUS, _GRACE = 4.0, 1800.0  # times its limit, and seconds more for data and a worker, that a job may be with an actor that answers
_AWAKE = 1.0  # seconds; of longer gaps between two looks no more counts as silence, for the driver was stopped itself
_LEAVE = 10.0  # seconds that idle actors have to end by themselves
_BREAKS = 5  # times in a row that actors may end before they are ready until they are given up


class Ended(NamedTuple, Generic[J]):
    """A job that ended.

    Attributes:
        job: as it was started.
        found: what came back; None if an error did.
        error: Ray's, if the job or its worker was lost.
    """

    job: J
    found: Any
    error: Exception | None


class SilentError(Exception):
    """An actor did not answer, or did not give its job back, and was ended by force."""


@dataclass
class _Busy(Generic[J]):
    """A job with an actor; all seconds as far as the driver was awake."""

    actor: Any
    job: J
    most: float  # seconds that it may be there
    held: float = 0.0  # seconds that it has been there
    asked: Any = None  # reference of the actor's answer that it lives
    silent: float = 0.0  # seconds without it


class Actors(Generic[J]):
    """Actors that take one job at a time, as many as there is room for and jobs to do; one that is lost is replaced.

    Args:
        ray: the module.
        kind: class of the actors. `ready()` returns when one may be used; `measure(*arguments)` gives what came of a job; `alive()` answers
            meanwhile; `close()` returns when one without a job may be ended.
        made_of: what actors are made of.
        options: of the actors, such as num_gpus.
        room: how many the cluster has room for now.
    """

    def __init__(self, ray: Any, kind: type, made_of: tuple[Any, ...], options: dict[str, Any], room: Callable[[], int]) -> None:
        self._ray, self._room, self._made_of = ray, room, made_of
        self._kind = ray.remote(max_restarts=0, max_task_retries=0, max_concurrency=2, **options)(kind)
        self._waiting: deque[tuple[J, tuple[Any, ...], float]] = deque()
        self._starting: dict[Any, Any] = {}  # reference of readiness → actor
        self._idle: list[Any] = []
        self._busy: dict[Any, _Busy[J]] = {}  # by reference of the job
        self._looked = time.monotonic()
        self._breaks = 0

    def start(self, job: J, arguments: tuple[Any, ...], seconds: float = math.inf) -> None:
        """Takes a job; it waits where there is no room.

        Args:
            job: as it comes back.
            arguments: of `measure`.
            seconds: limit that the actor is to keep. It knows best how much of the time is the job's own, so that it is ended by force only
                after far more than that.
        """
        self._waiting.append((job, arguments, _GENEROUS * seconds + _GRACE))
        self._assign()

    def _assign(self) -> None:
        while self._waiting and self._idle:
            actor = self._idle.pop()
            job, arguments, most = self._waiting.popleft()
            self._busy[actor.measure.remote(*arguments)] = _Busy(actor, job, most)
        more = self._room() - len(self._idle) - len(self._starting) - len(self._busy)
        for _ in range(min(more, len(self._waiting) - len(self._starting))):
            actor = self._kind.remote(*self._made_of)
            self._starting[actor.ready.remote()] = actor
        for _ in range(-more):  # nodes have left: whoever waits for one, or holds what another waits for, goes
            if self._starting and (self._idle or self._busy):
                self._end(self._starting.popitem()[1])
            elif self._idle:
                self._end(self._idle.pop())

    def wait(self, timeout: float) -> list[Ended[J]]:
        """Jobs that ended, after at most `timeout` seconds.

        Raises:
            ConfigError: if actors end again and again before they are ready.
        """
        ended = []
        for reference in _done(self._ray, [*self._busy, *self._starting], timeout):
            if reference in self._starting:
                self._greet(reference, self._starting.pop(reference))
                continue
            busy = self._busy.pop(reference)
            end = _ended(self._ray, busy.job, reference)
            ended.append(end)
            if end.error is None or isinstance(end.error, self._ray.exceptions.RayTaskError):
                self._idle.append(busy.actor)
            else:
                self._end(busy.actor)
        ended += self._silent()
        self._assign()
        return ended

    def _silent(self) -> list[Ended[J]]:
        """Jobs whose actors have not answered for long, or keep them for far longer than their limits: they are ended by force."""
        now = time.monotonic()
        awake, self._looked = min(_AWAKE, now - self._looked), now
        ended = []
        for reference, busy in list(self._busy.items()):
            busy.held += awake
            if busy.asked is None or self._ray.wait([busy.asked], timeout=0)[0]:
                busy.asked, busy.silent = busy.actor.alive.remote(), 0.0
            else:
                busy.silent += awake
            if busy.silent > _SILENT or busy.held > busy.most:
                del self._busy[reference]
                self._end(busy.actor)
                what = "no answer" if busy.silent > _SILENT else "no end"
                ended.append(Ended(busy.job, None, SilentError(f"{what} for {busy.silent if busy.silent > _SILENT else busy.held:.3g} s")))
        return ended

    def _greet(self, reference: Any, actor: Any) -> None:
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._breaks += 1
            if self._breaks >= _BREAKS:
                raise ConfigError(
                    f"Workers on the cluster ended {self._breaks} times in a row before they were ready; the last one: "
                    f"{str(error).strip()[-500:]} Look into Ray's logs of that node, or leave workers.gpus at 0."
                ) from error
        else:
            self._breaks = 0
            self._idle.append(actor)

    def _end(self, actor: Any) -> None:
        self._ray.kill(actor)

    def close(self) -> None:
        """Ends everything at hand; who has no job may write to the end what its last one printed."""
        if leaving := [actor.close.remote() for actor in self._idle]:
            self._ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE)
        for actor in [*self._idle, *self._starting.values(), *(busy.actor for busy in self._busy.values())]:
            self._end(actor)
        self._waiting.clear()
        self._starting.clear()
        self._idle.clear()
        self._busy.clear()


def _done(ray: Any, references: list[Any], timeout: float) -> list[Any]:
    """Those that are over: waits for the first, then takes all there are."""
    if not references or not ray.wait(references, num_returns=1, timeout=timeout)[0]:
        return []
    found: list[Any] = ray.wait(references, num_returns=len(references), timeout=0)[0]
    return found


def _ended(ray: Any, job: J, reference: Any) -> Ended[J]:
    try:
        return Ended(job, ray.get(reference), None)
    except ray.exceptions.RayError as error:
        return Ended(job, None, error)
