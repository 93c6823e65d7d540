"""Growing both networks resolution by resolution, and a discriminator that grows.

Karras, Aila, Laine, Lehtinen 2018, Progressive Growing of GANs for Improved Quality, Stability, and Variation,
https://arxiv.org/abs/1710.10196, section 2: training starts at the coarsest resolution. Each further one is faded in,

    image = (1 - alpha) upsample(image of the stage before) + alpha image of the new layers,

alpha rising from 0 to 1, in both networks and in the real images alike, and then trained for as long before the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.functional import downsample2d, setup_filter, upsample2d
from fastgen.models.adversarial.base import AdversarialModel, Rules
from fastgen.models.adversarial.stylegan_networks import BOX, Verdict, resolutions
from fastgen.models.base import Model, Phase, check_image_size
from fastgen.nn import EqualizedConv2d
from fastgen.nn.resample import Taps


class GrowingModel(AdversarialModel):
    """An adversarial model whose networks start at the coarsest resolution and grow with the training's progress.

    A subclass says how images of the present stage are drawn; `begin_step` sets the stage. Every stage has optimisers
    of its own, which start as new ones do when its layers come (as the authors' do).

    Attributes:
        stage: number of the present resolution, the coarsest is 0; a buffer, in checkpoints and model files.
        alpha: how far the stage is faded in; a buffer too.
        growth_share: the share of the budget after which the networks are whole; None: they always are.
    """

    stage: Tensor
    alpha: Tensor
    box: Tensor
    generator: GrowingNetwork
    discriminator: GrowingNetwork

    def prepare_growth(self, n_filters: Sequence[int], growth_share: float | None) -> None:
        """Start with whole networks, which the first training step reduces."""
        self.sizes = [(height, width) for _, height, width in resolutions(self.image_size, n_filters)]
        self.growth_share = growth_share
        self.register_buffer("stage", torch.tensor(len(self.sizes) - 1))
        self.register_buffer("alpha", torch.ones(()))
        self.register_buffer("box", setup_filter(BOX), persistent=False)

    def starts(self) -> list[float]:
        """The progress at which each stage starts: equal spans for training one and fading in the next."""
        if self.growth_share is None:
            return [0.0]
        spans = max(1, 2 * (len(self.sizes) - 1))
        return [0.0, *(self.growth_share * (2 * k - 1) / spans for k in range(1, len(self.sizes)))]

    def begin_step(self, progress: float) -> None:
        """Set the stage, and how far it is faded in."""
        if self.growth_share is None:
            return
        starts = self.starts()
        stage = sum(start <= progress for start in starts) - 1
        span = self.growth_share / max(1, 2 * (len(self.sizes) - 1))
        self.stage.fill_(stage)
        self.alpha.fill_(min(1.0, (progress - starts[stage]) / span) if stage else 1.0)

    def turns(self, rules: Rules) -> Sequence[Phase]:
        """A pair of turns for every stage, of the weights that it trains."""
        pair = super().turns(rules)
        if self.growth_share is None:
            return pair
        phases = []
        starts = self.starts()
        for stage, (height, width) in enumerate(self.sizes):
            begin, end = starts[stage], (*starts, 1.0)[stage + 1]
            for phase, network in zip(pair, (self.discriminator, self.generator), strict=True):
                name = f"{phase.name}_{height}x{width}"
                parameters = tuple(network.parameters_of(stage))
                phases.append(dataclasses.replace(phase, name=name, parameters=parameters, begin=begin, end=end))
        return phases

    def discriminate(self, x: Tensor, cond: Any = None) -> Tensor:
        """The logits of images, which the present stage sees reduced. Shapes: x [N, C, H, W] -> [N].

        In training x is of the size of the stage.
        """
        x, stage = Model.prepare_input(self, x), int(self.stage)
        if tuple(x.shape[2:]) != self.sizes[stage]:
            check_image_size(type(self).__name__, x, self.image_size)
            x = self.reduced(x)
        logits: Tensor = self.discriminator(x, stage, self.alpha)
        return logits

    def shown(self, x: Tensor) -> Tensor:
        """Real images at the resolution of the present stage, faded as the generated ones.

        Shapes: [N, C, H, W] -> [N, C, h, w].
        """
        x = self.reduced(x)
        if self.growth_share is None or not int(self.stage):
            return x
        return faded(downsample2d(x, self.box), x, self.alpha, self.box)

    def reduced(self, x: Tensor) -> Tensor:
        """Images at the resolution of the present stage, by averaging. Shapes: [N, C, H, W] -> [N, C, h, w]."""
        for _ in range(len(self.sizes) - 1 - int(self.stage)):
            x = downsample2d(x, self.box)
        return x

    def enlarged(self, images: Tensor) -> Tensor:
        """Images of the present stage in full size, by repetition. Shapes: [N, C, h, w] -> [N, C, H, W]."""
        for _ in range(len(self.sizes) - 1 - int(self.stage)):
            images = upsample2d(images, self.box)
        return images


class GrowingNetwork(nn.Module):
    """A network that works at any of its resolutions, through a layer from or to colours at each of them.

    Attributes:
        coarsest: what every stage passes through.
        blocks: from one resolution to the next, the coarsest first; stage k passes through k of them.
        colors: convolutions between features and colours of each resolution; without growth of the finest only.
    """

    box: Tensor

    def __init__(
        self, coarsest: nn.Module, blocks: Sequence[nn.Module], colors: Sequence[nn.Module], grows: bool
    ) -> None:
        super().__init__()
        self.grows = grows
        self.coarsest = coarsest
        self.blocks = nn.ModuleList(blocks)
        self.colors = nn.ModuleList(colors if grows else [*(nn.Identity() for _ in colors[:-1]), colors[-1]])
        self.register_buffer("box", setup_filter(BOX), persistent=False)

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """The weights that a stage trains: its own, those of coarser blocks, and the colours that it fades out."""
        modules = [self.coarsest, *self.blocks[:stage], *self.colors[max(0, stage - 1) : stage + 1]]
        return [parameter for module in modules for parameter in module.parameters()]

    def to_colors(self, maps: Sequence[Tensor], stage: int, alpha: Tensor) -> Tensor:
        """Images of the last of the stage's maps, fading out those of the one before.

        Shapes: maps [N, Ck, Hk, Wk], the last two resolutions' at least -> [N, C, H, W].
        """
        images: Tensor = self.colors[stage](maps[-1])
        if self.grows and stage:
            images = faded(self.colors[stage - 1](maps[-2]), images, alpha, self.box)
        return images


class GrowingDiscriminator(GrowingNetwork):
    """From colours of the stage's resolution down: two convolutions each, the second halves the map.

    Shapes: x [N, C, h, w] -> [N].
    taps: of the filter before the map is halved; 1 1 averages, 1 3 3 1 also blurs.
    """

    def __init__(
        self,
        channels: int,
        n_filters: Sequence[int],
        image_size: tuple[int, int],
        *,
        group_size: int,
        taps: Taps = BOX,
        grows: bool = True,
    ) -> None:
        levels = resolutions(image_size, n_filters)
        blocks = [
            nn.Sequential(
                EqualizedConv2d(fine, fine, 3, act="lrelu"),
                EqualizedConv2d(fine, coarse, 3, act="lrelu", down=2, taps=taps),
            )
            for (coarse, *_), (fine, *_) in pairwise(levels)
        ]
        colors = [EqualizedConv2d(channels, n, 1, act="lrelu") for n, *_ in levels]
        n, height, width = levels[0]
        super().__init__(Verdict(n, (height, width), group_size), blocks, colors, grows)

    def forward(self, x: Tensor, stage: int, alpha: Tensor) -> Tensor:
        """Logits of images at the resolution of the stage. Shapes: as the class says."""
        h = self.colors[stage](x)
        for k in range(stage, 0, -1):
            h = self.blocks[k - 1](h)
            if self.grows and k == stage:
                coarse = self.colors[k - 1](downsample2d(x, self.box))
                h = torch.lerp(coarse, h, alpha.to(h.dtype))
        logits: Tensor = self.coarsest(h)
        return logits


def faded(coarse: Tensor, fine: Tensor, alpha: Tensor, box: Tensor) -> Tensor:
    """(1 - alpha) coarse, its pixels repeated, + alpha fine. Shapes: [N, C, h, w], [N, C, 2h, 2w] -> as fine."""
    return torch.lerp(upsample2d(coarse, box), fine, alpha.to(fine.dtype))


def check_growth(name: str, growth_share: float) -> None:
    """Check the share of the budget in which networks grow.

    Raises:
        ValueError: it is none.
    """
    if not 0 < growth_share <= 1:
        raise ValueError(f"{name}: growth_share must be a share of the budget, in (0, 1]; got {growth_share}")
