"""Blur, up- and downsampling with a filter, by themselves and around a convolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.functional import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d

Taps = Sequence[float] | Sequence[Sequence[float]] | Tensor
BINOMIAL = (1.0, 3.0, 3.0, 1.0)


class _Filtered(nn.Module):
    f: Tensor

    def __init__(self, taps: Taps = BINOMIAL) -> None:
        super().__init__()
        self.register_buffer("f", setup_filter(taps))


class Blur2d(_Filtered):
    """x convolved with a filter of sum 1, `filter2d`. Shapes: [N, C, H, W] -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Blur."""
        return filter2d(x, self.f)


class Upsample2d(_Filtered):
    """Twice the size, by zeros and a filter, `upsample2d`. Shapes: [N, C, H, W] -> [N, C, 2H, 2W]."""

    def forward(self, x: Tensor) -> Tensor:
        """Enlarge."""
        return upsample2d(x, self.f)


class Downsample2d(_Filtered):
    """Half the size, by a filter and every second pixel, `downsample2d`. Shapes: [N, C, H, W] -> [N, C, H/2, W/2]."""

    def forward(self, x: Tensor) -> Tensor:
        """Shrink."""
        return downsample2d(x, self.f)


def resampled_conv2d(
    x: Tensor, weight: Tensor, f: Tensor | None = None, *, up: int = 1, down: int = 1, groups: int = 1
) -> Tensor:
    """A convolution after upsampling by `up`, or before it is strided by `down`, with the filter f between.

    As `conv2d(upsample2d(x, f, up), weight)`, or with `downsample2d`, except at the border, where what the filter
    spreads beyond the image is not cut off between the two. Upsampling is one transposed convolution and then the
    filter, so that no inserted zero is multiplied; downsampling the filter and then one strided convolution.

    Shapes: x [N, Ci, H, W], weight [Co, Ci / groups, k, k] with odd k, f as `setup_filter` makes it -> [N, Co, H up /
        down, W up / down].
    Dtypes: one for x and weight. Gradient order: any, by x and weight.
    Raises: ValueError for both factors above 1, an even k.
    Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020, appendix B.
    """
    k = weight.shape[-1]
    if k % 2 == 0 or weight.shape[-2] != k:
        raise ValueError(f"resampled_conv2d: weight must be [Co, Ci, k, k] with odd k; got {list(weight.shape)}.")
    if up > 1 and down > 1:
        raise ValueError(f"resampled_conv2d: either up or down may be above 1; got {up} and {down}; resample apart.")
    if up == 1 and down == 1:
        return F.conv2d(x, weight, padding=k // 2, groups=groups)
    taps_y, taps_x = (1, 1) if f is None else (f.shape[0], f.shape[-1])
    if down > 1:
        sides = [
            side + k // 2
            for taps in (taps_x, taps_y)
            for side in ((taps - down + 1) // 2, (taps - down) // 2)
        ]  # fmt: skip
        if k == 1:  # which looks at no pixel between those that stay
            return F.conv2d(upfirdn2d(x, f, down=down, padding=sides), weight, groups=groups)
        return F.conv2d(upfirdn2d(x, f, padding=sides), weight, stride=down, groups=groups)
    # a transposed convolution has the whole of weight * z: k - 1 more pixels before, k - up after
    sides = [
        side + k // 2 - more
        for taps in (taps_x, taps_y)
        for side, more in (((taps + up - 1) // 2, k - 1), ((taps - up) // 2, k - up))
    ]
    outputs, inputs = weight.shape[:2]
    turned = weight.flip(2, 3).reshape(groups, outputs // groups, inputs, k, k).transpose(1, 2)
    turned = turned.reshape(groups * inputs, outputs // groups, k, k)
    y = F.conv_transpose2d(x, turned, stride=up, groups=groups)
    return upfirdn2d(y, f, padding=sides, gain=up**2)


def as_filter(taps: Taps | None, resampled: bool) -> Tensor | None:
    """The buffer of a layer: a filter where it resamples, else None."""
    return setup_filter(BINOMIAL if taps is None else taps) if resampled else None


def check_factors(name: str, up: int, down: int = 1) -> None:
    """Refuse factors that a layer cannot have.

    Raises:
        ValueError: a factor below 1, or both above.
    """
    if not all(isinstance(factor, int) and factor >= 1 for factor in (up, down)) or (up > 1 and down > 1):
        raise ValueError(f"{name}: up and down must be at least 1, and one of them 1; got {up} and {down}.")


def noise_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal noise for x [N, C, H, W], one for all channels: [N, 1, H, W]."""
    n, _, *spatial = x.shape
    return torch.randn((n, 1, *spatial), dtype=x.dtype, device=x.device, generator=generator)
