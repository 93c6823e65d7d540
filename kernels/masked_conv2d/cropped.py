"""The convolution over the rows and columns that hold live taps, in plain PyTorch: what a CPU and cuDNN run.

Live taps are the first ones of the window in raster order, so the window is cut after the last live row (and column,
where one row is left), and only the tail of that row is filled with zeros. Everything is an ordinary differentiable
operation that a recorder of models can look into.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._cpu.products import conv1x1
from fastgen.kernels.masked_conv2d.reference import epilogue


def live_window(
    weight: Tensor, taps: int, strict: bool, in_groups: Tensor | None = None, out_groups: Tensor | None = None
) -> Tensor:
    """The kernel that runs: [Co, Ci, rows, columns], zero where a tap is dead. Dead taps of `weight` are not read."""
    kw = weight.shape[3]
    rows = -(-taps // kw)
    columns = kw if rows > 1 else taps
    live = weight[:, :, :rows, :columns]
    if in_groups is None and taps == rows * columns:
        return live
    tap = torch.arange(rows * columns, device=weight.device).view(rows, columns)
    dead = tap >= taps
    if in_groups is not None and out_groups is not None:
        source, target = in_groups, out_groups[:, None]
        unseen = source >= target if strict else source > target
        dead = dead | ((tap == taps - 1) & unseen[:, :, None, None])
    # not a product: what is stored at dead taps may be inf or nan, and their gradient is exactly zero
    return live.masked_fill(dead, 0.0)


def masked_conv2d_cropped(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    taps: int,
    center: tuple[int, int],
    strict: bool,
    stride: int,
    dilation: int,
    gate: str | None,
    condition: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """`masked_conv2d` after its checks; `strict` is mask "A"."""
    live = live_window(weight, taps, strict, in_groups, out_groups)
    height, width = (-(-size // stride) for size in x.shape[2:])
    if live.shape[2:] == (1, 1) and stride == 1 and center == (0, 0):
        return epilogue(conv1x1(x, live, bias), gate, condition, residual)
    top, left = dilation * center[0], dilation * center[1]
    right = dilation * (live.shape[3] - 1) - left
    both = max(0, min(left, right))  # what the convolution itself can pad
    if top or left > both:
        x = F.pad(x, (left - both, 0, top, 0))
    y = F.conv2d(x, live, bias, stride=stride, padding=(0, both), dilation=dilation)
    if y.shape[2] > height:  # no live tap in the row of the pixel
        y = y[:, :, :height]
    if y.shape[3] > width:
        y = y[:, :, :, :width]
    return epilogue(y, gate, condition, residual)
