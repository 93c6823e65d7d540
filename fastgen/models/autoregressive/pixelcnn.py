"""PixelCNN: a stack of masked convolutions with residual blocks.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759.
A masked 7x7 convolution reads the image, residual blocks (figure 5, left) deepen it, and two 1x1 layers give the
distribution of every colour of every pixel; colours are drawn in order, G sees R and B sees both (section 3.4).
The masked stack has the known blind spot: part of what lies above and to the right is never seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, Likelihood
from fastgen.models.autoregressive.base import (
    AutoregressiveModel,
    as_likelihood,
    check_image_options,
    parameter_groups,
)
from fastgen.nn import MaskedConv2d


@dataclass(frozen=True)
class PixelCNNConfig:
    """Options of PixelCNN; the defaults are the paper's CIFAR-10 model.

    Attributes:
        image_channels: C.
        n_blocks: residual blocks.
        n_filters: h; the stack is 2h wide and each block narrows to h inside.
        head_filters: width of the 1x1 layer before the output.
        likelihood: distribution of a pixel (or the config of one); by default 256-way categorical per channel.
        image_size: (H, W) it is trained on.
    """

    image_channels: int = 3
    n_blocks: int = 15
    n_filters: int = 128
    _: KW_ONLY
    head_filters: int = 1024
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = check_image_options("PixelCNN", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Categorical(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        widest_need = 1 if likelihood.coupled else self.image_channels
        if self.n_blocks < 0 or min(self.n_filters, self.head_filters) < widest_need:
            raise ValueError(
                f"PixelCNN: n_blocks must be at least 0, n_filters and head_filters at least {widest_need} (one a "
                f"channel); got n_blocks={self.n_blocks}, n_filters={self.n_filters}, "
                f"head_filters={self.head_filters}"
            )


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(conv1x1(relu(x)))))), all of mask B: 2h -> h -> h -> 2h channels."""

    def __init__(self, n_filters: int, groups: int) -> None:
        super().__init__()
        self.narrow = MaskedConv2d(2 * n_filters, n_filters, 1, mask_type="B", groups=groups)
        self.conv = MaskedConv2d(n_filters, n_filters, 3, mask_type="B", groups=groups)
        self.widen = MaskedConv2d(n_filters, 2 * n_filters, 1, mask_type="B", groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: [N, 2h, H, W] -> [N, 2h, H, W]."""
        h = self.narrow(F.relu(x))
        h = self.conv(F.relu(h))
        return x + self.widen(F.relu(h))


class PixelCNN(AutoregressiveModel):
    """PixelCNN with any likelihood; options as in `PixelCNNConfig`.

    Shapes: x [N, C, H, W] -> [N, likelihood.n_params, H, W].
    """

    config_class = PixelCNNConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = PixelCNNConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood)
        # a coupled likelihood draws a pixel at once, so its parameters see whole earlier pixels only
        groups = 1 if self.likelihood.coupled else self.image_channels
        width = 2 * config.n_filters
        self.conv_in = MaskedConv2d(self.image_channels, width, 7, mask_type="A", groups=groups)
        self.blocks = nn.ModuleList(ResidualBlock(config.n_filters, groups) for _ in range(config.n_blocks))
        self.head = MaskedConv2d(width, config.head_filters, 1, mask_type="B", groups=groups)
        self.conv_out = MaskedConv2d(
            config.head_filters,
            self.likelihood.n_params,
            1,
            mask_type="B",
            groups=groups,
            out_groups=parameter_groups(self.likelihood),
        )

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W] -> [N, P, H, W]."""
        x = self.prepare_image(x)
        self.prepare_cond(cond, x.shape[0])
        h = self.conv_in(x)
        for block in self.blocks:
            h = block(h)
        h = self.head(F.relu(h))
        return self.conv_out(F.relu(h))
