"""Image GPT: a transformer decoder over the pixels in raster order.

Chen, Radford, Child, Wu, Jun, Luan, Sutskever 2020, Generative Pretraining from Pixels,
https://proceedings.mlr.press/v119/chen20s.html. The embedding of each pixel goes to the pixel after it (at the end of a
row to the start of the next), learned embeddings of the positions are added, and blocks of attention and perceptrons
follow (section 2.2), each normalised before and added to what it read:

    n = layer_norm(h),  a = h + attention(n),  h' = a + mlp(layer_norm(a)).

A token of the paper is one of the 512 colours of a palette; here every level of every channel has a learned vector, and
those of a pixel's channels are added. A palette of up to 256 colours is an image of one channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, Likelihood
from fastgen.models.autoregressive.base import AutoregressiveModel, as_likelihood, check_image_options
from fastgen.models.autoregressive.layers import ColourHead, LevelEmbedding
from fastgen.nn import CausalAttention, ChannelNorm, Dropout, shift_right


@dataclass(frozen=True)
class ImageGPTConfig:
    """Options of Image GPT; the defaults are the paper's smallest model, iGPT-S.

    Attributes:
        image_channels: C.
        n_layers: transformer blocks.
        n_features: d, channels of the residual stream.
        n_heads: heads of the attention, which divide d.
        dropout: rate on the result of every attention and perceptron.
        head_filters: width of the 1x1 layer that shows a colour those before it in its pixel; used only where the
            likelihood draws several channels one by one.
        likelihood: distribution of a pixel (or the config of one), of at most 256 levels; by default 256-way
            categorical per channel.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    n_layers: int = 24
    n_features: int = 512
    n_heads: int = 8
    _: KW_ONLY
    dropout: float = 0.0
    head_filters: int = 512
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_image_options("ImageGPT", self.image_channels, self.image_size)
        if size is None:
            raise ValueError(
                "ImageGPT: image_size must be (height, width), as every position has an embedding of its own; got None"
            )
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Categorical(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        if min(self.n_layers, self.n_features) < 1 or self.head_filters < self.image_channels:
            raise ValueError(
                f"ImageGPT: n_layers and n_features must be at least 1, head_filters at least {self.image_channels} "
                f"(one a channel); got n_layers={self.n_layers}, n_features={self.n_features}, "
                f"head_filters={self.head_filters}"
            )
        if self.n_heads < 1 or self.n_features % self.n_heads:
            raise ValueError(
                f"ImageGPT: n_heads must divide n_features; got {self.n_heads} and {self.n_features}; take a divisor"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"ImageGPT: dropout must be in [0, 1); got {self.dropout}")


class Block(nn.Module):
    """Attention to all pixels so far, then a perceptron four times as wide, each a residual of a normalised input."""

    def __init__(self, features: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = ChannelNorm(features)
        self.attention = CausalAttention(features, heads)
        self.norm_mlp = ChannelNorm(features)
        self.widen = nn.Conv2d(features, 4 * features, 1)
        self.narrow = nn.Conv2d(4 * features, features, 1)
        self.dropout = Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        """Shapes: [N, d, H, W] -> [N, d, H, W]."""
        h = h + self.dropout(self.attention(self.norm_attention(h)))
        return h + self.dropout(self.narrow(F.gelu(self.widen(self.norm_mlp(h)))))


class ImageGPT(AutoregressiveModel):
    """Image GPT for images of one size, with any likelihood of up to 256 levels; options as in `ImageGPTConfig`.

    The first pixel sees the embedding of its position alone, which thereby is the start token.

    Shapes: x [N, C, H, W] -> [N, likelihood.n_params, H, W].
    """

    config_class = ImageGPTConfig
    image_size: tuple[int, int]

    def __init__(self, *args: Any, **options: Any) -> None:
        config = ImageGPTConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood)
        d, layers = config.n_features, config.n_layers
        self.embedding = LevelEmbedding(self.image_channels, self.likelihood.levels, d)
        self.position = nn.Parameter(torch.empty(1, d, *self.image_size))
        self.blocks = nn.ModuleList(Block(d, config.n_heads, config.dropout) for _ in range(layers))
        self.norm = ChannelNorm(d)
        self.head = ColourHead(d, self.likelihood, config.head_filters)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weights from N(0, 0.02^2), those that end a residual from one narrower by sqrt(2 layers); no biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif ".norm" not in name and not name.startswith("norm"):
                ends_residual = name.endswith(("attention.out.weight", "narrow.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / (2 * len(self.blocks)) ** 0.5 if ends_residual else 0.02)

    def shards(self) -> list[nn.Module]:
        """The blocks."""
        return list(self.blocks)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W] -> [N, P, H, W]."""
        x = self.prepare_image(x)
        self.prepare_cond(cond, x.shape[0])
        if tuple(x.shape[2:]) != self.image_size:
            raise ValueError(
                f"ImageGPT: x must be of the size that the positions are for, {self.image_size}; got "
                f"{tuple(x.shape[2:])}; resize the images, or build the model with another image_size"
            )
        h = previous_pixel(self.embedding(x)) + self.position
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h), x)


def previous_pixel(x: Tensor) -> Tensor:
    """y[p] = x[p - 1] in raster order, zero at the first pixel. Shapes: [N, C, H, W] -> [N, C, H, W]."""
    row_ends = F.pad(x[:, :, :-1, -1:], (0, x.shape[3] - 1, 1, 0))  # of the row above, in column 0
    return shift_right(x) + row_ends
