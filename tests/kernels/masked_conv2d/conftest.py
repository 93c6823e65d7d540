"""Inputs for masked convolutions, and value and gradients of one in any implementation and precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Make = Callable[..., Tensors]
Differentiate = Callable[..., Tensors]


@pytest.fixture
def make() -> Make:
    """Tensors by name: x, weight, bias, and condition ("image" or "pixel") and residual where asked for."""

    def build(
        ci: int = 3,
        co: int = 4,
        kernel: tuple[int, int] = (3, 3),
        size: tuple[int, int] = (5, 6),
        *,
        n: int = 2,
        stride: int = 1,
        gate: str | None = None,
        bias: bool = True,
        condition: str | None = None,
        residual: bool = False,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        seed: int = 0,
    ) -> Tensors:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

        height, width = (-(-length // stride) for length in size)
        tensors = {"x": draw(n, ci, *size), "weight": draw(co, ci, *kernel) * (ci * kernel[0] * kernel[1]) ** -0.5}
        if bias:
            tensors["bias"] = draw(co)
        if condition is not None:
            tensors["condition"] = draw(n, co) if condition == "image" else draw(n, co, height, width)
        if residual:
            tensors["residual"] = draw(n, co // 2 if gate else co, height, width)
        return tensors

    return build


@pytest.fixture
def differentiate() -> Differentiate:
    """The result "y", and the gradient by each tensor of a fixed weighting of it, by the tensor's name."""

    def run(
        function: Callable[..., Tensor], tensors: Tensors, dtype: torch.dtype | None = None, **options: Any
    ) -> Tensors:
        leaves = {key: tensor.detach().to(dtype or tensor.dtype).requires_grad_() for key, tensor in tensors.items()}
        y = function(**leaves, **options)
        weighting = torch.linspace(-1, 1, max(1, y.numel()), dtype=torch.float64)[: y.numel()]
        # gradients as their own layout comes along: channels first here, whatever y is
        gradients = torch.autograd.grad(y, list(leaves.values()), weighting.view(y.shape).to(y))
        return {"y": y.detach(), **dict(zip(leaves, gradients))}

    return run
