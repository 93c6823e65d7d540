"""FVSBN: every value is a logistic regression on the values before it.

Frey, Hinton, Dayan 1996, Does the wake-sleep algorithm produce good density estimators?, NIPS 8, after Neal 1992,
Connectionist learning of belief networks, Artificial Intelligence 56: a sigmoid belief network without hidden units,

    p(x_d = 1 | x_<d) = sigmoid(b_d + sum_{j < d} S_dj x_j).

The sigmoid is the model, so its values are binary and its likelihood is Bernoulli.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Bernoulli
from fastgen.models.autoregressive.flat import FlatModel, check_flat_options


@dataclass(frozen=True)
class FVSBNConfig:
    """Options of FVSBN.

    Attributes:
        image_channels: C.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_flat_options("FVSBN", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)


class FVSBN(FlatModel):
    """Fully visible sigmoid belief network; options as in `FVSBNConfig`.

    Shapes: x [N, C, H, W] -> logits [N, C, H, W].
    """

    config_class = FVSBNConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = FVSBNConfig(*args, **options)
        super().__init__(config, Bernoulli(config.image_channels))
        d = self.n_values
        self.weight = nn.Parameter(torch.zeros(d, d))  # S; what is not below the diagonal is never used
        self.bias = nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Logit of every value. Shapes: [N, C, H, W] -> [N, C, H, W]."""
        x = self.flatten(x, cond)
        return self.unflatten(F.linear(x, self.weight.tril(-1), self.bias))
