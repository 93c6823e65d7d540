"""Resampling around a convolution against the convolution of what is resampled."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.functional import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from fastgen.nn import Blur2d, Downsample2d, Upsample2d, resampled_conv2d

FOUR = setup_filter([1.0, 3.0, 3.0, 2.0]).double()


def written_out(x: Tensor, weight: Tensor, f: Tensor | None, up: int, down: int, groups: int) -> Tensor:
    """Filter with all that it spreads, and only then convolve what a padded image would have there."""
    k, taps = weight.shape[-1] // 2, 1 if f is None else f.shape[0]
    if up > 1:
        wide = upfirdn2d(x, f, up=up, padding=((taps + up - 1) // 2 + k, (taps - up) // 2 + k) * 2, gain=up**2)
        return F.conv2d(wide, weight, groups=groups)
    wide = upfirdn2d(x, f, padding=((taps - down + 1) // 2 + k, (taps - down) // 2 + k) * 2)
    return F.conv2d(wide, weight, groups=groups)[:, :, ::down, ::down]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (3, 1), (1, 2)])
def test_written_out(up: int, down: int, k: int, groups: int) -> None:
    x = torch.randn(2, 4, 6, 8, dtype=torch.float64)
    weight = torch.randn(6, 4 // groups, k, k, dtype=torch.float64)
    for f in (FOUR, FOUR[0]) if up > 1 or down > 1 else (None,):
        got = resampled_conv2d(x, weight, f, up=up, down=down, groups=groups)
        assert got.shape == (2, 6, 6 * up // down, 8 * up // down)
        torch.testing.assert_close(got, written_out(x, weight, f, up, down, groups))
        inner = F.conv2d(upsample2d(x, f, up), weight, padding=k // 2, groups=groups)[:, :, ::down, ::down]
        if down == 1:  # away from the border the same as one after the other
            torch.testing.assert_close(got[..., 5:-5, 5:-5], inner[..., 5:-5, 5:-5])


def test_layers() -> None:
    x, f = torch.randn(2, 3, 6, 8), setup_filter([1.0, 3.0, 3.0, 1.0])
    for layer, function in ((Blur2d(), filter2d), (Upsample2d(), upsample2d), (Downsample2d(), downsample2d)):
        torch.testing.assert_close(layer(x), function(x, f))
        assert list(layer.state_dict()) == ["f"]


def test_errors() -> None:
    x = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="either up or down may be above 1; got 2 and 2"):
        resampled_conv2d(x, torch.zeros(2, 2, 3, 3), up=2, down=2)
    with pytest.raises(ValueError, match=r"with odd k; got \[2, 2, 2, 2\]"):
        resampled_conv2d(x, torch.zeros(2, 2, 2, 2))
