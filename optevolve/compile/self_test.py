"""The end of an exported file: a trajectory that the numpy reference has recorded, and what replays it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from optevolve.space.interpret import ReferenceOptimizer
from optevolve.space.rule import UpdateRule

__all__ = ["LR", "STEPS", "inputs", "recorded_trajectory", "self_test"]

STEPS, SIZE, LR = 10, 6, 0.01


def recorded_trajectory(rule: UpdateRule) -> npt.NDArray[np.float32]:
    """Weights of the numpy reference at every step of the self-test, shape (steps, size)."""
    start, gradients = inputs()
    reference = ReferenceOptimizer(rule, (SIZE,), STEPS)
    w, rows = start, []
    for g in gradients:
        w = reference.step(w, g, LR, 0.9)
        rows.append(w)
    return np.stack(rows).astype(np.float32)


def inputs() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Weights to start from, shape (size,), and gradients of every step, shape (steps, size)."""
    element, step = np.arange(SIZE), np.arange(STEPS)[:, None]
    return np.cos(element).astype(np.float32), np.sin(1.3 * element + 0.7 * step + 0.1).astype(np.float32)


def _tolerance(rule: UpdateRule, recorded: npt.NDArray[np.float32]) -> float:
    """1e-5, or more for rules that amplify rounding: four times what the optimizer here differs by."""
    import torch

    from optevolve.compile.build import build

    start, gradients = inputs()
    w = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = build(rule, [w], LR, STEPS)
    worst = 0.0
    for g, expected in zip(gradients, recorded, strict=True):
        w.grad = torch.from_numpy(g)
        optimizer.step()
        error = np.abs(w.detach().numpy() - expected) / (1 + np.abs(expected))
        worst = max(worst, float(np.max(error[np.isfinite(error)], initial=0.0)))
    return float(f"{max(1e-5, 4 * worst):.1e}")


def self_test(rule: UpdateRule, name: str, fused: bool) -> str:
    """The text that replays the trajectory of the class of this name, in each way to run a step; `fused`: with its kernel."""
    recorded = recorded_trajectory(rule)

    def number(value: np.float32) -> str:
        return f"{value:.9g}" if np.isfinite(value) else f'float("{value}")'

    rows = "\n".join(f"    [{', '.join(number(value) for value in row)}]," for row in recorded)
    options = ['{"foreach": False, "fused": False}', '{"foreach": True}', '{"capturable": True}', *(['{"fused": True}'] if fused else [])]
    return _TEXT.format(
        rows=rows, name=name, lr=LR, steps=STEPS, size=SIZE, tolerance=_tolerance(rule, recorded),
        options=", ".join(options),
    )  # fmt: skip


_TEXT = '''
# Weights after each step of the self-test, from a numpy implementation of the same rule.
RECORDED: list[list[float]] = [
{rows}
]


def self_test() -> None:
    """Replays the recorded trajectory in each way to run the step, interrupted and resumed from a checkpoint in the middle."""
    element = torch.arange({size}, dtype=torch.float64)
    for options in ({options}):
        w = torch.nn.Parameter(torch.cos(element).float())
        optimizer = {name}([w], lr={lr}, total_steps={steps}, **options)
        for t, expected in enumerate(RECORDED):
            if t == {steps} // 2:
                checkpoint = optimizer.state_dict()
                optimizer = {name}([w], lr={lr}, total_steps={steps}, **options)
                optimizer.load_state_dict(checkpoint)
            w.grad = torch.sin(1.3 * element + 0.7 * t + 0.1).float()
            optimizer.step()
            message = f"step {{t}} with {{options}}: {{w.tolist()}} instead of {{expected}}"
            torch.testing.assert_close(w.detach(), torch.tensor(expected), rtol={tolerance}, atol={tolerance}, equal_nan=True, msg=message)
    print(f"{name}: {{len(RECORDED)}} steps agree with the recorded trajectory")


if __name__ == "__main__":
    self_test()
'''
