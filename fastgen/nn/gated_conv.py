"""The gated convolution of free-form inpainting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

Size = int | tuple[int, int]


class GatedConv2d(nn.Conv2d):
    """y = f(W_f * x + b_f) sigmoid(W_g * x + b_g): every feature has a soft mask that is learned.

    Both convolutions are one with 2 Co outputs: `weight` is [2 Co, Ci / groups, kh, kw], in each group the features
    first, the gates after.
    Other arguments as in `nn.Conv2d`; `out_channels` counts what comes out. `activation` is f, any function of a
    tensor, None for the identity.

    Shapes: x [N, Ci, H, W] -> [N, Co, H', W'], H' and W' as `nn.Conv2d` has them. Dtypes: that of the weight.

    Raises:
        ValueError: groups that do not divide the channels.
    Source: Yu et al. 2019, Free-Form Image Inpainting with Gated Convolution, https://arxiv.org/abs/1806.03589.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        *,
        activation: Callable[[Tensor], Tensor] | None = nn.functional.elu,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"GatedConv2d: groups must divide the channels; got {in_channels} -> {out_channels} in {groups} groups"
            )
        super().__init__(
            in_channels, 2 * out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
        )
        self.activation = activation

    def forward(self, input: Tensor) -> Tensor:
        """Convolve and gate [N, Ci, H, W]."""
        y = super().forward(input)
        if self.groups == 1:
            features, gates = y.chunk(2, dim=1)
        else:
            features, gates = (half.flatten(1, 2) for half in y.unflatten(1, (self.groups, 2, -1)).unbind(2))
        if self.activation is not None:
            features = self.activation(features)
        return features * gates.sigmoid()
