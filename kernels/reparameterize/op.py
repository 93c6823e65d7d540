"""The registered ops: each takes Triton where it can run on the tensors, and PyTorch elsewhere.

Nothing is kept for the backward but the arguments: it draws the noise again.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.reparameterize.analytic import reparameterize_gradient
from fastgen.kernels.reparameterize.reference import reparameterize_reference, working_dtype

NO_SECOND = (
    "the kernel has a first derivative only; got a request for a second one; use impl='reference', which has any."
)


def _use_triton(impl: str, tensor: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or tensor.device.type == "cuda"
    return wanted and tensor.dtype != torch.float64 and runs_triton(tensor.device)


def _empty(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@register_op(
    "reparameterize_backward",
    fake=lambda grad_z, grad_kl, mean, log_var, noise, seed, first_image, impl: (_empty(mean), _empty(log_var)),
    no_gradient=NO_SECOND,
)
def reparameterize_backward(
    grad_z: Optional[Tensor],  # noqa: UP045  the schema is read from these words on Python 3.10 too
    grad_kl: Optional[Tensor],  # noqa: UP045
    mean: Tensor,
    log_var: Tensor,
    noise: Optional[Tensor],  # noqa: UP045
    seed: int,
    first_image: int,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """Gradients by mean and log_var; None is a gradient of zeros."""
    if _use_triton(impl, mean):
        from fastgen.kernels.reparameterize import triton as kernels

        return kernels.reparameterize_backward(grad_z, grad_kl, mean, log_var, noise, seed, first_image)
    by_mean, by_log_var = reparameterize_gradient(grad_z, grad_kl, mean, log_var, noise, seed % 2**64, first_image)
    return by_mean.contiguous(), by_log_var.contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mean, log_var, noise, *ctx.options = inputs
    ctx.set_materialize_grads(False)  # a loss may use one of the results alone
    ctx.save_for_backward(mean, log_var, noise)


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Any, ...]:
    if grad_z is None and grad_kl is None:
        return None, None, None, None, None, None
    by_mean, by_log_var = reparameterize_backward(grad_z, grad_kl, *ctx.saved_tensors, *ctx.options)
    return by_mean, by_log_var, None, None, None, None


@register_op(
    "reparameterize_forward",
    fake=lambda mean, log_var, noise, seed, first_image, impl: (
        _empty(mean),
        mean.new_empty(mean.shape[:1], dtype=working_dtype(mean)),
    ),
    setup_context=_save,
    backward=_backward,
)
def reparameterize_forward(
    mean: Tensor,
    log_var: Tensor,
    noise: Optional[Tensor],  # noqa: UP045
    seed: int,
    first_image: int,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """z [N, *latent], contiguous, and kl [N]."""
    if _use_triton(impl, mean):
        from fastgen.kernels.reparameterize import triton as kernels

        z, kl = kernels.reparameterize_forward(mean, log_var, noise, seed, first_image)
    else:
        z, kl = reparameterize_reference(mean, log_var, noise, seed=seed % 2**64, first_image=first_image)
    return z.contiguous(), kl.contiguous()
