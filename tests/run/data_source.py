"""A measurement that reads images, and says from where; for workers to import."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from optevolve.config import Protocol
from optevolve.records import Job, Outcome, Status
from optevolve.tasks.data import cache_folder, images
from optevolve.tasks.placement import used


def write(folder: Path) -> None:
    """A data set in a folder."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "grey.npz", train_images=pixels, train_labels=np.arange(50))


def job(ident: str, name: str = "grey") -> Job:
    return Job(ident, ident, name, Protocol(), 0)


def total(name: str = "grey") -> float:
    """A number that depends on every image."""
    found = images(name, "train", hub="", image="image", label="label")
    return float((found.pixels.sum(dim=(1, 2, 3)) * found.labels).sum())


def measure(job: Job) -> Outcome:
    """The number, and which process mapped which file."""
    fitness = total(job.task)
    time.sleep(0.5)  # long enough that every worker gets a job
    # What this process has used: a driver that has used other data of this name hands that to the node as well.
    (folder,) = {folder for folder, _ in used().values() if folder.startswith(f"{job.task}-train-")}
    file = cache_folder() / folder / "pixels.npy"
    place = {"process": os.getpid(), "cache": str(cache_folder()), "file": file.stat().st_ino}
    return Outcome(Status.COMPLETED, fitness, 0.1, reason=json.dumps(place), steps=1, seconds=0.1)


def share(job: Job) -> Mapping[str, tuple[str, Mapping[str, Path]]]:
    """What the driver has."""
    return used()
