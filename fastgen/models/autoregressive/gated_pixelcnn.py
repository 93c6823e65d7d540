"""Gated PixelCNN: a vertical and a horizontal stack with gates, so no pixel of the past is hidden.

van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu 2016, Conditional Image Generation with PixelCNN
Decoders, https://arxiv.org/abs/1606.05328. The first layer reads the image (its horizontal part by mask A, without a
residual), the others are as in figure 2. A class or a vector shifts both halves of every gate (equation 4), and so does
a map, pixel by pixel (equation 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.functional import gated_activation
from fastgen.likelihoods import Categorical, Likelihood, level_dtype, levels_to_signal
from fastgen.models.autoregressive.base import (
    AutoregressiveModel,
    as_likelihood,
    check_image_options,
    check_levels,
    parameter_groups,
)
from fastgen.models.autoregressive.conditions import ConditionMap, ImageConditions, float_condition, named_conditions
from fastgen.models.autoregressive.layers import LevelEmbedding
from fastgen.nn import GatedMaskedConv2d, MaskedConv2d, shift_down


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
        level_embedding: channels of a learned embedding of every level, for levels that are names and not amounts, as
            in maps of codes; 0 reads the signal itself. Of images of one channel only, unless the likelihood draws the
            channels together.
        cond_features: length of a vector that it is conditioned on; 0 for none.
        cond_channels: channels of a map that it is conditioned on; 0 for none.
        cond_scale: how many times smaller than the image the map is.
        cond_filters: channels of the network that reads the map.
        cond_layers: its 3x3 convolutions; 0 reads each place of the map alone.
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
    level_embedding: int = 0
    cond_features: int = 0
    cond_channels: int = 0
    cond_scale: int = 1
    cond_filters: int = 32
    cond_layers: int = 2
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        name = self.model_name
        size = check_image_options(name, self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Categorical(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        dilations = (1,) * self.n_layers if self.dilations is None else tuple(int(d) for d in self.dilations)
        object.__setattr__(self, "dilations", dilations)
        widest_need = 1 if likelihood.coupled else self.image_channels
        if self.n_layers < 1 or self.n_classes < 0 or min(self.n_filters, self.head_filters) < widest_need:
            raise ValueError(
                f"{name}: n_layers must be at least 1, n_classes at least 0, n_filters and head_filters at "
                f"least {widest_need} (one a channel); got n_layers={self.n_layers}, n_classes={self.n_classes}, "
                f"n_filters={self.n_filters}, head_filters={self.head_filters}"
            )
        if len(dilations) != self.n_layers or min(dilations) < 1:
            raise ValueError(
                f"{name}: dilations must be {self.n_layers} numbers, one a layer, at least 1; got {dilations}"
            )
        if min(self.kernel_size, self.first_kernel_size) < 3:
            raise ValueError(
                f"{name}: kernel_size and first_kernel_size must be odd and at least 3; got "
                f"{self.kernel_size} and {self.first_kernel_size}"
            )
        if self.level_embedding < 0 or (self.level_embedding and widest_need > 1):
            raise ValueError(
                f"{name}: level_embedding must be at least 0, and 0 where the channels are drawn one by one, as an "
                f"embedding mixes them; got {self.level_embedding} with {self.image_channels} channels"
            )
        self._check_conditions()

    @property
    def model_name(self) -> str:
        """Of the model that this configures, for messages."""
        return type(self).__name__.removesuffix("Config")

    def _check_conditions(self) -> None:
        lowest = {"cond_features": 0, "cond_channels": 0, "cond_scale": 1, "cond_filters": 1, "cond_layers": 0}
        for key, low in lowest.items():
            if getattr(self, key) < low:
                raise ValueError(f"{self.model_name}: {key} must be at least {low}; got {getattr(self, key)}")
        if self.cond_scale > 1 and not self.cond_channels:
            raise ValueError(
                f"{self.model_name}: cond_scale is that of a map; got {self.cond_scale} with cond_channels=0; give both"
            )
        if self.cond_channels and self.image_size and any(side % self.cond_scale for side in self.image_size):
            raise ValueError(
                f"{self.model_name}: cond_scale must divide image_size; got {self.cond_scale} and {self.image_size}"
            )


class GatedLayer(GatedMaskedConv2d):
    """`GatedMaskedConv2d` whose offset may differ from pixel to pixel: the V s of equation 5, in both stacks.

    Shapes: v [N, Cv, H, W], h [N, Ch, H, W], offset [N, 4F] or [N, 4F, H, W] or None -> v, h [N, F, H, W].
    """

    def forward(self, v: Tensor, h: Tensor, offset: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the vertical and horizontal features of the next layer."""
        if offset is None or offset.dim() == 2:
            return super().forward(v, h, offset)
        vertical = self.vertical(v)
        horizontal = self.horizontal(h) + self.vertical_to_horizontal(shift_down(vertical))
        e_v, e_h = offset.chunk(2, dim=1)
        out = self.horizontal_out(gated_activation(horizontal + e_h))
        return gated_activation(vertical + e_v), h + out if self.residual else out


class GatedPixelCNN(AutoregressiveModel):
    """Gated PixelCNN with any likelihood; options as in `GatedPixelCNNConfig`.

    Shapes: x [N, C, H, W], cond as in `prepare_cond` -> [N, likelihood.n_params, H, W].
    """

    config_class = GatedPixelCNNConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = self.config_class(*args, **options)
        assert isinstance(config.likelihood, Likelihood) and config.dilations is not None
        super().__init__(config, config.likelihood, config.n_classes)
        # a coupled likelihood draws a pixel at once, so its parameters see whole earlier pixels only
        groups = 1 if self.likelihood.coupled else self.image_channels
        filters = config.n_filters
        self.embedding = (
            LevelEmbedding(self.image_channels, self.likelihood.levels, config.level_embedding)
            if config.level_embedding
            else None
        )
        self.layers = nn.ModuleList(
            GatedLayer(
                filters if layer else config.level_embedding or self.image_channels,
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
        # offsets of both halves of both gates, for all layers in one table and in one product
        embedded_layers = config.n_layers if config.per_layer_classes else 1
        self.class_embedding = (
            nn.Embedding(config.n_classes, embedded_layers * 4 * filters) if config.n_classes else None
        )
        if self.class_embedding is not None:
            nn.init.normal_(self.class_embedding.weight, 0.0, 0.1)
        self.vector_projection = (
            nn.Linear(config.cond_features, config.n_layers * 4 * filters, bias=False) if config.cond_features else None
        )
        self.condition_map, self.map_projections = None, None
        if config.cond_channels:
            self.condition_map = ConditionMap(
                config.cond_channels, config.cond_filters, config.cond_layers, config.cond_scale
            )
            self.map_projections = nn.ModuleList(
                nn.Conv2d(config.cond_filters, 4 * filters, 1, bias=False) for _ in range(config.n_layers)
            )
            for weight in self.map_projections.parameters():
                nn.init.normal_(weight, 0.0, config.cond_filters**-0.5)

    def forward(self, x: Tensor, cond: Any = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W], cond -> [N, P, H, W]."""
        x = self.prepare_image(x)
        given = self.prepare_cond(cond, x.shape[0])
        s = self._map(given, x)
        v = h = x if self.embedding is None else self.embedding(x)
        for index, (layer, offset) in enumerate(zip(self.layers, self._offsets(given))):
            if s is not None and self.map_projections is not None:
                at_pixels = self.map_projections[index](s)
                offset = at_pixels if offset is None else at_pixels + offset[:, :, None, None]
            v, h = layer(v, h, offset)
        h = self.head(F.relu(h))
        return self.conv_out(F.relu(h))

    def prepare_cond(self, cond: Any, n: int) -> ImageConditions | None:
        """Check what n images are conditioned on.

        A mapping with the keys "labels" ([n] integers, or one for all), "vector" ([n, cond_features], or
        [cond_features] for all) and "map" ([n, cond_channels, H / cond_scale, W / cond_scale], or without n for all:
        numbers, or levels as those of images, which become their signals in [-1, 1]), as far as the model was built
        with them; or the bare value where it was built with one of them only.

        Raises:
            TypeError: labels that are not integers, a vector that is not floating point, a map that is neither that
                nor of the dtype of levels.
            ValueError: something missing or superfluous, another shape, a label out of range.
        """
        if isinstance(cond, ImageConditions):
            return cond
        kinds = self._kinds()
        if not kinds or (kinds == ["labels"] and not isinstance(cond, Mapping)):
            labels = super().prepare_cond(cond, n)
            return None if labels is None else ImageConditions(labels)
        values = named_conditions(type(self).__name__, cond, kinds)
        return ImageConditions(
            super().prepare_cond(values["labels"], n) if self.n_classes else None,
            self._floats("vector", values["vector"], (n, self._options.cond_features)) if "vector" in kinds else None,
            self._prepare_map(values["map"], n) if "map" in kinds else None,
        )

    def sample(self, n: int, *, seed: int = 0, cond: Any = None, **options: Any) -> Tensor:
        """Draw n images, uint8 [n, C, H, W]: `fastgen.sample(self, n, seed=seed, cond=cond, **options)`.

        Where it is conditioned on a map, H and W are by default `cond_scale` times those of the map.
        A vector or a map is read by PyTorch, whose rounding depends on the batch: other batch sizes give the same
        images up to that.
        """
        if self.condition_map is not None and options.get("shape") is None and options.get("prepared") is None:
            cond = self.prepare_cond(cond, n)
            assert cond is not None and cond.map is not None
            options["shape"] = (self.image_channels, *(self._options.cond_scale * side for side in cond.map.shape[2:]))
        return super().sample(n, seed=seed, cond=cond, **options)

    def _kinds(self) -> list[str]:
        """What the model was built to be conditioned on."""
        options = self._options
        sizes = {"labels": self.n_classes, "vector": options.cond_features, "map": options.cond_channels}
        return [kind for kind, size in sizes.items() if size]

    def _floats(self, kind: str, value: Any, shape: tuple[int | str, ...]) -> Tensor:
        return float_condition(type(self).__name__, kind, value, shape, next(self.parameters()))

    def _prepare_map(self, value: Any, n: int) -> Tensor:
        """Check the maps of n images: [n, cond_channels, H', W']."""
        levels, value = self.likelihood.levels, torch.as_tensor(value)
        if value.dtype == level_dtype(levels):
            check_levels(f"{type(self).__name__}: cond map", value, levels)
            value = levels_to_signal(value, levels, next(self.parameters()).dtype)
        return self._floats("map", value, (n, self._options.cond_channels, "H / scale", "W / scale"))

    def _offsets(self, given: ImageConditions | None) -> Sequence[Tensor | None]:
        """What labels and vectors add to the gates of each layer, [N, 4F], or None."""
        n_layers, width = len(self.layers), 4 * self._options.n_filters
        total: Tensor | None = None
        if self.class_embedding is not None and given is not None:
            total = self.class_embedding(given.labels)  # [N, layers * 4F], or [N, 4F] if the layers share it
        if self.vector_projection is not None and given is not None:
            projected = self.vector_projection(given.vector)
            if total is not None:
                projected = projected + (total if total.shape[1] == n_layers * width else total.repeat(1, n_layers))
            total = projected
        if total is None:
            return [None] * n_layers
        return torch.split(total, width, dim=1) if total.shape[1] > width else [total] * n_layers

    def _map(self, given: ImageConditions | None, x: Tensor) -> Tensor | None:
        """s of equation 5 at every pixel of x, [N, cond_filters, H, W], or None."""
        if self.condition_map is None or given is None or given.map is None:
            return None
        scale = self._options.cond_scale
        got = tuple(given.map.shape[2:])
        if any(scale * a != b for a, b in zip(got, x.shape[2:])):
            raise ValueError(
                f"{type(self).__name__}: a map of {got[0]} x {got[1]} is that of images of {scale * got[0]} x "
                f"{scale * got[1]} at cond_scale={scale}; got images of {x.shape[2]} x {x.shape[3]}; resize one of them"
            )
        s: Tensor = self.condition_map(given.map)
        return s
