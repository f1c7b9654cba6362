"""Training steps per second, summed over workers: the package's loop beside a plain PyTorch loop, measured in turns in one run.

The plain loop is eager float32 with two threads, NCHW, and torch.optim.Adam. Ours are two processes of one thread each that train an
evolved rule (Opt6). Both take the same batches. Medians over the rounds are printed; other load on the machine makes them rough.

With --replicas, instead: learning rates of one rule trained together as one vectorised program, against one at a time, on one thread of the
CPU in processor time (which other load disturbs less) and, where there is a GPU, on that. Steps are summed over replicas.

    python benchmarks/training.py [--rounds 5] [--seconds 4] [--replicas] [TASK ...]
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

WORKERS = 2
ENGINES = {
    "eager float32": {},
    "fused, flat": {"fused": True, "flat": True},
    "fused, flat, bf16": {"fused": True, "flat": True, "precision": "bf16"},
}


def endless(task: Any) -> Iterator[Any]:
    from optevolve.records import Split

    for number in count():
        yield from task.batches(Split.TRAIN, number)


def plain_rate(spec: str, seconds: float) -> float:
    import torch

    from optevolve.tasks import load

    torch.set_num_threads(WORKERS)
    torch.manual_seed(0)
    task = load(spec)
    model = task.model().train().to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = endless(task)
    steps, start = -3, time.perf_counter()
    while True:
        if steps == 0:
            start = time.perf_counter()
        batch = next(batches)
        optimizer.zero_grad()
        task.loss(model, type(batch)(batch.x.contiguous(), batch.y)).backward()
        optimizer.step()
        steps += 1
        if steps > 0 and time.perf_counter() - start > seconds:
            return steps / (time.perf_counter() - start)


def our_rate(spec: str, engine: dict[str, Any], seconds: float) -> float:
    """Steps per second of the package's own loop, its looks at the losses and training scores included."""
    import torch

    from optevolve.compile import build
    from optevolve.library import ZOO
    from optevolve.tasks import load
    from optevolve.training import Engine, train

    torch.set_num_threads(1)
    task = load(spec)
    rule = ZOO["opt6"].rule
    done, spent, steps = 0, 0.0, 10
    while spent < seconds:
        chosen = Engine(**engine)
        curve = train(
            task, lambda p: build(rule, p, lr=1e-3, total_steps=8000, flat=chosen.flat), [1e-3] * steps, [0.9] * steps,  # noqa: B023
            seed=0, epoch_steps=steps, split=None, engine=chosen,
        )  # fmt: skip
        if done or spent:
            done, spent = done + steps, spent + curve.seconds
        else:
            spent = 1e-9  # the first call warms up
        steps = max(10, min(2000, int(seconds / 2 / curve.seconds * steps)))
    return done / spent


def replica_rates(spec: str, device: str, count: int, seconds: float) -> tuple[float, float]:
    """Steps per second summed over replicas: together, and one at a time."""
    import torch

    from optevolve.compile import build
    from optevolve.library import ZOO
    from optevolve.tasks import load
    from optevolve.training import Engine, Run, Terms, train_many

    torch.set_num_threads(1)
    task, rule = load(spec), ZOO["opt6"].rule
    engine = Engine(flat=True, device=device, graph=device == "cuda")
    clock = time.perf_counter if device == "cuda" else time.process_time

    def spent(replicas: Any, steps: int, runs: int) -> float:
        rates = [1e-3] * steps
        asked = [Run(lambda p: build(rule, p, lr=1e-3, total_steps=8000, flat=True), rates, [0.9] * steps, seed=0) for _ in range(runs)]
        started = clock()
        list(train_many(task, asked, Terms(epoch_steps=steps, split=None, engine=engine), replicas))
        return clock() - started

    found = []
    for replicas, runs in (("on", count), ("off", 1)):
        short = 10
        base = min(spent(replicas, short, runs) for _ in range(2))
        steps = short + max(short, min(2000, int(seconds / max(base, 1e-3) * short) // 10 * 10))
        found.append((steps - short) * runs / (spent(replicas, steps, runs) - base))
    return found[0], found[1]


def replica_table(tasks: list[str], seconds: float) -> None:
    import torch

    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU, one thread"
        print(f"{'task':28} {name:28} {'together/s':>11} {'alone/s':>11} {'ratio':>7}")
        for spec in tasks:
            for replicas in (1, 2, 4, 8, 16) if device == "cpu" else (1, 2, 4, 8, 16, 32, 64):
                together, alone = replica_rates(spec, device, replicas, seconds)
                print(f"{spec:28} {f'{replicas} replicas':28} {together:11.1f} {alone:11.1f} {together / alone:7.2f}", flush=True)


def worker(connection: Any) -> None:
    from optevolve.run.worker import keep_freed_memory, one_thread

    one_thread()  # as the workers of a search do
    keep_freed_memory()
    while (message := connection.recv()) is not None:
        connection.send(our_rate(*message))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tasks", nargs="*", default=["cifar10-convnet@width=32", "cifar10-convnet@width=8", "digits@width=16", "digits@width=8"]
    )
    parser.add_argument("--replicas", action="store_true", help="the table of replicas against steps per second")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    if "OPTEVOLVE_DATA" not in os.environ and shared.is_dir():
        os.environ["OPTEVOLVE_DATA"] = str(shared)
    if arguments.replicas:
        replica_table(arguments.tasks, arguments.seconds)
        return
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(WORKERS):
        ours, theirs = context.Pipe()
        context.Process(target=worker, args=(theirs,), daemon=True).start()
        pipes.append(ours)
    print(f"{'task':28} {'loop':36} {'steps/s':>9} {'ratio':>7}")
    for spec in arguments.tasks:
        rates: dict[str, list[float]] = {"plain": []}
        for _ in range(arguments.rounds):
            rates["plain"].append(plain_rate(spec, arguments.seconds))
            for name, engine in ENGINES.items():
                for pipe in pipes:
                    pipe.send((spec, engine, arguments.seconds))
                rates.setdefault(name, []).append(sum(pipe.recv() for pipe in pipes))
        print(f"{spec:28} {f'plain PyTorch, Adam, {WORKERS} threads':36} {statistics.median(rates['plain']):9.1f} {1:7.2f}")
        for name in ENGINES:
            ratio = statistics.median(ours / plain for ours, plain in zip(rates[name], rates["plain"], strict=True))
            print(f"{'':28} {f'{WORKERS} workers, Opt6, {name}':36} {statistics.median(rates[name]):9.1f} {ratio:7.2f}", flush=True)
    for pipe in pipes:
        pipe.send(None)


if __name__ == "__main__":
    main()
