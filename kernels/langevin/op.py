"""The registered op: it takes Triton where it can run on the tensors, and PyTorch elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.langevin.reference import langevin_step_reference, scales

NO_GRADIENT = (
    "the kernel has no gradient, a chain is a constant for what is learned from it; got a request for one; "
    "use impl='reference', which has any, or detach x and gradient."
)


@register_op(
    "langevin_step",
    fake=lambda x, gradient, *options: torch.empty_like(x, memory_format=torch.contiguous_format),
    no_gradient=NO_GRADIENT,
)
def langevin_step(
    x: Tensor,
    gradient: Tensor,
    step_size: float,
    temperature: float,
    seed: int,
    step: int,
    first_image: int,
    low: float,
    high: float,
    impl: str,
) -> Tensor:
    """What the step makes of x, contiguous; the seed is signed, as a schema's int is."""
    wanted = impl == "triton" or x.device.type == "cuda"
    if wanted and x.dtype != torch.float64 and runs_triton(x.device):
        from fastgen.kernels.langevin import triton as kernels

        return kernels.langevin_step(x, gradient, *scales(step_size, temperature), seed, step, first_image, low, high)
    moved = langevin_step_reference(
        x,
        gradient,
        step_size=step_size,
        temperature=temperature,
        seed=seed % 2**64,
        step=step,
        first_image=first_image,
        low=low,
        high=high,
    )
    return moved.contiguous()
