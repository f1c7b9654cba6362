"""What a cheap protocol costs beside a dear one, and whether it ranks rules as well: two finished calibrations of the same rules compared.

    optevolve calibrate --reference log.csv --protocol fast --repeats 2 --out fast
    optevolve calibrate --reference log.csv --protocol paper --repeats 2 --out paper
    python benchmarks/protocols.py fast paper        # goals: at most 1/8 of the cost, at least 0.9 of the rank correlation

Cost is that of one measurement of a rule, all its learning rates included, mean over rules and seeds: in seconds, and in what it trains on,
counted in the task's batches (steps, where each takes a whole one): half of a batch is half of one, and a batch of images of half their
edge is a quarter, as it is in arithmetic. The correlation is Spearman's over the rules; what did
not complete ranks last. One measurement of the cheap protocol is held against each seed of the dear one and the mean is taken, then that
over the measurements; the dear one's with itself is the mean over its pairs of seeds. The interval of their ratio is a 95 % bootstrap over
rules (percentiles). Where both calibrations have the same --seed, measurement k of both starts from the same weights: a pair of other seeds
is fair to both, and stands beside. Seconds are those of the workers, with whatever else the machine did. The rules are also taken apart by
whether both protocols chose nearly the same learning rate, for a disagreement may come from the choice or from the training that follows.
Exits with 1 if a goal is missed.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optevolve.statistics import rank_correlation
from optevolve.tasks import load
from optevolve.tasks.cheaper import resolution, with_resolution_share

COST_GOAL = 1 / 8
RANK_GOAL = 0.9
RESAMPLES = 2000
NEAR = 0.5  # decades between the learning rates that two protocols chose for a rule, means over seeds, up to which they count as alike

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """A finished calibration.

    Attributes:
        rules: in native notation.
        scores: fitness, -inf where a measurement did not complete, shape (rules, seeds).
        decades: log10 of the chosen learning rate, mean over the seeds that chose one, shape (rules,); NaN where none did.
        content: all that calibration.json holds.
    """

    rules: list[str]
    scores: Scores
    decades: Scores
    content: dict[str, Any]

    def cost(self, what: str) -> float:
        """Steps or seconds of one measurement, mean over rules and seeds. A step on a share of a batch or image is that share of a step."""
        share = share_of_a_step(self.content["task"], self.content.get("protocol", {})) if what == "steps" else 1.0
        return float(self.content[what]) * share / float(self.content["measurements"])


def share_of_a_step(task: str, protocol: dict[str, Any]) -> float:
    """What part of a batch of the task a step takes, in pixels where the protocol makes images smaller."""
    whole, batch_share = load(task), float(protocol.get("batch_share", 1.0))
    scaled = with_resolution_share(whole, float(protocol.get("resolution_share", 1.0)))
    before, after = resolution(whole), resolution(scaled)
    return batch_share if scaled is whole or not before or not after else (after / before) ** 2


def read(folder: Path, without: str | None = None) -> Calibration:
    """A calibration, without the rules that contain a text. Costs stay those of all of its rules."""
    place = folder / "calibration.json"
    if not place.exists():
        sys.exit(
            f"{folder} has no calibration.json. Expected the folder of a finished `optevolve calibrate`: let it come to its end first."
        )
    content = json.loads(place.read_text(encoding="utf-8"))
    rows = content["measured"]
    content["measurements"] = sum(len(row["fitness"]) for row in rows)
    rows = [row for row in rows if without is None or without not in row["rule"]]
    scores = np.array([[-math.inf if score is None else score for score in row["fitness"]] for row in rows], ndmin=2)
    if not all("learning_rates" in row for row in rows):
        sys.exit(f"{place} has no learning rates: an older version wrote it. Give the same command again; what was measured is kept.")
    chosen = [[math.log10(rate) for rate in row["learning_rates"] if rate is not None] for row in rows]
    decades = np.array([np.mean(rates) if rates else math.nan for rates in chosen])
    return Calibration([row["rule"] for row in rows], scores, decades, content)


def with_each(one: Scores, others: Scores, left_out: int | None = None) -> Scores:
    """Mean correlation of one measurement, shape (…, rules), with the others, shape (…, rules, seeds)."""
    found = rank_correlation(one[..., None, :], np.swapaxes(others, -1, -2))
    return np.mean(found if left_out is None else np.delete(found, left_out, axis=-1), axis=-1)


def with_itself(scores: Scores) -> Scores:
    """Mean correlation of the pairs of measurements, shape (…, rules, seeds)."""
    pairs = combinations(range(scores.shape[-1]), 2)
    return np.mean([rank_correlation(scores[..., a], scores[..., b]) for a, b in pairs], axis=0)


def interval(cheap: Scores, dear: Scores) -> tuple[float, float, int]:
    """95 % bootstrap interval over rules of the ratio, and how many resamples had no ratio since the dear one did not agree with itself."""
    picks = np.random.default_rng(0).integers(len(cheap), size=(RESAMPLES, len(cheap)))
    own = with_itself(dear[picks])
    ratios = with_each(cheap[picks], dear[picks])[own > 0] / own[own > 0]
    low, high = np.percentile(ratios, [2.5, 97.5]) if len(ratios) else (math.nan, math.nan)
    return float(low), float(high), RESAMPLES - len(ratios)


def print_by_rate(cheap: Calibration, dear: Calibration) -> None:
    """How the means over seeds agree among the rules whose learning rates were chosen alike, and among the others."""
    apart = cheap.decades - dear.decades
    near = np.abs(apart) <= NEAR + 1e-9
    known = np.isfinite(apart)
    middle = np.median(apart[known]) if known.any() else math.nan
    print(f"learning rate, cheap over dear {middle:+6.2f} decades, median of {known.sum()} rules")
    for name, group in ((f"within {NEAR} decades", near), ("further apart", known & ~near)):
        found = rank_correlation(cheap.scores[group].mean(axis=1), dear.scores[group].mean(axis=1)) if group.sum() > 2 else math.nan
        print(f"  {name:<20} {group.sum():3d} rules, means agree to {found:6.3f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cheap", type=Path, nargs="?", help="folder of the calibration under the cheap protocol")
    parser.add_argument("dear", type=Path, nargs="?", help="folder of the one under the dear protocol, with two seeds or more")
    parser.add_argument("--without", metavar="TEXT", help="leave out the rules that contain this text")
    options = parser.parse_args(arguments)
    if options.dear is None:
        parser.print_usage()
        print("Nothing to compare: give the folders of two finished calibrations (see --help).")
        return 0
    cheap, dear = read(options.cheap, options.without), read(options.dear, options.without)
    if cheap.rules != dear.rules or cheap.content["task"] != dear.content["task"]:
        sys.exit("The two calibrations are of other rules or tasks. Make both with the same --reference, --rules, --phase and --task.")
    if len(cheap.rules) < 3:
        sys.exit(f"{len(cheap.rules)} rules are left without {options.without!r}; at least 3 are needed. Give a longer text.")
    if dear.scores.shape[1] < 2:
        sys.exit(f"{options.dear} has one seed per rule: how it agrees with itself needs two. Make it with --repeats 2.")

    print(f"{len(cheap.rules)} rules on {cheap.content['task']}, {cheap.scores.shape[1]} seeds cheap, {dear.scores.shape[1]} dear")
    completed = [int(np.isfinite(c.scores).all(axis=1).sum()) for c in (cheap, dear)]
    print(f"completed under every seed     {completed[0]} cheap, {completed[1]} dear")
    if not all(np.isfinite(c.scores).any() for c in (cheap, dear)):
        sys.exit("Under one of the protocols no measurement completed: there is nothing to rank.")
    steps = cheap.cost("steps") / dear.cost("steps")
    seconds = cheap.cost("seconds") / dear.cost("seconds")
    print(f"batches of a measurement       {cheap.cost('steps'):10.0f} cheap {dear.cost('steps'):10.0f} dear, ratio 1/{1 / steps:.1f}")
    print(
        f"seconds of a measurement       {cheap.cost('seconds'):10.1f} cheap {dear.cost('seconds'):10.1f} dear, ratio 1/{1 / seconds:.1f}"
    )
    print(f"goal                           1/{1 / COST_GOAL:.0f} in batches and seconds")

    own = with_itself(dear.scores)
    print(f"dear with itself               {own:6.3f}")
    same_seeds = cheap.content["seed"] == dear.content["seed"]
    for k in range(cheap.scores.shape[1]):
        one = cheap.scores[:, k]
        low, high, without = interval(one, dear.scores)
        ratio = with_each(one, dear.scores) / own if own > 0 else math.nan
        each = ", ".join(f"{found:.3f}" for found in rank_correlation(one, dear.scores.T))
        print(f"cheap, measurement {k}, with dear {each}; mean {with_each(one, dear.scores):.3f}")
        print(f"  ratio                        {ratio:6.3f}, 95 % interval {low:.3f} to {high:.3f} over rules")
        if without:
            print(f"  {without} of {RESAMPLES} resamples had no ratio")
        if same_seeds and k < dear.scores.shape[1] and own > 0:
            print(f"  with other seeds alone       {with_each(one, dear.scores, left_out=k) / own:6.3f}")
    print(f"cheap, mean of its seeds, with dear {with_each(cheap.scores.mean(axis=1), dear.scores):.3f}")
    if cheap.scores.shape[1] > 1:
        print(f"cheap with itself              {with_itself(cheap.scores):6.3f}")
    if cheap.content.get("told_apart") is not None:
        print(f"cheap told apart from itself   {cheap.content['told_apart']:6.1%} of the pairs, by their intervals")
    print_by_rate(cheap, dear)
    measured = float(np.mean([with_each(cheap.scores[:, k], dear.scores) for k in range(cheap.scores.shape[1])]))
    ranks = own > 0 and measured >= RANK_GOAL * own
    if own > 0:
        print(f"one measurement, on average    {measured:6.3f}, ratio {measured / own:.3f}   goal >= {RANK_GOAL}")
    return 0 if ranks and max(steps, seconds) <= COST_GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
