"""Super-resolution: a Gated PixelCNN of images given what is left of them at a lower resolution, p(high | low).

The small image is the map of equation 5 of van den Oord et al. 2016, Conditional Image Generation with PixelCNN
Decoders, https://arxiv.org/abs/1606.05328, enlarged by a deconvolution. Dahl, Norouzi, Shlens 2017, Pixel Recursive
Super Resolution, https://arxiv.org/abs/1702.00783, add the logits of a network of the small image instead.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.likelihoods import signal_to_levels
from fastgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN, GatedPixelCNNConfig


@dataclass(frozen=True)
class SuperResolutionConfig(GatedPixelCNNConfig):
    """Options of super-resolution: those of `GatedPixelCNNConfig`, where `cond_scale` is the factor.

    `cond_channels` is the number of channels of the images, which 0 stands for.
    """

    _: KW_ONLY
    cond_scale: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "cond_channels", self.cond_channels or self.image_channels)
        super().__post_init__()
        if self.cond_channels != self.image_channels or self.cond_scale < 2:
            raise ValueError(
                f"SuperResolution: cond_channels must be image_channels and cond_scale at least 2; got "
                f"cond_channels={self.cond_channels}, image_channels={self.image_channels}, "
                f"cond_scale={self.cond_scale}"
            )


class SuperResolution(GatedPixelCNN):
    """Gated PixelCNN of images given smaller ones; options as in `SuperResolutionConfig`.

    `model.sample(n, cond=small)` enlarges images, `model.log_prob(x, model.condition_of(x))` scores large ones.

    Shapes: x [N, C, H, W], cond [N, C, H / cond_scale, W / cond_scale] -> [N, likelihood.n_params, H, W].
    Dtypes: both levels or float in [-1, 1].
    """

    config_class = SuperResolutionConfig

    def condition_of(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """The levels of the small image, rounded means of its blocks, and the labels if the model has classes.

        Shapes: x [N, C, H, W] -> small [N, C, H / cond_scale, W / cond_scale], or {"labels": [N], "map": small}.

        Raises:
            ValueError: cond_scale does not divide H and W.
        """
        scale = self._options.cond_scale
        if x.shape[-2] % scale or x.shape[-1] % scale:
            raise ValueError(
                f"SuperResolution: cond_scale must divide H and W; got {scale} and images of {x.shape[-2]} x "
                f"{x.shape[-1]}; crop them"
            )
        levels = signal_to_levels(x, self.likelihood.levels) if x.is_floating_point() else x
        small = F.avg_pool2d(levels.to(torch.float32), scale).round().to(levels.dtype)
        return small if labels is None else {"labels": labels, "map": small}
