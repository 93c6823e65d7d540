"""Inputs for the logistic mixture: levels with both ends, parameters of any size and layout."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen.kernels.dmol.reference import blocks_per_mixture

Make = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def make() -> Make:
    """A batch: (channels, n_mix, bits, n, height, width, spread, dtype) -> uint8 x, params; ends come first."""

    def build(
        channels: int = 3,
        n_mix: int = 5,
        bits: int = 8,
        n: int = 2,
        height: int = 5,
        width: int = 7,
        spread: float = 1.0,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randint(0, 2**bits, (n, channels, height, width), generator=generator, dtype=torch.uint8)
        x[:, :, 0] = 0
        x[:, :, 1:2] = 2**bits - 1
        p = n_mix * blocks_per_mixture(channels)
        params = torch.randn(n, p, height, width, generator=generator, dtype=torch.float64) * spread
        return x, params.to(dtype)

    return build
