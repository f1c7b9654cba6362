"""What all tests share: one thread per process, and where real data lies if it is there."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A test run in the background inherits an ignored Ctrl-C, and so would the runs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run in parallel processes; more threads per process only make them wait for each other. Set before any test imports torch.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "agg")

# Machines that run tests are shared and slow at times: a deadline per example would fail by chance.
settings.register_profile("optevolve", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("optevolve")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the authors' reference files and real data; tests that need it are skipped visibly where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference files and data beside the repository ({SHARED.name}/)")
    return SHARED


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """The folder of data sets in the Hub's layout, as `--data` takes it."""
    if not (shared / "data").is_dir():
        pytest.skip("no data folder beside the repository")
    return shared / "data"
