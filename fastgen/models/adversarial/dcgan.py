"""The deep convolutional generative adversarial network.

Radford, Metz, Chintala 2015, Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks, https://arxiv.org/abs/1511.06434. The guidelines of section 3: strided convolutions in place of pooling, batch
norm in both networks but not at the generator's end and the discriminator's start, no dense hidden layers, ReLU and at
the end tanh in the generator, leaky ReLU in the discriminator; weights from N(0, 0.02^2), Adam with beta1 = 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from fastgen.models.adversarial.base import AdversarialModel
from fastgen.models.adversarial.networks import ConvDiscriminator, ConvGenerator, check_conv_options
from fastgen.models.autoencoders.base import check_latent_options
from fastgen.models.autoencoders.networks import check_widths


@dataclass(frozen=True)
class DCGANConfig:
    """Options of DCGAN.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code.
        n_filters: of the discriminator's convolutions, each of which halves the map; the generator has them in reverse.
        discriminator_norm: "batch", "layer", "spectral" (norm of the weights) or "none".
        image_size: (H, W) of every image, multiples of 2 to the number of convolutions.
    """

    image_channels: int = 3
    latent_dim: int = 64
    n_filters: Sequence[int] = (64, 128)
    _: KW_ONLY
    discriminator_norm: str = "batch"
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config")
        size = check_latent_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        check_widths(name, latent_dim=(self.latent_dim,))
        check_conv_options(name, size, self.n_filters, self.discriminator_norm)


class DCGAN(AdversarialModel):
    """Generator and discriminator of strided convolutions; options as in `DCGANConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class: ClassVar[type[DCGANConfig]] = DCGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "non_saturating",
        "betas_discriminator": (0.5, 0.999),
        "betas_generator": (0.5, 0.999),
    }
    discriminator: ConvDiscriminator

    def __init__(self, *args: Any, **options: Any) -> None:
        c = self.config_class(*args, **options)
        super().__init__(c, (c.latent_dim,))
        self.generator = ConvGenerator(c.latent_dim, c.n_filters, self.image_channels, self.image_size)
        self.discriminator = ConvDiscriminator(self.image_channels, c.n_filters, self.image_size, c.discriminator_norm)
