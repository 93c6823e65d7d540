"""What every test gets: two threads at most, fixed seeds, a skip where a missing CUDA device is needed."""

from __future__ import annotations

import os
import random

# Before torch is loaded: OpenMP's threads sleep while they wait for work. By default they spin, and a test run beside
# anything else that is busy then slows down tenfold and more.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch

# Sums depend on how many threads share them: with a fixed small number a laptop and CI get the same ones.
torch.set_num_threads(min(2, torch.get_num_threads()))

# Without a GPU the kernels are tested in Triton's interpreter, which must be chosen before triton is imported. Ops take
# it on the CPU only when asked for (impl="triton"), so nothing else gets slower.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Start every test from the same global random states, alone or after any other test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
