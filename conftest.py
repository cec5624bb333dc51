"""What every test runs under: no network, few threads, no progress bars, a cache of its own."""

from __future__ import annotations

import os
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, settings

TIMEOUT = 120.0
"""Seconds that a test may take on an idle machine; none takes more than twenty."""

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DIDAE_PROGRESS"] = "0"
_CACHE = tempfile.TemporaryDirectory(prefix="didae-cache-")
os.environ["DIDAE_CACHE"] = _CACHE.name
if "PYTEST_XDIST_WORKER" in os.environ:
    # Beside other workers, a process gets one core, and so do those that it starts.
    os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))

# Time limits would make tests depend on what else the machine does; a contract's test methods are
# shared by the classes of all components on purpose.
settings.register_profile(
    "didae",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],
)
settings.load_profile("didae")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give a test as much more time as the machine has other work to do."""
    busy = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0
    config.option.timeout = TIMEOUT * max(1.0, busy)
