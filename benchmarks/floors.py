"""Whether a floor in every epoch explains a search log: a finished calibration under `paper` without floors, read again as if it had them.

    optevolve calibrate --reference log.csv --protocol paper --set first_floor=0.0 --set floor=0.0 --out paper
    python benchmarks/floors.py paper

The authors' program stops a full run in any epoch from the fifth on whose training accuracy is below 40 %, and enters the best validation
accuracy until then; the method (section 4) looks after the fifth alone. Each line is Spearman's correlation of the log's accuracies with
the mean fitness, for a floor in every epoch from `--first` on; floors are absolute, for shorter runs and narrower networks than the
authors' reach less. Trains nothing.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from optevolve.records import Outcome
from optevolve.run.store import Study

FLOORS = (0.0, 0.2, 0.25, 0.3, 0.35, 0.4)


def cut_short(outcome: Outcome, floor: float, first: int) -> tuple[float, bool]:
    """The fitness had the full run ended at the first epoch, from `first` (from 1) on, below the floor, and whether one was."""
    full = next((curve for curve in outcome.curves if curve.purpose == "full"), None)
    if full is None or outcome.fitness is None:
        return -math.inf, False
    for epoch, score in enumerate(full.train_score, start=1):
        if epoch >= first and score < floor:
            return max(full.score[:epoch]), True
    return outcome.fitness, False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folder of a finished calibration under `paper` with both floors 0")
    parser.add_argument("--first", type=int, default=5, help="first epoch with a floor, from 1")
    options = parser.parse_args(arguments)
    if options.folder is None:
        parser.print_usage()
        print("Nothing to read: give the folder of a finished calibration (see --help).")
        return 0
    place = options.folder / "calibration.json"
    if not place.exists():
        sys.exit(f"{options.folder} has no calibration.json. Expected the folder of a finished `optevolve calibrate --protocol paper`.")
    content = json.loads(place.read_text(encoding="utf-8"))
    protocol = content["protocol"]
    if protocol["kind"] != "paper" or protocol["floor"] != 0 or protocol["first_floor"] != 0:
        sys.exit(f"{options.folder} was not measured under paper without floors. Calibrate with --set first_floor=0.0 --set floor=0.0.")
    accuracies = {row["line"]: row["accuracy"] for row in content["measured"]}
    seeds = len(content["measured"][0]["fitness"])
    with Study.open(options.folder / "study.db") as study:
        stored = {measurement.job.id: measurement.outcome for measurement in study.measurements()}
    outcomes = {line: [stored[f"calibrate/{line}/seed-{seed}"] for seed in range(seeds)] for line in accuracies}
    print(f"{len(accuracies)} rules on {content['task']}, {seeds} seeds")
    print(f"epochs of {protocol['epoch_steps']} steps, a floor in each from {options.first} on")
    for floor in FLOORS:
        read = [[cut_short(outcome, floor, options.first) for outcome in outcomes[line]] for line in accuracies]
        means = [float(np.mean([fitness for fitness, _ in row])) for row in read]
        stopped = sum(cut for row in read for _, cut in row)
        found = stats.spearmanr(list(accuracies.values()), means).statistic
        print(f"floor {floor:4.2f}: {stopped:3d} runs end early, correlation {found:6.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
