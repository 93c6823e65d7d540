"""Mu-law companding is its formula, inverts itself, and says what it cannot encode."""

import math

import pytest
import torch

from fastgen.data import mu_law_decode, mu_law_encode
from fastgen.data.encoding import decode, encode
from fastgen.likelihoods import levels_to_signal


@pytest.mark.parametrize("levels", [2, 16, 256, 1024, 65536])
def test_every_level_survives_decoding(levels):
    every = torch.arange(levels)
    signal = mu_law_decode(every, levels, torch.float64)
    assert torch.equal(mu_law_encode(signal, levels).long(), every)
    assert (signal.diff() > 0).all()
    assert (signal[0].item(), signal[-1].item()) == (pytest.approx(-1, abs=1e-12), pytest.approx(1, abs=1e-12))
    assert torch.equal(mu_law_encode(signal.float().clamp(-1, 1), levels).long(), every)


@pytest.mark.parametrize("levels", [16, 256, 1024])
def test_the_closed_form(levels):
    """Against the formula in Python's floats, at random points and at the edges between levels."""
    mu = levels - 1
    edges = mu_law_decode(torch.arange(levels), levels, torch.float64)
    points = torch.cat([torch.rand(500, dtype=torch.float64) * 2 - 1, edges.clamp(-1, 1), torch.zeros(1).double()])
    for x, level in zip(points.tolist(), mu_law_encode(points, levels).tolist()):
        y = math.copysign(math.log(1 + mu * abs(x)) / math.log(1 + mu), x)
        assert abs((y + 1) / 2 * mu - level) <= 0.5 + 1e-9
    for level in range(levels):
        y = 2 * level / mu - 1
        want = math.copysign(((1 + mu) ** abs(y) - 1) / mu, y)
        assert edges[level].item() == pytest.approx(want, rel=1e-12, abs=1e-15)


def test_known_values_of_256_levels():
    x = torch.tensor([-1.0, -0.5, -0.01, 0.01, 0.5, 1.0])
    assert mu_law_encode(x).tolist() == [0, 16, 98, 157, 239, 255]
    assert mu_law_encode(torch.zeros(1)).item() in (127, 128)
    assert mu_law_encode(x).dtype == torch.uint8
    assert mu_law_encode(x, 1024).dtype == torch.int32


def test_small_signals_lose_less_than_with_even_levels():
    x = torch.linspace(-0.02, 0.02, 999)
    error = (mu_law_decode(mu_law_encode(x)) - x).abs().max()
    even = (decode(encode(x, "linear", 256)[None, None], "linear", 256) - x).abs().max()
    assert error < even / 5


@pytest.mark.parametrize("levels", [256, 65536])
def test_linear_levels_are_those_of_the_likelihoods(levels):
    every = torch.arange(levels).int()
    signal = levels_to_signal(every, levels, torch.float64)
    assert torch.equal(encode(signal, "linear", levels).int(), every)
    torch.testing.assert_close(decode(every[None, None], "linear", levels)[0, 0], signal.float())


def test_a_scale_gives_the_values_back():
    x = torch.tensor([[[0, 255], [128, 0]]], dtype=torch.uint8)  # [1, 2, 2]
    values = decode(x, "linear", 256, [(10.0, 2.0), (0.0, 100.0)])
    torch.testing.assert_close(values, torch.tensor([[[8.0, 12.0], [100 / 255, -100.0]]]))


def test_misuse():
    for bad in (1.01, -1.5, math.nan, math.inf):
        for name in ("mu-law", "linear"):
            with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]; got"):
                encode(torch.tensor([0.0, bad]), name, 256)
    with pytest.raises(TypeError, match="floating point"):
        mu_law_encode(torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(TypeError, match="levels must be integers"):
        mu_law_decode(torch.zeros(3))
    with pytest.raises(ValueError, match="at least 2; got 1"):
        mu_law_encode(torch.zeros(3), 1)
    with pytest.raises(ValueError, match="one of mu-law, linear; got 'alaw'"):
        encode(torch.zeros(3), "alaw", 256)
