"""The four tasks of this folder searched and compared from a script, without a guard: a task is a class, an instance or a name.

python from_a_script.py             # minutes each on two cores; what is finished is not done again
python from_a_script.py triangles   # one of them
"""

import sys

from diabetes import Diabetes
from source_code import SourceCode
from triangles import Triangles

import optevolve as oe

TASKS = {
    "diabetes": Diabetes,
    "source-code": SourceCode(),
    "triangles": Triangles,
    "broken-sensor": "broken_sensor.py:BrokenSensor+finite:0.5",
}

for name in sys.argv[1:] or TASKS:
    result = oe.search(task=TASKS[name], preset="quick", out=f"runs/{name}")
    print(f"{name}: {result.verdict}")
    for row in oe.compare(["adamw", "nesterov", "lion"], TASKS[name], f"runs/{name}-known"):
        print(f"{name}: {row.name} {row.mean:.4f}")
