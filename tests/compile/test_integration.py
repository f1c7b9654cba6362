"""Optimizers of rules inside torch's own machinery: schedulers, scaled gradients, compilation, data parallelism."""

import copy
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
import torch._dynamo.testing
from torch.optim import lr_scheduler

from optevolve.compile import build

TOTAL = 50
RULES = ["nesterov: bessel_i1e(bessel_i1e(a13 * a2 * g))", "clip_norm(clip(v_hat, sqrt(s_hat)))", "dropout(qhm(v), 0.3)"]

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, step_size_up=3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [2]),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]),
}


def test_no_scheduler_of_torch_is_left_out() -> None:
    ours = {"LRScheduler", "_LRScheduler"}
    assert {name for name in lr_scheduler.__all__ if name not in ours} == set(SCHEDULERS)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize("rule", ["v_hat", RULES[0]])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_of_torch(name: str, rule: str, lr) -> None:
    w = torch.nn.Parameter(torch.ones(3))
    optimizer = build(rule, [w], copy.deepcopy(lr), TOTAL)
    scheduler = SCHEDULERS[name](optimizer)
    seen = set()
    for t in range(9):
        w.grad = torch.full((3,), 0.1 * (t + 1))
        optimizer.step()
        seen.add(round(float(optimizer.param_groups[0]["lr"]), 9))
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert len(seen) > 1
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("rule", RULES)
def test_scaled_gradients(rule: str) -> None:
    """Unscaling gives the gradients back; a step with infinite ones is skipped."""
    scaled, plain = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    first, second = build(rule, [scaled], 0.1, TOTAL), build(rule, [plain], 0.1, TOTAL)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for t in range(4):
        x = torch.tensor([1.0, 2.0, float("inf") if t == 2 else 3.0])
        first.zero_grad()
        scaler.scale((scaled * x).sum()).backward()
        scaler.step(first)
        scaler.update()
        if t != 2:
            plain.grad = x
            second.step()
    torch.testing.assert_close(scaled, plain)


@pytest.mark.parametrize("as_lr", [float, torch.tensor])
@pytest.mark.parametrize("rule", RULES)
def test_compiled_training_step_does_not_recompile_as_lr_changes(rule: str, as_lr) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    compiled, eager = torch.nn.Linear(4, 2), None
    eager = copy.deepcopy(compiled)
    first = build(rule, compiled.parameters(), as_lr(0.1), TOTAL)
    second = build(rule, eager.parameters(), as_lr(0.1), TOTAL)
    scheduler, twin = lr_scheduler.ExponentialLR(first, 0.9), lr_scheduler.ExponentialLR(second, 0.9)
    frames = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=frames)
    def step() -> None:
        first.step()

    x = torch.randn(8, 4)
    for t in range(6):
        for model in (compiled, eager):
            model.zero_grad()
            model(x).square().sum().backward()
        if t == 3:
            before = frames.frame_count
        with torch._dynamo.config.patch(error_on_recompile=t >= 3):
            step()
        second.step()
        scheduler.step()
        twin.step()
    assert 0 < frames.frame_count == before
    torch.testing.assert_close(list(compiled.parameters()), list(eager.parameters()))


def test_torchs_own_error_cases() -> None:
    cases = pytest.importorskip("torch.testing._internal.common_optimizers").get_error_inputs_for_all_optims("cpu", torch.float32)
    for case in cases:
        given = case.optimizer_error_input
        caught = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
        with caught(case.error_type, match=case.error_regex):
            build("v_hat", given.params, **{"lr": 0.1, **given.kwargs})


def test_a_captured_graph_needs_capturable() -> None:
    """On the CPU the tensor path gives what the number path gives, and keeps its step count as a tensor of the parameter's device."""
    for rule in RULES:
        first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
        plain, capturable = build(rule, [first], 0.1, TOTAL), build(rule, [second], 0.1, TOTAL, capturable=True)
        for _ in range(4):
            first.grad = second.grad = torch.tensor([0.5, -1.0, 2.0])
            plain.step()
            capturable.step()
        torch.testing.assert_close(first, second)


WORKER = """
import sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from optevolve.compile import build
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", rank=rank, world_size=2)
torch.set_num_threads(1)
mesh = init_device_mesh("cpu", (2,))

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))

def train(net, optimizer, xs):
    for x in xs:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

torch.manual_seed(1)
data = torch.randn(3, 8, 4)
for rule in RULES:
    alone = model()
    train(alone, build(rule, alone.parameters(), 0.1, 50), data)
    halves = data[:, rank * 4 : rank * 4 + 4]
    net = DistributedDataParallel(model())
    train(net, build(rule, net.parameters(), 0.1, 50), halves)
    for p, q in zip(net.parameters(), alone.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    net = model()
    for options in ({}, {"foreach": True}, {"capturable": True}):
        net = model()
        fully_shard(net, mesh=mesh)
        optimizer = build(rule, net.parameters(), 0.1, 50, **options)
        train(net, optimizer, halves)
        for p, q in zip(net.parameters(), alone.parameters()):
            assert isinstance(p, DTensor)
            torch.testing.assert_close(p.full_tensor(), q, rtol=1e-4, atol=1e-5)
        state = optimizer.state_dict()["state"][0]
        assert all(isinstance(v, DTensor) for k, v in state.items() if k != "step"), state
print("agree")
dist.destroy_process_group()
"""


@pytest.mark.timeout(120)
def test_two_processes_data_parallel_and_sharded() -> None:
    """DDP and FSDP2 over gloo give the weights of one process on all the data; norms and matrices see the whole tensor, dropout too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rules = [*RULES, "orthogonalize(g) + row_normalize(g) + column_normalize(v) + normalize(g)"]
    code = textwrap.dedent(WORKER).replace("RULES", repr(rules))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(port)], stdout=-1, stderr=-1, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        for worker in workers:
            out, error = worker.communicate(timeout=100)
            assert out.strip() == "agree", error[-3000:]
    finally:
        for worker in workers:
            worker.kill()
