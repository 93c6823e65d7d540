"""Bias, activation, gain and clamp in plain PyTorch: the oracle of the kernels, and what a CPU runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Activation:
    """An activation by name.

    Attributes:
        function: (v, alpha) -> its value; alpha is a parameter of lrelu alone.
        gain: the factor after it by default: sqrt 2 where it halves the variance, about.
        alpha: the default of its parameter, None if it has none.
        by_output: its derivative can be had from its value.
        curved: its second derivative is not zero everywhere.
    """

    function: Callable[[Tensor, float], Tensor]
    gain: float = 1.0
    alpha: float | None = None
    by_output: bool = True
    curved: bool = True


ACTIVATIONS = {
    "linear": Activation(lambda v, alpha: v, curved=False),
    "relu": Activation(lambda v, alpha: F.relu(v), gain=math.sqrt(2), curved=False),
    "lrelu": Activation(lambda v, alpha: F.leaky_relu(v, alpha), gain=math.sqrt(2), alpha=0.2, curved=False),
    "tanh": Activation(lambda v, alpha: torch.tanh(v)),
    "sigmoid": Activation(lambda v, alpha: torch.sigmoid(v)),
    "elu": Activation(lambda v, alpha: F.elu(v)),
    "selu": Activation(lambda v, alpha: F.selu(v)),
    # linear from where e^-v is below the last digit of float64
    "softplus": Activation(lambda v, alpha: F.softplus(v, threshold=40.0)),
    "swish": Activation(lambda v, alpha: F.silu(v), gain=math.sqrt(2), by_output=False),
}


def widen(x: Tensor) -> Tensor:
    """Half precision to float32; others as they are, without an operation."""
    return x.float() if x.dtype in HALVES else x


def add_bias(x: Tensor, b: Tensor | None, dim: int) -> Tensor:
    """x plus b along a dimension, at least in float32."""
    x = widen(x)
    if b is None:
        return x
    return x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])


def scale_and_noise(x: Tensor, scale: Tensor | None, noise: Tensor | None) -> Tensor:
    """x [N, C, *spatial] times scale [N, C] plus noise [N or 1, 1, *spatial], at least in float32."""
    x = widen(x)
    if scale is not None:
        scale = scale.to(x.dtype).reshape(*scale.shape, *(1,) * (x.ndim - 2))
    if noise is not None:
        noise = noise.to(x.dtype)
    if scale is not None and noise is not None:
        return torch.addcmul(noise, x, scale)
    if scale is not None:
        return x * scale
    return x if noise is None else x + noise


def bias_act_reference(
    x: Tensor,
    b: Tensor | None = None,
    dim: int = 1,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    *,
    scale: Tensor | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """y = clamp(gain act(x scale + noise + b)); see `bias_act`.

    Shapes: x any, b [x.shape[dim]], scale [N, C], noise [N or 1, 1, *spatial] -> the shape of x.
    Dtypes: float16 and bfloat16 in float32 and rounded once; others in their own.
    Gradient order: any.
    Raises: nothing of its own; `bias_act` checks.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, for what is fused.
    """
    activation = ACTIVATIONS[act]
    value = add_bias(scale_and_noise(x, scale, noise), b, dim % max(1, x.ndim))
    value = activation.function(value, (activation.alpha or 0.0) if alpha is None else alpha)
    gain = activation.gain if gain is None else gain
    if gain != 1:
        value = value * gain
    if clamp is not None:
        value = F.hardtanh(value, -clamp, clamp)  # as clamp, but without a gradient on the bounds themselves
    return value.to(x.dtype)
