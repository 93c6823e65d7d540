"""Layers at both ends of an autoregressive model: an embedding of levels, and an output that draws colours in order."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen.likelihoods import Likelihood
from fastgen.models.autoregressive.base import parameter_groups
from fastgen.nn import MaskedConv2d, channel_groups


class LevelEmbedding(nn.Module):
    """y = sum over channels c of E_c[level of x_c], the levels read from the signal 2k / (levels - 1) - 1.

    E[level] = E[0] + sum over k of s_k (E[k] - E[k - 1]), with the steps s_k = sigmoid(100 (level - k + 1/2)), which
    are 0 or 1 to the last bit on the grid. So a look-up is two convolutions with an elementwise function between, which
    the sampling engine knows, and what is off the grid takes its nearest level.

    Shapes: [N, channels, H, W] -> [N, features, H, W].
    Dtypes: that of the parameters.
    Gradient order: any for E; none that is of use for x, in which y is piecewise constant.

    Raises:
        ValueError: less than two levels, or no features.
    """

    def __init__(self, channels: int, levels: int, features: int) -> None:
        super().__init__()
        if levels < 2 or features < 1:
            raise ValueError(
                f"LevelEmbedding: levels must be at least 2 and features at least 1; got {levels} and {features}"
            )
        self.channels, self.levels = channels, levels
        self.weight = nn.Parameter(torch.empty(features, channels * levels, 1, 1).normal_(0.0, 0.1))

    def forward(self, x: Tensor) -> Tensor:
        """Embed [N, channels, H, W] as [N, features, H, W]."""
        table = self.weight.unflatten(1, (self.channels, self.levels))  # [features, channels, levels, 1, 1]
        with torch.autocast(x.device.type, enabled=False):  # eight bits of a signal cannot tell 256 levels
            return F.conv2d(self.steps(x), table.diff(dim=2).flatten(1, 2), table[:, :, 0].sum(1).flatten())

    def steps(self, x: Tensor) -> Tensor:
        """Whether the level is at least k, for k = 1.. of every channel: [N, channels (levels - 1), H, W]."""
        half, sharpness = (self.levels - 1) / 2, 100.0
        k = torch.arange(1, self.levels, device=x.device, dtype=x.dtype).repeat(self.channels)
        weight = torch.full((len(k), 1, 1, 1), sharpness * half, device=x.device, dtype=x.dtype)
        return torch.sigmoid(F.conv2d(x, weight, sharpness * (half + 0.5 - k), groups=self.channels))

    def extra_repr(self) -> str:
        """Describe the layer in the repr of the model."""
        return f"{self.channels}, levels={self.levels}, features={self.weight.shape[0]}"


class ColourHead(nn.Module):
    """Parameters of the likelihood from features of earlier pixels, and of a pixel's earlier colours.

    A likelihood that draws all channels at once, or has one, takes a 1x1 convolution of the features. One that draws
    the channels one by one takes two with a ReLU between, masked so that the parameters of colour c see the features
    and the image's colours before c (section 3.4 of the source).

    Shapes: features [N, F, H, W], x [N, C, H, W] in [-1, 1] -> [N, likelihood.n_params, H, W].
    Dtypes: that of the parameters.
    Gradient order: any.
    Source: van den Oord et al. 2016, https://arxiv.org/abs/1601.06759.
    """

    def __init__(self, features: int, likelihood: Likelihood, hidden: int) -> None:
        super().__init__()
        c = likelihood.channels
        self.hidden: MaskedConv2d | None = None
        self.out: nn.Conv2d | MaskedConv2d
        if likelihood.coupled or c == 1:
            self.out = nn.Conv2d(features, likelihood.n_params, 1)
            return
        # the features count as a colour before all others
        self.hidden = MaskedConv2d(
            features + c, hidden, 1, mask_type="B", groups=c + 1, in_groups=[0] * features + list(range(1, c + 1)),
            out_groups=channel_groups(hidden, c),
        )  # fmt: skip
        self.out = MaskedConv2d(
            hidden, likelihood.n_params, 1, mask_type="B", groups=c, out_groups=parameter_groups(likelihood)
        )

    def forward(self, features: Tensor, x: Tensor) -> Tensor:
        """Return the parameters at every pixel."""
        if self.hidden is not None:
            features = F.relu(self.hidden(torch.cat((features, x), 1)))
        return self.out(features)
