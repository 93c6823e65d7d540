"""The gradient in plain PyTorch from the arguments alone: what the registered op runs where Triton does not."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels.reparameterize.reference import normal_noise, working_dtype


def reparameterize_gradient(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    log_var: Tensor,
    noise: Tensor | None,
    seed: int,
    first_image: int,
) -> tuple[Tensor, Tensor]:
    """Gradients by mean and log_var; None is a gradient of zeros. Without `noise` it is drawn again."""
    dtype = working_dtype(mean)
    by_mean = torch.zeros_like(mean, dtype=dtype)
    by_log_var = torch.zeros_like(mean, dtype=dtype)
    wide = log_var.to(dtype)
    if grad_z is not None:
        grad_z = grad_z.to(dtype)
        if noise is None:
            noise = normal_noise(seed, mean.shape, first_image=first_image, dtype=dtype, device=mean.device)
        by_mean += grad_z
        by_log_var += torch.exp(wide / 2).mul_(noise).mul_(grad_z).mul_(0.5)
    if grad_kl is not None:
        grad_kl = grad_kl.to(dtype).reshape(-1, *(1,) * (mean.ndim - 1))
        by_mean.addcmul_(mean.to(dtype), grad_kl)
        by_log_var.addcmul_(torch.expm1(wide), grad_kl, value=0.5)
    return by_mean.to(mean.dtype), by_log_var.to(log_var.dtype)
