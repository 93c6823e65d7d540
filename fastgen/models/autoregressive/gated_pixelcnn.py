"""Gated PixelCNN: a vertical and a horizontal stack with gates, so no pixel of the past is hidden.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu 2016, Conditional Image Generation with PixelCNN
Decoders, https://arxiv.org/abs/1606.05328. The first layer reads the image (its horizontal part by mask A, without a
residual), the others are as in figure 2; a class shifts both halves of every gate (equation 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Categorical, Likelihood
from fastgen.models.autoregressive.base import (
    AutoregressiveModel,
    as_likelihood,
    check_image_options,
    parameter_groups,
)
from fastgen.nn import GatedMaskedConv2d, MaskedConv2d


@dataclass(frozen=True)
class GatedPixelCNNConfig:
    """Options of Gated PixelCNN (the paper's ImageNet model: 20 layers of 384 filters).

    Attributes:
        image_channels: C.
        n_layers: gated layers, the first one included.
        n_filters: channels of either stack.
        kernel_size: k of the k x k (vertical) and 1 x k (horizontal) convolutions.
        n_classes: labels that it is conditioned on; 0 for none.
        first_kernel_size: k of the first layer.
        dilations: of each layer, the first one included; by default all 1.
        per_layer_classes: each layer has its own class embedding; otherwise all share one.
        head_filters: width of the 1x1 layer before the output.
        likelihood: distribution of a pixel (or the config of one); by default 256-way categorical per channel.
        image_size: (H, W) it is trained on.
    """

    image_channels: int = 3
    n_layers: int = 15
    n_filters: int = 128
    kernel_size: int = 5
    n_classes: int = 0
    _: KW_ONLY
    first_kernel_size: int = 7
    dilations: Sequence[int] | None = None
    per_layer_classes: bool = True
    head_filters: int = 128
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        size = check_image_options("GatedPixelCNN", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Categorical(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        dilations = (1,) * self.n_layers if self.dilations is None else tuple(int(d) for d in self.dilations)
        object.__setattr__(self, "dilations", dilations)
        widest_need = 1 if likelihood.coupled else self.image_channels
        if self.n_layers < 1 or self.n_classes < 0 or min(self.n_filters, self.head_filters) < widest_need:
            raise ValueError(
                f"GatedPixelCNN: n_layers must be at least 1, n_classes at least 0, n_filters and head_filters at "
                f"least {widest_need} (one a channel); got n_layers={self.n_layers}, n_classes={self.n_classes}, "
                f"n_filters={self.n_filters}, head_filters={self.head_filters}"
            )
        if len(dilations) != self.n_layers or min(dilations) < 1:
            raise ValueError(
                f"GatedPixelCNN: dilations must be {self.n_layers} numbers, one a layer, at least 1; got {dilations}"
            )
        if min(self.kernel_size, self.first_kernel_size) < 3:
            raise ValueError(
                f"GatedPixelCNN: kernel_size and first_kernel_size must be odd and at least 3; got "
                f"{self.kernel_size} and {self.first_kernel_size}"
            )


class GatedPixelCNN(AutoregressiveModel):
    """Gated PixelCNN with any likelihood; options as in `GatedPixelCNNConfig`.

    Shapes: x [N, C, H, W], cond [N] labels or None -> [N, likelihood.n_params, H, W].
    """

    config_class = GatedPixelCNNConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = GatedPixelCNNConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood) and config.dilations is not None
        super().__init__(config, config.likelihood, config.n_classes)
        # a coupled likelihood draws a pixel at once, so its parameters see whole earlier pixels only
        groups = 1 if self.likelihood.coupled else self.image_channels
        filters = config.n_filters
        self.layers = nn.ModuleList(
            GatedMaskedConv2d(
                filters if layer else self.image_channels,
                filters,
                config.kernel_size if layer else config.first_kernel_size,
                mask_type="B" if layer else "A",
                groups=groups,
                dilation=dilation,
                residual=layer > 0,
            )
            for layer, dilation in enumerate(config.dilations)
        )
        self.head = MaskedConv2d(filters, config.head_filters, 1, mask_type="B", groups=groups)
        self.conv_out = MaskedConv2d(
            config.head_filters,
            self.likelihood.n_params,
            1,
            mask_type="B",
            groups=groups,
            out_groups=parameter_groups(self.likelihood),
        )
        # offsets of both halves of both gates, for all layers in one table
        embedded_layers = config.n_layers if config.per_layer_classes else 1
        self.class_embedding = (
            nn.Embedding(config.n_classes, embedded_layers * 4 * filters) if config.n_classes else None
        )
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, 0.0, 0.1)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W], [N] -> [N, P, H, W]."""
        x = self.prepare_image(x)
        offsets = self._class_offsets(self.prepare_cond(cond, x.shape[0]))
        v = h = x
        for layer, offset in zip(self.layers, offsets):
            v, h = layer(v, h, offset)
        h = self.head(F.relu(h))
        return self.conv_out(F.relu(h))

    def _class_offsets(self, labels: Tensor | None) -> Sequence[Tensor | None]:
        """Offset of each layer, [N, 4F], or None without classes."""
        n_layers = len(self.layers)
        if self.class_embedding is None or labels is None:
            return [None] * n_layers
        table: Tensor = self.class_embedding(labels)  # [N, layers * 4F], or [N, 4F] if the layers share it
        width = 4 * self._options.n_filters
        return torch.split(table, width, dim=1) if table.shape[1] > width else [table] * n_layers
