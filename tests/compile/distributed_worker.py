"""One of two processes that train in parallel and compare with training alone; see `test_distributed`."""

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from optevolve.compile import build, class_of
from optevolve.library import ZOO
from optevolve.space import parse
from tests.compile.agreement import random_rules
from tests.compile.selection import ZOO_NAMES

TOTAL = 50
DRAWS_AND_MATRICES = [
    "dropout(qhm(v), 0.3) + noise",
    "orthogonalize(g) + row_normalize(g) + column_normalize(v) + normalize(g)",
    "clip_norm(v_hat) * bessel_i1e(a13 * g)",
]
# Axis 0 over two processes: even, uneven, and with nothing for the second.
SHAPES = [(4, 3), (3,), (1, 5)]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))


def train(net, optimizer, xs) -> None:
    for x in xs:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def compare(rule, what: str, got, expected) -> None:
    for p, q in zip(got, expected, strict=True):
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(
            whole.detach(), q.detach(), rtol=1e-3, atol=1e-5, equal_nan=True, msg=lambda text: f"{rule}, {what}: {text}"
        )


def check_models(rule, rank: int, mesh) -> None:
    """Each process has half of the data; gradients are averaged, and parameters kept whole (DDP) or in shards (FSDP2)."""
    torch.manual_seed(1)
    data = torch.randn(2, 8, 4)
    halves = data[:, rank * 4 : rank * 4 + 4]
    alone = model()
    train(alone, build(rule, alone.parameters(), 0.01, TOTAL), data)
    net = DistributedDataParallel(model())
    train(net, build(rule, net.parameters(), 0.01, TOTAL), halves)
    compare(rule, "DDP", net.parameters(), alone.parameters())
    for options in ({}, {"foreach": True}, {"capturable": True}, {"fused": True}, {"flat": True}):
        net = model()
        fully_shard(net, mesh=mesh)
        optimizer = build(rule, net.parameters(), 0.01, TOTAL, **options)
        train(net, optimizer, halves)
        compare(rule, f"FSDP2 {options}", net.parameters(), alone.parameters())
        state = optimizer.state_dict()["state"][0]
        assert all(isinstance(value, DTensor) for key, value in state.items() if key != "step"), state


def check_zero_redundancy(rule, rank: int) -> None:
    """Each process steps half of the parameters, which are views of one buffer for each process, and sends them to the other."""
    torch.manual_seed(1)
    data = torch.randn(7, 8, 4)
    alone = model()
    train(alone, build(rule, alone.parameters(), 0.01, TOTAL), data)
    net = DistributedDataParallel(model())
    optimizer = ZeroRedundancyOptimizer(
        net.parameters(), optimizer_class=class_of(rule), lr=0.01, total_steps=TOTAL, parameters_as_bucket_view=True
    )
    train(net, optimizer, data[:, rank * 4 : rank * 4 + 4])
    compare(rule, "ZeRO", net.parameters(), alone.parameters())


def check_sharded_tensors(rule, mesh) -> None:
    """Parameters and gradients as DTensors step as whole ones do, and so do their states after a checkpoint."""
    torch.manual_seed(2)
    starts, gradients = [torch.randn(shape) for shape in SHAPES], [[torch.randn(shape) for shape in SHAPES] for _ in range(2)]
    whole = [torch.nn.Parameter(start.clone()) for start in starts]
    shards = [torch.nn.Parameter(distribute_tensor(start, mesh, [Shard(0)])) for start in starts]
    first, second = build(rule, whole, 0.01, TOTAL), build(rule, shards, 0.01, TOTAL)
    for i, row in enumerate(gradients):
        if i == 1:
            saved = second.state_dict()
            second = build(rule, shards, 0.5, TOTAL)
            second.load_state_dict(saved)
        for p, q, g in zip(whole, shards, row, strict=True):
            p.grad, q.grad = g, distribute_tensor(g, mesh, [Shard(0)])
        first.step()
        second.step()
    compare(rule, "DTensor", shards, whole)


def main(rank: int, port: int) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (2,))
    named = [*(ZOO[name].rule for name in ZOO_NAMES), *map(parse, DRAWS_AND_MATRICES)]
    for rule in named:
        check_models(rule, rank, mesh)
    for rule in [ZOO[name].rule for name in ("adam", "opt6", "nesterov", "muon")] + [parse(DRAWS_AND_MATRICES[2])]:
        check_zero_redundancy(rule, rank)
    for rule in [*named, *random_rules(200)]:
        check_sharded_tensors(rule, mesh)
    dist.destroy_process_group()
    print("agree", flush=True)
    # Torch's gloo threads may still be letting go of the last collective's tensors. For that they ask for the interpreter's lock, and where
    # the interpreter is ending, the process dies of it, what it has printed unwritten.
    os._exit(0)
