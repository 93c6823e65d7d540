"""The oracle: the whole window, every dead tap of it set to zero. Differentiable to any order, in any dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_conv2d_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    mask_type: str,
    stack: str = "raster",
    in_groups: Tensor | None = None,
    out_groups: Tensor | None = None,
    center: tuple[int, int] | None = None,
    stride: int = 1,
    dilation: int = 1,
    gate: str | None = None,
    condition: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """See `masked_conv2d`, which checks what it is given; channel groups come as one int32 number a channel."""
    kh, kw = weight.shape[2:]
    row, column = (kh // 2, kw // 2) if center is None else center
    mask = live_taps((kh, kw), (row, column), mask_type, stack, in_groups, out_groups, device=weight.device)
    live = torch.where(mask, weight, weight.new_zeros(()))
    before, after = (row, column), (kh - 1 - row, kw - 1 - column)
    padding = [dilation * size for pair in zip(before[::-1], after[::-1]) for size in pair]  # left, right, top, bottom
    y = F.conv2d(F.pad(x, padding), live, bias, stride=stride, dilation=dilation)
    return epilogue(y, gate, condition, residual)


def live_taps(
    kernel_size: tuple[int, int],
    center: tuple[int, int],
    mask_type: str,
    stack: str,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    device: torch.device | None = None,
) -> Tensor:
    """Live taps: bool [Co, Ci, kh, kw], with Co = Ci = 1 where there are no groups."""
    (kh, kw), (row, column) = kernel_size, center
    i, j = torch.arange(kh, device=device)[:, None], torch.arange(kw, device=device)
    if stack == "vertical":
        live = (i < row if mask_type == "A" else i <= row).expand(kh, kw)
        return live[None, None]
    before = (i < row) | ((i == row) & (j < column))
    here = (i == row) & (j == column)
    if in_groups is None or out_groups is None:
        return (before | here if mask_type == "B" else before)[None, None]
    source, target = in_groups, out_groups[:, None]
    seen = source < target if mask_type == "A" else source <= target
    return before | (here & seen[:, :, None, None])


def epilogue(y: Tensor, gate: str | None, condition: Tensor | None, residual: Tensor | None) -> Tensor:
    """residual + gate(y + condition)."""
    if condition is not None:
        y = y + (condition if condition.ndim == 4 else condition[:, :, None, None])
    if gate == "tanh":
        a, b = y.chunk(2, dim=1)
        y = torch.tanh(a) * torch.sigmoid(b)
    elif gate == "linear":
        y = F.glu(y, dim=1)
    return y if residual is None else y + residual
