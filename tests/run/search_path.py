"""Where processes that tests start find modules: this repository, the folder of these tests, and wherever this process was told to look."""

import os
from pathlib import Path

HERE = Path(__file__).parent


def search_path() -> str:
    """A value of `PYTHONPATH`. What it held is kept: on some machines all that is installed lies there."""
    return os.pathsep.join(filter(None, (str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH"))))
