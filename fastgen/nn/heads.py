"""The last layer of a model: a 1x1 convolution that knows the likelihood of its outputs."""

from __future__ import annotations

from torch import Tensor, nn

from fastgen.functional import categorical_head_log_prob, dmol_head_log_prob
from fastgen.likelihoods import Categorical, DiscretizedLogisticMixture


class DMOLHead(nn.Conv2d):
    """params = W f + b, and log p(x | params) of the discretized logistic mixture without ever holding the params.

    A 1x1 `nn.Conv2d` to P = M (1 + 2C + C(C-1)/2) outputs, whose state_dict it has: `weight` [P, F, 1, 1], `bias` [P].
    Calling it gives the parameters, for sampling; training takes `log_prob`.

    Shapes: features [N, in_channels, H, W] -> params [N, P, H, W], laid out as `dmol_log_prob` says.
    Attributes: `likelihood`, the `DiscretizedLogisticMixture` of the params.
    Raises: ValueError for options that do not fit.
    Source: Salimans et al., "PixelCNN++", ICLR 2017.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int = 3,
        n_mix: int = 10,
        bits: int = 8,
        *,
        tails: str = "exact",
        impl: str = "auto",
    ) -> None:
        likelihood = DiscretizedLogisticMixture(channels, n_mix, bits, tails)
        super().__init__(in_channels, likelihood.n_params, 1)
        self.likelihood, self.impl = likelihood, impl

    def log_prob(self, features: Tensor, x: Tensor) -> Tensor:
        """log p(x | W f + b) in nats, summed over channels; see `fastgen.functional.dmol_head_log_prob`.

        Shapes: features [N, in_channels, H, W], x [N, C, H, W] -> [N, H, W].
        Gradient order: first, with respect to features, weight and bias.
        """
        _check_channels("DMOLHead", x, self.likelihood.channels)
        bits, tails = self.likelihood.bits, self.likelihood.tails
        return dmol_head_log_prob(features, self.weight, self.bias, x, bits=bits, tails=tails, impl=self.impl)

    def extra_repr(self) -> str:
        """The options, for `print(module)`."""
        return f"{self.in_channels}, {self.likelihood}"


class CategoricalHead(nn.Conv2d):
    """logits = W f + b, and log softmax(logits)[x] of the levels without ever holding the logits.

    A 1x1 `nn.Conv2d` to P = C L outputs, whose state_dict it has: `weight` [P, F, 1, 1], `bias` [P]; the logit of level
    l of channel c is output c L + l. Calling it gives the logits, for sampling; training takes `log_prob`.

    Shapes: features [N, in_channels, H, W] -> logits [N, P, H, W].
    Attributes: `likelihood`, the `Categorical` of the logits.
    Raises: ValueError for options that do not fit.
    Source: van den Oord et al., "Pixel Recurrent Neural Networks", ICML 2016.
    """

    def __init__(self, in_channels: int, channels: int = 3, levels: int = 256, *, impl: str = "auto") -> None:
        likelihood = Categorical(channels, levels)
        super().__init__(in_channels, likelihood.n_params, 1)
        self.likelihood, self.impl = likelihood, impl

    def log_prob(self, features: Tensor, x: Tensor) -> Tensor:
        """log p(x | W f + b) in nats, summed over channels; see `fastgen.functional.categorical_head_log_prob`.

        Shapes: features [N, in_channels, H, W], x [N, C, H, W] -> [N, H, W].
        Gradient order: first, with respect to features, weight and bias.
        """
        _check_channels("CategoricalHead", x, self.likelihood.channels)
        levels = self.likelihood.levels
        return categorical_head_log_prob(features, self.weight, self.bias, x, levels=levels, impl=self.impl)

    def extra_repr(self) -> str:
        """The options, for `print(module)`."""
        return f"{self.in_channels}, {self.likelihood}"


def _check_channels(name: str, x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{name}: x must be [N, {channels}, H, W]; got {list(x.shape)}; match channels to the image.")
