"""What the tests of this folder share: rules to test, runs of a rule in every way, and how far float32 lets them differ."""

import ctypes
import inspect
import textwrap
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from optevolve.compile import build, class_of
from optevolve.compile.cpp import translate
from optevolve.compile.kernel import FusedStep, shared_object
from optevolve.compile.schedulers import WarmupCosine
from optevolve.library import ZOO
from optevolve.schedule import schedule_values
from optevolve.space.grammar import paper_grammar
from optevolve.space.interpret import Interpreter, ReferenceOptimizer
from optevolve.space.lower import lower
from optevolve.space.rule import UpdateRule
from optevolve.space.sample import sample_genome

SHAPE, STEPS, TOTAL, LR = (5, 7), 100, 60, 0.01
WARMUP, HOLD = 15, 5


def random_rules(count: int) -> list[UpdateRule]:
    rng = np.random.default_rng(0)
    return [sample_genome(rng, paper_grammar()).rule for _ in range(count)]


@cache
def problem() -> tuple[np.ndarray, np.ndarray]:
    """Weights to start from, and gradients of all steps."""
    rng = np.random.default_rng(1)
    return rng.normal(size=SHAPE).astype(np.float32), rng.normal(size=(STEPS, *SHAPE)).astype(np.float32)


def reference(rule: UpdateRule, dtype: type = np.float32, *, scheduled: bool = False) -> np.ndarray:
    """Weights after each step, shape (steps, *shape), in the given precision; learning rate and momentum are constant or the paper's."""
    w, gradients = problem()
    optimizer = ReferenceOptimizer(rule, SHAPE, TOTAL)
    optimizer.update = Interpreter(lower(rule.expression), SHAPE, TOTAL, dtype=dtype)
    w, rows = w.astype(dtype), []
    rates, momenta = schedule_values(LR, STEPS, WARMUP, HOLD) if scheduled else ([LR] * STEPS, [0.9] * STEPS)
    for g, rate, momentum in zip(gradients.astype(dtype), rates, momenta, strict=True):
        w = optimizer.step(w, g, float(rate), float(momentum))
        rows.append(w)
    return np.stack(rows)


def trained(rule: UpdateRule, make: Callable[..., Any] | None = None, *, scheduled: bool = False, **options) -> np.ndarray:
    """The same through torch, by what makes an optimizer of (params, lr, total_steps); a second parameter of another shape goes along."""
    start, gradients = problem()
    parameters = [torch.nn.Parameter(torch.from_numpy(start.copy())), torch.nn.Parameter(torch.ones(3))]
    optimizer = (make or partial(build, rule))(parameters, LR, TOTAL, **options)
    scheduler = WarmupCosine(optimizer, STEPS, WARMUP, HOLD, momentum=(0.95, 0.85)) if scheduled else None
    rows = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*goes on past its")
        for g in torch.from_numpy(gradients):
            parameters[0].grad, parameters[1].grad = g, g[0, :3]
            optimizer.step()
            if scheduler:
                scheduler.step()
            rows.append(parameters[0].detach().numpy().copy())
    return np.stack(rows)


def assert_agree(rule: UpdateRule, got: np.ndarray, *, scheduled: bool = False) -> None:
    """Weights agree at every step within 2e-5 (absolute, and relative to the largest weight), or 20 times what rounding to float32 has
    done to the reference until then, for rules that amplify it. Where the float32 reference has overflowed nothing is compared."""
    with np.errstate(all="ignore"):
        expected, exact = reference(rule, scheduled=scheduled), reference(rule, np.float64, scheduled=scheduled)
        axes = tuple(range(1, expected.ndim))
        size = np.max(np.abs(expected), axis=axes, initial=1.0)
        rounding = np.maximum.accumulate(np.max(np.abs(expected - exact), axis=axes))
        difference = np.max(np.abs(got - expected), axis=axes)
        comparable = np.isfinite(size) & np.isfinite(rounding)
    bad = comparable & ~(difference <= 2e-5 * size + 20 * rounding)
    assert not bad.any(), f"{rule}: step {bad.argmax()}, differs by {difference[bad.argmax()]:.2g} of {size[bad.argmax()]:.2g}"


def compiled_together(rules: list[UpdateRule]) -> dict:
    """Kernels of many rules through one run of the compiler: what `fused_step` gives, by the rule's `advance`."""
    kernels = {}
    for rule in rules:
        cls = class_of(rule)
        try:
            kernels[cls.advance] = translate(advance_text(cls), len(cls.STATES), cls.DRAWS)
        except NotImplementedError:
            continue
    includes = dict.fromkeys(line for kernel in kernels.values() for line in kernel.text.splitlines() if line.startswith("#include"))
    parts = ["#define WEIGHT float\n#define GRADIENT float\n#define MAXIMIZE false", *includes]
    for i, kernel in enumerate(kernels.values()):
        body = "\n".join(line for line in kernel.text.splitlines() if not line.startswith("#include"))
        parts.append(f"namespace kernel{i} {{\n{body}\n}}".replace("void step(", f"void step{i}("))
    path = shared_object("\n".join(parts))
    library = ctypes.CDLL(str(path))
    return {advance: FusedStep(kernel, getattr(library, f"step{i}")) for i, (advance, kernel) in enumerate(kernels.items())}


def advance_text(cls: type) -> str:
    return textwrap.dedent(inspect.getsource(cls.advance))


ZOO_NAMES = list(ZOO)
