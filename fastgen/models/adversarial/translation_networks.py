"""Networks of image translation: a U-Net, a residual generator, and a discriminator of patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from fastgen._names import unknown_name
from fastgen.models.adversarial.networks import SLOPE, initialize

PATCH_NORMS = ("batch", "instance", "spectral", "none")
COARSEST = 3  # least side of the discriminator's strided maps: two convolutions of 4x4 follow, of stride 1


class UNet(nn.Module):
    """Convolutions halve the image, transposed ones double it; maps of one size are joined.

    Batch norm but at both ends of the encoder and at the output; dropout, always on, in the `n_noisy` coarsest of the
    maps that are doubled, the image itself never.

    Shapes: x [N, n_inputs, H, W] -> [N, n_outputs, H, W] in [-1, 1], sides multiples of 2 to the number of filters.
    """

    def __init__(
        self, n_inputs: int, n_outputs: int, n_filters: Sequence[int], dropout: float, n_noisy: int = 3
    ) -> None:
        super().__init__()
        depth = len(n_filters)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (a, b) in enumerate(pairwise((n_inputs, *n_filters))):
            ends = level in (0, depth - 1)  # a batch norm of one pixel of one image would be zero
            parts: list[nn.Module] = [nn.LeakyReLU(SLOPE)] if level else []
            parts.append(nn.Conv2d(a, b, 4, 2, 1, bias=ends))
            self.down.append(nn.Sequential(*parts, *([] if ends else [nn.BatchNorm2d(b)])))
        widths = (n_outputs, *n_filters)
        for level in reversed(range(depth)):
            joined = widths[level + 1] * (1 if level == depth - 1 else 2)
            conv = nn.ConvTranspose2d(joined, widths[level], 4, 2, 1, bias=level == 0)
            self.up.append(nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(widths[level]) if level else nn.Tanh()))
        self.dropout = dropout
        self.noisy = tuple(widths[level] for level in reversed(range(1, depth)))[:n_noisy] if dropout else ()
        initialize(self)

    def forward(self, x: Tensor, kept: Sequence[Tensor] | None = None) -> Tensor:
        """Images. Shapes: as the class says.

        kept: of each map of `mask_shapes` which values stay, as 0 and 1; by default the global generator says.
        """
        maps = []
        for stage in self.down:
            x = stage(x)
            maps.append(x)
        maps.pop()
        for level, stage in enumerate(self.up):
            x = stage(x)
            if level < len(self.noisy):
                if kept is None:
                    x = F.dropout(x, self.dropout)
                else:
                    x = x * (kept[level].to(x.dtype) / (1 - self.dropout))
            if maps:
                x = torch.cat([x, maps.pop()], 1)
        return x

    def mask_shapes(self, image_size: tuple[int, int]) -> list[tuple[int, int, int]]:
        """Shapes [C, h, w] of the maps with dropout."""
        levels = range(len(self.up) - 1, 0, -1)
        sides = [(image_size[0] // 2**level, image_size[1] // 2**level) for level in levels]
        return [(channels, *side) for channels, side in zip(self.noisy, sides)]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norms, reflected borders, beside the identity.

    Shapes: [N, C, H, W] -> the same; sides of 2 or more.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """x plus what the convolutions make of it. Shapes: as the class says."""
        h: Tensor = x + self.body(x)
        return h


class ResidualGenerator(nn.Module):
    """A 7x7 convolution, two that halve the image, residual blocks, two that double it, a 7x7 one; instance norms.

    Shapes: x [N, n_inputs, H, W] -> [N, n_outputs, H, W] in [-1, 1], sides multiples of 4, 8 or more.
    """

    def __init__(self, n_inputs: int, n_outputs: int, n_filters: int, n_blocks: int) -> None:
        super().__init__()
        widths = (n_filters, 2 * n_filters, 4 * n_filters)
        stages: list[nn.Module] = [nn.Conv2d(n_inputs, n_filters, 7, padding=3, padding_mode="reflect", bias=False)]
        for a, b in pairwise(widths):
            stages += [nn.InstanceNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, 2, 1, bias=False)]
        stages += [nn.InstanceNorm2d(widths[-1]), nn.ReLU(), *(ResidualBlock(widths[-1]) for _ in range(n_blocks))]
        for a, b in pairwise(widths[::-1]):
            stages += [nn.ConvTranspose2d(a, b, 3, 2, 1, output_padding=1, bias=False), nn.InstanceNorm2d(b), nn.ReLU()]
        stages += [nn.Conv2d(n_filters, n_outputs, 7, padding=3, padding_mode="reflect"), nn.Tanh()]
        self.stages = nn.Sequential(*stages)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images. Shapes: as the class says."""
        images: Tensor = self.stages(x)
        return images


class PatchDiscriminator(nn.Module):
    """Convolutions of 4x4 whose outputs each see a patch: one of stride 2 for each width, and two of stride 1.

    Three widths make patches of 70x70, two of 34x34, one of 16x16.

    Shapes: x [N, n_inputs, H, W] -> logits [N, 1, h, w], h = H / 2^k - 2 with k widths.
    norm: of all layers but the first and the last (spectral: of all).
    """

    def __init__(self, n_inputs: int, n_filters: Sequence[int], norm: str) -> None:
        super().__init__()
        normed = spectral_norm if norm == "spectral" else _same
        norms = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}
        widths = (*n_filters, min(2 * n_filters[-1], 8 * n_filters[0]))
        stages: list[nn.Module] = [normed(nn.Conv2d(n_inputs, widths[0], 4, 2, 1)), nn.LeakyReLU(SLOPE)]
        for index, (a, b) in enumerate(pairwise(widths)):
            stride = 1 if index == len(n_filters) - 1 else 2
            stages.append(normed(nn.Conv2d(a, b, 4, stride, 1, bias=norm not in norms)))
            if norm in norms:
                stages.append(norms[norm](b))
            stages.append(nn.LeakyReLU(SLOPE))
        self.stages = nn.Sequential(*stages, normed(nn.Conv2d(widths[-1], 1, 4, 1, 1)))
        if norm != "spectral":  # which keeps the scale of the weights by itself
            initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of patches. Shapes: as the class says."""
        logits: Tensor = self.stages(x)
        return logits


def check_patch_options(name: str, image_size: tuple[int, int], n_filters: Sequence[int], norm: str) -> None:
    """Check the options of the discriminator.

    Raises:
        ValueError: no filters, images so small that a patch is larger, or an unknown norm.
    """
    if not n_filters or min(n_filters) < 1:
        raise ValueError(
            f"{name}: discriminator_filters must name at least one convolution, of 1 filter or more; got {n_filters}"
        )
    if min(image_size) // 2 ** len(n_filters) < COARSEST:
        raise ValueError(
            f"{name}: both sides of image_size must be at least {COARSEST * 2 ** len(n_filters)} for patches of "
            f"{len(n_filters)} discriminator_filters; got {image_size}; name fewer filters, or take larger images"
        )
    if norm not in PATCH_NORMS:
        raise unknown_name("norm of a discriminator of patches", str(norm), PATCH_NORMS)


def _same(module: nn.Module) -> nn.Module:
    return module
