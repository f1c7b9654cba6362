"""Decoded images lie in memory once per machine: of two processes that use them at the same time one decodes, and neither has a copy."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MIB = 2**20
SMAPS = Path("/proc/self/smaps_rollup")

# Reads every pixel and says: images decoded here, sum of the pixels, MiB private to the process before and after. A small data set comes
# first, so that what libraries set up at their first use is not counted.
WORKER = f"""
import sys
from pathlib import Path
import numpy as np
from optevolve.tasks import data

def private():
    rows = (line.split() for line in Path("{SMAPS}").read_text().splitlines()[1:])
    return sum(int(row[1]) for row in rows if row[0] in ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")) / 1024

def read(name):
    pixels = data.images(name, "train", hub="", image="image", label="label").pixels.numpy()
    return sum(int(image.sum(dtype=np.int64)) for image in pixels)

decoded, decode = 0, data._npz_images

def counting(*arguments):
    global decoded
    for row in decode(*arguments):
        decoded += 1
        yield row

read("small")
data._npz_images = counting
before = private()
total = read("noise")
print(decoded, total, flush=True)
sys.stdin.readline()  # until both have read all: a page that one process alone has mapped is private to it
print(before, private(), flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(not SMAPS.exists(), reason="private memory of a process is read from /proc/self/smaps_rollup, which this system lacks")
def test_of_two_processes_one_decodes_and_neither_has_a_copy(data_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20_000, 32, 32, 3), dtype=np.uint8)
    size = pixels.nbytes / MIB
    for name, part in (("noise", pixels), ("small", pixels[:100])):
        np.savez(data_folder / f"{name}.npz", train_images=part, train_labels=np.zeros((len(part), 1), np.uint8))
    command = [sys.executable, "-c", WORKER]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        first = [_line(worker) for worker in workers]
        for worker in workers:
            _go_on(worker)
        private = [_line(worker) for worker in workers]
    finally:
        for worker in workers:
            worker.communicate("\n\n", timeout=60)
    assert sorted(decoded for decoded, _ in first) == [0, len(pixels)]
    assert {total for _, total in first} == {int(pixels.sum(dtype=np.int64))}
    for before, after in private:
        assert after - before < 0.2 * size, f"{after - before:.0f} MiB more, data of {size:.0f} MiB"


def _line(worker: "subprocess.Popen[str]") -> tuple[float, float]:
    assert worker.stdout is not None
    one, two = worker.stdout.readline().split()
    return float(one), float(two)


def _go_on(worker: "subprocess.Popen[str]") -> None:
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
