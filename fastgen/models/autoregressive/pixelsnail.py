"""PixelSNAIL: gated causal convolutions for what is near, attention for what is far.

Chen, Mishra, Rohaninejad, Abbeel 2018, PixelSNAIL: An Improved Autoregressive Generative Model,
https://arxiv.org/abs/1712.09763. Every block (figure 3) is a few gated residual layers of causal convolutions, then one
attention over all earlier pixels: queries come from the features, which never see their own pixel, keys and values
from the features together with the image itself, and both know where they are from a background of coordinates. The
layers are those of PixelCNN++: weight-normalised, with concat_elu and gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture, Likelihood
from fastgen.models.autoregressive.base import AutoregressiveModel, as_likelihood, check_image_options
from fastgen.models.autoregressive.layers import ColourHead, LevelEmbedding
from fastgen.nn import (
    DownRightShiftedConv2d,
    DownShiftedConv2d,
    Dropout,
    GatedResnet,
    WeightNormConv2d,
    causal_attention,
    shift_down,
    shift_right,
)


@dataclass(frozen=True)
class PixelSNAILConfig:
    """Options of PixelSNAIL; the defaults are the paper's CIFAR-10 model.

    Attributes:
        image_channels: C.
        n_blocks: blocks of convolutions and attention.
        n_resnet: gated resnets of causal convolutions in a block.
        n_filters: channels of the features.
        n_classes: labels that every gate is conditioned on; 0 for none.
        dropout: rate inside the gated resnets.
        key_channels: of queries and keys.
        value_channels: of the values.
        n_heads: heads of the attention, which divide both.
        level_embedding: channels of a learned embedding of every level, for levels that are names and not amounts, as
            in maps of codes; 0 reads the signal itself.
        head_filters: width of the 1x1 layer that shows a colour those before it in its pixel; used only where the
            likelihood draws several channels one by one.
        likelihood: distribution of a pixel (or the config of one); by default a mixture of ten discretized logistics.
            A prior over maps of K codes takes Categorical(1, levels=K).
        image_size: (H, W) it is trained on.
    """

    image_channels: int = 3
    n_blocks: int = 12
    n_resnet: int = 4
    n_filters: int = 256
    n_classes: int = 0
    _: KW_ONLY
    dropout: float = 0.5
    key_channels: int = 16
    value_channels: int = 128
    n_heads: int = 1
    level_embedding: int = 0
    head_filters: int = 256
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = check_image_options("PixelSNAIL", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, DiscretizedLogisticMixture(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        counts = (self.n_blocks, self.n_resnet, self.n_filters, self.key_channels, self.value_channels)
        if min(counts) < 1 or self.n_classes < 0 or self.head_filters < self.image_channels:
            raise ValueError(
                f"PixelSNAIL: n_blocks, n_resnet, n_filters, key_channels and value_channels must be at least 1, "
                f"n_classes at least 0, head_filters at least {self.image_channels} (one a channel); got {counts}, "
                f"n_classes={self.n_classes}, head_filters={self.head_filters}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"PixelSNAIL: dropout must be in [0, 1); got {self.dropout}")
        if self.n_heads < 1 or self.key_channels % self.n_heads or self.value_channels % self.n_heads:
            raise ValueError(
                f"PixelSNAIL: n_heads must divide key_channels and value_channels; got {self.n_heads}, "
                f"{self.key_channels} and {self.value_channels}; take a divisor of both"
            )
        amounts = likelihood.levels > 256 and not isinstance(likelihood, Categorical)
        if self.level_embedding < 0 or (self.level_embedding and amounts):
            raise ValueError(
                f"PixelSNAIL: level_embedding must be at least 0, and 0 for more than 256 levels that are no "
                f"categories; got {self.level_embedding} with {likelihood.levels} levels"
            )


class PointwiseConv2d(DownRightShiftedConv2d):
    """y[p] = b + W x[p]: the convolution of a gated resnet that mixes channels only."""

    def __init__(self, in_channels: int, out_channels: int, *, init_scale: float = 1.0) -> None:
        super().__init__(in_channels, out_channels, (1, 1), init_scale=init_scale)


class Block(nn.Module):
    """Gated resnets, then attention, whose result a last resnet merges into the features."""

    def __init__(self, config: PixelSNAILConfig, input_channels: int) -> None:
        super().__init__()
        c, f = config, config.n_filters

        def resnet(filters: int, conv: type[DownRightShiftedConv2d], skip_channels: int = 0) -> GatedResnet:
            dropout = Dropout(c.dropout) if c.dropout else None
            return GatedResnet(filters, conv, skip_channels=skip_channels, n_classes=c.n_classes, dropout=dropout)

        self.sizes, self.heads = (c.key_channels, c.value_channels), c.n_heads
        self.resnets = nn.ModuleList(resnet(f, DownRightShiftedConv2d) for _ in range(c.n_resnet))
        self.context = resnet(input_channels + f + 2, PointwiseConv2d)
        self.key_value = WeightNormConv2d(input_channels + f + 2, sum(self.sizes))
        self.question = resnet(f + 2, PointwiseConv2d)
        self.query = WeightNormConv2d(f + 2, c.key_channels)
        self.merge = resnet(f, PointwiseConv2d, c.value_channels)

    def forward(self, h: Tensor, x: Tensor, background: Tensor, labels: Tensor | None) -> Tensor:
        """Shapes: features [N, F, H, W], image [N, Ci, H, W], background [N, 2, H, W] -> [N, F, H, W]."""
        for resnet in self.resnets:
            h = resnet(h, cond=labels)
        context = self.context(torch.cat((x, h, background), 1), cond=labels)
        key, value = self.key_value(context).split(self.sizes, 1)
        query = self.query(self.question(torch.cat((h, background), 1), cond=labels))
        attended = causal_attention(query, key, value, heads=self.heads, strict=True)
        return self.merge(h, attended, labels)


class PixelSNAIL(AutoregressiveModel):
    """PixelSNAIL with any likelihood; options as in `PixelSNAILConfig`.

    Shapes: x [N, C, H, W], cond [N] labels or None -> [N, likelihood.n_params, H, W].
    """

    config_class = PixelSNAILConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = PixelSNAILConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood, config.n_classes)
        channels, filters = config.level_embedding or self.image_channels, config.n_filters
        self.embedding = (
            LevelEmbedding(self.image_channels, self.likelihood.levels, channels) if config.level_embedding else None
        )
        self.conv_above = DownShiftedConv2d(channels + 1, filters, (1, 3))  # and a channel of ones
        self.conv_left = DownRightShiftedConv2d(channels + 1, filters, (2, 1))
        self.blocks = nn.ModuleList(Block(config, channels) for _ in range(config.n_blocks))
        self.head = ColourHead(filters, self.likelihood, config.head_filters)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W], [N] -> [N, P, H, W]."""
        image = self.prepare_image(x)
        labels = self.prepare_cond(cond, image.shape[0])
        x = image if self.embedding is None else self.embedding(image)
        background = coordinates(image)
        # ones tell the border, where padding is 0, from the image
        padded = torch.cat((x, torch.ones_like(background[:, :1])), 1)
        h = shift_down(self.conv_above(padded)) + shift_right(self.conv_left(padded))
        for block in self.blocks:
            h = block(h, x, background, labels)
        return self.head(F.elu(h), image)


def coordinates(x: Tensor) -> Tensor:
    """Row and column of every pixel as i / H - 1/2 and j / W - 1/2. Shapes: [N, C, H, W] -> [N, 2, H, W]."""
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None] / height - 0.5
    columns = torch.arange(width, device=x.device, dtype=x.dtype) / width - 0.5
    return torch.stack((rows.expand(height, width), columns.expand(height, width))).expand(n, -1, -1, -1)
