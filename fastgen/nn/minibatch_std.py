"""Minibatch standard deviation: what a discriminator sees of the variety of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MinibatchStd(nn.Module):
    """Append the mean over channels and pixels of the standard deviation over a group of images.

    The batch is cut into groups of G images, where image j belongs to group j mod (N / G); the channels into n_channels
    parts, each of which gives one constant map.

    Shapes: x [N, C, H, W] -> [N, C + n_channels, H, W].
    Dtypes: that of x; computed in float32 (float64).
    group_size: G, at most N, which it must divide; None is the whole batch.
    Raises: ValueError for N that is not a multiple of G, and C not one of n_channels.
    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, section 3.
    """

    def __init__(self, group_size: int | None = 4, n_channels: int = 1) -> None:
        super().__init__()
        if (group_size is not None and group_size < 1) or n_channels < 1:
            raise ValueError(
                f"MinibatchStd: group_size and n_channels must be at least 1; got {group_size} and {n_channels}."
            )
        self.group_size, self.n_channels = group_size, n_channels

    def forward(self, x: Tensor) -> Tensor:
        """Append the statistics to [N, C, H, W]."""
        n, channels, height, width = x.shape
        if not n:
            return x.new_empty((0, channels + self.n_channels, height, width))
        size = n if self.group_size is None else min(self.group_size, n)
        if n % size or channels % self.n_channels:
            raise ValueError(
                f"MinibatchStd: groups of {size} must divide the batch and {self.n_channels} parts the channels; got "
                f"{list(x.shape)}; choose another group_size or batch."
            )
        wide = x if x.dtype == torch.float64 else x.float()
        groups = wide.reshape(size, n // size, self.n_channels, -1)
        variance = (groups - groups.mean(0)).square().mean(0)
        std = (variance + 1e-8).sqrt().mean(2).to(x.dtype)  # [N / G, n_channels]; the root of 0 has no gradient
        maps = std.repeat(size, 1)[:, :, None, None].expand(-1, -1, height, width)
        return torch.cat((x, maps), dim=1)
