"""What is trained. `base` says what a task is, `registry` finds one by its spec (`own`: of a user's), `check` tries one out.

`vision` and `synthetic` are the built-in tasks, `classification` what most of them share; `data` finds, decodes and caches images,
`augment` transforms them in batches.
"""

from optevolve.task_spec import spec_of
from optevolve.tasks.base import Batch, NumberedBatch, Task
from optevolve.tasks.check import TaskCheck, check_task
from optevolve.tasks.own import AnyTask, listed
from optevolve.tasks.registry import TASKS, WRAPPERS, load, spec_for

__all__ = [
    "TASKS",
    "WRAPPERS",
    "AnyTask",
    "Batch",
    "NumberedBatch",
    "Task",
    "TaskCheck",
    "check_task",
    "listed",
    "load",
    "spec_for",
    "spec_of",
]
