"""Learning rates to start from: every rule of the zoo trained on three kinds of task, each at the rates around its own best.

    python benchmarks/learning_rates.py --out rates.jsonl                  about 40 minutes of one core; goes on where it stopped
    python benchmarks/learning_rates.py --out rates.jsonl --processes 7    the same shared by seven processes
    python benchmarks/learning_rates.py opt6 lion --out rates.jsonl        these rules alone
    python benchmarks/learning_rates.py --out rates.jsonl --write optevolve/library/learning_rates.json    also what the zoo reads

Every run has a linear warm-up over its first tenth and a cosine to 0, momentum 0.9 where the rule takes one, and the class's own weight
decay; it is judged by its validation score at the end. Peaks are tried a decade apart first, from 1e-5 to 10 under one seed; then every
half decade within one decade of the best under two, until the best stays where it is. The grid grows beyond its edges by itself. Rates are
as good as the best of a task where the means differ by less than two standard errors; the noise is pooled over all rules. Of their range
the geometric middle is taken, and of the three tasks' middles the geometric mean, rounded to 1, 2 or 5 times a power of ten.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.datasets import make_friedman1
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from optevolve import optim
from optevolve.library import ZOO
from optevolve.records import Split, Status
from optevolve.schedule import schedule_values
from optevolve.tasks import Batch, Task, load
from optevolve.tasks.classification import in_memory_batches
from optevolve.training.loop import train

MOMENTUM = 0.9
WARMUP = 0.1  # of a run
SEEDS = 2
COARSE = range(-10, 3, 2)  # half decades: 1e-5 … 10
LIMITS = -20, 10  # half decades: no rule is followed beyond 1e-10 and 1e5
NEAR = 2  # half decades to either side of the best that are tried too
STANDARD_ERRORS = 2.0
MEDIAN_OF_TWO = 0.6745  # median of the standard deviation of two draws, where that of all is 1

Point = tuple[int, int]  # learning rate in half decades, seed
Scores = dict[Point, float]  # -inf where the run diverged


@dataclass(frozen=True)
class Friedman(Task):
    """Friedman's regression on ten columns, five of which say nothing, by a perceptron of two hidden layers; the score is R²."""

    summary: ClassVar[str] = "regression on a table of ten columns, multilayer perceptron"
    data_source: ClassVar[str] = "generated: Friedman 1991"

    width: int = 64
    batch_size: int = 64

    def model(self) -> nn.Module:
        hidden = self.width
        return nn.Sequential(nn.Linear(10, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1), nn.Flatten(0))

    def batches(self, split: Split, seed: int) -> Iterator[Batch]:
        return in_memory_batches(*_table(split), split, seed, self.batch_size)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return mse_loss(model(batch.x), batch.y)

    def score(self, model: nn.Module, batch: Batch) -> Tensor:
        return 1 - self.loss(model, batch)  # targets have variance 1


@cache
def _table(split: Split) -> tuple[Tensor, Tensor]:
    x, y = make_friedman1({Split.TRAIN: 2048, Split.VALID: 1024, Split.TEST: 1024}[split], noise=1.0, random_state=list(Split).index(split))
    x, y = (x - 0.5) * math.sqrt(12), (y - 14.4) / 5.0  # uniform columns to variance 1, the target about so
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


#: Name of a kind of task → the task, and the steps of a run. The costly one first, so that the last to finish are short.
KINDS: dict[str, tuple[str, int]] = {
    "language": ("text-gpt@width=32,depth=2,heads=2,context=32,batch_size=16", 200),
    "images": ("digits", 300),
    "table": ("table", 400),
}


def task_of(spec: str) -> Task:
    return Friedman() if spec == "table" else load(spec)


def rate(half_decades: int) -> float:
    """1, 3, 10, 30: near enough to half decades, and numbers that people type."""
    decades, half = divmod(half_decades, 2)
    return float(f"{3 if half else 1}e{decades}")


def prepare(threads: int = 1) -> None:
    torch.set_num_threads(threads)


def score_of(rule: str, spec: str, steps: int, point: Point) -> tuple[float, float]:
    """Validation score at the end of one run, -inf if it diverged, and the seconds that it took."""
    half_decades, seed = point
    rates, _ = schedule_values(rate(half_decades), steps, round(WARMUP * steps))
    optimizer = partial(getattr(optim, optim.class_name(rule)), lr=1.0, total_steps=steps, momentum=MOMENTUM)
    started = time.perf_counter()
    curve = train(task_of(spec), optimizer, rates, np.full(steps, MOMENTUM), seed=seed, epoch_steps=steps)
    return -math.inf if curve.status is Status.DIVERGED else curve.score[-1], time.perf_counter() - started


def means(scores: Scores) -> dict[int, float]:
    """Mean over the seeds at each rate."""
    found: dict[int, list[float]] = defaultdict(list)
    for (half_decades, _), score in scores.items():
        found[half_decades].append(score)
    return {key: float(np.mean(found[key])) for key in sorted(found)}


def best_rate(scores: Scores) -> int | None:
    """Half decades of the rate with the highest mean; of equals the middle; None where every run diverged."""
    found = means(scores)
    highest = max(found.values())
    equals = [key for key, value in found.items() if value == highest]
    return equals[len(equals) // 2] if math.isfinite(highest) else None


def wanted(scores: Scores) -> list[Point]:
    """The runs to make next; none once the surroundings of the best are known."""
    if first := [(key, 0) for key in COARSE if (key, 0) not in scores]:
        return first
    best = best_rate(scores)
    if best is None:  # everything diverged: smaller ones
        lowest = min(key for key, _ in scores)
        return [(key, 0) for key in (lowest - 1, lowest - 2) if key >= LIMITS[0]]
    near = range(max(LIMITS[0], best - NEAR), min(LIMITS[1], best + NEAR) + 1)
    return [(key, seed) for key in near for seed in range(SEEDS) if (key, seed) not in scores]


def noise(measured: Mapping[str, Scores]) -> float:
    """Standard deviation of a score under another seed, over all rules at their best rates and the half decades beside these.

    By the median, for next to the best of some rules lies a rate that now and then ruins a run.
    """
    spreads = []
    for scores in measured.values():
        best = best_rate(scores)
        for key in () if best is None else (best - 1, best, best + 1):
            runs = [scores[key, seed] for seed in range(SEEDS) if (key, seed) in scores]
            if len(runs) == SEEDS and np.all(np.isfinite(runs)):
                spreads.append(np.std(runs, ddof=1))
    return float(np.median(spreads)) / MEDIAN_OF_TWO if spreads else math.nan


@dataclass(frozen=True)
class Found:
    """What a rule's runs on one task say: the best rate, its score, the range that is as good, and whether the range ends with the grid."""

    best: int
    score: float
    low: int
    high: int
    edge: bool

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


def found_in(scores: Scores, deviation: float) -> Found | None:
    """None where every run diverged."""
    best = best_rate(scores)
    if best is None:
        return None
    averages = means(scores)
    needed = averages[best] - STANDARD_ERRORS * deviation * math.sqrt(2 / SEEDS)

    def end(step: int) -> int:
        at = best
        while (at + step, SEEDS - 1) in scores and averages[at + step] >= needed:
            at += step
        return at

    low, high = end(-1), end(1)
    return Found(best, averages[best], low, high, min(averages) == low or max(averages) == high)


def rounded(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    exponent = math.floor(math.log10(value))
    nearest = min((1.0, 2.0, 5.0, 10.0), key=lambda digit: abs(math.log10(value) - exponent - math.log10(digit)))
    return float(f"{nearest * 10.0**exponent:.1g}")


def summary(measured: Mapping[tuple[str, str], Scores]) -> dict[str, Any]:
    """What the zoo reads: of every rule that was measured to the end on all tasks, its rate to start from, and what each task says."""
    deviations = {kind: noise({rule: scores for (rule, at), scores in measured.items() if at == kind}) for kind in KINDS}
    rules: dict[str, Any] = {}
    for name in ZOO:
        runs = {kind: measured.get((name, kind), {}) for kind in KINDS}
        if any(not scores or wanted(scores) for scores in runs.values()):
            continue
        tasks = {kind: found for kind, scores in runs.items() if (found := found_in(scores, deviations[kind])) is not None}
        if not tasks:
            continue
        start = rounded(10 ** (float(np.mean([found.middle for found in tasks.values()])) / 2))
        rows = {
            kind: {"best": rate(f.best), "low": rate(f.low), "high": rate(f.high), "score": round(f.score, 4), "edge": f.edge}
            for kind, f in tasks.items()
        }
        rules[name] = {"rule": str(ZOO[name].rule), "learning_rate": start, "tasks": rows}
    return {
        "tasks": {kind: {"task": spec, "steps": steps} for kind, (spec, steps) in KINDS.items()},
        "noise": {kind: None if math.isnan(value) else round(value, 5) for kind, value in deviations.items()},
        "rules": rules,
    }


def known_in(place: Path) -> dict[tuple[str, str], Scores]:
    """The runs that a file holds; those of a rule or a task that has changed since are left out."""
    measured: dict[tuple[str, str], Scores] = defaultdict(dict)
    for line in place.read_text(encoding="utf-8").splitlines() if place.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
        if row["name"] in ZOO and row["rule"] == str(ZOO[row["name"]].rule) and KINDS.get(row["kind"]) == (row["task"], row["steps"]):
            score = -math.inf if row["score"] is None else row["score"]
            measured[row["name"], row["kind"]][row["half_decades"], row["seed"]] = score
    return measured


def workers(processes: int) -> Executor:
    """Processes of one thread each; a single one is this."""
    if processes == 1:
        return ThreadPoolExecutor(1, initializer=prepare)
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), prepare)


def measure(names: Sequence[str], place: Path, processes: int) -> dict[tuple[str, str], Scores]:
    """Makes every run that is missing, and writes each as soon as it is made."""
    measured = known_in(place)
    pairs = [(name, kind) for kind in KINDS for name in names]
    pending: dict[Future[tuple[float, float]], tuple[tuple[str, str], Point]] = {}
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a", encoding="utf-8") as out, workers(processes) as pool:

        def ask(pair: tuple[str, str]) -> None:
            for point in wanted(measured[pair]):
                pending[pool.submit(score_of, pair[0], *KINDS[pair[1]], point)] = pair, point

        for pair in pairs:
            ask(pair)
        done = 0
        while pending:
            for future in wait(pending, return_when=FIRST_COMPLETED).done:
                (name, kind), point = pending.pop(future)
                score, seconds = future.result()
                measured[name, kind][point] = score
                spec, steps = KINDS[kind]
                row = {"name": name, "rule": str(ZOO[name].rule), "kind": kind, "task": spec, "steps": steps}
                row |= {"half_decades": point[0], "rate": rate(point[0]), "seed": point[1]}
                row |= {"score": score if math.isfinite(score) else None, "seconds": round(seconds, 2)}
                print(json.dumps(row), file=out, flush=True)
                done += 1
                if done % 50 == 0:
                    print(f"{done} runs made, {len(pending)} asked for", file=sys.stderr, flush=True)
                if not any(pair == (name, kind) for pair, _ in pending.values()):
                    ask((name, kind))
    return measured


def table(content: Mapping[str, Any]) -> str:
    """The summary for people: the rate to start from; of each task the best rate and the range that is as good, `*` where the grid ends."""
    lines = [f"{'rule':14} {'start':>7}  " + "  ".join(f"{kind:>24}" for kind in KINDS)]
    for name, row in content["rules"].items():
        cells = []
        for kind in KINDS:
            at = row["tasks"].get(kind)
            text = "diverged" if at is None else f"{at['best']:g} ({at['low']:g} … {at['high']:g}){'*' * at['edge']} {at['score']:.3f}"
            cells.append(f"{text:>24}")
        lines.append(f"{name:14} {row['learning_rate']:>7g}  " + "  ".join(cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="RULE", help="names of the zoo; all of them if none is given")
    parser.add_argument("--out", type=Path, help="file of runs, one JSON object a line; what it holds is not measured again")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many runs at a time, each on one thread")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the summary; the zoo reads learning_rates.json of its own folder")
    options = parser.parse_args(arguments)
    if options.out is None:
        parser.print_usage()
        print("Nothing measured: name the file of runs with --out (see --help).")
        return 0
    if unknown := sorted(set(options.names) - set(ZOO)):
        sys.exit(f"Expected names of the zoo ({', '.join(ZOO)}), got {', '.join(unknown)}.")
    content = summary(measure(options.names or list(ZOO), options.out, options.processes))
    print(table(content))
    if options.write is not None:
        options.write.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
