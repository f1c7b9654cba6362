"""Processes start without the user's main module, however that was started and whichever thread starts them."""

import subprocess
import sys
from pathlib import Path

import pytest

# No guard, and a class that lives here alone; the second process is started by a thread, as a replaced worker is.
SCRIPT = """
import pickle, sys, threading
from optevolve.run.spawning import WorkerContext
print("main runs")
class Mine: pass
context = WorkerContext()
def start(word):
    process = context.Process(target=print, args=(word,))
    process.start()
    process.join()
    print("exit", process.exitcode)
start("hello")
thread = threading.Thread(target=start, args=("again",))
thread.start()
thread.join()
assert isinstance(pickle.loads(pickle.dumps(Mine())), Mine) and sys.modules["__main__"].Mine is Mine
"""


@pytest.mark.parametrize("way", ["file", "module", "stdin", "text"])
def test_main_is_not_run_again(way: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT, encoding="utf-8")
    arguments = {"file": ["mine.py"], "module": ["-m", "mine"], "stdin": ["-"], "text": ["-c", SCRIPT]}[way]
    done = subprocess.run(
        [sys.executable, *arguments], input=SCRIPT, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n")) == ["", "again", "exit 0", "exit 0", "hello", "main runs"]
    assert done.stderr == ""


def test_other_threads_find_the_main_module_meanwhile() -> None:
    from optevolve.run.spawning import _main_unnamed

    main = sys.modules["__main__"]
    with _main_unnamed():
        stand_in = sys.modules["__main__"]
        assert stand_in is not main
        assert stand_in.__spec__ is None
        assert not hasattr(stand_in, "__file__")
        assert stand_in.__name__ == "__main__"
        stand_in.made_meanwhile = 3
        assert stand_in.made_meanwhile == 3
    assert sys.modules["__main__"] is main
    assert main.made_meanwhile == 3
    del main.made_meanwhile
