"""Bilinear sampling: PyTorch's values, and a second derivative by the image."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fastgen.nn import grid_sample


def test_derivatives() -> None:
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    grid = (torch.rand(2, 3, 4, 2, dtype=torch.float64) * 2.4 - 1.2).requires_grad_()
    torch.testing.assert_close(grid_sample(x, grid), F.grid_sample(x, grid, align_corners=False))
    assert torch.autograd.gradcheck(grid_sample, (x, grid))
    assert torch.autograd.gradgradcheck(lambda x: grid_sample(x, grid.detach()).sin(), x)


def test_refused() -> None:
    x, grid = torch.randn(1, 1, 4, 4, requires_grad=True), torch.zeros(1, 2, 2, 2, requires_grad=True)
    (by_x,) = torch.autograd.grad(grid_sample(x, grid).square().sum(), x, create_graph=True)
    with pytest.raises(
        RuntimeError, match=r"grid_sample: a second derivative is by the image alone; .* detach the grid"
    ):
        by_x.square().sum().backward()
    with pytest.raises(ValueError, match=r"grid_sample: x must be \[N, C, H, W\].* got \[1, 4, 4\]"):
        grid_sample(x[0], grid)
