"""The generative adversarial network with dense layers.

Goodfellow, Pouget-Abadie, Mirza, Xu, Warde-Farley, Ozair, Courville, Bengio 2014, Generative Adversarial Nets,
https://arxiv.org/abs/1406.2661: algorithm 1,

    min_G max_D  E log D(x) + E log(1 - D(G(z)))

where the generator raises log D(G(z)) instead (the end of section 3), whose gradient does not vanish at the start.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fastgen.models.adversarial.base import AdversarialModel
from fastgen.models.adversarial.networks import DenseDiscriminator, DenseGenerator
from fastgen.models.autoencoders.base import check_latent_options
from fastgen.models.autoencoders.networks import check_widths


@dataclass(frozen=True)
class GANConfig:
    """Options of GAN.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        hidden: units of the generator's layers, from the code on; the discriminator has them in reverse.
        dropout: of the discriminator's layers.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    latent_dim: int = 64
    hidden: Sequence[int] = (256, 512)
    _: KW_ONLY
    dropout: float = 0.0
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_size", check_latent_options("GAN", self.image_channels, self.image_size))
        object.__setattr__(self, "hidden", tuple(int(n) for n in self.hidden))
        check_widths("GAN", hidden=self.hidden, latent_dim=(self.latent_dim,))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GAN: dropout must be in [0, 1); got {self.dropout}")


class GAN(AdversarialModel):
    """Generator and discriminator of dense layers; options as in `GANConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim]. Points in the plane are images of two channels and one pixel.
    """

    config_class = GANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "non_saturating",
        "betas_discriminator": (0.5, 0.999),
        "betas_generator": (0.5, 0.999),
    }

    def __init__(self, *args: Any, **options: Any) -> None:
        c = GANConfig(*args, **options)
        super().__init__(c, (c.latent_dim,))
        n_values = self.image_channels * math.prod(self.image_size)
        self.generator = DenseGenerator(c.latent_dim, c.hidden, self.image_channels, self.image_size)
        self.discriminator = DenseDiscriminator(n_values, c.hidden[::-1], c.dropout)
