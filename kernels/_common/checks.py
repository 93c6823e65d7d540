"""Checks that several ops make, with errors that say the invariant, what came, and the remedy."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.tiling import interpreting, runs_triton, triton_installed

IMPLS = ("auto", "triton", "reference")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LIMIT = 2**31  # offsets within one image are 32 bits wide in the kernels


def shape_of(tensor: Tensor) -> str:
    """Write a shape for an error message: [8, 3, 32, 32]."""
    return str([int(size) for size in tensor.shape])


def check_impl(name: str, impl: str, device: torch.device) -> None:
    """Refuse an unknown `impl`, and "triton" where Triton cannot run.

    Raises:
        ValueError: `impl` is none of "auto", "triton", "reference".
        RuntimeError: impl="triton" on a device or in an installation that cannot run it.
    """
    if impl == "auto":
        return
    if impl not in IMPLS:
        raise ValueError(f"{name}: impl must be one of {', '.join(map(repr, IMPLS))}; got {impl!r}.")
    if impl == "triton" and not runs_triton(device):
        if not triton_installed():
            remedy = "triton is not installed; install it, or use impl='auto'."
        elif device.type == "cuda" and interpreting():
            remedy = "TRITON_INTERPRET=1 is set, which serves CPU tensors; unset it."
        else:
            remedy = "move the tensors to CUDA, use impl='auto', or set TRITON_INTERPRET=1 to test kernels."
        raise RuntimeError(f"{name}: impl='triton' cannot run on {device.type} tensors here; {remedy}")


def check_float(name: str, argument: str, tensor: Tensor) -> None:
    """Refuse what is not a floating-point tensor.

    Raises:
        TypeError: another dtype.
    """
    if tensor.dtype not in FLOATS:
        raise TypeError(f"{name}: {argument} must be float16, bfloat16, float32 or float64; got {tensor.dtype}.")


def check_same_device(name: str, **tensors: Tensor) -> None:
    """Refuse tensors on more than one device.

    Raises:
        ValueError: two of them are on different devices.
    """
    first, *others = tensors.values()
    if any(other.device != first.device for other in others):
        places = ", ".join(f"{key} on {tensor.device}" for key, tensor in tensors.items())
        raise ValueError(f"{name}: all tensors must be on one device; got {places}; move them.")


def check_levels(name: str, x: Tensor, levels: int) -> None:
    """Refuse uint8 levels of `levels` or above, and float values that are NaN or outside [-1, 1]. Reads the data.

    Raises:
        ValueError: a value is out of range.
    """
    if not x.numel():
        return
    if x.dtype == torch.uint8:
        if levels < 256 and int(x.max()) >= levels:
            raise ValueError(
                f"{name}: x must hold levels 0..{levels - 1}; got {int(x.max())}; quantize x to {levels} levels or "
                "pass the right number of bits."
            )
        return
    low, high = (float(value) for value in torch.aminmax(x))
    if not (low >= -1 - RANGE_SLACK and high <= 1 + RANGE_SLACK):  # false for NaN too
        raise ValueError(
            f"{name}: float x must lie in [-1, 1]; got {low:g}..{high:g}; pass uint8 levels or scale x by "
            "2 * level / (levels - 1) - 1."
        )


RANGE_SLACK = 1e-4  # rounding of the scaling to [-1, 1]
