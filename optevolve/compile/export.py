"""A rule as one readable file that needs only torch: the text that runs here, with what it builds upon, and a self-test."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from optevolve.compile import bessel, compiled, contract, cpp, draws, flat, foreach, kernel, reduce, schedulers, work
from optevolve.compile.emit import emit_class
from optevolve.compile.optax import optax_source
from optevolve.errors import ExportError
from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.latex import latex
from optevolve.space.rule import UpdateRule

__all__ = ["export", "python_source"]

# What the class builds upon, in the order of definition.
_PIECES: tuple[ModuleType, ...] = (bessel, draws, reduce, flat, foreach, cpp, kernel, work, compiled, contract, schedulers)

SELF_TEST_STEPS = 20
SELF_TEST_SIZE = 6
SELF_TEST_LR = 0.01


def export(
    rule: UpdateRule,
    path: str | Path,
    *,
    name: str | None = None,
    provenance: str = "",
    scores: Mapping[str, float] | None = None,
    learning_rate: float | None = None,
    format: str = "torch",
) -> Path:
    """Writes the rule as one file: a torch optimizer that needs only torch and tests itself by `python FILE`, an optax one, or LaTeX.

    Args:
        rule: what to write.
        path: of the file; an existing one is replaced.
        name: of the class; None: made from the file's name.
        provenance: where the rule comes from, for the docstring.
        scores: what it reached, by task.
        learning_rate: a peak learning rate that it is known to work with.
        format: "torch"; "optax": a function that returns a `GradientTransformation`; "latex": the equation.
    Returns:
        The path.
    Raises:
        ExportError: if name is no identifier, the format is unknown or the file cannot be written.
    """
    path = Path(path)
    name = name or "".join(word[:1].upper() + word[1:] for word in re.split(r"[^A-Za-z0-9]+", path.stem)) or "EvolvedOptimizer"
    if not name.isidentifier():
        raise ExportError(f"Expected an identifier as the class's name, got {name!r}. Give another name.")
    if format == "torch":
        text = python_source(rule, name, provenance=provenance, scores=scores, learning_rate=learning_rate)
    elif format == "optax":
        function = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        text = optax_source(rule, function, _about(f"{function}: an optimizer for optax.", rule, provenance, scores))
    elif format == "latex":
        comments = "".join(f"% {line}\n" for line in _about(name, rule, provenance, scores) if line)
        text = f"{comments}\\[\n{latex(rule)}\n\\]\n"
    else:
        raise ExportError(f"Expected the format torch, optax or latex, got {format!r}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"Expected to write {path}, got: {error}. Choose a path that can be written.") from error
    return path


def python_source(
    rule: UpdateRule,
    name: str,
    *,
    provenance: str = "",
    scores: Mapping[str, float] | None = None,
    learning_rate: float | None = None,
) -> str:
    """The text of the file that `export` writes; arguments as there."""
    imports, pieces = _pieces()
    bodies = dict(pieces)
    class_text = emit_class(rule, name, learning_rate=learning_rate)
    if "bessel_i1e" not in class_text:
        bodies.pop(bessel.__name__)
    # The evolved factors are classes of their own; warm-up and cosine goes along.
    bodies[schedulers.__name__] = bodies[schedulers.__name__].split("\nclass FactorSchedule")[0]
    parts = [
        _header(rule, name, provenance, scores, learning_rate),
        imports,
        f'__all__ = ["{name}", "WarmupCosine"]',
        *bodies.values(),
        class_text,
    ]
    return "\n\n\n".join(part.strip("\n") for part in [*parts, _self_test(rule, name)]) + "\n"


def _header(rule: UpdateRule, name: str, provenance: str, scores: Mapping[str, float] | None, learning_rate: float | None) -> str:
    lines = _about(f"{name}: an optimizer for torch.", rule, provenance, scores)
    example = f"{'1e-3' if learning_rate is None else f'{learning_rate:g}'}, total_steps=10_000"
    lines += [
        "",
        f"    optimizer = {name}(model.parameters(), lr={example})",
        "    scheduler = WarmupCosine(optimizer, total_steps=10_000, warmup=500)  # stepped after each optimizer.step()",
        "",
        "Needs only torch. The rule itself is the class at the end; what stands before it makes it a full torch optimizer. Running this",
        "file replays a trajectory recorded from a reference implementation.",
    ]
    text = "\n".join(lines).replace("\\", "\\\\")
    return f'"""{text}\n"""'


def _about(title: str, rule: UpdateRule, provenance: str, scores: Mapping[str, float] | None) -> list[str]:
    lines = [title, "", *textwrap.wrap(f"Rule: {rule}", 128, subsequent_indent="    ")]
    if provenance:
        lines += ["", *textwrap.wrap(f"Provenance: {provenance}", 128)]
    if scores:
        lines += ["", "Scores:", *(f"    {task}: {score:.4g}" for task, score in scores.items())]
    return lines


@cache
def _pieces() -> tuple[str, dict[str, str]]:
    """Imports of all pieces, merged, and the text of each piece without its docstring, imports and `__all__`."""
    imports: dict[str, set[str]] = {}
    bodies: dict[str, str] = {}
    for module in _PIECES:
        source = inspect.getsource(module)
        dropped: set[int] = set()
        for node in ast.parse(source).body:
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            if isinstance(node, ast.Import):
                for alias in node.names:
                    imports.setdefault(f"import {alias.name}", set())
            elif isinstance(node, ast.ImportFrom):
                if node.module and not node.module.startswith("optevolve"):
                    imports.setdefault(f"from {node.module} import ", set()).update(alias.name for alias in node.names)
            elif not (isinstance(node, ast.Expr) and node.lineno == 1) and not (
                isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            ):
                continue
            dropped.update(lines)
        body = "\n".join(line for number, line in enumerate(source.splitlines(), 1) if number not in dropped)
        bodies[module.__name__] = body.strip("\n")
    imports.setdefault("import math", set())
    future = "from __future__ import "
    order = sorted(imports, key=lambda line: (line != future, "torch" in line.split()[1], line.startswith("from"), line))
    lines_of_text = [line + ", ".join(sorted(imports[line], key=lambda n: (not n.isupper(), n.lower()))) for line in order]
    first_torch = next(i for i, line in enumerate(order) if "torch" in line.split()[1])
    blocks = [lines_of_text[:1], lines_of_text[1:first_torch], lines_of_text[first_torch:]]
    return "\n\n".join("\n".join(block) for block in blocks), bodies


def recorded_trajectory(rule: UpdateRule) -> npt.NDArray[np.float32]:
    """Weights of the numpy reference at every step of the self-test, shape (steps, size)."""
    start, gradients = _self_test_inputs()
    reference = ReferenceOptimizer(rule, (SELF_TEST_SIZE,), SELF_TEST_STEPS)
    w, rows = start, []
    for g in gradients:
        w = reference.step(w, g, SELF_TEST_LR, 0.9)
        rows.append(w)
    return np.stack(rows).astype(np.float32)


def _self_test_inputs() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    element, step = np.arange(SELF_TEST_SIZE), np.arange(SELF_TEST_STEPS)[:, None]
    return np.cos(element).astype(np.float32), np.sin(1.3 * element + 0.7 * step + 0.1).astype(np.float32)


def _tolerance(rule: UpdateRule, recorded: npt.NDArray[np.float32]) -> float:
    """1e-5, or more for rules that amplify rounding: four times what the optimizer here differs by."""
    import torch

    from optevolve.compile.build import build

    start, gradients = _self_test_inputs()
    w = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build(rule, [w], SELF_TEST_LR, SELF_TEST_STEPS)
    worst = 0.0
    for g, expected in zip(gradients, recorded, strict=True):
        w.grad = torch.from_numpy(g)
        optimizer.step()
        error = np.abs(w.detach().numpy() - expected) / (1 + np.abs(expected))
        worst = max(worst, float(np.max(error[np.isfinite(error)], initial=0.0)))
    return float(f"{max(1e-5, 4 * worst):.1e}")


def _self_test(rule: UpdateRule, name: str) -> str:
    recorded = recorded_trajectory(rule)

    def number(value: np.float32) -> str:
        return f"{value:.9g}" if np.isfinite(value) else f'float("{value}")'

    rows = "\n".join(f"    [{', '.join(number(value) for value in row)}]," for row in recorded)
    return _SELF_TEST.format(
        rows=rows, name=name, lr=SELF_TEST_LR, steps=SELF_TEST_STEPS, size=SELF_TEST_SIZE, tolerance=_tolerance(rule, recorded)
    )


_SELF_TEST = '''
# Weights after each step of the self-test, from a numpy implementation of the same rule.
RECORDED = [
{rows}
]


def self_test() -> None:
    """Replays the recorded trajectory, interrupted and resumed from a checkpoint in the middle."""
    w = torch.nn.Parameter(torch.cos(torch.arange({size}, dtype=torch.float64)).float())
    optimizer = {name}([w], lr={lr}, total_steps={steps})
    for t, expected in enumerate(RECORDED):
        if t == {steps} // 2:
            checkpoint = optimizer.state_dict()
            optimizer = {name}([w], lr={lr}, total_steps={steps})
            optimizer.load_state_dict(checkpoint)
        w.grad = torch.sin(1.3 * torch.arange({size}, dtype=torch.float64) + 0.7 * t + 0.1).float()
        optimizer.step()
        torch.testing.assert_close(
            w.detach(), torch.tensor(expected), rtol={tolerance}, atol={tolerance}, equal_nan=True, msg=lambda m: f"step {{t}}: {{m}}"
        )
    print(f"{name}: {{len(RECORDED)}} steps agree with the recorded trajectory")


if __name__ == "__main__":
    self_test()
'''
