"""Exported files honour what the project's own optimizers honour, and follow the reference as closely."""

import os
import socket
import subprocess
import sys

import pytest
import torch
import torch._dynamo.testing

from tests.compile.agreement import assert_agree, trained
from tests.compile.contract_checks import CHECKS
from tests.compile.exported import RULES
from tests.compile.selection import KINDS, WHOLE, try_each


@pytest.mark.parametrize("check", CHECKS)
def test_contract(check: str, exported) -> None:
    rules = [name for name in RULES if WHOLE or name in KINDS or name == "matrices"]
    try_each(rules, lambda rule: CHECKS[check](exported[rule]))


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"capturable": True}], ids=str)
def test_every_rule_follows_the_reference(options: dict, exported) -> None:
    try_each(RULES, lambda name: assert_agree(RULES[name], trained(RULES[name], exported[name], **options)))


def test_a_compiled_training_step_does_not_recompile_as_lr_changes(exported) -> None:
    torch._dynamo.reset()
    compiled, eager = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    first, second = (exported["opt10"]([p], 0.1, 50, fused=False) for p in (compiled, eager))
    frames = torch._dynamo.testing.CompileCounter()

    @torch.compile(backend=frames)
    def step() -> None:
        first.step()

    for t in range(6):
        compiled.grad = eager.grad = torch.tensor([0.5, -1.0, 2.0]) * (t + 1)
        if t == 3:
            before = frames.frame_count
        with torch._dynamo.config.patch(error_on_recompile=t >= 3):
            step()
        second.step()
        for optimizer in (first, second):
            optimizer.param_groups[0]["lr"] *= 0.9
    assert 0 < frames.frame_count == before
    torch.testing.assert_close(compiled, eager)


WORKER = """
import importlib.util, os, sys, torch, torch.distributed as dist
sys.modules["optevolve"] = None
from torch.nn.parallel import DistributedDataParallel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
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
    return net

torch.manual_seed(1)
data = torch.randn(3, 8, 4)
halves = data[:, rank * 4 : rank * 4 + 4]
for i, path in enumerate(sys.argv[3:]):
    spec = importlib.util.spec_from_file_location(f"exported_{i}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    alone = model()
    train(alone, module.Exported(alone.parameters(), 0.1, 50), data)
    net = DistributedDataParallel(model())
    train(net, module.Exported(net.parameters(), 0.1, 50), halves)
    for p, q in zip(net.parameters(), alone.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    for options in ({}, {"foreach": True}):
        net = fully_shard(model(), mesh=mesh)
        train(net, module.Exported(net.parameters(), 0.1, 50, **options), halves)
        for p, q in zip(net.parameters(), alone.parameters()):
            torch.testing.assert_close(p.full_tensor(), q, rtol=1e-4, atol=1e-5)
dist.destroy_process_group()
print("agree", flush=True)
os._exit(0)  # see tests/compile/distributed_worker.py
"""


@pytest.mark.timeout(300)
def test_two_processes_data_parallel_and_sharded(exported_files) -> None:
    """Elementwise, norms, matrices and random draws, the last three over all shards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    files = [str(exported_files[name]) for name in ("opt6", "a5", "muon", "draws")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(rank), port, *files], stdout=-1, stderr=-1, text=True, env=environment)
        for rank in range(2)
    ]
    try:
        for worker in workers:
            out, error = worker.communicate(timeout=250)
            assert out.strip() == "agree", error[-3000:]
    finally:
        for worker in workers:
            worker.kill()
