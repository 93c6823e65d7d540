"""The progressive generative adversarial network.

Karras, Aila, Laine, Lehtinen 2018, Progressive Growing of GANs for Improved Quality, Stability, and Variation,
https://arxiv.org/abs/1710.10196: both networks grow with training (`growing.py`, section 2), the discriminator sees the
standard deviation over the batch (section 3), all layers learn at one rate (4.1), the generator normalises the features
of every pixel (4.2). Trained as a Wasserstein critic with a gradient penalty and a drift term, appendix A.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.models.adversarial.growing import GrowingDiscriminator, GrowingModel, GrowingNetwork, check_growth
from fastgen.models.adversarial.stylegan_networks import BOX, check_resolutions, pixel_norm, resolutions
from fastgen.models.autoencoders.base import check_latent_options
from fastgen.models.autoencoders.networks import check_widths
from fastgen.nn import EqualizedConv2d, EqualizedLinear


@dataclass(frozen=True)
class ProgressiveGANConfig:
    """Options of ProgressiveGAN.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code, of which only the direction counts.
        n_filters: channels at each resolution, from the finest on; each is half of the one before.
        growth_share: the share of the budget after which the networks are whole, in (0, 1].
        group_size: images over which the discriminator takes the standard deviation, at most.
        image_size: (H, W) of every image, multiples of 2 to the number of resolutions but one.
    """

    image_channels: int = 3
    latent_dim: int = 128
    n_filters: Sequence[int] = (64, 128, 128, 128)
    _: KW_ONLY
    growth_share: float = 0.6
    group_size: int = 4
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_latent_options("ProgressiveGAN", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        check_widths("ProgressiveGAN", latent_dim=(self.latent_dim,))
        check_resolutions("ProgressiveGAN", size, self.n_filters, self.group_size)
        check_growth("ProgressiveGAN", self.growth_share)


class NormalizedConv(nn.Module):
    """A 3x3 convolution, leaky ReLU, pixel norm; perhaps to twice the size, by repetition.

    Shapes: [N, Ci, H, W] -> [N, Co, H up, W up].
    """

    def __init__(self, n_in: int, n_out: int, up: int = 1) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(n_in, n_out, 3, act="lrelu", up=up, taps=BOX)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, activate, normalise."""
        return pixel_norm(self.conv(x))


class CoarsestMap(nn.Module):
    """A code becomes the coarsest map.

    Shapes: z [N, D] -> [N, n_filters, h, w].
    """

    def __init__(self, latent_dim: int, n_filters: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.shape = (n_filters, *size)
        self.dense = EqualizedLinear(latent_dim, n_filters * size[0] * size[1], act="lrelu")
        self.conv = NormalizedConv(n_filters, n_filters)

    def forward(self, z: Tensor) -> Tensor:
        """The map of codes. Shapes: as the class says."""
        h: Tensor = self.conv(pixel_norm(self.dense(pixel_norm(z)).unflatten(1, self.shape)))
        return h


class GrowingGenerator(GrowingNetwork):
    """A code becomes the coarsest map; two convolutions for each further resolution of the stage.

    Shapes: z [N, D] -> [N, C, h, w] of the stage.
    """

    def __init__(self, c: ProgressiveGANConfig, image_size: tuple[int, int]) -> None:
        levels = resolutions(image_size, c.n_filters)
        n, height, width = levels[0]
        widths = [n for n, *_ in levels]
        blocks = [nn.Sequential(NormalizedConv(a, b, up=2), NormalizedConv(b, b)) for a, b in pairwise(widths)]
        colors = [EqualizedConv2d(n, c.image_channels, 1) for n in widths]
        super().__init__(CoarsestMap(c.latent_dim, n, (height, width)), blocks, colors, grows=True)

    def forward(self, z: Tensor, stage: int, alpha: Tensor) -> Tensor:
        """Images of codes at the resolution of the stage. Shapes: as the class says."""
        maps = [self.coarsest(z)]
        for block in self.blocks[:stage]:
            maps.append(block(maps[-1]))
        return self.to_colors(maps, stage, alpha)


class ProgressiveGAN(GrowingModel):
    """Generator and discriminator that grow together; options as in `ProgressiveGANConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = ProgressiveGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "wasserstein",
        "gradient_penalty": 10.0,
        "drift": 1e-3,
        "betas_discriminator": (0.0, 0.99),
        "betas_generator": (0.0, 0.99),
    }

    def __init__(self, *args: Any, **options: Any) -> None:
        c = ProgressiveGANConfig(*args, **options)
        super().__init__(c, (c.latent_dim,))
        self.prepare_growth(c.n_filters, c.growth_share)
        self.generator = GrowingGenerator(c, self.image_size)
        self.discriminator = GrowingDiscriminator(
            self.image_channels, c.n_filters, self.image_size, group_size=c.group_size
        )

    def generate(self, z: Tensor, cond: Any = None) -> Tensor:
        """Images of codes in full size. Shapes: z [N, latent_dim] -> [N, C, H, W]."""
        return self.enlarged(self.generator(z, int(self.stage), self.alpha))

    def imagine(self, n: int, cond: Any = None, *, needs_latents: bool = False) -> tuple[Tensor, Tensor]:
        """Images of the present stage. Shapes: -> [n, C, h, w], [n, latent_dim]."""
        z = self.random_latent(n).requires_grad_(needs_latents)
        return self.generator(z, int(self.stage), self.alpha), z

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self, n: int, *, seed: int = 0, cond: Any = None, batch_size: int | None = None, first_image: int = 0
    ) -> Tensor:
        """Draw n images: uint8 levels [n, C, H, W], while training grows the networks enlarged to full size.

        As in `AdversarialModel.sample`; there is no temperature, as the length of a code does not count.
        """

        def draw(n: int, first: int, cond: Any) -> Tensor:
            return self.images_of(self.draw_latent(n, seed=seed, first_image=first), cond)

        return self.in_batches(draw, n, first_image, batch_size, cond)
