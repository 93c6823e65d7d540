"""The gated convolution against two plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastgen.nn import GatedConv2d


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("activation", [F.elu, None, torch.tanh])
def test_it_is_two_convolutions(groups: int, activation: object) -> None:
    options = {"stride": 2, "padding": 2, "dilation": 2, "groups": groups}
    layer = GatedConv2d(4, 6, 3, activation=activation, **options).double()  # type: ignore[arg-type]
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    each = 6 // groups
    of_features = torch.arange(12).view(groups, 2, each)[:, 0].flatten()
    features, gates = (
        F.conv2d(x, layer.weight[rows], layer.bias[rows], **options) for rows in (of_features, of_features + each)
    )
    f = activation or (lambda value: value)
    y = layer(x)
    assert y.shape == (2, 6, 5, 4)
    torch.testing.assert_close(y, f(features) * torch.sigmoid(gates))  # type: ignore[operator]


def test_same_padding_and_modes() -> None:
    layer = GatedConv2d(3, 5, 3, padding="same", padding_mode="reflect")
    assert layer(torch.randn(1, 3, 6, 7)).shape == (1, 5, 6, 7)
    assert isinstance(layer, nn.Conv2d)


def test_groups_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="must divide the channels; got 4 -> 3 in 2 groups"):
        GatedConv2d(4, 3, 3, groups=2)
