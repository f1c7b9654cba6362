"""Time of a step over that of `torch.optim.AdamW(foreach=True)`, for every rule of the zoo, as a class and as an exported file.

    python benchmarks/step_ratios.py                        every rule and size, about twenty minutes; exit code 1 where a goal is missed
    python benchmarks/step_ratios.py --rules adam,a5 --sizes 14x7000

On one thread, by processor time; both optimizers step in turn, and a ratio is the median of 15 pairs. `plain` is torch's operations alone,
as where there is no compiler and in the first four steps; `default` is what one gets without asking, from the fifth step on. Goals: on many
small tensors a default step takes at most 1.3 times AdamW's, or that and what the rule's products of matrices take by themselves;
`fused` and the training loop's `flat` are not slower than not asking, up to a tenth, which is noise; `flat` where rules share a kernel,
for the loop compiles none for a rule that it trains for seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from optevolve.compile import build, export
from optevolve.compile.reduce import Reduce
from optevolve.library import ZOO

SIZES = ("2000x64", "14x7000", "1x4000000")
MANY = 10  # tensors from which on they are many
WAYS: dict[str, dict[str, Any]] = {"plain": {"fused": False}, "default": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
PAIRS, WARM = 15, 6  # pairs of runs, and steps before them: more than those after which a kernel is taken unasked
AT_MOST, NOISE = 1.3, 1.1


def parameters(size: str) -> list[torch.nn.Parameter]:
    """Of a size such as 14x7000, with gradients."""
    count, elements = map(int, size.split("x"))
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(elements) * 0.1) for _ in range(count)]
    for p in params:
        p.grad = torch.randn_like(p) * 0.01
    return params


def exported(name: str, folder: str) -> Any:
    """The class of a rule from its file."""
    path = export(ZOO[name].rule, Path(folder) / f"exported_{name}.py", name="Exported")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.Exported


def seconds(step: Callable[[], object], repeats: int) -> float:
    started = time.thread_time()
    for _ in range(repeats):
        step()
    return (time.thread_time() - started) / repeats


def ratio(step: Callable[[], object], size: str) -> tuple[float, float]:
    """Median of the ratios to AdamW's steps, and AdamW's median time in seconds."""
    other = torch.optim.AdamW(parameters(size), lr=1e-3, foreach=True).step
    for _ in range(WARM):
        step()
        other()
    repeats = max(1, round(0.005 / seconds(other, 1)))
    theirs = [(seconds(other, repeats), seconds(step, repeats)) for _ in range(PAIRS)]
    return statistics.median(ours / base for base, ours in theirs), statistics.median(base for base, _ in theirs)


def matrices(name: str, size: str) -> float:
    """What the products of matrices take that a rule is made of, over AdamW's time; 0 for rules without."""
    if "orthogonalize" not in str(ZOO[name].rule):
        return 0.0
    gradients = [p.grad for p in parameters(size)]
    return ratio(lambda: [Reduce().orthogonalize(g) for g in gradients if g is not None], size)[0]


def row(name: str, size: str, folder: str) -> tuple[dict[str, float], list[str]]:
    """Ratios by way, and the goals that they miss."""
    makers: dict[str, Callable[..., Any]] = {
        "": lambda params, **options: build(ZOO[name].rule, params, 1e-3, total_steps=10_000, **options),
        "export ": lambda params, **options: exported(name, folder)(params, 1e-3, total_steps=10_000, **options),
    }
    found = {f"{where}{way}": ratio(make(parameters(size), **options).step, size)[0]
             for where, make in makers.items() for way, options in WAYS.items()}  # fmt: skip
    found["flat"] = ratio(makers[""](parameters(size), flat=True).step, size)[0]
    allowed = AT_MOST + matrices(name, size)
    many = int(size.split("x")[0]) >= MANY
    missed = [f"{way} at most {allowed:.2f}" for way in ("default", "export default") if many and found[way] > allowed]
    shared = not makers[""](parameters("1x1")).DRAWS and makers[""](parameters("1x1")).ELEMENTWISE
    for way, unasked in (("fused", "default"), ("export fused", "export default"), *((("flat", "default"),) if shared else ())):
        if found[way] > NOISE * found[unasked]:
            missed.append(f"{way} slower than {unasked}")
    return found, missed


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    warnings.filterwarnings("ignore", message=".*goes on past its")
    parser = argparse.ArgumentParser(description="Times of steps over AdamW(foreach=True)'s.")
    parser.add_argument("--rules", default=",".join(ZOO), help="names of the zoo, with commas between them; all if none is named")
    parser.add_argument("--sizes", default=",".join(SIZES), help="tensors x elements, with commas between them")
    given = parser.parse_args()
    names, sizes = given.rules.split(","), given.sizes.split(",")
    if unknown := sorted(set(names) - set(ZOO)):
        parser.error(f"expected names of the zoo, got {', '.join(unknown)}: choose from {', '.join(ZOO)}")
    if wrong := [size for size in sizes if not all(part.isdecimal() and int(part) for part in size.split("x")) or size.count("x") != 1]:
        parser.error(f"expected sizes such as 14x7000, got {', '.join(wrong)}")
    failed = 0
    columns = [*(f"{where}{way}" for where in ("", "export ") for way in WAYS), "flat"]
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            print(f"\n| {size} | {' | '.join(columns)} | goals |\n|---|{'---|' * len(columns)}---|")
            for name in names:
                found, missed = row(name, size, folder)
                failed += bool(missed)
                told = f"MISSED: {', '.join(missed)}" if missed else "met"
                print(f"| {name} | {' | '.join(f'{found[way]:.2f}' for way in columns)} | {told} |", flush=True)
    print(f"\n{failed} of {len(names) * len(sizes)} rows miss a goal.")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
