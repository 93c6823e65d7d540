"""What every autoregressive model of images or signals shares: nats, and sampling by the engine."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastgen.likelihoods import Likelihood, likelihood_from_config
from fastgen.models.base import Model, Terms
from fastgen.models.base import check_image_options as check_image_options
from fastgen.models.base import check_levels as check_levels


class AutoregressiveModel(Model):
    """log p(x) = sum over pixels in raster order of log p(x_i | x_<i, cond).

    A subclass names its frozen dataclass of options in `config_class`, passes an instance of it and its likelihood
    to `super().__init__`, and writes `forward`: one pass gives the parameters of the likelihood at every pixel, those
    of a pixel depending on earlier pixels only (and, where the likelihood draws the channels one by one, those of a
    channel on the earlier channels of its pixel too).

    Images are [N, C, H, W]. A model of signals in time sets `axes` to ("T",), takes [N, C, T], has no `image_channels`
    and no `image_size`, and says in `size` how long a signal is; a "pixel" is then a sample in time.

    Attributes:
        axes: the axes that are drawn along, in raster order.
        likelihood: the distribution of a pixel given its parameters.
        image_channels: C.
        image_size: (H, W) the model was trained on, or None; other sizes work too.
        n_classes: number of labels it is conditioned on; 0 for none.
    """

    likelihood: Likelihood

    def __init__(self, options: Any, likelihood: Likelihood, n_classes: int = 0) -> None:
        super().__init__(options, n_classes, likelihood.levels)
        self.likelihood = likelihood
        if likelihood.channels != self.channels:
            raise ValueError(
                f"{type(self).__name__}: the likelihood must be one of {self.channels} channels; got "
                f"{likelihood.config}; build it with channels={self.channels}"
            )

    @abc.abstractmethod
    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Parameters of the likelihood at every pixel.

        Shapes: x [N, C, H, W]; cond [N] labels where n_classes > 0 -> [N, likelihood.n_params, H, W].
            In time [N, C, T] -> [N, likelihood.n_params, T].
        Dtypes: x levels (uint8; int32 for more than 256 of them) or float in [-1, 1].
        """

    def log_prob(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Nats: log p(x) = sum over pixels of log p(x_i | x_<i, cond).

        Shapes: x as in `forward`, cond [N] -> [N].
        Dtypes: x as in `forward`; the terms have the likelihood's dtype and are summed in float64 (float32 on devices
            that have no float64), which is also the result's.
        Gradient order: that of the likelihood.

        Raises:
            ValueError: wrong shape, levels out of range, NaN, missing or unknown labels.
        """
        terms = self.likelihood.log_prob(x, self(x, cond))
        return terms.flatten(1).sum(1, dtype=torch.float32 if terms.device.type == "mps" else torch.float64)

    def bits_per_dim(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """-log2 p(x) / (C H W): bits for each channel of each pixel. Shapes: x as in `forward`, cond [N] -> [N]."""
        return self.log_prob(x, cond) / (-math.log(2.0) * math.prod(x.shape[1:]))

    def sample(self, n: int, *, seed: int = 0, **options: Any) -> Tensor:
        """Draw n images, uint8 [n, C, H, W]: `fastgen.sample(self, n, seed=seed, **options)`."""
        from fastgen.sampling import sample

        return sample(self, n, seed=seed, **options)

    def objective(self, x: Tensor, cond: Any = None) -> Terms:
        """-log p(x) in nats per dimension, the mean over the batch; bits per dimension are logged."""
        loss = -self.log_prob(x, cond).mean() / math.prod(x.shape[1:])
        return {"loss": loss, "bits_per_dim": loss.detach() / math.log(2)}

    def held_out(self, x: Tensor, cond: Any = None) -> Terms:
        """-log p(x) in nats. Shapes: x as in `forward` -> [N]."""
        return {"nats": -self.log_prob(x, cond)}


def parameter_groups(likelihood: Likelihood) -> list[int]:
    """Channel group of each parameter of an uncoupled likelihood: the channel that it describes; all 0 if coupled."""
    groups = torch.zeros(likelihood.n_params, dtype=torch.int64, device="cpu")
    if not likelihood.coupled:
        for channel in range(likelihood.channels):
            _, params, _ = likelihood.channel(channel)
            groups[params] = channel
    return groups.tolist()


def as_likelihood(value: Likelihood | Mapping[str, Any] | None, default: Likelihood) -> Likelihood:
    """The likelihood that an option names: an instance, the `config` of one, or None for the default."""
    if value is None:
        return default
    return value if isinstance(value, Likelihood) else likelihood_from_config(dict(value))
