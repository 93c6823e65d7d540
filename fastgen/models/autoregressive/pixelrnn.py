"""PixelRNN: LSTMs over the rows or the diagonals of the image.

van den Oord, Kalchbrenner, Kavukcuoglu 2016, Pixel Recurrent Neural Networks, https://arxiv.org/abs/1601.06759.
A masked 7x7 convolution reads the image, residual LSTM layers (sections 3.1 to 3.3; figure 5, right) carry what was
seen over the whole image, and two 1x1 layers give the distribution of every colour of every pixel; colours are drawn
in order, G sees R and B sees both (section 3.4).

The Row LSTM sees a triangle of the past, which widens by one column a row. The Diagonal BiLSTM sees all of it but for
one pixel: its states from the right are moved down a row, and the features at the end of the row above do not see their
own pixel, so the last pixel of that row is seen by the 7x7 layer only, from three columns away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.likelihoods import Categorical, Likelihood
from fastgen.models.autoregressive.base import (
    AutoregressiveModel,
    as_likelihood,
    check_image_options,
    parameter_groups,
)
from fastgen.nn import DiagonalBiLSTM, MaskedConv2d, RowLSTM

LAYERS = ("row_lstm", "diagonal_bilstm")


@dataclass(frozen=True)
class PixelRNNConfig:
    """Options of PixelRNN; the defaults are the paper's CIFAR-10 model.

    The paper's MNIST model has 7 layers of 16 units and a head of 32.

    Attributes:
        image_channels: C.
        n_layers: LSTM layers.
        n_filters: h, units of each LSTM; the stack between them is 2h wide.
        layer: "row_lstm" or "diagonal_bilstm".
        kernel_size: columns of the input-to-state and state-to-state convolutions of the Row LSTM.
        head_filters: width of the 1x1 layer before the output.
        likelihood: distribution of a pixel (or the config of one); by default 256-way categorical per channel.
        image_size: (H, W) it is trained on.
    """

    image_channels: int = 3
    n_layers: int = 12
    n_filters: int = 128
    layer: Literal["row_lstm", "diagonal_bilstm"] = "diagonal_bilstm"
    _: KW_ONLY
    kernel_size: int = 3
    head_filters: int = 1024
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = check_image_options("PixelRNN", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Categorical(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        if self.layer not in LAYERS:
            raise unknown_name("layer of PixelRNN", str(self.layer), LAYERS)
        groups = 1 if likelihood.coupled else self.image_channels
        if self.n_layers < 1 or min(self.n_filters, self.head_filters) < groups:
            raise ValueError(
                f"PixelRNN: n_layers must be at least 1, n_filters and head_filters at least "
                f"{groups} (one a channel); got n_layers={self.n_layers}, n_filters={self.n_filters}, "
                f"head_filters={self.head_filters}"
            )
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise ValueError(f"PixelRNN: kernel_size must be odd, to have a centre; got {self.kernel_size}; add one")


class ResidualLSTM(nn.Module):
    """x + conv1x1(lstm(x)), of mask B: 2h -> h -> 2h channels."""

    def __init__(self, config: PixelRNNConfig, groups: int) -> None:
        super().__init__()
        h = config.n_filters
        self.lstm: RowLSTM | DiagonalBiLSTM
        if config.layer == "row_lstm":
            self.lstm = RowLSTM(2 * h, h, config.kernel_size, groups=groups)
        else:
            self.lstm = DiagonalBiLSTM(2 * h, h, groups=groups)
        self.widen = MaskedConv2d(h, 2 * h, 1, mask_type="B", groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: [N, 2h, H, W] -> [N, 2h, H, W]."""
        return x + self.widen(self.lstm(x))


class PixelRNN(AutoregressiveModel):
    """PixelRNN with any likelihood; options as in `PixelRNNConfig`.

    Shapes: x [N, C, H, W] -> [N, likelihood.n_params, H, W].
    """

    config_class = PixelRNNConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = PixelRNNConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood)
        # a coupled likelihood draws a pixel at once, so its parameters see whole earlier pixels only
        groups = 1 if self.likelihood.coupled else self.image_channels
        width = 2 * config.n_filters
        self.conv_in = MaskedConv2d(self.image_channels, width, 7, mask_type="A", groups=groups)
        self.layers = nn.ModuleList(ResidualLSTM(config, groups) for _ in range(config.n_layers))
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
        for layer in self.layers:
            h = layer(h)
        h = self.head(F.relu(h))
        return self.conv_out(F.relu(h))
