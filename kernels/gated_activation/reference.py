"""Gated activation and concatenated ELU in plain PyTorch: the oracle of the kernels, and what a CPU runs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels._common.philox import philox4x32

GROUP = 4  # channels that share a counter of Philox, which gives four words
HALVES = (torch.float16, torch.bfloat16)


def keep_threshold(dropout: float) -> int:
    """The words of Philox below it drop their element: round(dropout 2^32)."""
    return min(round(dropout * 2**32), 2**32 - 1)


def keep_mask(seed: int, dropout: float, shape: torch.Size, device: torch.device, half: int = 0) -> Tensor:
    """True where an element of [N, C, *spatial] stays: the mask is a function of the seed and the element's place.

    Channel c of pixel s of image n has word c % 4 of the counter (s, c // 4, n, half); concat_elu draws for its two
    halves apart.
    """
    n, channels, *spatial = shape
    pixels, groups = math.prod(spatial), -(-channels // GROUP)
    words = philox4x32(
        seed,
        torch.arange(pixels, device=device),
        torch.arange(groups, device=device)[:, None],
        torch.arange(n, device=device)[:, None, None],
        half,
    )
    keep = torch.stack([word >= keep_threshold(dropout) for word in words], 2)  # [N, groups, 4, pixels]
    return keep.flatten(1, 2)[:, :channels].reshape(shape)


def widen(x: Tensor) -> Tensor:
    """Half precision to float32; others as they are, without an operation."""
    return x.float() if x.dtype in HALVES else x


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """x [N, C, *spatial] plus bias [C] or [N, C], at least in float32."""
    x = widen(x)
    if bias is None:
        return x
    return x + bias.to(x.dtype).reshape(*bias.shape, *(1,) * (x.ndim - 2))


def drop(value: Tensor, dropout: float, seed: int, half: int = 0) -> Tensor:
    """Dropped elements are zero, the others grow by 1 / (1 - dropout)."""
    if dropout == 0:
        return value
    keep = torch.empty_like(value, dtype=torch.bool)  # in the layout of value, which decides that of the result
    keep.copy_(keep_mask(seed, dropout, value.shape, value.device, half))
    return torch.where(keep, value * (1 / (1 - dropout)), torch.zeros((), dtype=value.dtype, device=value.device))


def gated_activation_reference(
    x: Tensor,
    *,
    kind: str = "tanh",
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    dropout: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """drop(tanh(a + bias_a) s(b + bias_b)) + residual, or a + bias_a for its tanh; see `gated_activation`.

    Shapes: x [N, 2C, *spatial], bias [2C] or [N, 2C], residual [N, C, *spatial] -> [N, C, *spatial].
    Dtypes: float16 and bfloat16 in float32 and rounded once; others in their own.
    Gradient order: any.
    Raises: nothing of its own; `gated_activation` checks.
    Source: van den Oord et al., "Conditional Image Generation with PixelCNN Decoders", NeurIPS 2016.
    """
    wide = add_bias(x, bias)
    if kind == "linear":
        value = F.glu(wide, dim=1)
    else:
        a, b = wide.chunk(2, dim=1)
        value = torch.tanh(a) * torch.sigmoid(b)
    value = drop(value, dropout, seed)
    if residual is not None:
        value = value + widen(residual)  # in the layout of x
    return value.to(x.dtype)


def concat_elu_reference(x: Tensor, *, bias: Tensor | None = None, dropout: float = 0.0, seed: int = 0) -> Tensor:
    """drop(elu([x + bias, -(x + bias)])); see `concat_elu`.

    Shapes: x [N, C, *spatial], bias [C] or [N, C] -> [N, 2C, *spatial].
    Dtypes: float16 and bfloat16 in float32 and rounded once; others in their own.
    Gradient order: any.
    Raises: nothing of its own; `concat_elu` checks.
    Source: Shang et al., "Understanding and Improving Convolutional Neural Networks via Concatenated Rectified Linear
        Units", ICML 2016, with elu for relu.
    """
    wide = add_bias(x, bias)
    value = F.elu(torch.cat((wide, -wide), dim=1))
    if dropout:
        value = torch.cat([drop(part, dropout, seed, half) for half, part in enumerate(value.chunk(2, dim=1))], dim=1)
    return value.to(x.dtype)
