"""The oracle against scipy's filter bank, along both axes, and filters that are set up."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fastgen.functional import downsample2d, filter2d, setup_filter, upsample2d
from fastgen.kernels.upfirdn2d import upfirdn2d_reference

signal = pytest.importorskip("scipy.signal")


def by_scipy(x: np.ndarray, f: np.ndarray, axis: int, up: int, down: int, before: int, after: int) -> np.ndarray:
    """One axis: the whole of f * z from scipy, of which padding takes more or less, in zeros."""
    x = np.moveaxis(x, axis, -1)
    whole = signal.upfirdn(f, x, up=up)  # (W - 1) up + K
    length = x.shape[-1] * up + before + after - len(f) + 1
    start = len(f) - 1 - before
    wide = np.zeros((*whole.shape[:-1], 200))
    wide[..., 100 : 100 + whole.shape[-1]] = whole
    return np.moveaxis(wide[..., 100 + start : 100 + start + length : down], -1, axis)


@pytest.mark.parametrize("up", [(1, 1), (2, 3), (4, 1)])
@pytest.mark.parametrize("down", [(1, 1), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 1, 3, 5), (-1, 4, 2, -2)])
def test_scipy(up: tuple[int, int], down: tuple[int, int], padding: Sequence[int]) -> None:
    left, right, top, bottom = padding
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    for taps in (1, 4, 5):
        f = torch.randn(taps, dtype=torch.float64)
        wanted = by_scipy(x.numpy(), f.numpy(), 3, up[0], down[0], left, right)
        wanted = by_scipy(wanted, f.numpy(), 2, up[1], down[1], top, bottom)
        got = upfirdn2d_reference(x, f, up, down, padding)
        np.testing.assert_allclose(got, wanted, rtol=1e-11, atol=1e-12)
        window = f[:, None] * f.flip(0)[None, :]
        wanted = by_scipy(x.numpy(), f.flip(0).numpy(), 3, up[0], down[0], left, right)
        wanted = 3 * by_scipy(wanted, f.numpy(), 2, up[1], down[1], top, bottom)
        np.testing.assert_allclose(upfirdn2d_reference(x, window, up, down, padding, gain=3), wanted, atol=1e-11)
        turned = upfirdn2d_reference(x, window.flip(0, 1), up, down, padding, flip_filter=True, gain=3)
        np.testing.assert_allclose(turned, wanted, rtol=1e-11, atol=1e-11)


def test_rational_resampling_is_scipys() -> None:
    x, f = torch.randn(1, 1, 3, 20, dtype=torch.float64), torch.randn(9, dtype=torch.float64)
    wanted = signal.upfirdn(f.numpy(), x.numpy(), up=3, down=2)
    got = upfirdn2d_reference(x, f[None, :], (3, 1), (2, 1), (8, 6, 0, 0))
    np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_derivatives() -> None:
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    f = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)

    def of(x: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return upfirdn2d_reference(x, f, (2, 1), (1, 2), (1, 2, 3, -1))

    assert torch.autograd.gradcheck(of, (x, f))
    assert torch.autograd.gradgradcheck(of, (x, f))


def test_setup_filter() -> None:
    f = setup_filter([1, 3, 3, 1])
    assert f.shape == (4, 4) and f.dtype == torch.float32 and math.isclose(float(f.sum()), 1)
    torch.testing.assert_close(f, torch.outer(f.sum(0), f.sum(1)))
    long = setup_filter(range(1, 9), gain=4, flip_filter=True)
    torch.testing.assert_close(long, torch.arange(8.0, 0, -1) / 36 * 2)  # each pass has the root of the gain
    assert setup_filter([1, 2], separable=True, normalize=False).tolist() == [1, 2]
    turned = setup_filter([[1.0, 2.0], [3.0, 4.0]], flip_filter=True, normalize=False, gain=2)
    assert turned.tolist() == [[8, 6], [4, 2]]
    assert setup_filter(None).tolist() == [[1]] and setup_filter(3.0).tolist() == [[1]]
    for wrong, options, message in (
        (torch.zeros(2, 2, 2), {}, r"must be a number, \[K\] or \[Kh, Kw\]; got \[2, 2, 2\]"),
        ([], {}, "must be a number"),
        ([[1.0]], {"separable": True}, "separable filter must be"),
        ([1.0, -1.0], {}, "sums to zero"),
        ([1.0], {"gain": -1.0, "separable": True}, "gain must not be negative"),
    ):
        with pytest.raises(ValueError, match=f"^setup_filter: .*{message}"):
            setup_filter(wrong, **options)


@pytest.mark.parametrize("taps", [[1.0, 3.0, 3.0, 1.0], [1.0, 2.0, 1.0], [1.0, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1]])
def test_what_is_built_on_it_keeps_brightness_and_place(taps: list[float]) -> None:
    f = setup_filter(taps)
    x = torch.ones(1, 2, 24, 28)
    for got, size in ((filter2d(x, f), (24, 28)), (upsample2d(x, f), (48, 56)), (downsample2d(x, f), (12, 14))):
        assert got.shape[2:] == size
        if len(taps) % 2 == 0:  # of others the even and odd taps have other sums
            torch.testing.assert_close(got[..., 6:-6, 6:-6], torch.ones_like(got[..., 6:-6, 6:-6]))
    even = setup_filter([1.0, 3.0, 3.0, 1.0])
    ramp = torch.arange(24.0).expand(1, 1, 24, 24)
    up, down = upsample2d(ramp, even), downsample2d(ramp, even)  # linear in, linear out, in the same place
    torch.testing.assert_close(up[0, 0, 12, 4:-4], torch.arange(4.0, 44) / 2 - 0.25)
    torch.testing.assert_close(down[0, 0, 6, 2:-2], torch.arange(2.0, 10) * 2 + 0.5)
    torch.testing.assert_close(upsample2d(x, even, (2, 1), padding=(1, 0)).shape, torch.Size((1, 2, 24, 58)))
    torch.testing.assert_close(downsample2d(x, even, (1, 3)).shape, torch.Size((1, 2, 8, 28)))
    assert filter2d(x, even, padding=1).shape == (1, 2, 26, 30)
