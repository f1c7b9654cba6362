"""How fast every rule of the zoo steps, beside its floors and torch's own optimizers. Medians of paired runs on two threads of a CPU.

    python benchmarks/optimizers.py            the whole table, about five minutes
    python benchmarks/optimizers.py opt6 a1    these rules
    python benchmarks/optimizers.py --json docs/optimizers/cost.json    also writes the large table for the gallery of docs/optimizers.md

Large: 25 M float32 parameters in 60 tensors, against `torch.optim.AdamW(fused=True)`, which moves 28 bytes per parameter. A rule with k
state buffers moves 12 + 8k; its byte floor is that over the bandwidth of the fastest rule of the run, its arithmetic floor half the time of
its kernel on one thread, for elements that are in the cache. Small: 100 k parameters in 14 tensors, against
`torch.optim.Adam(foreach=True)`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from optevolve.compile import build
from optevolve.library import ZOO

THREADS = 2
LARGE_TENSORS, LARGE_ELEMENTS = 60, 25_000_000
SMALL_SHAPES = [
    (32, 3, 3, 3),
    (32,),
    (32,),
    (32,),
    (64, 32, 3, 3),
    (64,),
    (64,),
    (64,),
    (128, 64, 3, 3),
    (128,),
    (128,),
    (128,),
    (10, 128),
    (10,),
]
PAIRS = 15
WITHIN_BYTES = {"opt6", "a1", "lion", "nesterov", "adam"}  # at most 1.15 times fused AdamW's time per byte

FIRST_STEP = """
import sys, time, torch
torch.set_num_threads(2)
from optevolve.compile import build
from optevolve.library import ZOO
params = [torch.nn.Parameter(torch.zeros(1000)) for _ in range(60)]
for p in params:
    p.grad = torch.ones(1000)
torch.optim.AdamW(params, lr=0.0).step()  # torch's own imports
started = time.perf_counter()
build(ZOO[sys.argv[1]].rule, params, 1e-3, total_steps=1000, fused=True).step()
print(time.perf_counter() - started)
"""


def parameters(shapes: list[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape) * 0.1) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape) * 0.01
    return params


def seconds(step: Callable[[], object], repeats: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - started) / repeats


def paired(step: Callable[[], object], other: Callable[[], object], repeats: int = 1) -> tuple[float, float, float]:
    """Median times of both, and the median of the ratios of runs that follow each other."""
    for _ in range(2):
        step()
        other()
    runs = [(seconds(step, repeats), seconds(other, repeats)) for _ in range(PAIRS)]
    ours, theirs = zip(*runs, strict=True)
    return statistics.median(ours), statistics.median(theirs), statistics.median(a / b for a, b in runs)


def arithmetic_floor(name: str) -> float:
    """Seconds per 25 M parameters where memory does not count: what elements cost within the cache, without what a call costs.

    The best of many runs on 64 Ki elements minus that on 32 Ki, on one thread, spread over threads.
    """
    torch.set_num_threads(1)
    best = []
    for size in (32_768, 65_536):
        optimizer = build(ZOO[name].rule, parameters([(size,)]), 1e-3, total_steps=1000, fused=True)
        optimizer.step()
        best.append(min(seconds(optimizer.step) for _ in range(300)))
    torch.set_num_threads(THREADS)
    return max(0.0, best[1] - best[0]) / 32_768 * LARGE_ELEMENTS / THREADS


def memory_over(name: str) -> float:
    """Bytes that two steps allocate, over those of the rule's buffers."""
    params = parameters([(2**20,)])
    optimizer = build(ZOO[name].rule, params, 1e-3, total_steps=1000, fused=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        optimizer.step()
        optimizer.step()
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    return allocated / (2**20 * 4 * (2 + len(optimizer.STATES))) - len(optimizer.STATES) / (2 + len(optimizer.STATES))


def first_steps(name: str) -> tuple[float, float]:
    """Seconds of the first step with an empty cache and, in a new process, with what that has left."""
    with tempfile.TemporaryDirectory() as cache:
        times = []
        for _ in range(2):
            environment = {**os.environ, "RULE_KERNEL_CACHE": cache}
            done = subprocess.run([sys.executable, "-c", FIRST_STEP, name], env=environment, capture_output=True, text=True, check=True)
            times.append(float(done.stdout))
    return times[0], times[1]


def cpu_name() -> str:
    """The processor's name where Linux tells it."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def write_json(path: Path, rules: Mapping[str, Mapping[str, Any]], bandwidth: float) -> None:
    """The large table with what it was measured on, a rule per line; times in milliseconds, bandwidth in GB/s."""
    head: dict[str, Any] = {"cpu": cpu_name(), "torch": torch.__version__.partition("+")[0], "threads": THREADS}
    head |= {"parameters": LARGE_ELEMENTS, "tensors": LARGE_TENSORS, "gigabytes_per_second": round(bandwidth / 1e9, 1)}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rules.items())
    path.write_text("\n".join(["{", *lines, '  "rules": {', rows, "  }", "}", ""]), encoding="utf-8")


def large(names: list[str], table: Path | None = None) -> None:
    shapes = [(LARGE_ELEMENTS // LARGE_TENSORS,)] * LARGE_TENSORS
    base = torch.optim.AdamW(parameters(shapes), lr=1e-3, fused=True)
    rows = []
    for name in names:
        optimizer = build(ZOO[name].rule, parameters(shapes), 1e-3, total_steps=1000, fused=True)
        ours, theirs, ratio = paired(optimizer.step, base.step)
        rows.append((name, 12 + 8 * len(optimizer.STATES), ours, theirs, ratio, arithmetic_floor(name)))
        del optimizer
    bandwidth = max(size * LARGE_ELEMENTS / ours for _, size, ours, *_ in rows)
    print(f"25 M parameters in 60 tensors, {THREADS} threads; best bandwidth {bandwidth / 1e9:.1f} GB/s")
    print(
        f"{'rule':<14}{'B/param':>8}{'ms':>8}{'AdamW':>8}{'ratio':>7}{'per byte':>9}{'byte fl.':>9}{'arith fl.':>10}{'of floor':>9}  target"
    )
    told = {}
    for name, size, ours, theirs, ratio, arithmetic in rows:
        floor = size * LARGE_ELEMENTS / bandwidth
        per_byte, of_floor = ratio * 28 / size, ours / max(floor, arithmetic)
        if name in WITHIN_BYTES:
            met, target = per_byte <= 1.15, "per byte at most 1.15"
        elif name == "opt10":
            met, target = ratio <= 3, "ratio at most 3"
        else:
            met, target = ours <= 2 * floor or of_floor <= 1.5, "at most 2 byte floors, or the arithmetic floor"
        print(
            f"{name:<14}{size:>8}{ours * 1e3:>8.1f}{theirs * 1e3:>8.1f}{ratio:>7.2f}{per_byte:>9.2f}{floor * 1e3:>9.1f}"
            f"{arithmetic * 1e3:>10.1f}{of_floor:>9.2f}  {'met' if met else 'MISSED'}: {target}"
        )
        told[name] = {
            "bytes": size,
            "ms": round(ours * 1e3, 1),
            "adamw_ms": round(theirs * 1e3, 1),
            "ratio": round(ratio, 2),
            "byte_floor_ms": round(floor * 1e3, 1),
            "arithmetic_floor_ms": round(arithmetic * 1e3, 1),
        }
    if table is not None:
        write_json(table, told, bandwidth)
    eager = build(ZOO["opt6"].rule, parameters(shapes), 1e-3, total_steps=1000, fused=False)
    foreach = build(ZOO["opt6"].rule, parameters(shapes), 1e-3, total_steps=1000, foreach=True)
    for label, optimizer in (("plain operations", eager), ("foreach", foreach)):
        optimizer.step()
        time_of = statistics.median(seconds(optimizer.step) for _ in range(3))
        print(f"opt6 with {label}: {time_of * 1e3:.0f} ms")


def small(names: list[str]) -> None:
    elements = sum(torch.Size(shape).numel() for shape in SMALL_SHAPES)
    print(f"\n{elements} parameters in {len(SMALL_SHAPES)} tensors, times of Adam(foreach=True); target: flat at most 0.6")
    base = torch.optim.Adam(parameters(SMALL_SHAPES), lr=1e-3, foreach=True)
    for name in names:
        ratios = []
        for how, fused in (("plain operations", False), ("interpreted", None), ("compiled", True)):
            optimizer = build(ZOO[name].rule, parameters(SMALL_SHAPES), 1e-3, total_steps=100_000, flat=True, fused=fused)
            ours, theirs, ratio = paired(optimizer.step, base.step, 20)
            ratios.append(f"{how} {ratio:.2f} ({ours * 1e6:.0f} us)")
        print(f"{name:<14} flat: {', '.join(ratios)}; Adam {theirs * 1e6:.0f} us")


def main() -> None:
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    parser = argparse.ArgumentParser(description="How fast the zoo's rules step.")
    parser.add_argument("names", nargs="*", metavar="rule", help="rules to measure; all if none is named")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the large table there, as docs/optimizers/cost.json")
    given = parser.parse_args()
    names = given.names or list(ZOO)
    if unknown := sorted(set(names) - set(ZOO)):
        parser.error(f"expected names of the zoo, got {', '.join(unknown)}: choose from {', '.join(ZOO)}")
    large(names, given.json)
    small(names)
    print("\nFirst step, compilation included (targets: 5 s, 0.5 s from disk), and memory over parameters, gradients and buffers (5 %)")
    for name in [name for name in ("opt6", "adam", "a5", "opt10") if name in names]:
        cold, warm = first_steps(name)
        print(f"{name:<14} {cold:.2f} s, {warm:.3f} s, {100 * memory_over(name):.1f} %")


if __name__ == "__main__":
    main()
