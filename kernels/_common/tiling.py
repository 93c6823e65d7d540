"""Whether and how Triton can run here. Imports Triton only inside functions."""

from __future__ import annotations

import importlib.util
import os

import torch

# The releases disagree on the default and one warns when it is not set; our error budgets assume fused
# multiply-adds. It must be set before triton is imported, and a choice made outside stands.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")


def _find_triton() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except ImportError:  # an import hook that refuses it
        return False


_INSTALLED = _find_triton()


def triton_installed() -> bool:
    """Tell whether triton can be imported, without importing it."""
    return _INSTALLED


def interpreting() -> bool:
    """Tell whether kernels run in Triton's interpreter, which serves CPU tensors: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def runs_triton(device: torch.device) -> bool:
    """Tell whether a Triton kernel can run on tensors of a device."""
    if not triton_installed():
        return False
    return (device.type == "cuda" and not interpreting()) or (device.type == "cpu" and interpreting())


def power_of_two_tiles(n: int, largest: int) -> tuple[tuple[int, int], ...]:
    """Cut range(n) into (start, width) tiles whose widths are powers of two, the widest first: 10 = 8 + 2.

    Raises:
        ValueError: n < 0, or `largest` is not a power of two.
    """
    if n < 0 or largest < 1 or largest & (largest - 1):
        raise ValueError(f"power_of_two_tiles: n must not be negative and largest a power of two; got {n}, {largest}.")
    tiles, start = [], 0
    while start < n:
        width = min(largest, 1 << ((n - start).bit_length() - 1))
        tiles.append((start, width))
        start += width
    return tuple(tiles)
