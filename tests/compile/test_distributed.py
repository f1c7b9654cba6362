"""Data parallelism over two processes for every zoo rule and 200 random rules: DDP, FSDP2 and plain DTensors over gloo, on the CPU.

Both processes join one group and go through all rules in it.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# What both processes run, given their rank and a port.
WORKER = """
import sys
from tests.compile.distributed_worker import main
main(int(sys.argv[1]), int(sys.argv[2]))
"""


@pytest.mark.timeout(300)
def test_two_processes_agree_with_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(port)], stdout=-1, stderr=-1, text=True, env={**os.environ, **environment},
            cwd=Path(__file__).resolve().parents[2],
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for worker in workers:
            out, error = worker.communicate(timeout=280)
            assert (out.strip(), worker.returncode) == ("agree", 0), out[-2000:] + error[-3000:]
    finally:
        for worker in workers:
            worker.kill()
