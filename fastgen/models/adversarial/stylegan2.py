"""The second style-based generative adversarial network.

Karras, Laine, Aittala, Hellsten, Lehtinen, Aila 2020, Analyzing and Improving the Image Quality of StyleGAN,
https://arxiv.org/abs/1912.04958: styles scale the inputs of convolutions, whose outputs are brought back to unit
deviation by what the weights say (section 2.2); the image is the sum of what every resolution adds, upsampled, and the
discriminator has residual blocks (figure 7); path lengths are regularised (3.2), and regularisers taken lazily (3.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.models.adversarial.style import StyleConfig, StyleGenerator, StyleModel
from fastgen.models.adversarial.stylegan_networks import Verdict, resolutions, widened
from fastgen.nn import EqualizedConv2d, ModulatedConv2d, Upsample2d

R1_INTERVAL, PATH_LENGTH_INTERVAL = 16, 8


@dataclass(frozen=True)
class StyleGAN2Config(StyleConfig):
    """Options of StyleGAN2: those of `StyleConfig`, labels and range.

    Attributes:
        n_classes: number of labels, seen by the mapping and by the discriminator; 0 for none.
        clamp: bound of every activation, so that float16 does not overflow; None for none.
    """

    _: KW_ONLY
    n_classes: int = 0
    clamp: float | None = 256.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_classes < 0:
            raise ValueError(f"StyleGAN2: n_classes must be at least 0; got {self.n_classes}")
        if self.clamp is not None and not self.clamp > 0:
            raise ValueError(f"StyleGAN2: clamp must be positive; got {self.clamp}; set none for no bound")


class SynthesisBlock(nn.Module):
    """Two modulated convolutions, the first to twice the size (the coarsest resolution has one), and colours.

    Shapes: x [N, Ci, h, w], styles of the convolutions and of the colours [N, 2 or 3, w_dim], noise of the
        convolutions -> [N, Co, H, W], [N, C, H, W].
    """

    def __init__(self, n_in: int, n_out: int, c: StyleGAN2Config, *, up: bool) -> None:
        super().__init__()
        convs = [ModulatedConv2d(n_in, n_out, 3, c.w_dim, up=2, clamp=c.clamp)] if up else []
        convs.append(ModulatedConv2d(n_out, n_out, 3, c.w_dim, clamp=c.clamp))
        self.convs = nn.ModuleList(convs)
        self.to_colors = ModulatedConv2d(
            n_out, c.image_channels, 1, c.w_dim, demodulate=False, use_noise=False, act="linear", clamp=c.clamp
        )

    def forward(self, x: Tensor, w: Tensor, noise: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
        """The next map, and what it adds to the image. Shapes: as the class says."""
        for k, conv in enumerate(self.convs):
            x = conv(x, w[:, k], noise[k])
        return x, widened(self.to_colors(x, w[:, len(self.convs)]))


class Synthesis(nn.Module):
    """A learned constant, a block for each resolution, and the sum of their colours.

    The style of a resolution's colours is also that of the next one's first convolution, which both look at one map.

    Shapes: w [N, L, w_dim], L = 2 for each resolution -> [N, C, H, W].
    """

    def __init__(self, c: StyleGAN2Config, image_size: tuple[int, int]) -> None:
        super().__init__()
        levels = resolutions(image_size, c.n_filters)
        n, height, width = levels[0]
        self.constant = nn.Parameter(torch.randn(1, n, height, width))
        widths = [n, *(n for n, *_ in levels)]
        self.blocks = nn.ModuleList([SynthesisBlock(a, b, c, up=k > 0) for k, (a, b) in enumerate(pairwise(widths))])
        self.upsample = Upsample2d()
        self.noise_sizes = [(height, width) for _, height, width in levels for _ in range(2)][1:]

    def forward(self, w: Tensor, noise: Sequence[Tensor] | None) -> Tensor:
        """Images of styles. Shapes: as the class says."""
        given: Sequence[Tensor | None] = [None] * len(self.noise_sizes) if noise is None else noise
        x = self.constant.expand(len(w), -1, -1, -1)
        images, first = None, 0
        for block in self.blocks:
            last = first + (2 if first else 1)
            x, colors = block(x, w[:, first : last + 1], given[first:last])
            images = colors if images is None else self.upsample(images) + colors
            first = last
        assert images is not None
        return images


class ResidualBlock(nn.Module):
    """(two convolutions + one of 1x1) / sqrt 2, to half the size.

    Shapes: [N, Ci, H, W] -> [N, Co, H / 2, W / 2].
    """

    def __init__(self, n_in: int, n_out: int, clamp: float | None) -> None:
        super().__init__()
        half = math.sqrt(0.5)
        bound = None if clamp is None else clamp * half
        self.convs = nn.Sequential(
            EqualizedConv2d(n_in, n_in, 3, act="lrelu", clamp=clamp),
            EqualizedConv2d(n_in, n_out, 3, act="lrelu", gain=1.0, clamp=bound, down=2),
        )
        self.skip = EqualizedConv2d(n_in, n_out, 1, bias=False, gain=half, down=2)

    def forward(self, x: Tensor) -> Tensor:
        """The next map. Shapes: as the class says."""
        h: Tensor = self.skip(x) + self.convs(x)
        return h


class ResidualDiscriminator(nn.Module):
    """Features of every pixel, a residual block for each resolution but the coarsest, and the verdict.

    Shapes: x [N, C, H, W], labels [N] or None -> [N].
    """

    def __init__(self, c: StyleGAN2Config, image_size: tuple[int, int]) -> None:
        super().__init__()
        levels = resolutions(image_size, c.n_filters)[::-1]
        widths = [n for n, *_ in levels]
        self.from_colors = EqualizedConv2d(c.image_channels, widths[0], 1, act="lrelu", clamp=c.clamp)
        self.blocks = nn.Sequential(*(ResidualBlock(a, b, c.clamp) for a, b in pairwise(widths)))
        n, height, width = levels[-1]
        self.verdict = Verdict(n, (height, width), c.group_size, c.clamp, c.n_classes)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of images. Shapes: as the class says."""
        logits: Tensor = self.verdict(self.blocks(self.from_colors(x)), labels)
        return logits


def lazy(interval: int) -> dict[str, Any]:
    """Adam's learning rate and decay rates (0, 0.99) for a regulariser every `interval` steps, by appendix B.

    c lr, beta1^c, beta2^c with c = interval / (interval + 1).
    """
    c = interval / (interval + 1)
    return {"lr": c, "betas": (0.0, 0.99**c)}


class StyleGAN2(StyleModel):
    """Modulated convolutions and summed colours against residual blocks; options as in `StyleGAN2Config`.

    Shapes: x [N, C, H, W], z [N, latent_dim], cond [N] labels or None.
    """

    config_class = StyleGAN2Config
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "non_saturating",
        "r1": 10.0,
        "r1_interval": R1_INTERVAL,
        "path_length": 2.0,
        "path_length_interval": PATH_LENGTH_INTERVAL,
        "lr_discriminator": lazy(R1_INTERVAL)["lr"],
        "betas_discriminator": lazy(R1_INTERVAL)["betas"],
        "lr_generator": lazy(PATH_LENGTH_INTERVAL)["lr"],
        "betas_generator": lazy(PATH_LENGTH_INTERVAL)["betas"],
    }

    def __init__(self, *args: Any, **options: Any) -> None:
        c = StyleGAN2Config(*args, **options)
        super().__init__(c, (c.latent_dim,), c.n_classes)
        self.mixing = c.mixing
        synthesis = Synthesis(c, self.image_size)
        self.generator = StyleGenerator(c, synthesis, synthesis.noise_sizes, c.n_classes)
        self.discriminator = ResidualDiscriminator(c, self.image_size)

    def synthesize(self, w: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images of styles; see `StyleModel.synthesize`."""
        images: Tensor = self.generator.synthesis(w, noise)
        return images

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """The logits of images, given their labels. Shapes: x [N, C, H, W], labels [N] or None -> [N]."""
        logits: Tensor = self.discriminator(self.prepare_input(x), self.prepare_cond(cond, len(x)))
        return logits
