"""NADE: every value has hidden units of its own, whose weights it shares with all values after it.

Larochelle, Murray 2011, The neural autoregressive distribution estimator, AISTATS. With W in R^{H x D}, V in R^{D x H},

    h_d = sigmoid(a_d),  p(x_d = 1 | x_<d) = sigmoid(b_d + V_d h_d),
    a_1 = c,  a_{d+1} = a_d + W_{., d} x_d  (equations 9 to 12),

so all hidden units of all values take one running sum, O(D H), and not a product for each. The sigmoid of the output is
the model, so its values are binary and its likelihood is Bernoulli.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.likelihoods import Bernoulli
from fastgen.models.autoregressive.flat import FlatModel, check_flat_options


@dataclass(frozen=True)
class NADEConfig:
    """Options of NADE; the default width is the paper's for binarised MNIST.

    Attributes:
        image_channels: C.
        n_hidden: H, hidden units.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    n_hidden: int = 500
    _: KW_ONLY
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_flat_options("NADE", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        if self.n_hidden < 1:
            raise ValueError(f"NADE: n_hidden must be at least 1; got {self.n_hidden}")


class NADE(FlatModel):
    """Neural autoregressive distribution estimator; options as in `NADEConfig`.

    Shapes: x [N, C, H, W] -> logits [N, C, H, W].
    """

    config_class = NADEConfig

    def __init__(self, *args: Any, **options: Any) -> None:
        config = NADEConfig(*args, **options)
        super().__init__(config, Bernoulli(config.image_channels))
        d, h = self.n_values, config.n_hidden
        self.weight = nn.Parameter(torch.empty(d, h).uniform_(-1, 1) / d**0.5)  # W, transposed
        self.hidden_bias = nn.Parameter(torch.zeros(h))  # c
        self.out_weight = nn.Parameter(torch.empty(d, h).uniform_(-1, 1) / h**0.5)  # V
        self.bias = nn.Parameter(torch.zeros(d))  # b

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Logit of every value. Shapes: [N, C, H, W] -> [N, C, H, W]."""
        x = self.flatten(x, cond)
        steps = x[:, :-1, None] * self.weight[:-1]  # [N, D - 1, H]
        start = self.hidden_bias.expand(x.shape[0], 1, -1)
        a = torch.cat((start, steps), 1).cumsum(1)  # [N, D, H]
        logits = (torch.sigmoid(a) * self.out_weight).sum(2) + self.bias
        return self.unflatten(logits)
