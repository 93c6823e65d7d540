"""1x1 convolutions as matrix products."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._cpu.eager import eager_on_cpu

MOST_WEIGHTS = 2**13
"""Up to so many weights a product is quicker than the library's convolution, with its gradients up to twice; with many
more it is slower (`python -m bench run --filter conv1x1`)."""


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.conv2d` with a 1x1 kernel, in training on a CPU by a matrix product where that is quicker.

    Shapes: x [N, Ci, H, W], weight [Co, Ci, 1, 1], bias [Co] -> [N, Co, H, W].
    Dtypes, gradient order, errors: those of `F.conv2d`.
    """
    gains = torch.is_grad_enabled() and weight.numel() <= MOST_WEIGHTS and x.is_contiguous()
    if not (gains and x.ndim == 4 and x.dtype == weight.dtype and eager_on_cpu(x)) or torch.is_autocast_enabled("cpu"):
        return F.conv2d(x, weight, bias)
    n, _, height, width = x.shape
    flat, matrix = x.flatten(2), weight.flatten(1).expand(n, -1, -1)
    y = torch.bmm(matrix, flat) if bias is None else torch.baddbmm(bias[:, None], matrix, flat)
    return y.view(n, -1, height, width)
