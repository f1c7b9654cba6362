"""A process that compiles nothing does not import torch's compiler, nor what the task at hand does not need."""

import subprocess
import sys

import torch

from optevolve.compile import build

SCRIPT = """
import sys
from optevolve.config import Protocol, Schedule
from optevolve.records import Job
from optevolve.surrogate import measure
lengths = Protocol(trial_steps=2, full_steps=4, epoch_steps=2, trial_epoch_steps=2, schedule=Schedule(warmup=1))
print(measure(Job("1", "v_hat / (sqrt(s_hat) + 1e-8)", "quadratics", lengths, 0)).status.value)
print(*(name for name in ("torch._dynamo", "sklearn", "pandas", "matplotlib", "sqlalchemy", "sympy") if name in sys.modules))
"""


def test_a_worker_imports_no_more_than_it_needs() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout == "completed\n\n"


def test_steps_are_the_same_before_and_after_the_compiler_is_imported() -> None:
    code = """
import sys, torch, optevolve
w = torch.nn.Parameter(torch.linspace(-1, 1, 7))
optimizer = optevolve.build("v_hat / (sqrt(s_hat) + 1e-8)", [w], lr=0.1)
for t in range(6):
    assert ("torch._dynamo" in sys.modules) == (t >= 3)
    w.grad = torch.cos(w.detach() + t)
    assert optimizer.step(torch.is_grad_enabled) is True and torch.is_grad_enabled()
    if t == 2:
        import torch._dynamo
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
print(w.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=True)
    w = torch.nn.Parameter(torch.linspace(-1, 1, 7))
    optimizer = build("v_hat / (sqrt(s_hat) + 1e-8)", [w], lr=0.1)
    for t in range(6):
        w.grad = torch.cos(w.detach() + t)
        optimizer.step()
    assert done.stdout.strip() == str(w.tolist())
