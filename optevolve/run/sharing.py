"""What a job's tasks need of the driver's data, for machines of a cluster that have none."""

from collections.abc import Mapping
from pathlib import Path

from optevolve.errors import OptevolveError
from optevolve.records import Job, Split

__all__ = ["data_of"]


def data_of(job: Job) -> Mapping[str, tuple[str, Mapping[str, Path]]]:
    """The data sets that the tasks of a job read, as far as the driver has them: by name, a folder's name and the files in it.

    Nothing if the driver has not all of them either: then the error of the node that asked says what is missing.
    """
    # They load torch, which a driver needs only where it comes to this.
    from optevolve.several import split
    from optevolve.tasks import load
    from optevolve.tasks.placement import used

    try:
        for spec in split(job.task):
            task = load(spec)
            for part in Split:
                next(iter(task.batches(part, 0)), None)
    except OptevolveError:
        return {}
    return used()
