"""Resampling step by step in plain PyTorch: the oracle of the kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

HALVES = (torch.float16, torch.bfloat16)


def upfirdn2d_reference(
    x: Tensor,
    f: Tensor,
    up: Sequence[int] = (1, 1),
    down: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    flip_filter: bool = False,
    gain: float = 1.0,
) -> Tensor:
    """y = (gain f * pad(insert zeros(x)))[::down]; see `upfirdn2d`.

    Shapes: x [N, C, H, W], f [Kh, Kw] or [K] for both axes -> [N, C, H', W'].
    up, down: (of columns, of rows). padding: (left, right, top, bottom), negative ones crop.
    Dtypes: float16 and bfloat16 in float32 and rounded once; others in their own.
    Gradient order: any, by x and f.
    Raises: nothing of its own; `upfirdn2d` checks.
    Source: Vaidyanathan, "Multirate Systems and Filter Banks", 1993, chapter 4.
    """
    n, channels, height, width = x.shape
    (up_x, up_y), (down_x, down_y) = up, down
    dtype = x.dtype
    wide = x.float() if dtype in HALVES else x
    z = wide.reshape(n, channels, height, 1, width, 1)
    z = F.pad(z, (0, up_x - 1, 0, 0, 0, up_y - 1)).reshape(n, channels, height * up_y, width * up_x)
    z = F.pad(z, list(padding))
    f = f.to(z.dtype)
    if f.ndim == 1:
        f = f[:, None] * f[None, :]
    if not flip_filter:  # conv2d does not turn its window round
        f = f.flip(0, 1)
    if n * channels == 0:  # no convolution
        size = ((z.shape[2] - f.shape[0]) // down_y + 1, (z.shape[3] - f.shape[1]) // down_x + 1)
        return (z.sum() + torch.zeros(n, channels, *size, dtype=z.dtype, device=z.device)).to(dtype)
    y = F.conv2d(z.reshape(n * channels, 1, *z.shape[2:]), (f * gain)[None, None])[:, :, ::down_y, ::down_x]
    return y.reshape(n, channels, *y.shape[2:]).to(dtype)
