"""What a call costs, whatever else the process does."""

import time
from collections.abc import Callable

_TRIES = 5


def least_cpu_seconds(call: Callable[[], object]) -> float:
    """The least CPU time of this thread over a few calls: a collection of all the garbage of a long test run may fall into one of them,
    and other threads of the process compute meanwhile.
    """
    taken = []
    for _ in range(_TRIES):
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return min(taken)
