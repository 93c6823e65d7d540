"""Colorization: a Gated PixelCNN of colour images given their gray ones, p(rgb | gray).

The gray image is the map of equation 5 of van den Oord et al. 2016, Conditional Image Generation with PixelCNN
Decoders, https://arxiv.org/abs/1606.05328. Royer, Kolesnikov, Lampert 2017, Probabilistic Image Colorization,
https://arxiv.org/abs/1705.04258, colour images so too, though by their chrominance alone.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from fastgen.likelihoods import signal_to_levels
from fastgen.models.autoregressive.gated_pixelcnn import GatedPixelCNN, GatedPixelCNNConfig

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601


@dataclass(frozen=True)
class ColorizationConfig(GatedPixelCNNConfig):
    """Options of the colorization model: those of `GatedPixelCNNConfig`, conditioned on a map of one channel."""

    _: KW_ONLY
    cond_channels: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        got = (self.image_channels, self.cond_channels, self.cond_scale)
        if got != (3, 1, 1):
            raise ValueError(
                f"Colorization: image_channels must be 3, cond_channels 1 and cond_scale 1, as a gray image of its own "
                f"size becomes red, green and blue; got {got}"
            )


class Colorization(GatedPixelCNN):
    """Gated PixelCNN of colour images given gray ones; options as in `ColorizationConfig`.

    `model.sample(n, cond=gray)` colours images, `model.log_prob(x, model.condition_of(x))` scores coloured ones.

    Shapes: x [N, 3, H, W], cond [N, 1, H, W] -> [N, likelihood.n_params, H, W].
    Dtypes: both levels or float in [-1, 1].
    """

    config_class = ColorizationConfig

    def condition_of(self, x: Tensor, labels: Tensor | None = None) -> Any:
        """The levels of the gray image, round(0.299 r + 0.587 g + 0.114 b), and the labels if the model has classes.

        Shapes: x [N, 3, H, W] -> [N, 1, H, W], or {"labels": [N], "map": [N, 1, H, W]}.
        """
        levels = signal_to_levels(x, self.likelihood.levels) if x.is_floating_point() else x
        luma = (levels * torch.tensor(LUMA, device=levels.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
        gray = luma.round().to(levels.dtype)
        return gray if labels is None else {"labels": labels, "map": gray}
