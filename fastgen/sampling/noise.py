"""Noise as a pure function of (seed, image, row, column, draw)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.philox import philox4x32, uniform


def uniforms(seed: int, images: Tensor, height: int, width: int, n_draws: int) -> Tensor:
    """Uniform noise u[n, d, y, x] = Philox4x32-10(key=seed, counter=(x, y, images[n], d // 4))[d % 4].

    An image's noise depends on nothing but the seed and its own index, so an image is the same one in any batch,
    in any order, on any number of devices, and by every sampling method.

    Shapes: images [N] int64, each index in [0, 2^32); result [N, n_draws, height, width] in raster order (y, x),
        draw by draw as the likelihood consumes them.
    Dtypes: float32 in [0, 1), the same bits as Triton's `tl.philox` and `tl.rand` give.
    Raises: ValueError for a seed outside [0, 2^64) or an image index outside [0, 2^32).
    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"uniforms: seed must be in [0, 2^64); got {seed}")
    if images.numel() and not (int(images.min()) >= 0 and int(images.max()) < 2**32):
        raise ValueError(f"uniforms: image indices must be in [0, 2^32); got {int(images.min())}..{int(images.max())}")
    device = images.device
    blocks = (n_draws + 3) // 4
    shape = (images.numel(), blocks, height, width)
    column = torch.arange(width, device=device).view(1, 1, 1, -1).expand(shape)
    row = torch.arange(height, device=device).view(1, 1, -1, 1).expand(shape)
    image = images.view(-1, 1, 1, 1).expand(shape)
    block = torch.arange(blocks, device=device).view(1, -1, 1, 1).expand(shape)
    words = torch.stack(philox4x32(seed, column, row, image, block), 2)  # [N, blocks, 4, H, W]
    return uniform(words.flatten(1, 2)[:, :n_draws])
