"""What the tests of this folder share: rules to test, runs of a rule in every way, and how far float32 lets them differ."""

import ctypes
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np
import pytest
import torch

from optevolve.compile import build, class_of, contract
from optevolve.compile.cpp import CppKernel, translate
from optevolve.compile.kernel import FusedStep, fused_step, shared_object
from optevolve.compile.schedulers import WarmupCosine
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


@lru_cache(maxsize=256)
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


def compiled_together(texts: Iterable[str], optimization: str = "-O0") -> dict[str, Any]:
    """What kernels of many rules are compiled to, float32 and descending, by their text: one run of the compiler, which otherwise reads
    torch's headers for seconds per rule. Without optimization it is quick and does the same arithmetic: contraction is off at every level.
    """
    texts = list(dict.fromkeys(texts))
    includes = dict.fromkeys(line for text in texts for line in text.splitlines() if line.startswith("#include"))
    parts = ["#define WEIGHT float\n#define GRADIENT float\n#define MAXIMIZE false", *includes]
    for i, text in enumerate(texts):
        body = "\n".join(line for line in text.splitlines() if not line.startswith("#include"))
        parts.append(f"namespace kernel{i} {{\n{body}\n}}".replace("void step(", f"void step{i}("))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CXXFLAGS", optimization)
        library = ctypes.CDLL(str(shared_object("\n".join(parts))))
    return {text: getattr(library, f"step{i}") for i, text in enumerate(texts)}


def kernel_of(rule: UpdateRule) -> CppKernel | None:
    """The kernel of a rule; None for those of rows, columns and matrices, whose kernels are torch's own."""
    cls = class_of(rule)
    try:
        return translate(advance_text(cls), len(cls.STATES), cls.DRAWS)
    except NotImplementedError:
        return None


@contextmanager
def kernels_from_one_library(rules: Iterable[UpdateRule], optimization: str = "-O0") -> Iterator[set[UpdateRule]]:
    """Makes `fused=True` take the kernels of these rules, float32 and descending, from one library; gives the rules that have one."""
    kernels = {rule: kernel for rule in rules if (kernel := kernel_of(rule))}
    functions = compiled_together((kernel.text for kernel in kernels.values()), optimization)
    made = {class_of(rule).advance: FusedStep(*kernel, functions[kernel.text]) for rule, kernel in kernels.items()}

    def found(advance: Any, states: int, draws: tuple[str, ...], *types: Any) -> Any:
        if advance in made and types == (torch.float32, torch.float32, False):
            return made[advance]
        return fused_step(advance, states, draws, *types)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(contract, "fused_step", found)
        yield set(kernels)


def advance_text(cls: type) -> str:
    return textwrap.dedent(inspect.getsource(cls.advance))
