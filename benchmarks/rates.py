"""Whether two protocols disagree over the learning rate or over the training: every rule of a finished calibration trained once more, at
the learning rate that was chosen for it there, by the full run of another protocol.

    optevolve calibrate --reference log.csv --protocol paper --repeats 2 --out paper
    python benchmarks/rates.py paper --set full_steps=660 --set resolution_share=0.375 [--decades -0.5 0 0.5] [--seeds 1]

The rate is the geometric mean over the calibration's seeds, and so many decades from it. For each distance it prints Spearman's correlation
over the rules with each measurement of the calibration; "best" is the best score of all distances, which is what a protocol would find that
chose its rates perfectly for itself. A run that does not complete ranks last. Full runs are judged as a search judges them. Data: as for
`optevolve calibrate` (the environment variable OPTEVOLVE_DATA).
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from optevolve.config import PROTOCOLS, Protocol, RunConfig, Stage
from optevolve.config_text import apply_settings
from optevolve.errors import OptevolveError
from optevolve.records import Job
from optevolve.statistics import rank_correlation

_SEED = 11  # of the first full runs


def protocol_of(name: str, settings: Sequence[str]) -> Protocol:
    config = RunConfig(evolution=Stage({}, PROTOCOLS[name]))
    return apply_settings(config, [f"evolution.protocol.{setting}" for setting in settings]).evolution.protocol


def prepare() -> None:
    """What a worker of a search does before it measures."""
    import torch

    from optevolve.run.worker import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()


def fitness(job: Job) -> tuple[float, float]:
    """Score of a full run, -inf where there is none, and its seconds."""
    from optevolve.surrogate import measure

    outcome = measure(job)
    return -math.inf if outcome.fitness is None else outcome.fitness, outcome.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dear", type=Path, nargs="?", help="folder of a finished calibration")
    parser.add_argument("--protocol", choices=sorted(PROTOCOLS), default="fast", help="whose full run")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE", help="a change to it")
    parser.add_argument("--decades", type=float, nargs="+", default=[0.0], help="distances from the chosen rate")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    if options.dear is None:
        parser.print_usage()
        print("Nothing to train: give the folder of a finished calibration (see --help).")
        return 0
    place = options.dear / "calibration.json"
    if not place.exists():
        sys.exit(f"{options.dear} has no calibration.json. Expected the folder of a finished `optevolve calibrate`.")
    content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    rows = [row for row in content["measured"] if None not in row["learning_rates"]]
    dear = np.array([[-math.inf if score is None else score for score in row["fitness"]] for row in rows])
    middle = [float(np.mean(np.log10(row["learning_rates"]))) for row in rows]
    protocol = protocol_of(options.protocol, options.settings)
    jobs = [
        Job(f"{number}/{decades}/{seed}", row["rule"], content["task"], protocol, _SEED + seed, learning_rate=10 ** (log + decades))
        for seed in range(options.seeds)
        for decades in options.decades
        for number, (row, log) in enumerate(zip(rows, middle, strict=True))
    ]
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn"), prepare) as pool:
        done = list(pool.map(fitness, jobs))
    scores = np.array([score for score, _ in done]).reshape(options.seeds, len(options.decades), len(rows))
    print(f"{len(rows)} rules on {content['task']}, {np.mean([seconds for _, seconds in done]):.2f} s a full run")
    lines = [(f"{decades:+.2f} decades", scores[:, k]) for k, decades in enumerate(options.decades)]
    for name, found in [*lines, ("best", scores.max(axis=1))]:
        each = [rank_correlation(one, dear.T) for one in found]
        print(f"{name:16} mean {np.mean(each):6.3f}   each {', '.join(f'{value:.3f}' for row in each for value in row)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OptevolveError as error:
        sys.exit(str(error))
