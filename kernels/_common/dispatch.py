"""Which implementation of an op runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch

from fastgen.kernels._common.tiling import runs_triton

_plain: ContextVar[bool] = ContextVar("fastgen_plain_operations", default=False)


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Inside, impl="auto" takes plain PyTorch operations, which those who record a model can look into."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def recording() -> bool:
    """Tell whether somebody looks into the operations: inside `plain_operations`."""
    return _plain.get()


def auto_takes_triton(device: torch.device) -> bool:
    """Tell whether impl="auto" may take a Triton kernel on a device: on CUDA, outside of `plain_operations`."""
    return device.type == "cuda" and not _plain.get() and runs_triton(device)
