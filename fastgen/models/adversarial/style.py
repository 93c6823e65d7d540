"""What StyleGAN and StyleGAN2 share: styles, their mixture and truncation, and noise beside them.

Karras, Laine, Aila 2019, A Style-Based Generator Architecture for Generative Adversarial Networks,
https://arxiv.org/abs/1812.04948: a mapping makes a style w of a code z, and each layer of the synthesis takes its own
copy of w (section 2). In training the layers from a random one on take another style (3.1); in drawing styles are drawn
towards their average, w' = w_average + psi (w - w_average) (appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen._names import unknown_name
from fastgen.likelihoods import signal_to_levels
from fastgen.models.adversarial.base import AdversarialModel, combine_groups
from fastgen.models.adversarial.stylegan_networks import Mapping, check_resolutions
from fastgen.models.autoencoders.base import check_latent_options, interpolate_codes, latent_noise
from fastgen.models.autoencoders.networks import check_widths
from fastgen.models.base import check_codes

NOISES = ("random", "constant", "none")
SPACES = ("z", "w")


@dataclass(frozen=True)
class StyleConfig:
    """Options of models with styles.

    Attributes:
        image_channels: C.
        latent_dim: D, the length of a code, of which only the direction counts.
        n_filters: channels at each resolution, from the finest on; each is half of the one before.
        w_dim: length of a style.
        mapping_layers: dense layers from codes to styles.
        mapping_lr: their learning rate, times that of the others.
        mixing: share of the training images that two styles make.
        group_size: images over which the discriminator takes the standard deviation, at most.
        image_size: (H, W) of every image, multiples of 2 to the number of resolutions but one.
    """

    image_channels: int = 3
    latent_dim: int = 128
    n_filters: Sequence[int] = (64, 128, 128, 128)
    _: KW_ONLY
    w_dim: int = 128
    mapping_layers: int = 8
    mapping_lr: float = 0.01
    mixing: float = 0.9
    group_size: int = 4
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__.removesuffix("Config")
        size = check_latent_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        object.__setattr__(self, "n_filters", tuple(int(n) for n in self.n_filters))
        check_widths(name, latent_dim=(self.latent_dim,), w_dim=(self.w_dim,), mapping_layers=(self.mapping_layers,))
        check_resolutions(name, size, self.n_filters, self.group_size)
        if not 0 < self.mapping_lr < math.inf:
            raise ValueError(f"{name}: mapping_lr must be positive and finite; got {self.mapping_lr}")
        if not 0 <= self.mixing <= 1:
            raise ValueError(f"{name}: mixing must be a share of the images, in [0, 1]; got {self.mixing}")


class StyleGenerator(nn.Module):
    """Codes to styles, and styles to images.

    Attributes:
        n_styles: styles that the synthesis takes, two for each resolution.
        noise_sizes: height and width of the noise of each layer that takes some.
    """

    def __init__(
        self, c: StyleConfig, synthesis: nn.Module, noise_sizes: Sequence[tuple[int, int]], n_classes: int = 0
    ) -> None:
        super().__init__()
        self.n_styles, self.noise_sizes = 2 * len(c.n_filters), tuple(noise_sizes)
        self.mapping = Mapping(c.latent_dim, c.w_dim, c.mapping_layers, c.mapping_lr, n_classes)
        self.synthesis = synthesis


class StyleModel(AdversarialModel):
    """An adversarial model whose generator maps codes z to styles w, one for each layer of the synthesis.

    A subclass says how styles become images (`synthesize`).

    Attributes:
        n_styles: L, the layers of the synthesis that take a style.
        mixing: share of the training images that two styles make.
    """

    generator: StyleGenerator
    mixing: float

    @property
    def n_styles(self) -> int:
        """L, the layers of the synthesis that take a style."""
        return self.generator.n_styles

    def synthesize(self, w: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images of styles, as the players see them, differentiable.

        Shapes: w [N, L, w_dim], noise [N or 1, 1, h, w] for each layer that takes some, by default drawn by the global
        generator -> [N, C, H, W].
        """
        raise NotImplementedError

    def styles_in_use(self) -> int:
        """The number of styles that the present images depend on."""
        return self.n_styles

    def enlarged(self, images: Tensor) -> Tensor:
        """Images as the players see them in full size."""
        return images

    def map(self, z: Tensor, cond: Any = None) -> Tensor:
        """Styles of codes, differentiable. Shapes: z [N, latent_dim], cond [N] or None -> [N, w_dim]."""
        w: Tensor = self.generator.mapping(self.check_codes(z), self.prepare_cond(cond, len(z)))
        return w

    def layered(self, w: Tensor) -> Tensor:
        """One style for all layers. Shapes: [N, w_dim] -> [N, L, w_dim]."""
        return w[:, None].expand(-1, self.n_styles, -1)

    def generate(self, z: Tensor, cond: Any = None) -> Tensor:
        """Images of codes, differentiable, noise drawn by the global generator.

        Shapes: z [N, latent_dim], labels [N] or None -> [N, C, H, W] in [-1, 1].
        """
        return self.enlarged(self.synthesize(self.layered(self.generator.mapping(z, cond))))

    def imagine(self, n: int, cond: Any = None, *, needs_latents: bool = False) -> tuple[Tensor, Tensor]:
        """Images of a training step, some of two styles, and the styles of their layers; the average follows.

        Shapes: -> [n, C, H, W], [n, L, w_dim].
        """
        mapping = self.generator.mapping
        w = mapping(self.random_latent(n), cond)
        mapping.follow(w)
        styles, used = self.layered(w), self.styles_in_use()
        if self.mixing and used > 1:
            other = mapping(self.random_latent(n), cond)
            mixed = torch.rand((n, 1, 1), device=w.device) < self.mixing
            crossover = torch.randint(1, used, (n, 1, 1), device=w.device)
            later = torch.arange(self.n_styles, device=w.device)[:, None] >= crossover
            styles = torch.where(mixed & later, other[:, None], styles)
        return self.synthesize(styles), styles

    def noise_inputs(self, kind: str, n: int, seed: int = 0, first_image: int = 0) -> list[Tensor]:
        """The noise of each layer that takes some.

        "random" is a function of the seed and the image's number, "constant" that of one image for all, "none" zero.

        Shapes: -> [n or 1, 1, h, w] each.

        Raises:
            ValueError: another kind.
        """
        if kind not in NOISES:
            raise unknown_name("noise", str(kind), NOISES)
        like, sizes = next(self.parameters()), self.generator.noise_sizes
        if kind == "none":
            return [like.new_zeros((1, 1, *size)) for size in sizes]
        if kind == "constant":
            n, seed, first_image = 1, 0, 0
        return [
            latent_noise((n, 1, *size), seed, first_image, stream=1 + layer, like=like)
            for layer, size in enumerate(sizes)
        ]

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        n: int,
        *,
        seed: int = 0,
        truncation: float = 1.0,
        noise: str = "random",
        cond: Any = None,
        batch_size: int | None = None,
        first_image: int = 0,
    ) -> Tensor:
        """Draw n images: uint8 levels [n, C, H, W].

        Codes and noise are Philox noise of (seed, image), so image k of a seed is the same at any batch size, up to
        rounding. There is no temperature, as the length of a code does not count.

        truncation: psi, below 1 less varied; 0 draws the average style.
        noise: "random", of each image its own; "constant", the same for all; or "none".
        cond: [n] labels of a model with classes.
        batch_size: images generated side by side; by default all.
        first_image: number of the first image, so that a set can be drawn in parts.

        Raises:
            ValueError: a number of images, truncation, kind of noise or condition that does not fit.
        """

        def draw(n: int, first: int, cond: Any) -> Tensor:
            z = self.draw_latent(n, seed=seed, first_image=first)
            return self.images_of(z, cond, truncation=truncation, noise=self.noise_inputs(noise, n, seed, first))

        return self.in_batches(draw, n, first_image, batch_size, cond)

    @torch.no_grad()
    def images_of(
        self,
        z: Tensor,
        cond: Any = None,
        *,
        space: str = "z",
        truncation: float = 1.0,
        noise: str | Sequence[Tensor] = "constant",
    ) -> Tensor:
        """The images of codes, or of styles. Shapes: z [N, latent_dim], or w [N, w_dim] with space="w" -> uint8 levels.

        Styles hold the label already. truncation, noise: as in `sample`; here "random" is the noise of images 0, 1, ...
        of seed 0.
        """
        if self._in_w(space):
            w = check_codes(f"{type(self).__name__} (space='w')", z, tuple(self.generator.mapping.average.shape))
        else:
            w = self.map(z, cond)
        return self._images_of_styles(self.layered(self.truncated(w, truncation)), noise)

    def truncated(self, w: Tensor, truncation: float) -> Tensor:
        """w_average + truncation (w - w_average). Shapes: [N, ..., w_dim] -> the same.

        Raises:
            ValueError: a truncation that is not finite.
        """
        if not math.isfinite(truncation):
            raise ValueError(f"{type(self).__name__}: truncation must be finite; got {truncation}")
        if truncation == 1:
            return w
        return torch.lerp(self.generator.mapping.average, w, truncation)

    @torch.no_grad()
    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        steps: int = 9,
        *,
        spherical: bool = False,
        cond: Any = None,
        space: str = "z",
        **options: Any,
    ) -> Tensor:
        """The images between two sets of codes, both ends included.

        Shapes: a, b [N, latent_dim] -> levels [N, steps, C, H, W]; a row has one label, of cond [N].
        space: where the line lies, "z" between the codes or "w" between their styles.
        options: of `images_of`, truncation and noise.

        Raises:
            ValueError: sets of different shapes, fewer than two steps, or another space.
        """
        if not self._in_w(space) or a.shape != b.shape:
            return super().interpolate(a, b, steps, spherical=spherical, cond=cond, **options)
        styles = interpolate_codes(self.map(a, cond), self.map(b, cond), steps, spherical=spherical)
        images = self.images_of(styles.flatten(0, 1), space="w", **options)
        return images.unflatten(0, (len(a), steps))

    @torch.no_grad()
    def arithmetic(self, a: Tensor, b: Tensor, c: Tensor, *, space: str = "z") -> Tensor:
        """mean(a) - mean(b) + mean(c) of three groups of codes, or of their styles; see `AdversarialModel.arithmetic`.

        Shapes: each [N, latent_dim] with N >= 1 of its own -> [latent_dim], or [w_dim] with space="w".
        """
        if not self._in_w(space):
            return super().arithmetic(a, b, c)
        return combine_groups(type(self).__name__, *(self.map(codes) for codes in (a, b, c)))

    @torch.no_grad()
    def mix(
        self,
        a: Tensor,
        b: Tensor,
        crossover: int,
        *,
        cond: Any = None,
        truncation: float = 1.0,
        noise: str | Sequence[Tensor] = "constant",
    ) -> Tensor:
        """The images of a's styles in the layers before `crossover` and b's from there on, as `images_of`.

        Shapes: a, b [N, latent_dim] -> levels [N, C, H, W].

        Raises:
            ValueError: sets of different shapes, or a crossover outside 0..L.
        """
        name = type(self).__name__
        if a.shape != b.shape:
            raise ValueError(f"{name}: a and b must have one shape; got {list(a.shape)} and {list(b.shape)}")
        if not 0 <= crossover <= self.n_styles:
            raise ValueError(f"{name}: crossover must be a layer in 0..{self.n_styles}; got {crossover}")
        first, second = (self.layered(self.truncated(self.map(z, cond), truncation)) for z in (a, b))
        return self._images_of_styles(torch.cat([first[:, :crossover], second[:, crossover:]], 1), noise)

    def _images_of_styles(self, w: Tensor, noise: str | Sequence[Tensor]) -> Tensor:
        """Shapes: w [N, L, w_dim] -> levels [N, C, H, W]."""
        noise = self.noise_inputs(noise, len(w)) if isinstance(noise, str) else noise
        return signal_to_levels(self.enlarged(self.synthesize(w, noise)), self.levels)

    def _in_w(self, space: str) -> bool:
        if space not in SPACES:
            raise unknown_name("space of codes", str(space), SPACES)
        return space == "w"
