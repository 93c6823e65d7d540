"""Generators and discriminators: dense ones, and those of strided convolutions after the DCGAN's guidelines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from fastgen._names import unknown_name

NORMS = ("batch", "layer", "spectral", "none")
SLOPE = 0.2  # of the leaky ReLU


class DenseGenerator(nn.Module):
    """Dense layers with leaky ReLUs from a code to an image in [-1, 1].

    Shapes: z [N, D] -> [N, C, H, W].
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.layers = dense_layers((n_inputs, *hidden))
        self.out = nn.Linear((n_inputs, *hidden)[-1], channels * math.prod(image_size))
        self.shape = (channels, *image_size)

    def forward(self, z: Tensor) -> Tensor:
        """Images of codes. Shapes: as the class says."""
        return torch.tanh(self.out(self.layers(z))).unflatten(1, self.shape)


class DenseDiscriminator(nn.Module):
    """Dense layers with leaky ReLUs from an image to a logit.

    Shapes: x [N, C, H, W] -> [N].
    """

    def __init__(self, n_inputs: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = dense_layers((n_inputs, *hidden), dropout)
        self.out = nn.Linear((n_inputs, *hidden)[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images. Shapes: as the class says."""
        logits: Tensor = self.out(self.layers(x.flatten(1)))[:, 0]
        return logits


class ConvGenerator(nn.Module):
    """A code becomes the coarsest map; transposed convolutions double it: batch norm and ReLU, at the end tanh.

    Shapes: z [N, D] -> [N, C, H, W].
    """

    def __init__(self, n_inputs: int, n_filters: Sequence[int], channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        widths = tuple(n_filters)[::-1]
        coarsest = _coarsest(image_size, len(widths))
        stages: list[nn.Module] = [nn.ConvTranspose2d(n_inputs, widths[0], coarsest, bias=False)]
        for a, b in pairwise(widths):
            stages += [nn.BatchNorm2d(a), nn.ReLU(), nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False)]
        stages += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh()]
        self.stages = nn.Sequential(*stages)
        initialize(self)

    def forward(self, z: Tensor) -> Tensor:
        """Images of codes. Shapes: as the class says."""
        images: Tensor = self.stages(z[:, :, None, None])
        return images


class ConvDiscriminator(nn.Module):
    """Convolutions that halve the image, leaky ReLUs, and one that covers the coarsest map; no pooling, no dense layer.

    Shapes: x [N, inputs, H, W] -> logits [N]; features [N, n_filters[-1], h, w].
    norm: of all layers but the first and the last (spectral: of all). "layer" normalises each image by itself.
    """

    def __init__(self, n_inputs: int, n_filters: Sequence[int], image_size: tuple[int, int], norm: str) -> None:
        super().__init__()
        normed = spectral_norm if norm == "spectral" else _same
        stages: list[nn.Module] = [normed(nn.Conv2d(n_inputs, n_filters[0], 4, 2, 1)), nn.LeakyReLU(SLOPE)]
        for a, b in pairwise(n_filters):
            stages.append(normed(nn.Conv2d(a, b, 4, 2, 1, bias=norm in ("spectral", "none"))))
            if norm == "batch":
                stages.append(nn.BatchNorm2d(b))
            elif norm == "layer":
                stages.append(nn.GroupNorm(1, b))
            stages.append(nn.LeakyReLU(SLOPE))
        self.stages = nn.Sequential(*stages)
        self.out = normed(nn.Conv2d(n_filters[-1], 1, _coarsest(image_size, len(n_filters))))
        self.n_features = n_filters[-1]
        if norm != "spectral":  # which keeps the scale of the weights by itself
            initialize(self)

    def features(self, x: Tensor) -> Tensor:
        """The coarsest map. Shapes: as the class says."""
        h: Tensor = self.stages(x)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images. Shapes: as the class says."""
        logits: Tensor = self.out(self.features(x))
        return logits.flatten()


def initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02^2), gains of batch norms from N(1, 0.02^2), as the DCGAN's authors do."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)


def dense_layers(widths: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Dense layers of these widths, each with a leaky ReLU and, where it is not 0, dropout."""
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(*(m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.LeakyReLU(SLOPE), *drop)))


def check_conv_options(name: str, image_size: tuple[int, int], n_filters: Sequence[int], norm: str) -> None:
    """Check the options of the convolutional networks.

    Raises:
        ValueError: no filters, a size that cannot be halved so often, or an unknown norm.
    """
    if not n_filters or min(n_filters) < 1:
        raise ValueError(f"{name}: n_filters must name at least one convolution, of 1 filter or more; got {n_filters}")
    parts = 2 ** len(n_filters)
    if any(side % parts for side in image_size):
        raise ValueError(
            f"{name}: both sides of image_size must be multiples of {parts}, as {len(n_filters)} convolutions halve "
            f"them; got {image_size}; name fewer n_filters, or resize the images"
        )
    if norm not in NORMS:
        raise unknown_name("norm of a discriminator", str(norm), NORMS)


def _coarsest(image_size: tuple[int, int], times: int) -> tuple[int, int]:
    return image_size[0] // 2**times, image_size[1] // 2**times


def _same(module: nn.Module) -> nn.Module:
    return module
