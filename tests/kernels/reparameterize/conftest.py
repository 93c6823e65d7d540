"""Inputs for the reparameterised Gaussian, and its results with their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor


@pytest.fixture
def make() -> Callable[..., tuple[Tensor, Tensor]]:
    """mean and log_var of a shape; some log-variances are tiny, some are large."""

    def build(
        shape: tuple[int, ...], *, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        mean, log_var = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        log_var.flatten()[::7] *= 1e-3
        log_var.flatten()[::11] *= 5
        log_var.clamp_(max=6)  # float16 ends at e^11
        return mean.to(device, dtype), log_var.to(device, dtype)

    return build


@pytest.fixture
def run() -> Callable[..., list[Tensor]]:
    """z and kl of a function of mean and log_var, and the gradients by both, for fixed gradients of z and kl."""

    def values(
        function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], mean: Tensor, log_var: Tensor
    ) -> list[Tensor]:
        leaves = [t.detach().requires_grad_() for t in (mean, log_var)]
        z, kl = function(*leaves)
        by_z = torch.linspace(-1, 2, z.numel(), dtype=torch.float64).reshape(z.shape).to(z)
        by_kl = torch.linspace(0.5, 1, kl.numel(), dtype=torch.float64).to(kl)
        return [z.detach(), kl.detach(), *torch.autograd.grad([z, kl], leaves, [by_z, by_kl])]

    return values


@pytest.fixture(
    params=["halves", "columns first", "channels last", "expanded", "one log-variance", "every other image"]
)
def in_layout(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Views of mean and log_var [4, 6, 5] in other strides, some of them of other values."""

    def views(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        if request.param == "halves":
            return torch.cat((mean, log_var), 1).chunk(2, 1)
        if request.param == "columns first":
            return mean.mT.contiguous().mT, log_var.mT.contiguous().mT
        if request.param == "channels last":
            mean, log_var = (t.reshape(4, 3, 2, 5) for t in (mean, log_var))
            return tuple(t.contiguous(memory_format=torch.channels_last) for t in (mean, log_var))
        if request.param == "expanded":
            return mean, log_var[:, :1, :1].expand_as(log_var)
        if request.param == "one log-variance":
            return mean, log_var[:1].expand_as(log_var)
        return mean[::2], log_var[::2]

    return views
