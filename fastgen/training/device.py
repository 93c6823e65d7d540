"""Which device a run takes, and what its numbers depend on."""

from __future__ import annotations

import platform
from typing import Any

import torch
from torch import Tensor


def pick_device(name: str) -> torch.device:
    """Turn "auto" (CUDA if there is one) or a device's name into a device that works.

    Raises:
        ValueError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"device: {name!r} cannot be used here ({first}); use auto, cpu or cuda") from error
    return device


def environment(device: torch.device) -> dict[str, Any]:
    """What a result's numbers depend on besides the recipe."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
    }


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """Copy a batch to the device; from pinned memory that does not wait for the GPU to end the last step."""
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)
