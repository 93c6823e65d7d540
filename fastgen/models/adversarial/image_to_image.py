"""Image-to-image translation learned from pairs.

Isola, Zhu, Zhou, Efros 2017, Image-to-Image Translation with Conditional Adversarial Networks,
https://arxiv.org/abs/1611.07004: equations 1 to 4,

    G* = arg min_G max_D  E log D(x, y) + E log(1 - D(x, G(x, z))) + lambda E |y - G(x, z)|_1

with a U-Net (section 3.2.1), a discriminator of patches (section 3.2.2), and dropout, on in use too, for the noise z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastgen._names import unknown_name
from fastgen.models.adversarial.base import Rules, random_directions, refit_batch_norms
from fastgen.models.adversarial.translation import TranslationConfig, TranslationModel
from fastgen.models.adversarial.translation_networks import PatchDiscriminator, UNet, check_patch_options
from fastgen.models.autoencoders.base import stream_key
from fastgen.models.base import Batches, Terms
from fastgen.sampling.noise import uniforms

RECONSTRUCTIONS = ("l1", "l2")
DIRECTIONS = ("a_to_b", "b_to_a")


@dataclass(frozen=True)
class ImageToImageConfig(TranslationConfig):
    """Options of ImageToImage: those of `TranslationConfig`, and:

    Attributes:
        n_filters: of the U-Net's convolutions, each of which halves the map.
        dropout: probability of the noise; 0 makes the translation a function.
        n_noisy: of the maps that the U-Net doubles, how many have the noise, the coarsest first. The paper has it in 3
            of the 7 below 256x256; in fine maps it is seen as grain.
        discriminator_filters: of the convolutions that halve the map: three see patches of 70x70, two of 34x34.
        discriminator_norm: "batch", "instance", "spectral" (norm of the weights) or "none".
        reconstruction: the distance to the true image, "l1" or "l2" (squared).
        reconstruction_weight: lambda.
        direction: "a_to_b", or "b_to_a" to translate the second domain to the first.
    """

    n_filters: Sequence[int] = (64, 128, 256, 512, 512)
    _: KW_ONLY
    dropout: float = 0.5
    n_noisy: int = 3
    discriminator_filters: Sequence[int] = (64, 128)
    discriminator_norm: str = "batch"
    reconstruction: str = "l1"
    reconstruction_weight: float = 100.0
    direction: str = "a_to_b"

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("n_filters", "discriminator_filters"):
            object.__setattr__(self, key, tuple(int(n) for n in getattr(self, key)))
        if len(self.n_filters) < 2 or min(self.n_filters) < 1:
            raise ValueError(
                f"ImageToImage: n_filters must name at least two convolutions, of 1 filter or more; got "
                f"{self.n_filters}"
            )
        parts = 2 ** len(self.n_filters)
        if any(side % parts for side in self.side):
            raise ValueError(
                f"ImageToImage: both sides of image_size must be multiples of {parts}, as {len(self.n_filters)} "
                f"convolutions halve them; got {self.image_size}; name fewer n_filters, or resize the images"
            )
        check_patch_options("ImageToImage", self.side, self.discriminator_filters, self.discriminator_norm)
        if self.reconstruction not in RECONSTRUCTIONS:
            raise unknown_name("reconstruction", str(self.reconstruction), RECONSTRUCTIONS)
        if self.direction not in DIRECTIONS:
            raise unknown_name("direction", str(self.direction), DIRECTIONS)
        if not 0 <= self.dropout < 1 or self.n_noisy < 0:
            raise ValueError(
                f"ImageToImage: dropout must be in [0, 1), n_noisy at least 0; got {self.dropout} and {self.n_noisy}"
            )
        if not 0 <= self.reconstruction_weight < math.inf:
            raise ValueError(
                f"ImageToImage: reconstruction_weight must be finite and not negative; got {self.reconstruction_weight}"
            )


class ImageToImage(TranslationModel):
    """A U-Net against a discriminator of patches of pairs; options as in `ImageToImageConfig`.

    Shapes: pairs [N, CA + CB, H, W] of images that show the same.
    """

    config_class = ImageToImageConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "non_saturating",
        "betas_discriminator": (0.5, 0.999),
        "betas_generator": (0.5, 0.999),
    }
    paired = True
    generator: UNet

    def __init__(self, *args: Any, **options: Any) -> None:
        c = ImageToImageConfig(*args, **options)
        super().__init__(c)
        self.target = 1 - DIRECTIONS.index(c.direction)
        self.multiple = 2 ** len(c.n_filters)
        self.dropout, self.squared, self.weight = c.dropout, c.reconstruction == "l2", c.reconstruction_weight
        n_inputs, n_outputs = self.domain_channels[1 - self.target], self.domain_channels[self.target]
        self.generator = UNet(n_inputs, n_outputs, c.n_filters, c.dropout, c.n_noisy)
        self.discriminator = PatchDiscriminator(self.channels, c.discriminator_filters, c.discriminator_norm)

    def domain_number(self, to: str | None) -> int:
        """See `TranslationModel.domain_number`; there is one direction."""
        target = super().domain_number(to)
        if target != self.target:
            raise ValueError(
                f"ImageToImage: it was trained to translate to {self.domains[self.target]!r}; got to={to!r}; train "
                "another one with config.direction"
            )
        return target

    def translated(self, x: Tensor, target: int, *, seed: int | None = None, first_image: int = 0) -> Tensor:
        """See `TranslationModel.translated`."""
        kept = None if seed is None else self.masks(x, seed, first_image)
        images: Tensor = self.generator(x, kept)
        return images

    def masks(self, x: Tensor, seed: int, first_image: int = 0) -> list[Tensor]:
        """What dropout keeps, as a function of the seed and the images' numbers.

        Shapes: bool [N, C, h, w] of each map with dropout.
        """
        numbers = torch.arange(first_image, first_image + len(x), device=x.device)
        shapes = self.generator.mask_shapes((x.shape[2], x.shape[3]))
        return [
            uniforms(stream_key(seed, level), numbers, height, width, channels) >= self.dropout
            for level, (channels, height, width) in enumerate(shapes)
        ]

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """Logits of the patches of pairs. Shapes: [N, CA + CB, H, W] -> [N, 1, h, w]."""
        logits: Tensor = self.discriminator(self.prepare_input(x))
        return logits

    def pair(self, source: Tensor, image: Tensor) -> Tensor:
        """Source and target as the discriminator sees them. Shapes: of each [N, C, H, W] -> [N, CA + CB, H, W]."""
        both = (source, image) if self.target else (image, source)
        return torch.cat([part.to(source.dtype) for part in both], 1)

    def tell_apart(self, rules: Rules, x: Tensor, cond: Any = None) -> Terms:
        """The discriminator's loss on true pairs, and on the same sources with their translations."""
        x = self.prepare_input(x)
        source = self.split(x)[1 - self.target]
        with torch.no_grad():
            fake = self.generate(source)
        return rules.discriminator_terms(self.discriminate, x, self.pair(source, fake))

    def deceive(self, rules: Rules, x: Tensor, cond: Any = None) -> Terms:
        """The generator's loss, and lambda times the distance to the true image."""
        x = self.prepare_input(x)
        images = self.split(x)
        source, real = images[1 - self.target], images[self.target]
        fake = self.generate(source)
        terms = dict(rules.generator_terms(self.discriminate, self.pair(source, fake), x))
        adversarial = terms.pop("loss")
        error = (fake - real).float()
        distance = error.square().mean() if self.squared else error.abs().mean()
        loss = adversarial + self.weight * distance
        return {"loss": loss, "adversarial": adversarial, "reconstruction": distance, **terms}

    @torch.no_grad()
    def finish(self, batches: Batches) -> None:
        """Estimate the statistics of the generator's batch norms anew; see `AdversarialModel.finish`."""

        def draw(x: Tensor, cond: Any) -> None:
            self.generate(self.split(self.prepare_input(x))[1 - self.target])

        refit_batch_norms(self.generator, batches, draw)

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """Distance to the true image in [-1, 1], PSNR in decibels, and what every adversarial model says."""
        x = self.prepare_input(x)
        images = self.split(x)
        source, real = images[1 - self.target], images[self.target]
        fake = self.generate(source).to(x.dtype)
        error = (fake - real).flatten(1)
        directions = random_directions(real)
        return {
            "l1": error.abs().mean(1),
            "psnr": (10 * torch.log10(4 / error.square().mean(1))).clamp_max(100),
            "real_on_directions": real.flatten(1) @ directions,
            "fake_on_directions": fake.flatten(1) @ directions,
            "logit_real": self.discriminate(x).flatten(1).mean(1),
            "logit_fake": self.discriminate(self.pair(source, fake)).flatten(1).mean(1),
        }

    def summarize(self, figures: Terms) -> dict[str, float]:
        """Means of L1 distance and PSNR, then the sliced distance and the logits of `AdversarialModel.summarize`."""
        rest = dict(figures)
        first = {key: float(rest.pop(key).mean()) for key in ("l1", "psnr")}
        return {**first, **super().summarize(rest)}
