"""Batch norm with the statistics of the batches of all processes together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """y = (x - m) / sqrt(v + eps) * weight + bias, in training with m and v over the batches of all processes.

    Every process must have as many values as the others, and take each training step with them. In eval mode, and
    in a process alone, it is the batch norm of PyTorch. `torch.nn.SyncBatchNorm` needs CUDA and has no second
    derivative, which penalties of a discriminator's gradient take; this one runs on any device and has all orders.

    Shapes: x [N, C, *spatial]. Dtypes: statistics at least in float32.
    Gradient order: any.
    Raises: ValueError for inputs of fewer than two dimensions.
    Source: Ioffe and Szegedy, "Batch Normalization", ICML 2015.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"SyncBatchNorm: x must be [N, C, *spatial]; got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Shapes: [N, C, *spatial] -> the same."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype == torch.float64 else input.float()
        others = [axis for axis in range(x.dim()) if axis != 1]
        var, mean = torch.var_mean(x, others, correction=0)
        n = x.numel() // x.shape[1] * dist.get_world_size()
        own = torch.stack((mean, var))
        rows = [own if rank == dist.get_rank() else torch.zeros_like(own) for rank in range(dist.get_world_size())]
        means, variances = _Sum.apply(torch.stack(rows, 1))
        mean = means.mean(0)
        var = (variances + (means - mean).square()).mean(0)  # no difference of large numbers
        if self.track_running_stats:
            self._follow(mean.detach(), var.detach() * (n / max(n - 1, 1)))
        shape = [1, -1] + [1] * (x.dim() - 2)
        y = (x - mean.view(shape)) * torch.rsqrt(var + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, var: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(var.to(self.running_var.dtype), rate)


class _Sum(torch.autograd.Function):
    """The sum over the processes, whose gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())


def synchronize_batch_norm(module: nn.Module) -> nn.Module:
    """Make every batch norm in `module` a `SyncBatchNorm`, with the same weights and buffers; return the module."""
    for part in module.modules():
        if isinstance(part, _BatchNorm) and not isinstance(part, SyncBatchNorm):
            part.__class__ = SyncBatchNorm
    return module
