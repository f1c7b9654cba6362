"""Whether rules rank the same under bf16 as under float32, to within noise: 20 rules, each at one learning rate, trained briefly.

    python benchmarks/precision.py [--data FOLDER] [--rules 20] [--steps 100] [--width 8] [--batch 128]

Every rule is trained in float32, in float32 under another seed, and in bf16 under the first. The noise is what a seed changes: the goal is
that Spearman's correlation of bf16 with float32 is at least that of float32 with itself under the other seed, less 0.1. Learning rates are
fixed, some of them badly, so that the rules spread in quality. Without CIFAR-10 in the data folder (--data or OPTEVOLVE_DATA) it is digits.
Where the processor has no bf16 it is emulated: slower, the same numbers. Exits with 1 if the goal is missed.
"""

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from optevolve.config import Protocol, Schedule
from optevolve.library import ZOO
from optevolve.records import Job, Status
from optevolve.surrogate import measure

MARGIN = 0.1
RULES = [
    ("sgd", 1.0), ("adam", 3e-3), ("momentum", 1e-3), ("opt6", 0.1), ("lion", 1e-2), ("sgd", 0.01), ("nesterov", 0.1), ("adam", 1e-5),
    ("opt10", 0.3), ("rmsprop", 1e-3), ("qhm", 0.003), ("opt1", 0.1), ("addsign", 0.3), ("adabelief", 1e-4), ("powersign", 0.01),
    ("opt7", 0.1), ("opt8", 0.001), ("opt9", 0.01), ("adamw", 0.1), ("lion", 1e-4),
]  # fmt: skip


def scores(task: str, rules: int, steps: int, precision: str, seed: int) -> np.ndarray:
    """Validation score of each rule at the end of its run, shape (rules,); -inf where the run did not complete."""
    protocol = Protocol(
        full_steps=steps, epoch_steps=steps, judge="last", first_floor=-1e9, floor=-1e9, schedule=Schedule(warmup=0.1),
        precision="bf16" if precision == "bf16" else "float32",
    )  # fmt: skip
    found = []
    for number, (name, rate) in enumerate(RULES[:rules]):
        outcome = measure(Job(str(number), str(ZOO[name].rule), task, protocol, seed, learning_rate=rate))
        found.append(outcome.fitness if outcome.status is Status.COMPLETED and outcome.fitness is not None else -math.inf)
    return np.array(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--rules", type=int, default=len(RULES))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.data is not None:
        os.environ["OPTEVOLVE_DATA"] = str(options.data.resolve())
    cifar = any((Path(os.environ.get("OPTEVOLVE_DATA", "absent")) / inner).is_dir() for inner in ("cifar10", "plain_text"))
    task = f"{'cifar10-convnet' if cifar else 'digits'}@batch_size={options.batch},width={options.width}"
    print(f"{task}, {min(options.rules, len(RULES))} rules, {options.steps} steps each")
    runs = {}
    for name, precision, seed in (("float32", "float32", 0), ("other seed", "float32", 1), ("bf16", "bf16", 0)):
        started = time.process_time()
        runs[name] = scores(task, options.rules, options.steps, precision, seed)
        print(f"{name:10} {time.process_time() - started:6.1f} s of processor time  " + " ".join(f"{score:.3f}" for score in runs[name]))
    noise = float(stats.spearmanr(runs["float32"], runs["other seed"]).statistic)
    found = float(stats.spearmanr(runs["float32"], runs["bf16"]).statistic)
    print(f"float32 with itself under another seed {noise:.3f}")
    print(f"bf16 with float32                      {found:.3f}   goal >= {noise - MARGIN:.3f}")
    return 0 if found >= noise - MARGIN else 1


if __name__ == "__main__":
    sys.exit(main())
