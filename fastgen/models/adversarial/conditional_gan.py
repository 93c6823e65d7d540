"""The generative adversarial network given a label.

Mirza, Osindero 2014, Conditional Generative Adversarial Nets, https://arxiv.org/abs/1411.1784: the label is an input of
both networks; here a one-hot vector beside the code, and constant maps beside the image.

Miyato, Koyama 2018, cGANs with Projection Discriminator, https://arxiv.org/abs/1802.05637: equation 5, the
discriminator's logit is  psi(phi(x)) + <v_y, phi(x)>  with the features phi summed over the map and a vector v_y of the
label, the form that the log ratio of p(y | x) and q(y | x) has where both are log-linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.models.adversarial.base import AdversarialModel
from fastgen.models.adversarial.dcgan import DCGAN, DCGANConfig
from fastgen.models.adversarial.networks import ConvDiscriminator, ConvGenerator
from fastgen.models.autoencoders.networks import with_labels

CONDITIONINGS = ("concatenation", "projection")


@dataclass(frozen=True)
class ConditionalGANConfig(DCGANConfig):
    """Options of ConditionalGAN: those of `DCGANConfig`, and the labels.

    Attributes:
        n_classes: number of labels, at least 1.
        conditioning: how the discriminator sees the label, "concatenation" or "projection".
    """

    n_classes: int = 10
    _: KW_ONLY
    conditioning: str = "projection"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_classes < 1:
            raise ValueError(f"ConditionalGAN: n_classes must be at least 1; got {self.n_classes}; else use DCGAN")
        if self.conditioning not in CONDITIONINGS:
            raise unknown_name("conditioning", str(self.conditioning), CONDITIONINGS)


class ConcatenationDiscriminator(ConvDiscriminator):
    """One-hot maps of the label join the image.

    Shapes: x [N, C, H, W], labels [N] -> [N].
    """

    def __init__(self, c: ConditionalGANConfig, image_size: tuple[int, int]) -> None:
        super().__init__(c.image_channels + c.n_classes, c.n_filters, image_size, c.discriminator_norm)
        self.n_classes = c.n_classes

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of images and labels. Shapes: as the class says."""
        maps = F.one_hot(labels, self.n_classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return super().forward(torch.cat([x, maps], 1))


class ProjectionDiscriminator(ConvDiscriminator):
    """psi(phi(x)) + <v_y, phi(x)>.

    Shapes: x [N, C, H, W], labels [N] -> [N].
    """

    def __init__(self, c: ConditionalGANConfig, image_size: tuple[int, int]) -> None:
        super().__init__(c.image_channels, c.n_filters, image_size, c.discriminator_norm)
        self.embedding = nn.Embedding(c.n_classes, self.n_features)
        nn.init.normal_(self.embedding.weight, 0.0, self.n_features**-0.5)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        """Logits of images and labels. Shapes: as the class says."""
        h = self.features(x)
        logits: Tensor = self.out(h).flatten() + (self.embedding(labels) * h.sum((2, 3))).sum(1)
        return logits


class ConditionalGAN(AdversarialModel):
    """Generator and discriminator of strided convolutions, given labels; options as in `ConditionalGANConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim], cond [N] labels.
    """

    config_class = ConditionalGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {**DCGAN.adversarial, "loss": "hinge"}

    def __init__(self, *args: Any, **options: Any) -> None:
        c = ConditionalGANConfig(*args, **options)
        super().__init__(c, (c.latent_dim,), c.n_classes)
        self.generator = ConvGenerator(c.latent_dim + c.n_classes, c.n_filters, self.image_channels, self.image_size)
        kind = ProjectionDiscriminator if c.conditioning == "projection" else ConcatenationDiscriminator
        self.discriminator = kind(c, self.image_size)

    def generate(self, z: Tensor, cond: Any = None) -> Tensor:
        """Images of codes and labels. Shapes: z [N, latent_dim], labels [N] -> [N, C, H, W]."""
        images: Tensor = self.generator(with_labels(z, cond, self.n_classes))
        return images

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """Logits of images that show their labels. Shapes: x [N, C, H, W], labels [N] -> [N]."""
        logits: Tensor = self.discriminator(self.prepare_input(x), self.prepare_cond(cond, len(x)))
        return logits
