"""The oracle: it equals the published formula, its bins sum to one, its gradients are right and never NaN."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.functional import dmol_log_prob
from fastgen.kernels.dmol.reference import blocks_per_mixture, dmol_log_prob_reference

TAILS = ("exact", "pixelcnn++")
Make = Callable[..., tuple[Tensor, Tensor]]


def published(x: Tensor, params: Tensor, n_mix: int) -> Tensor:
    """The formula of PixelCNN++ for three channels of 8 bits, as ports write it: channels last, x in [-1, 1]."""
    x, params = x.permute(0, 2, 3, 1), params.permute(0, 2, 3, 1)
    logits = params[..., :n_mix]
    rest = params[..., n_mix:].reshape(*x.shape, 3 * n_mix)
    means, log_scales, coefficients = rest.split(n_mix, -1)
    log_scales, coefficients = log_scales.clamp(min=-7), coefficients.tanh()
    x = x[..., None]
    red, green = x[..., 0, :], x[..., 1, :]
    mean_1 = means[..., 0, :]
    mean_2 = means[..., 1, :] + coefficients[..., 0, :] * red
    mean_3 = means[..., 2, :] + coefficients[..., 1, :] * red + coefficients[..., 2, :] * green
    centered = x - torch.stack([mean_1, mean_2, mean_3], -2)
    inverse = torch.exp(-log_scales)
    plus, minus, middle = inverse * (centered + 1 / 255), inverse * (centered - 1 / 255), inverse * centered
    delta = torch.sigmoid(plus) - torch.sigmoid(minus)
    density = middle - log_scales - 2 * F.softplus(middle) - math.log(127.5)
    inside = torch.where(delta > 1e-5, torch.log(delta.clamp(min=1e-12)), density)
    per_channel = torch.where(x < -0.999, plus - F.softplus(plus), torch.where(x > 0.999, -F.softplus(minus), inside))
    return torch.logsumexp(per_channel.sum(-2) + F.log_softmax(logits, -1), -1)


@pytest.mark.parametrize("n_mix", [1, 10])
@pytest.mark.parametrize("spread", [0.5, 3.0])
def test_published_formula(make: Make, n_mix: int, spread: float) -> None:
    x, params = make(n_mix=n_mix, spread=spread, dtype=torch.float64)
    params.requires_grad_()
    expected = published(x.double() / 127.5 - 1, params, n_mix)
    got = dmol_log_prob_reference(x, params, tails="pixelcnn++")
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(got)
    wanted, found = (torch.autograd.grad((value * weight).sum(), params)[0] for value in (expected, got))
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)


def test_exact_equals_published_where_bins_hold_enough(make: Make) -> None:
    x, params = make(n_mix=4, spread=0.3, dtype=torch.float64)
    exact = dmol_log_prob_reference(x, params)
    torch.testing.assert_close(exact, dmol_log_prob_reference(x, params, tails="pixelcnn++"), rtol=0, atol=1e-9)


def every_image(channels: int, bits: int) -> Tensor:
    """All pixels there are, side by side: [1, C, 1, L^C]."""
    pixels = torch.tensor(list(itertools.product(range(2**bits), repeat=channels)), dtype=torch.uint8)
    return pixels.T[None, :, None]


# (log-scale, mean, logit) overrides; None keeps random ones
EXTREMES = {
    "random": (None, None, None),
    "narrowest": (-7.0, None, None),
    "below the clamp": (-1000.0, None, None),
    "wide": (30.0, None, None),
    "widest": (100.0, None, None),
    "mean far above": (None, 1e4, None),
    "mean far below": (-7.0, -1e4, None),
    "one mixture certain": (None, None, 1e4),
    "everything": (1e4, -1e4, -1e4),
}


def extreme_params(channels: int, n_mix: int, name: str, seed: int = 0) -> Tensor:
    """One pixel's parameters, float64: [1, P, 1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    k = blocks_per_mixture(channels)
    blocks = torch.randn(k, n_mix, generator=generator, dtype=torch.float64) * 2
    log_scale, mean, logit = EXTREMES[name]
    step = 3 if channels == 3 else 2
    if logit is not None:
        blocks[0, 0] = logit
    for channel in range(channels):
        if mean is not None:
            blocks[1 + step * channel] = mean
        if log_scale is not None:
            blocks[2 + step * channel] = log_scale
    return blocks.reshape(1, -1, 1, 1)


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize(("channels", "bits"), [*((1, bits) for bits in range(1, 9)), (2, 3), (3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("path", ["reference", "float64", "float32"])
def test_bins_sum_to_one(name: str, channels: int, bits: int, path: str) -> None:
    x = every_image(channels, bits)
    params = extreme_params(channels, 3, name).expand(-1, -1, 1, x.shape[3])
    if path == "reference":
        log_prob = dmol_log_prob_reference(x, params, bits=bits)
    else:
        log_prob = dmol_log_prob(x, params.to(getattr(torch, path)), bits=bits)
    assert log_prob.isfinite().all() and (log_prob <= 1e-5).all()
    total = float(log_prob.double().exp().sum())
    # in float32 each edge of a bin is rounded on its own, in units of the scale
    assert abs(total - 1) < (2e-3 if path == "float32" else 1e-10)
    if path == "float32" and name in ("random", "wide", "one mixture certain"):
        assert abs(total - 1) < 3e-5


@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("name", ["random", "narrowest", "below the clamp", "mean far below"])
@pytest.mark.parametrize("path", ["reference", "float64", "float32"])
def test_bins_of_many_bits_sum_to_one(path: str, name: str, bits: int) -> None:
    half = (2**bits - 1) / 2
    x = ((torch.arange(2**bits, dtype=torch.float64) - half) / half).view(1, 1, 1, -1)
    params = extreme_params(1, 3, name)
    params = (params if path != "float32" else params.float()).requires_grad_()
    function = dmol_log_prob_reference if path == "reference" else dmol_log_prob
    log_prob = function(x, params.expand(-1, -1, 1, 2**bits), bits=bits)
    assert log_prob.isfinite().all()
    total = log_prob.detach().double().exp().sum()
    # in float32 the edges of 2^16 bins are rounded on their own, a hundredth of a scale each
    assert abs(float(total) - 1) < (1e-9 if path != "float32" else 3e-2 if bits == 16 else 4e-3)
    (gradient,) = torch.autograd.grad(log_prob.clamp(min=-1e30).sum(), params)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("path", ["reference", "float64", "float32"])
def test_the_smallest_scale_follows_the_bins(path: str) -> None:
    """Of 8 bits and fewer it is e^-7; of more it halves with each, so that a level holds as much as at 8 bits."""

    def peak(bits: int, log_scale: float) -> float:
        half = (2**bits - 1) / 2
        level = torch.full((1, 1, 1, 1), 0.5 / half, dtype=torch.float64)  # the first level above the middle
        params = torch.tensor([0.0, 0.5 / half, log_scale], dtype=torch.float64).view(1, 3, 1, 1)
        params = params if path != "float32" else params.float()
        function = dmol_log_prob_reference if path == "reference" else dmol_log_prob
        return float(function(level, params, bits=bits))

    for bits in range(1, 17):
        lowest = -7 - max(0, bits - 8) * math.log(2)
        assert peak(bits, -1000.0) == pytest.approx(peak(bits, lowest - 0.5), abs=1e-12)
        assert peak(bits, lowest + 0.01) < peak(bits, lowest) - 1e-9 or bits < 7  # there a level holds it all
        if bits > 8:
            assert peak(bits, -1000.0) == pytest.approx(peak(8, -1000.0), rel=0.02)


def test_published_bins_do_not_sum_to_one() -> None:
    x = every_image(1, 8)
    params = extreme_params(1, 1, "narrowest").expand(-1, -1, 1, 256).clone()
    params[:, 1] = 1 / 255  # between two levels
    total = {tails: float(dmol_log_prob_reference(x, params, tails=tails).exp().sum()) for tails in TAILS}
    assert abs(total["pixelcnn++"] - 1) > 1e-6 > 1e-12 > abs(total["exact"] - 1)


@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (2, 3), (3, 8), (4, 1)])
def test_gradcheck(make: Make, channels: int, bits: int, tails: str) -> None:
    x, params = make(channels, 2, bits, 1, 2, 3, spread=0.7, dtype=torch.float64)
    params.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: dmol_log_prob_reference(x, p, bits=bits, tails=tails), params)


def test_gradgradcheck(make: Make) -> None:
    x, params = make(2, 2, 8, 1, 2, 2, spread=0.7, dtype=torch.float64)
    params.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda p: dmol_log_prob_reference(x, p), params)


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("tails", TAILS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impl", ["reference", "auto"])
@pytest.mark.parametrize("channels", [1, 3])
def test_never_nan(name: str, tails: str, dtype: torch.dtype, impl: str, channels: int) -> None:
    x = torch.tensor([0, 1, 100, 127, 128, 254, 255], dtype=torch.uint8).expand(1, channels, 1, 7).contiguous()
    x[:, 0] = x[:, 0].flip(-1)
    params = extreme_params(channels, 4, name).expand(-1, -1, 1, 7).to(dtype).clone()
    params.requires_grad_()
    log_prob = dmol_log_prob(x, params, tails=tails, impl=impl)
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("bits", [1, 5, 8])
def test_float_signal_is_the_same_as_levels(make: Make, bits: int) -> None:
    x, params = make(bits=bits, dtype=torch.float64)
    half = (2**bits - 1) / 2
    signal = (x.double() - half) / half
    for tails in TAILS:
        expected = dmol_log_prob_reference(x, params, bits=bits, tails=tails)
        assert torch.equal(dmol_log_prob_reference(signal, params, bits=bits, tails=tails), expected)
        got = dmol_log_prob(signal, params, bits=bits, tails=tails)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for dtype in (torch.float16, torch.bfloat16):  # which cannot hold the grid: the nearest level counts
        got = dmol_log_prob(signal.to(dtype), params.float(), bits=bits)
        torch.testing.assert_close(got, dmol_log_prob(x, params.float(), bits=bits), rtol=1e-4, atol=1e-4)


def test_sixteen_bits() -> None:
    levels = torch.tensor([0, 1, 30_000, 65_534, 65_535], dtype=torch.float64)
    x = (levels / 32767.5 - 1).view(1, 1, 1, 5)
    params = torch.tensor([0.0, 0.2, -3.0], dtype=torch.float64).view(1, 3, 1, 1).expand(1, 3, 1, 5)
    log_prob = dmol_log_prob(x, params, bits=16)
    edges = torch.tensor([-math.inf, *(levels[1:] - 0.5).tolist(), math.inf], dtype=torch.float64) / 32767.5 - 1
    cdf = torch.sigmoid((edges - 0.2) / math.exp(-3.0))
    assert math.isclose(log_prob[0, 0, 0].exp(), cdf[1], rel_tol=1e-9)
    assert math.isclose(log_prob[0, 0, 4].exp(), 1 - cdf[4], rel_tol=1e-9)
    density = cdf * (1 - cdf) / math.exp(-3.0)
    assert math.isclose(log_prob[0, 0, 2].exp(), density[2] * 2 / 65535, rel_tol=1e-3)
