"""Bilinear sampling at a grid of points, with a second derivative by the image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def grid_sample(x: Tensor, grid: Tensor) -> Tensor:
    """y[n, c, i, j] = x[n, c] at the point grid[n, i, j] by bilinear interpolation, zero outside.

    `torch.nn.functional.grid_sample` with align_corners=False has a first derivative only; a penalty on the gradient of
    a discriminator behind a geometric augmentation needs a second. y is linear in x, so here that is another sampling.

    Shapes: x [N, C, H, W], grid [N, H', W', 2] of (column, row) in [-1, 1] -> [N, C, H', W'].
    Dtypes: float32 or float64, one for both (under autocast that of x).
    Gradient order: by x any, by the grid first.
    Raises: ValueError for shapes that do not fit; RuntimeError for a second derivative that the grid is part of.
    Source: Jaderberg et al., "Spatial Transformer Networks", NeurIPS 2015, section 3.3.
    """
    if x.ndim != 4 or grid.ndim != 4 or grid.shape[0] != x.shape[0] or grid.shape[3] != 2:
        raise ValueError(
            f"grid_sample: x must be [N, C, H, W] and grid [N, H', W', 2]; got {list(x.shape)} and {list(grid.shape)}."
        )
    y: Tensor = _Sample.apply(x, grid.to(x.dtype))
    return y


class _Sample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(x, grid)
        return F.grid_sample(x, grid, align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        x, grid = ctx.saved_tensors
        return _SampleBackward.apply(grad, x, grid, ctx.needs_input_grad[1])


class _SampleBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, grid: Tensor, by_grid: bool) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(grid)
        ctx.set_materialize_grads(False)
        mask = [True, by_grid]
        return torch.ops.aten.grid_sampler_2d_backward(grad, x, grid, 0, 0, False, mask)

    @staticmethod
    def backward(ctx: Any, by_x: Tensor | None, by_grid: Tensor | None) -> tuple[Any, ...]:
        (grid,) = ctx.saved_tensors
        if by_grid is not None or ctx.needs_input_grad[2]:
            raise RuntimeError(
                "grid_sample: a second derivative is by the image alone; got one that the grid is part of; detach the "
                "grid."
            )
        return None if by_x is None else _Sample.apply(by_x, grid), None, None, None
