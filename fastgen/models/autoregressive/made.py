"""MADE: an autoencoder whose masks leave each output only the inputs before it.

Germain, Gregor, Murray, Larochelle 2015, MADE: Masked Autoencoder for Distribution Estimation,
https://arxiv.org/abs/1502.03509. Every unit k has a degree m(k), the number of values that it may see at most. Inputs
have their places in the order of the values, hidden units a degree drawn between the smallest one below them and D - 1,
and a weight is kept (section 4, equations 8, 9 and 12)

    from a unit k' to a hidden unit k   where m(k) >= m(k'),
    from a unit k' to output d          where d > m(k'),

the direct connections from input to output included, which then form a strictly lower triangle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._names import unknown_name
from fastgen.likelihoods import Bernoulli, Categorical, Likelihood
from fastgen.models.autoregressive.base import as_likelihood, parameter_groups
from fastgen.models.autoregressive.flat import FlatModel, check_flat_options

ORDERS = ("natural", "random")


@dataclass(frozen=True)
class MADEConfig:
    """Options of MADE; by default two hidden layers for binary images, in raster order.

    Attributes:
        image_channels: C.
        hidden: units of every hidden layer.
        order: "natural", the raster, or "random", a permutation of the pixels (the channels of one follow each other).
        n_masks: sets of hidden degrees. In training each step takes one of them at random, which makes the weights
            agnostic of the connectivity (section 4.3); otherwise a conditional is the average of theirs.
        direct: connections from the input to the output.
        mask_seed: decides the order and the degrees.
        likelihood: distribution of a pixel (or the config of one); by default Bernoulli.
        image_size: (H, W) of every image.
    """

    image_channels: int = 1
    hidden: Sequence[int] = (500, 500)
    order: Literal["natural", "random"] = "natural"
    n_masks: int = 1
    _: KW_ONLY
    direct: bool = False
    mask_seed: int = 0
    likelihood: Likelihood | Mapping[str, Any] | None = None
    image_size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        size = check_flat_options("MADE", self.image_channels, self.image_size)
        object.__setattr__(self, "image_size", size)
        likelihood = as_likelihood(self.likelihood, Bernoulli(self.image_channels))
        object.__setattr__(self, "likelihood", likelihood)
        object.__setattr__(self, "hidden", tuple(int(n) for n in self.hidden))
        if self.order not in ORDERS:
            raise unknown_name("order of MADE", str(self.order), ORDERS)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"MADE: hidden must name at least one layer of at least 1 unit; got {self.hidden}")
        if self.n_masks < 1 or not 0 <= self.mask_seed < 2**32:
            raise ValueError(
                f"MADE: n_masks must be at least 1 and mask_seed in [0, 2^32); got n_masks={self.n_masks}, "
                f"mask_seed={self.mask_seed}"
            )
        if self.n_masks > 1 and not isinstance(likelihood, (Bernoulli, Categorical)):
            raise ValueError(
                f"MADE: probabilities of several masks are averaged for Bernoulli and Categorical only; got "
                f"n_masks={self.n_masks} with {type(likelihood).__name__}; set n_masks=1"
            )


class MADE(FlatModel):
    """Masked autoencoder for distribution estimation; options as in `MADEConfig`.

    With several masks p(x_d | x_<d) is the mean over the masks of what each gives, all in one order of the values, so
    that `log_prob` is normalised and sampling exact. An ensemble over orders is a mixture of whole images instead,
    whose conditionals nobody can compute: build a model for each order, and average the exponentials of `log_prob`.

    Shapes: x [N, C, H, W] -> [N, likelihood.n_params, H, W].

    Attributes:
        pixel_order: the pixels (row W + column) in the order that they are drawn in, int64 [H W]; None for the raster.
    """

    config_class = MADEConfig
    pixel_order: Tensor | None

    def __init__(self, *args: Any, **options: Any) -> None:
        config = MADEConfig(*args, **options)
        assert isinstance(config.likelihood, Likelihood)
        super().__init__(config, config.likelihood)
        self.n_masks = config.n_masks
        generator = np.random.RandomState(config.mask_seed)  # its numbers are the same in every version
        order = None if config.order == "natural" else torch.from_numpy(generator.permutation(self.n_pixels))
        self.register_buffer("pixel_order", order, persistent=False)
        widths = (self.n_values, *config.hidden, self.n_pixels * self.likelihood.n_params)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.direct = nn.Linear(widths[0], widths[-1], bias=False) if config.direct else None
        inputs, outputs = self._degrees(order)
        for index in range(config.n_masks):
            degrees = [inputs]
            for width in config.hidden:
                low, high = int(degrees[-1].min()), max(int(degrees[-1].min()), self.n_values - 1)
                degrees.append(torch.from_numpy(generator.randint(low, high + 1, width)))
            for layer, (below, above) in enumerate(pairwise(degrees)):
                self._add_mask(f"mask_{index}_{layer}", above[:, None] >= below)
            self._add_mask(f"mask_{index}_{len(config.hidden)}", outputs[:, None] > degrees[-1])
        if config.direct:
            self._add_mask("direct_mask", outputs[:, None] > inputs)

    def _degrees(self, order: Tensor | None) -> tuple[Tensor, Tensor]:
        """Degree of every value and of every parameter: its place in the order, from 1."""
        pixels = torch.arange(self.n_pixels)
        place = pixels if order is None else torch.empty_like(order).scatter_(0, order, pixels)
        channels = torch.arange(self.image_channels)
        groups = torch.tensor(parameter_groups(self.likelihood))
        first = 1 + place[:, None] * self.image_channels
        return (first + channels).flatten(), (first + groups).flatten()

    def _add_mask(self, name: str, mask: Tensor) -> None:
        """Keep a mask as 0 and 1; the options say what it is, so that no file has to."""
        self.register_buffer(name, mask.to(torch.get_default_dtype()), persistent=False)

    def _masked(self, layer: nn.Module, name: str, x: Tensor) -> Tensor:
        assert isinstance(layer, nn.Linear)
        mask: Tensor = getattr(self, name)
        return F.linear(x, layer.weight * mask.to(layer.weight.dtype), layer.bias)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel. Shapes: [N, C, H, W] -> [N, P, H, W]."""
        x = self.flatten(x, cond)
        if self.training and self.n_masks > 1:
            params = self._masked_network(x, int(torch.randint(self.n_masks, ())))
        else:
            params = self._average([self._masked_network(x, index) for index in range(self.n_masks)])
        return self.unflatten(params)

    def _masked_network(self, x: Tensor, index: int) -> Tensor:
        """The autoencoder under one set of masks. Shapes: [N, D] -> [N, H W P]."""
        h = x
        for n, layer in enumerate(self.layers):
            h = self._masked(layer, f"mask_{index}_{n}", F.relu(h) if n else h)
        return h if self.direct is None else h + self._masked(self.direct, "direct_mask", x)

    def _average(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits of the mean of the probabilities that these give, up to a constant that no softmax sees."""
        if len(logits) == 1:
            return logits[0]
        if isinstance(self.likelihood, Bernoulli):  # log of the mean of p over the mean of 1 - p
            return _log_sum_exp([-F.softplus(-x) for x in logits]) - _log_sum_exp([-F.softplus(x) for x in logits])
        split = [x.unflatten(1, (-1, self.likelihood.levels)) for x in logits]
        return _log_sum_exp([x - _log_sum_exp(list(x.split(1, 2))) for x in split]).flatten(1)


def _log_sum_exp(terms: list[Tensor]) -> Tensor:
    """log(sum_k exp(terms_k)), in pairs: log(e^a + e^b) = a + softplus(b - a)."""
    while len(terms) > 1:
        pairs = [a + F.softplus(b - a) for a, b in zip(terms[::2], terms[1::2])]
        terms = pairs + terms[2 * len(pairs) :]
    return terms[0]
