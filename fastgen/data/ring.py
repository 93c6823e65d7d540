"""Points on a ring: a mixture of Gaussians whose modes a generative model finds, or does not."""

from __future__ import annotations

import math

import numpy as np
import torch

from fastgen.data._random import RING, uniforms
from fastgen.data.builtin import select
from fastgen.data.dataset import TensorImages
from fastgen.data.splits import Request

N_MODES = 8
N_POINTS = 10_000
RADIUS = 100.0  # levels, about the middle 127.5
STD = 3.0  # levels


def load_ring(name: str, request: Request) -> TensorImages:
    """10,000 points of 8 Gaussians on a circle; the label is the mode.

    A point is an image of two channels and one pixel: uint8 levels x and y, nearest to a draw with a standard deviation
    of 3 about centres at a distance of 100 from the middle. `size` and `channels` are fixed.

    Raises:
        ValueError: another size or number of channels.
    Source: Srivastava et al., "VEEGAN", NIPS 2017, and Metz et al., "Unrolled GANs", ICLR 2017, measure modes on such a
        ring.
    """
    if request.size not in (None, (1, 1)) or request.channels not in (None, 2):
        raise ValueError(
            f"load: {name!r} has points, images of 2 channels and one pixel; got size={request.size} and "
            f"channels={request.channels}; leave both out"
        )
    u = uniforms(2 * N_POINTS, request.seed, RING).reshape(2, N_POINTS)
    length, angle = STD * np.sqrt(-2 * np.log1p(-u[0])), 2 * math.pi * u[1]  # Box and Muller's transform
    labels = np.arange(N_POINTS) % N_MODES
    points = ring_centres().numpy()[labels] + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    levels = np.rint(points).clip(0, 255).astype(np.uint8)
    return select(name, levels[:, :, None, None], labels, request, tuple(f"mode {k}" for k in range(N_MODES)))


def ring_centres() -> torch.Tensor:
    """Centres of the modes in levels. Shapes: -> [8, 2]. Dtypes: float64."""
    angle = torch.arange(N_MODES, dtype=torch.float64) * (2 * math.pi / N_MODES)
    return 127.5 + RADIUS * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
