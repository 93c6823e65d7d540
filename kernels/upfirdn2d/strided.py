"""Resampling by strided and transposed convolutions, which multiply no inserted zero: what a CPU runs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels.upfirdn2d.geometry import Geometry
from fastgen.kernels.upfirdn2d.reference import HALVES


def keeps_channels_last(x: Tensor) -> bool:
    """Tell whether the result of x has its channels last."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def upfirdn2d_strided(x: Tensor, f: Tensor, geometry: Geometry, flip: bool, gain: float) -> Tensor:
    """The result for x [N, C, H, W] and f [Kh, Kw], in the layout of x. Any order of gradient by x."""
    taps_y, taps_x = f.shape
    n, channels, height, width = x.shape
    size = geometry.output_size(height, width, taps_y, taps_x)
    layout = torch.channels_last if keeps_channels_last(x) else torch.contiguous_format
    if not x.numel() or 0 in size:
        zeros = torch.zeros((n, channels, *size), dtype=x.dtype, device=x.device)
        return (zeros + x.sum()).contiguous(memory_format=layout)  # with a gradient, of zeros
    wide = x.float() if x.dtype in HALVES else x
    f = f.to(wide.dtype)
    if gain != 1:
        f = f * gain
    if geometry.up_x == geometry.up_y == 1:
        y = _down(wide, f if flip else f.flip(0, 1), geometry)
    else:
        y = _up(wide, f.flip(0, 1) if flip else f, geometry)
        if geometry.down_x > 1 or geometry.down_y > 1:
            y = y[:, :, :: geometry.down_y, :: geometry.down_x]
    return y.to(x.dtype).contiguous(memory_format=layout)


def _down(x: Tensor, window: Tensor, geometry: Geometry) -> Tensor:
    """A strided convolution, which pads by itself where both sides are alike."""
    _, _, down_x, down_y, left, right, top, bottom = geometry
    padding = (top, left)
    if left != right or top != bottom or min(padding) < 0:
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    channels = x.shape[1]
    return F.conv2d(x, _each(window, channels), stride=(down_y, down_x), padding=padding, groups=channels)


def _up(x: Tensor, window: Tensor, geometry: Geometry) -> Tensor:
    """A transposed convolution gives the whole of f * z, of which padding has more, or crops."""
    taps_y, taps_x = window.shape
    crop_left, crop_right = taps_x - 1 - geometry.left, taps_x - geometry.up_x - geometry.right
    crop_top, crop_bottom = taps_y - 1 - geometry.top, taps_y - geometry.up_y - geometry.bottom
    # what both sides crop alike is never computed
    across, along = max(0, min(crop_left, crop_right)), max(0, min(crop_top, crop_bottom))
    channels = x.shape[1]
    y = F.conv_transpose2d(
        x,
        _each(window, channels),
        stride=(geometry.up_y, geometry.up_x),
        padding=(along, across),
        groups=channels,
    )
    rest = (across - crop_left, across - crop_right, along - crop_top, along - crop_bottom)
    return F.pad(y, rest) if any(rest) else y


def _each(window: Tensor, channels: int) -> Tensor:
    """One window for every channel."""
    return window.expand(channels, 1, *window.shape)
