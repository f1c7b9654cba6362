"""What the driver costs when a thousand workers measure for it: 100,000 evaluations of a synthetic fitness by simulated workers, through
the real driver, particle search, integrity check and store.

    python benchmarks/scale.py                       # goals: under 5 ms per evaluation, under 1 GiB, the end within 1.5 times the start;
                                                     # then top under 3 s, resume under 20 s, a report under 30 s and 5 MB
    python benchmarks/scale.py --evaluations 5000    # a sample
    python benchmarks/scale.py --soak                # the same, while others read without a pause: top, show, verify, backup, export

Times are the driver's own, without the simulated workers': by the clock, waiting for the disk included, and of the processor. The first
counts on a machine that does nothing else, the second also tells on a busy one; the ratio of end and start is given for both. The whole
takes below ten minutes. Memory is the process's peak: of the search, and of the whole, since resuming is part of this process.

What is then read is read as the commands do it: `top`, `show`, `export` and `report` as processes of their own, start of Python included,
with the largest of their memory; resuming up to where the next job would be measured. The goals of reading are for 100,000 evaluations.
Exits with 1 if a goal is missed.
"""

import argparse
import hashlib
import heapq
import itertools
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

from optevolve.algorithms import ALGORITHMS, Sameness
from optevolve.config import Protocol, RunConfig, Search, Stage
from optevolve.config_text import to_toml
from optevolve.integrity import check_integrity
from optevolve.records import Job, Outcome, Status, TrainingCurve
from optevolve.run.driver import Ask, Happening, drive
from optevolve.run.store import Study
from optevolve.space.grammar import grammar

PROTOCOL = Protocol()
KIBIBYTES = 2**20 if sys.platform != "darwin" else 2**30  # how the system counts memory, in a GiB
POINTS = tuple(range(1, 11))


def fitness(job: Job) -> Outcome:
    """A hash of the rule; one in six fails."""
    bits = int(hashlib.sha256(job.rule.encode()).hexdigest()[:12], 16)
    seconds = 100 + bits % 200
    if bits % 6 == 0:
        return Outcome(Status.DIVERGED, reason="every trial diverged", steps=100, seconds=float(seconds))
    values = tuple(bits % (100 + i) / 100 for i in POINTS)
    curves = tuple(TrainingCurve(10.0**-i, 0, POINTS, values, values, values, purpose="trial") for i in range(3))
    return Outcome(Status.COMPLETED, bits % 10**6 / 10**6, 0.1, curves=curves, steps=13600, seconds=float(seconds))


class SimulatedWorkers:
    """Workers on a clock of their own; `seconds` and `wall` are what simulating them took in reality, of the processor and by the clock."""

    def __init__(self, capacity: int, tick: float) -> None:
        self.capacity, self.tick = capacity, tick
        self.now = self.seconds = self.wall = 0.0
        self.jobs: list[tuple[float, int, str, Outcome]] = []
        self.count = 0

    def submit(self, job: Job) -> None:
        started, clock = time.process_time(), time.perf_counter()
        outcome = fitness(job)
        self.count += 1
        heapq.heappush(self.jobs, (self.now + outcome.seconds, self.count, job.id, outcome))
        self.seconds += time.process_time() - started
        self.wall += time.perf_counter() - clock

    def collect(self, timeout: float) -> list[tuple[str, Outcome]]:
        started, clock = time.process_time(), time.perf_counter()
        arrived = []
        if self.jobs:
            self.now = self.jobs[0][0] + self.tick
            while self.jobs and self.jobs[0][0] <= self.now:
                _, _, job_id, outcome = heapq.heappop(self.jobs)
                arrived.append((job_id, outcome))
        self.seconds += time.process_time() - started
        self.wall += time.perf_counter() - clock
        return arrived

    def close(self) -> None:
        self.jobs.clear()


class Source:
    """The search; `seconds` is what it took to ask and tell, integrity checks included."""

    def __init__(self, search: Search) -> None:
        self.algorithm = ALGORITHMS["particle"](search, grammar("paper"), check_integrity, 0)
        self.seconds = 0.0

    def ask(self) -> Ask | None:
        started = time.process_time()
        proposal = self.algorithm.ask()
        self.seconds += time.process_time() - started
        return proposal and (proposal.stage, Job(proposal.id, proposal.rule, "quadratics", PROTOCOL, 0), proposal)

    def tell(self, job_id: str, outcome: Outcome) -> None:
        started = time.process_time()
        self.algorithm.tell(job_id, outcome)
        self.seconds += time.process_time() - started

    @property
    def done(self) -> bool:
        return self.algorithm.done


def ends(marks: list[tuple[int, float, float]], column: int) -> tuple[float, float]:
    """Milliseconds per evaluation in the first and the last tenth of the evolution."""
    tenth = max(1, len(marks) // 10)
    spans = [(marks[0], marks[tenth]), (marks[-1 - tenth], marks[-1])]
    start, end = ((float(last[column]) - float(first[column])) / (last[0] - first[0]) * 1e3 for first, last in spans)
    return start, end


def command(*arguments: str) -> tuple[float, float, float]:
    """Seconds by the clock, of the processor, and GiB of a command."""
    before, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "optevolve", *arguments], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - clock, used, after.ru_maxrss / KIBIBYTES


class Readers:
    """Commands that read the study, one after the other in processes of their own, for as long as it is written.

    Attributes:
        done: how many came to their end.
        failed: what those that did not said.
        slowest: seconds by the clock of the slowest.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done, self.failed, self.slowest = 0, [], 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="readers")

    def __enter__(self) -> "Readers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        url = str(self.folder)
        with tempfile.TemporaryDirectory() as scratch:
            for turn in itertools.count():
                copy = Path(scratch) / f"copy-{turn}"
                for arguments in (["top", url], ["show", url], ["verify", url], ["backup", url, str(copy)],
                                  ["top", str(copy)], ["export", url, "-o", str(Path(scratch) / "best.py")]):  # fmt: skip
                    if self._over.is_set():
                        return
                    started = time.perf_counter()
                    process = [sys.executable, "-m", "optevolve", *arguments]
                    run = subprocess.run(process, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
                    self.slowest = max(self.slowest, time.perf_counter() - started)
                    self.done += 1
                    if run.returncode != 0:
                        self.failed.append(f"{arguments[0]}: exit code {run.returncode}: {run.stderr.strip()[-300:]}")
                shutil.rmtree(copy, ignore_errors=True)


def resumed(folder: Path, search: Search, sense: str) -> tuple[float, float]:
    """Seconds by the clock and of the processor until everything stored is taken up again."""
    clock, started = time.perf_counter(), time.process_time()
    with Study.open(folder / "study.db") as study:
        source, sameness, workers = Source(search), Sameness(sense), SimulatedWorkers(1000, 2.0)
        source.algorithm.recall(study.proposals())
        sameness.recall(study.fingerprints())
        drive(source, workers, study, lookahead=search.lookahead, same=lambda job: sameness(job.rule))
        assert workers.count == 0
    return time.perf_counter() - clock, time.process_time() - started


def read(folder: Path, search: Search, sense: str) -> bool:
    """Prints what reading costs; whether all goals are met."""
    url = str(folder)
    met = True
    wall, used = resumed(folder, search, sense)
    met &= wall < 20
    print(f"resume             {wall:8.2f} s by the clock, {used:.2f} s of the processor   goal < 20")
    for name, goal, arguments in (
        ("top", 3, ["top", url]),
        ("show", 20, ["show", url]),
        ("export", 20, ["export", url, "-o", str(folder / "best.py")]),
        ("report", 30, ["report", url]),
    ):
        wall, used, memory = command(*arguments)
        met &= wall < goal and memory < 1
        print(f"{name:<18} {wall:8.2f} s by the clock, {used:.2f} s of the processor, {memory:.2f} GiB at most   goal < {goal}, < 1 GiB")
    size = (folder / "report.html").stat().st_size / 1e6
    print(f"size of the report {size:8.2f} MB   goal < 5")
    return met and size < 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--sameness", default="behaviour", help="how equal rules are found: spelling, behaviour or nearly")
    parser.add_argument("--store", default="", help="URL of a database; default: a file in a temporary folder")
    parser.add_argument("--soak", action="store_true", help="read the study without a pause while it is written; each command must succeed")
    options = parser.parse_args()
    if options.soak and options.store:
        parser.error("expected a study in a file with --soak, got --store: leave one of them out")

    particles = max(2, -(-options.evaluations // 99))
    population = 2 * particles  # and 1 + 16 × 6 evaluations for each particle: 99 in all
    search = Search(population=population, particles=particles, timesteps=16, children=6, redraws=0, lookahead=2 * options.workers)
    source, workers, sameness = Source(search), SimulatedWorkers(options.workers, 2.0), Sameness(options.sameness)
    marks: list[tuple[int, float, float]] = []  # evolution told so far, the driver's seconds so far: of the processor, by the clock
    told = same_seconds = 0.0

    def same(job: Job) -> str:
        nonlocal same_seconds
        begun = time.process_time()
        key = sameness(job.rule)
        same_seconds += time.process_time() - begun
        return key

    def watch(happening: Happening) -> None:
        nonlocal told
        if happening.kind == "told" and happening.stage == "evolution":
            told += 1
            if told % 100 == 0:
                marks.append((int(told), time.process_time() - started - workers.seconds, time.perf_counter() - clock - workers.wall))

    config = to_toml(RunConfig(task="quadratics", initial=Stage({}, PROTOCOL), evolution=Stage({}, PROTOCOL), search=search))
    with tempfile.TemporaryDirectory() as folder:
        with Study.create(options.store or Path(folder) / "study.db", config) as study:
            clock, started = time.perf_counter(), time.process_time()
            readers = Readers(Path(folder))
            with readers if options.soak else nullcontext():
                drive(source, workers, study, lookahead=search.lookahead, same=same, on_event=watch)
                ended = time.perf_counter()
            own, wall = time.process_time() - started - workers.seconds, ended - clock - workers.wall
            evaluations = len(study.jobs())
            size = 0 if options.store else sum(path.stat().st_size for path in Path(folder).iterdir())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES
        met = True if options.store else read(Path(folder), search, options.sameness)
        whole_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIBIBYTES

    each, wall_each = own / evaluations * 1e3, wall / evaluations * 1e3
    start, end = ends(marks, 1)
    wall_start, wall_end = ends(marks, 2)
    rest = own - source.seconds - same_seconds
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{evaluations} evaluations by {options.workers} simulated workers, equal rules by {options.sameness}")
    print(f"by the clock       {wall_each:8.2f} ms per evaluation   goal < 5")
    print(f"processor time     {each:8.2f} ms per evaluation   goal < 5")
    print(f"  search           {source.seconds / evaluations * 1e3:8.2f} ms (mutation, integrity check)")
    print(f"  equal rules      {same_seconds / evaluations * 1e3:8.2f} ms")
    print(f"  driver and store {rest / evaluations * 1e3:8.2f} ms")
    print(f"start, end         {wall_start:8.2f}, {wall_end:.2f} ms by the clock, ratio {wall_end / wall_start:.2f}   goal < 1.5")
    print(f"start, end         {start:8.2f}, {end:.2f} ms of the processor, ratio {end / start:.2f}   goal < 1.5")
    print(f"peak memory        {peak:8.2f} GiB, with resuming {whole_peak:.2f} GiB   goal < 1")
    print(f"database           {size / 2**20:8.0f} MiB")
    if options.soak:
        print(f"read meanwhile     {readers.done:8} times, the slowest {readers.slowest:.1f} s, {len(readers.failed)} failed   goal: 0")
        print(*dict.fromkeys(readers.failed), sep="\n", end="\n" if readers.failed else "")
        met &= readers.done > 0 and not readers.failed
    return 0 if met and max(each, wall_each) < 5 and max(end / start, wall_end / wall_start) < 1.5 and whole_peak < 1 else 1


if __name__ == "__main__":
    sys.exit(main())
