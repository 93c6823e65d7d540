"""What impl="auto" takes on CUDA: a look-up in a table of measurements."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.dispatch import auto_takes_triton
from fastgen.kernels.masked_conv2d.configurations import FLAT_BELOW
from fastgen.kernels.masked_conv2d.table import TABLE

Key = tuple[str, str, str, int]


def table_key(
    capability: tuple[int, int],
    dtype: torch.dtype,
    *,
    tf32: bool,
    gated: bool,
    training: bool,
    inputs: int,
    outputs: int,
) -> Key:
    """("9.0", "bfloat16", "gated training", 256): channels are the larger of both sides, up to a power of two.

    "image" leads the kind of a layer with few input channels, which the kernels sum in another way.
    """
    name = "tf32" if dtype == torch.float32 and tf32 else str(dtype).removeprefix("torch.")
    kind = (
        "image " * (inputs < FLAT_BELOW) + ("gated " if gated else "plain ") + ("training" if training else "forward")
    )
    return f"{capability[0]}.{capability[1]}", name, kind, 1 << (max(inputs, outputs) - 1).bit_length()


def tf32_allowed() -> bool:
    """Whether convolutions may round float32 to TF32, as cuDNN is told; torch.backends.cudnn.allow_tf32 sets it too."""
    return bool(torch.backends.cudnn.conv.fp32_precision == "tf32")  # type: ignore[attr-defined]


def auto_is_triton(x: Tensor, weight: Tensor, dtype: torch.dtype, *, gated: bool, training: bool) -> bool:
    """Tell whether "auto" takes the kernels: where they were measured to be the faster ones."""
    if not TABLE or dtype == torch.float64 or not auto_takes_triton(x.device):
        return False
    capability, tf32 = _machine(x.device)
    outputs, inputs = weight.shape[:2]
    key = table_key(capability, dtype, tf32=tf32, gated=gated, training=training, inputs=inputs, outputs=outputs)
    return TABLE.get(key) == "triton"


@torch.compiler.assume_constant_result  # torch.compile cannot look into it
def _machine(device: torch.device) -> tuple[tuple[int, int], bool]:
    return torch.cuda.get_device_capability(device), tf32_allowed()
