"""The unfused heads in plain PyTorch: the oracle. Holds all parameters. Imports torch and the mixture's oracle only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels.dmol.reference import dmol_log_prob_reference


def working_dtype(features: Tensor) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def to_levels(x: Tensor, levels: int) -> Tensor:
    """Level nearest to each float value in [-1, 1]; uint8 levels as they are."""
    if x.dtype == torch.uint8:
        return x
    half = (levels - 1) / 2
    return (x.float() * half + half).round_().to(torch.uint8)


def categorical_log_prob(x: Tensor, logits: Tensor, levels: int) -> Tensor:
    """sum_c log softmax(logits_c)[x_c]. Shapes: x [N, C, *spatial] levels, logits [N, C levels, *spatial]."""
    blocks = logits.to(working_dtype(logits)).unflatten(1, (-1, levels))
    return F.log_softmax(blocks, 2).gather(2, x.long().unsqueeze(2)).squeeze(2).sum(1)


def convolve(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """W f + b of each pixel. Shapes: features [N, F, H, W], weight [P, F] or [P, F, 1, 1], bias [P] -> [N, P, H, W]."""
    weight = weight.reshape(*weight.shape[:2], 1, 1)
    if features.numel():
        return F.conv2d(features, weight, bias)
    # which refuses images without pixels; the sum ties the empty result to all three, for gradients of zero
    zero = weight.sum() if bias is None else weight.sum() + bias.sum()
    return features.sum(1, keepdim=True).expand(-1, len(weight), -1, -1) + zero


def dmol_head_log_prob_reference(
    features: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, *, bits: int = 8, tails: str = "exact"
) -> Tensor:
    """log p(x | params), params = W features + b; see `dmol_head_log_prob`.

    Shapes, dtypes: as there. Gradient order: any, with respect to features, weight and bias.
    Raises: nothing of its own.
    Source: Salimans et al., "PixelCNN++", ICLR 2017.
    """
    params = convolve(features, weight, bias)
    return dmol_log_prob_reference(x, params, bits=bits, tails=tails)


def categorical_head_log_prob_reference(
    features: Tensor, weight: Tensor, bias: Tensor | None, x: Tensor, *, levels: int = 256
) -> Tensor:
    """sum_c log softmax(logits_c)[x_c], logits = W features + b; see `categorical_head_log_prob`.

    Shapes, dtypes: as there. Gradient order: any, with respect to features, weight and bias.
    Raises: nothing of its own.
    Source: van den Oord et al., "Pixel Recurrent Neural Networks", ICML 2016.
    """
    logits = convolve(features, weight, bias)
    return categorical_log_prob(to_levels(x, levels), logits, levels)
