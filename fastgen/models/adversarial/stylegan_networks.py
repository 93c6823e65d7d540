"""What the line from the progressive GAN to StyleGAN2 shares: pixel norm, mapping, and how a discriminator ends.

Networks are built resolution by resolution, the coarsest first; `n_filters` names their channels as elsewhere, from the
finest on. Weights have an equalised learning rate; activations are `bias_act`, and all resampling is `upfirdn2d`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgen.models.autoencoders.networks import check_widths
from fastgen.nn import EqualizedConv2d, EqualizedLinear, MinibatchStd, mean_over_processes

BOX = (1.0, 1.0)
"""The filter that repeats pixels, or averages them in fours."""

W_AVERAGE_DECAY = 0.995  # of the average of styles, by step


class Mapping(nn.Module):
    """f: z -> w, dense layers with leaky ReLUs, and the average of w over training; z is scaled to length sqrt D.

    With classes a vector of the label, of the same length, joins z.

    Shapes: z [N, latent_dim], labels [N] or None -> [N, w_dim]. Dtypes: that of the weights, with autocast too.
    Source: Karras, Laine and Aila, CVPR 2019, section 2 and appendix C; labels: Karras et al., NeurIPS 2020.
    """

    average: Tensor

    def __init__(self, latent_dim: int, w_dim: int, n_layers: int, lr_multiplier: float, n_classes: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_classes, latent_dim) if n_classes else None
        inputs = [latent_dim * (2 if n_classes else 1), *(w_dim,) * (n_layers - 1)]
        self.layers = nn.Sequential(
            *(EqualizedLinear(n, w_dim, act="lrelu", lr_multiplier=lr_multiplier) for n in inputs)
        )
        self.register_buffer("average", torch.zeros(w_dim))

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Styles of codes. Shapes: as the class says."""
        with torch.autocast(z.device.type, enabled=False):
            h = pixel_norm(z)
            if self.embedding is not None:
                h = torch.cat([h, pixel_norm(self.embedding(labels))], 1)
            w: Tensor = self.layers(h)
        return w

    @torch.no_grad()
    def follow(self, w: Tensor) -> None:
        """Move the average towards the mean of styles [N, w_dim]."""
        mean = mean_over_processes(w.mean(0))
        self.average.lerp_(mean.to(self.average.dtype), 1 - W_AVERAGE_DECAY)


class Verdict(nn.Module):
    """How a discriminator ends: the variety of the batch, a convolution, two dense layers; a logit.

    With classes the inner product of the last features with a vector of the label is added.

    Shapes: h [N, n_filters, h, w], labels [N] or None -> [N].
    Source: Karras et al., ICLR 2018, table 2; labels: Miyato and Koyama, ICLR 2018, equation 5.
    """

    def __init__(
        self, n_filters: int, size: tuple[int, int], group_size: int, clamp: float | None = None, n_classes: int = 0
    ) -> None:
        super().__init__()
        self.group_size = group_size
        self.conv = EqualizedConv2d(n_filters + 1, n_filters, 3, act="lrelu", clamp=clamp)
        self.dense = EqualizedLinear(n_filters * math.prod(size), n_filters, act="lrelu")
        self.out = EqualizedLinear(n_filters, 1)
        self.embedding = nn.Embedding(n_classes, n_filters) if n_classes else None

    def forward(self, h: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of the coarsest map. Shapes: as the class says."""
        n = max(1, len(h))
        group = next(size for size in range(min(self.group_size, n), 0, -1) if n % size == 0)
        features = self.dense(self.conv(MinibatchStd(group)(h)).flatten(1))
        logits: Tensor = self.out(features)[:, 0]
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1) / math.sqrt(features.shape[1])
        return logits


def pixel_norm(x: Tensor) -> Tensor:
    """x / sqrt(mean_c x_c^2 + 1e-8): the channels of every pixel at length sqrt C, computed in float32 (float64).

    Shapes: [N, C, ...] -> the same.
    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, section 4.2.
    """
    wide = widened(x)
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + 1e-8)).to(x.dtype)


def widened(x: Tensor) -> Tensor:
    """Half precision as float32."""
    return x if x.dtype == torch.float64 else x.float()


def resolutions(image_size: tuple[int, int], n_filters: Sequence[int]) -> list[tuple[int, int, int]]:
    """Channels, height and width of every resolution, the coarsest first."""
    sizes = [(image_size[0] >> k, image_size[1] >> k) for k in range(len(n_filters))]
    return [(n, *size) for n, size in zip(n_filters, sizes, strict=True)][::-1]


def check_resolutions(name: str, image_size: tuple[int, int], n_filters: Sequence[int], group_size: int) -> None:
    """Check the options that these networks share.

    Raises:
        ValueError: no filters, a size that cannot be halved from one resolution to the next, or a group below 1.
    """
    if not n_filters:
        raise ValueError(f"{name}: n_filters must name the channels of at least one resolution; got none")
    check_widths(name, n_filters=n_filters, group_size=(group_size,))
    parts = 2 ** (len(n_filters) - 1)
    if any(side % parts for side in image_size):
        raise ValueError(
            f"{name}: both sides of image_size must be multiples of {parts} for {len(n_filters)} resolutions, each "
            f"half of the one before; got {image_size}; name fewer n_filters, or resize the images"
        )
