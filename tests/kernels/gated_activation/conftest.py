"""Inputs for gates in any layout, and values with their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Inputs = dict[str, Tensor]


@pytest.fixture
def make() -> Callable[..., Inputs]:
    """x [n, channels, *spatial] with a few large values, and bias (0, 1 or 2 dimensions), residual where asked for."""

    def build(
        channels: int,
        spatial: tuple[int, ...] = (3, 5),
        *,
        n: int = 2,
        bias: int = 0,
        residual: bool = False,
        last: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n, channels, *spatial, generator=generator, dtype=torch.float64) * 2
        x.flatten()[::17] *= 1e-3
        x.flatten()[::29] *= 20
        inputs = {"x": x.contiguous(memory_format=torch.channels_last) if last else x}
        if bias:
            inputs["bias"] = torch.randn((n, channels)[2 - bias :], generator=generator, dtype=torch.float64)
        if residual:
            inputs["residual"] = torch.randn(n, channels // 2, *spatial, generator=generator, dtype=torch.float64)
        return {name: value.to(device, dtype) for name, value in inputs.items()}

    return build


@pytest.fixture
def run() -> Callable[..., list[Tensor]]:
    """The value of a function of named tensors and its gradients by all of them, for a fixed gradient of the value."""

    def values(function: Callable[..., Tensor], inputs: Inputs) -> list[Tensor]:
        leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
        value = function(**leaves)
        grad = torch.empty_like(value)  # in its layout
        grad.copy_(torch.linspace(-1, 2, value.numel(), dtype=torch.float64).reshape(value.shape))
        return [value.detach(), *torch.autograd.grad(value, list(leaves.values()), grad)]

    return values
