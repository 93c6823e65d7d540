"""Encoders and decoders of maps: strided convolutions and residual blocks, as those of VQ-VAE.

van den Oord, Vinyals, Kavukcuoglu 2017, Neural Discrete Representation Learning, https://arxiv.org/abs/1711.00937,
section 4.1: convolutions of stride 2 and window 4, and residual 3x3 blocks (ReLU, 3x3, ReLU, 1x1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.nn import Conv1x1


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))). Shapes: [N, F, H, W] -> [N, F, H, W]."""

    def __init__(self, n_filters: int, residual_filters: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_filters, residual_filters, 3, padding=1)
        self.out = Conv1x1(residual_filters, n_filters)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the block finds."""
        found: Tensor = self.out(F.relu(self.conv(F.relu(x))))
        return x + found


class ResidualEncoder(nn.Module):
    """Halve the map until it is `factor` times smaller, then residual blocks.

    Called, it gives the means of its maps, features of the whole image; `maps` gives them place by place.

    Shapes: x [N, C, H, W] -> [N, F], maps [N, F, H / factor, W / factor].
    """

    def __init__(self, channels: int, n_filters: int, factor: int, n_residual: int, residual_filters: int) -> None:
        super().__init__()
        halvings = int(math.log2(factor))
        widths = (channels, *(n_filters // 2 for _ in range(halvings - 1)), n_filters)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(widths))
        self.conv = nn.Conv2d(n_filters, n_filters, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(n_filters, residual_filters) for _ in range(n_residual))
        self.n_features = n_filters

    def maps(self, x: Tensor) -> Tensor:
        """Features of every place. Shapes: as the class says."""
        for layer in self.down:
            x = F.relu(layer(x))
        x = self.conv(x)
        for block in self.blocks:
            x = block(x)
        return F.relu(x)

    def forward(self, x: Tensor) -> Tensor:
        """Features of images. Shapes: as the class says."""
        return self.maps(x).mean((2, 3))


class ResidualDecoder(nn.Module):
    """Residual blocks, then double the map until it is `factor` times larger.

    Shapes: z [N, D, h, w] -> [N, n_outputs, factor h, factor w].
    """

    def __init__(
        self, channels: int, n_outputs: int, n_filters: int, factor: int, n_residual: int, residual_filters: int
    ) -> None:
        super().__init__()
        halvings = int(math.log2(factor))
        widths = (n_filters, *(n_filters // 2 for _ in range(halvings - 1)), n_outputs)
        self.conv = nn.Conv2d(channels, n_filters, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(n_filters, residual_filters) for _ in range(n_residual))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths))

    def forward(self, z: Tensor) -> Tensor:
        """What lies at every pixel. Shapes: as the class says."""
        h = self.conv(z)
        for block in self.blocks:
            h = block(h)
        for layer in self.up:
            h = layer(F.relu(h))
        return h


def check_factor(name: str, key: str, factor: int, size: Sequence[int]) -> tuple[int, int]:
    """Check that strides of 2 make a map `factor` times smaller; return its size.

    Raises:
        ValueError: a factor that is no power of 2 from 2 on, or that does not divide the size.
    """
    if factor < 2 or factor & (factor - 1):
        raise ValueError(f"{name}: {key} must be a power of 2, at least 2, made of strides of 2; got {factor}")
    if any(side % factor for side in size):
        raise ValueError(
            f"{name}: the strides must divide the height and width that they shrink; got {key}={factor} and "
            f"{' x '.join(map(str, size))}; crop or resize the images, or take another factor"
        )
    return (size[0] // factor, size[1] // factor)
