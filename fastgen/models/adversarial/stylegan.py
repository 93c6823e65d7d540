"""The style-based generative adversarial network.

Karras, Laine, Aila 2019, A Style-Based Generator Architecture for Generative Adversarial Networks,
https://arxiv.org/abs/1812.04948: a learned constant grows to the image; after every convolution come noise, a leaky
ReLU and AdaIN, which gives each feature map the mean and the deviation that the style says (section 2 and figure 1b);
up- and downsampling are filtered (table 1, B). Trained on the non-saturating loss with R1, whole from the start or, as
in the paper, resolution by resolution (`growing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastgen.functional import bias_act
from fastgen.models.adversarial.growing import GrowingDiscriminator, GrowingModel, GrowingNetwork, check_growth
from fastgen.models.adversarial.style import StyleConfig, StyleGenerator, StyleModel
from fastgen.models.adversarial.stylegan_networks import resolutions, widened
from fastgen.nn import EqualizedConv2d, EqualizedLinear
from fastgen.nn.resample import BINOMIAL


@dataclass(frozen=True)
class StyleGANConfig(StyleConfig):
    """Options of StyleGAN: those of `StyleConfig`, and growth.

    Attributes:
        progressive: train resolution by resolution.
        growth_share: with `progressive`, the share of the budget after which the networks are whole, in (0, 1].
    """

    _: KW_ONLY
    progressive: bool = False
    growth_share: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_growth("StyleGAN", self.growth_share)


class AdaptiveNorm(nn.Module):
    """y_s (x - mean(x)) / std(x) + y_b with (y_s - 1, y_b) = A w; mean and deviation over the map, eps 1e-8.

    Shapes: x [N, C, H, W], w [N, w_dim] -> the same. Dtypes: that of x; computed in float32 (float64).
    """

    def __init__(self, n_filters: int, w_dim: int) -> None:
        super().__init__()
        self.affine = EqualizedLinear(w_dim, 2 * n_filters)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Normalise, and give the style's mean and deviation."""
        wide = widened(x)
        scale, shift = self.affine(w).to(wide.dtype)[:, :, None, None].chunk(2, 1)
        variance, mean = torch.var_mean(wide, (2, 3), correction=0, keepdim=True)
        scale = (1 + scale) * torch.rsqrt(variance + 1e-8)
        return torch.addcmul(torch.addcmul(shift, mean, scale, value=-1), wide, scale).to(x.dtype)


class StyledLayer(nn.Module):
    """Convolution (none in the first layer), noise with a strength of each channel, bias, leaky ReLU, AdaIN.

    Shapes: x [N, Ci, H, W], w [N, w_dim], noise [N or 1, 1, H up, W up] or None -> [N, Co, H up, W up].
    """

    def __init__(self, n_in: int, n_out: int, w_dim: int, *, convolves: bool = True, up: int = 1) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(n_in, n_out, 3, bias=False, up=up, taps=BINOMIAL) if convolves else None
        self.strength = nn.Parameter(torch.zeros(n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.norm = AdaptiveNorm(n_out, w_dim)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None) -> Tensor:
        """The next map. Shapes: as the class says."""
        if self.conv is not None:
            x = self.conv(x)
        if noise is None:
            noise = torch.randn((len(x), 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        x = torch.addcmul(x, self.strength.to(x.dtype)[:, None, None], noise.to(x.dtype))
        styled: Tensor = self.norm(bias_act(x, self.bias, 1, "lrelu"), w)
        return styled


class Start(nn.Module):
    """A learned constant and the two layers of the coarsest resolution.

    Shapes: w [N, 2, w_dim], noise of both layers -> [N, n_filters, h, w].
    """

    def __init__(self, n_filters: int, size: tuple[int, int], w_dim: int) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.ones(1, n_filters, *size))
        self.layers = nn.ModuleList([StyledLayer(n_filters, n_filters, w_dim, convolves=k > 0) for k in range(2)])

    def forward(self, w: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
        """The coarsest map of styles. Shapes: as the class says."""
        return styled(self.layers, self.constant.expand(len(w), -1, -1, -1), w, noise)


class StyledBlock(nn.Module):
    """The two layers of a resolution, the first from half of it.

    Shapes: x [N, Ci, H, W], w [N, 2, w_dim], noise of both layers -> [N, Co, 2H, 2W].
    """

    def __init__(self, n_in: int, n_out: int, w_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([StyledLayer(n_in, n_out, w_dim, up=2), StyledLayer(n_out, n_out, w_dim)])

    def forward(self, x: Tensor, w: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
        """The next map. Shapes: as the class says."""
        return styled(self.layers, x, w, noise)


def styled(layers: nn.ModuleList, x: Tensor, w: Tensor, noise: Sequence[Tensor | None]) -> Tensor:
    """Maps through layers, each with its style and noise. Shapes: w [N, len(layers), w_dim]."""
    for k, layer in enumerate(layers):
        x = layer(x, w[:, k], noise[k])
    return x


class Synthesis(GrowingNetwork):
    """A constant becomes the image, two styled layers for each resolution of the stage.

    Shapes: w [N, L, w_dim], L = 2 for each resolution -> [N, C, h, w] of the stage.
    """

    def __init__(self, c: StyleGANConfig, image_size: tuple[int, int]) -> None:
        levels = resolutions(image_size, c.n_filters)
        widths = [n for n, *_ in levels]
        n, height, width = levels[0]
        blocks = [StyledBlock(a, b, c.w_dim) for a, b in pairwise(widths)]
        colors = [EqualizedConv2d(n, c.image_channels, 1) for n in widths]
        super().__init__(Start(n, (height, width), c.w_dim), blocks, colors, c.progressive)
        self.noise_sizes = [(height, width) for _, height, width in levels for _ in range(2)]

    def forward(self, w: Tensor, noise: Sequence[Tensor] | None, stage: int, alpha: Tensor) -> Tensor:
        """Images of styles at the resolution of the stage. Shapes: as the class says."""
        given: Sequence[Tensor | None] = [None] * len(self.noise_sizes) if noise is None else noise
        maps = [self.coarsest(w[:, :2], given[:2])]
        for k, block in enumerate(self.blocks[:stage], start=1):
            maps.append(block(maps[-1], w[:, 2 * k : 2 * k + 2], given[2 * k : 2 * k + 2]))
        return self.to_colors(maps, stage, alpha)


class GrowingStyleGenerator(StyleGenerator):
    """The mapping and a synthesis that may grow."""

    synthesis: Synthesis

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """The weights that a stage trains."""
        return [*self.mapping.parameters(), *self.synthesis.parameters_of(stage)]


class StyleGAN(GrowingModel, StyleModel):
    """A generator of styles against a discriminator; options as in `StyleGANConfig`.

    Shapes: x [N, C, H, W], z [N, latent_dim].
    """

    config_class = StyleGANConfig
    adversarial: ClassVar[Mapping[str, Any]] = {
        "loss": "non_saturating",
        "r1": 10.0,
        "betas_discriminator": (0.0, 0.99),
        "betas_generator": (0.0, 0.99),
    }
    generator: GrowingStyleGenerator  # type: ignore[assignment]

    def __init__(self, *args: Any, **options: Any) -> None:
        c = StyleGANConfig(*args, **options)
        super().__init__(c, (c.latent_dim,))
        self.mixing = c.mixing
        self.prepare_growth(c.n_filters, c.growth_share if c.progressive else None)
        synthesis = Synthesis(c, self.image_size)
        self.generator = GrowingStyleGenerator(c, synthesis, synthesis.noise_sizes)
        self.discriminator = GrowingDiscriminator(
            self.image_channels,
            c.n_filters,
            self.image_size,
            group_size=c.group_size,
            taps=BINOMIAL,
            grows=c.progressive,
        )

    def synthesize(self, w: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """Images of styles at the resolution of the present stage; see `StyleModel.synthesize`."""
        images: Tensor = self.generator.synthesis(w, noise, int(self.stage), self.alpha)
        return images

    def styles_in_use(self) -> int:
        """The styles of the resolutions up to the present one."""
        return 2 * (int(self.stage) + 1)
