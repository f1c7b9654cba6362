"""How fast the search space is: parsing, the integrity check, sampling, simplification, fingerprints, imports; and the parser under fuzz.

    python benchmarks/space.py                    the table, in about a minute
    python benchmarks/space.py --fuzz 1000000     also that many random byte strings and as many mutated rules, in about three minutes

Each rate is the median of five runs over fresh random rules of the paper's grammar, per second of processor time: one core's, so that other
work on the machine matters little. The import is the median wall-clock time of five new processes. Exits with 1 if a goal is missed.

Measured on a virtual machine of two cores that four other programs kept busy, Python 3.11, numpy 2, n = 5 runs: integrity 2,482 rules/s,
valid rules 868/s, parsing 52,126 texts/s, fingerprints 1,921 rules/s, simplification 3,304 rules/s, import 0.18 s; of a million random byte
strings and a million mutated rules each was parsed or refused, in 0.004 ms and 0.05 ms on average.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from optevolve.errors import ParseError
from optevolve.integrity import check_integrity
from optevolve.space import UpdateRule, parse
from optevolve.space.fingerprint import fingerprint
from optevolve.space.grammar import grammar
from optevolve.space.sample import sample_genome
from optevolve.space.simplify import simplify

RUNS = 5
PAPER = grammar("paper")
IMPORT = "import optevolve.space, optevolve.algorithms, sys; assert 'torch' not in sys.modules"


@dataclass(frozen=True)
class Row:
    """One line of the table: a goal and what was measured, in `unit`; `least` is whether more is better."""

    what: str
    goal: float | None
    measured: float
    unit: str
    least: bool = True

    @property
    def met(self) -> bool:
        return self.goal is None or (self.measured >= self.goal if self.least else self.measured <= self.goal)

    def __str__(self) -> str:
        relation = "at least" if self.least else "at most"
        goal = f"{relation} {self.goal:,g}" if self.goal is not None else ""
        verdict = "" if self.goal is None else "met" if self.met else "MISSED"
        digits = ",.0f" if self.measured >= 100 else ".3g"
        return f"{self.what:42} {goal:>16} {self.measured:>12{digits}} {self.unit:14} {verdict}"


def random_rules(count: int, seed: int) -> list[UpdateRule]:
    """Rules of the paper's grammar as drawn, most of them no good; none drawn for another seed."""
    rng = np.random.default_rng(seed)
    return [sample_genome(rng, PAPER).rule for _ in range(count)]


def rate(work: Callable[[UpdateRule], object], count: int, prepare: Callable[[int, int], list[UpdateRule]] = random_rules) -> float:
    """Rules per second, the median of `RUNS` runs over fresh rules."""
    rates = []
    for run in range(RUNS):
        rules = prepare(count, run)
        start = time.process_time()
        for rule in rules:
            work(rule)
        rates.append(count / (time.process_time() - start))
    return statistics.median(rates)


def parsing_rate(count: int) -> float:
    rates = []
    for run in range(RUNS):
        texts = [str(rule) for rule in random_rules(count, run)]
        start = time.process_time()
        for text in texts:
            parse(text)
        rates.append(count / (time.process_time() - start))
    return statistics.median(rates)


def valid_rules(count: int, seed: int) -> list[UpdateRule]:
    """Rules that pass the integrity check, drawn as a search draws them."""
    rng = np.random.default_rng(seed)
    found: list[UpdateRule] = []
    while len(found) < count:
        rule = sample_genome(rng, PAPER).rule
        if check_integrity(rule).ok:
            found.append(rule)
    return found


def sampling_rate(count: int) -> float:
    rates = []
    for run in range(RUNS):
        start = time.process_time()
        valid_rules(count, 1000 + run)
        rates.append(count / (time.process_time() - start))
    return statistics.median(rates)


def import_seconds() -> float:
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORT], check=True)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def random_texts(count: int) -> Iterator[str]:
    """Random bytes, up to 200 of them."""
    rng = random.Random(0)
    for _ in range(count):
        yield rng.randbytes(rng.randint(0, 200)).decode("latin-1")


def mutated_texts(count: int) -> Iterator[str]:
    """Rules with one to four small mistakes."""
    rng = random.Random(1)
    texts = [str(rule) for rule in random_rules(500, 7)]
    characters = "".join(texts) + "()*,-.eE:é\0"
    for _ in range(count):
        text = list(rng.choice(texts))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.randint(0, 3)] = [rng.choice(characters) for _ in range(rng.randint(0, 2))]
        yield "".join(text)


def fuzz(name: str, texts: Iterator[str]) -> Row:
    """Mean time per text; whatever is no `ParseError` ends the benchmark."""
    total, count, parsed, slowest = 0.0, 0, 0, 0.0
    for text in texts:
        start = time.process_time()
        try:
            parse(text)
            parsed += 1
        except ParseError:
            pass
        took = time.process_time() - start
        total += took
        slowest = max(slowest, took)
        count += 1
    print(f"  {name}: {count:,} texts, {parsed:,} of them valid, slowest {1000 * slowest:.3g} ms", flush=True)
    return Row(f"parse {name}, mean", 1.0, 1000 * total / count, "ms", least=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--fuzz", type=int, default=20_000, metavar="N", help="texts of each sort to fuzz the parser with (default: 20,000)"
    )
    options = parser.parse_args()
    random_rules(200, 99)
    valid_rules(20, 99)  # fills the caches of formulas
    rows = [
        Row("integrity check of random rules", 1500, rate(check_integrity, 1000), "rules/s"),
        Row("sampling and checking valid rules", 500, sampling_rate(300), "valid rules/s"),
        Row("parsing native notation", 10_000, parsing_rate(5000), "texts/s"),
        Row("fingerprints of valid rules", 500, rate(fingerprint, 300, valid_rules), "rules/s"),
        Row("simplification of random rules", None, rate(simplify, 500), "rules/s"),
        Row("sampling alone", None, 1 / (statistics.median(_times(lambda: random_rules(1000, 5))) / 1000), "rules/s"),
        Row("import of the space and the search", 0.3, import_seconds(), "s", least=False),
        fuzz("random bytes", random_texts(options.fuzz)),
        fuzz("mutated rules", mutated_texts(options.fuzz)),
    ]
    print(f"{'':42} {'goal':>16} {'measured':>12}")
    for row in rows:
        print(row)
    return 0 if all(row.met for row in rows) else 1


def _times(work: Callable[[], object]) -> list[float]:
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return times


if __name__ == "__main__":
    sys.exit(main())
