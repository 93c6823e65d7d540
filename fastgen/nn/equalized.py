"""Layers with an equalised learning rate: weights of unit variance, scaled at run time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastgen.functional import bias_act
from fastgen.nn.resample import Taps, as_filter, check_factors, resampled_conv2d


class EqualizedLinear(nn.Module):
    """y = act(x (c W)^T + m b), c = m / sqrt(inputs), with W ~ N(0, 1 / m^2) and m = lr_multiplier.

    Adam's steps do not depend on a parameter's scale, so W of unit variance with a constant outside learns at one
    speed in all layers, m times as fast in this one.

    Shapes: x [N, inputs] -> [N, outputs]. Dtypes: the product in that of x.
    act, gain, clamp: as in `bias_act`. `bias_init` is the bias at the start, m times the parameter.
    Raises: ValueError for lr_multiplier <= 0.
    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, section 4.1.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        act: str = "linear",
        gain: float | None = None,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        _check_multiplier("EqualizedLinear", lr_multiplier)
        self.act, self.gain, self.lr_multiplier = act, gain, lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier)) if bias else None
        self.scale = lr_multiplier / math.sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return act(x (c W)^T + m b)."""
        y = nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)
        bias: Tensor | None = self.bias
        if bias is not None and self.lr_multiplier != 1:
            bias = bias * self.lr_multiplier
        return bias_act(y, bias, 1, self.act, gain=self.gain)


class EqualizedConv2d(nn.Module):
    """y = act((c W) * x + b), c = 1 / sqrt(inputs k^2), W ~ N(0, 1), perhaps with resampling by a filter.

    Shapes: x [N, Ci, H, W] -> [N, Co, H up / down, W up / down]; odd k.
    Dtypes: the convolution in that of x.
    act, gain, clamp: as in `bias_act`. taps: the filter where up or down is above 1, by default 1 3 3 1.
    Raises: ValueError for an even k, factors that do not fit.
    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, section 4.1.
    """

    f: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        act: str = "linear",
        gain: float | None = None,
        clamp: float | None = None,
        up: int = 1,
        down: int = 1,
        taps: Taps | None = None,
    ) -> None:
        super().__init__()
        check_factors("EqualizedConv2d", up, down)
        _check_size("EqualizedConv2d", kernel_size)
        self.act, self.gain, self.clamp, self.up, self.down = act, gain, clamp, up, down
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel_size**2)
        self.register_buffer("f", as_filter(taps, up > 1 or down > 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, add the bias, activate."""
        y = resampled_conv2d(x, self.weight.to(x.dtype) * self.scale, self.f, up=self.up, down=self.down)
        return bias_act(y, self.bias, 1, self.act, gain=self.gain, clamp=self.clamp)


def _check_multiplier(name: str, lr_multiplier: float) -> None:
    if not lr_multiplier > 0:
        raise ValueError(f"{name}: lr_multiplier must be above 0; got {lr_multiplier}.")


def _check_size(name: str, kernel_size: int) -> None:
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"{name}: kernel_size must be odd, so that there is a middle; got {kernel_size}.")
