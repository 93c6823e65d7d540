"""The oracle: its formulae against torch.distributions, its derivatives, and noise that is normal and has its place."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from fastgen.kernels._common.philox import UNIT, philox4x32, uniform
from fastgen.kernels.reparameterize import normal_noise, reference, reparameterize_reference

Make = Callable[..., tuple[Tensor, Tensor]]


def test_is_a_draw_and_its_divergence(make: Make) -> None:
    mean, log_var = make((3, 2, 4, 5), dtype=torch.float64)
    z, kl = reparameterize_reference(mean, log_var, seed=5)
    posterior = Normal(mean, torch.exp(0.5 * log_var))
    noise = normal_noise(5, mean.shape, dtype=torch.float64)
    torch.testing.assert_close(z, posterior.loc + posterior.scale * noise)
    torch.testing.assert_close(kl, kl_divergence(posterior, Normal(0.0, 1.0)).sum((1, 2, 3)))
    given = reparameterize_reference(mean, log_var, noise)
    assert torch.equal(given[0], z) and torch.equal(given[1], kl)


def test_the_divergence_of_the_prior_is_zero() -> None:
    zeros = torch.zeros(2, 6)
    assert not reparameterize_reference(zeros, zeros, seed=0)[1].any()


def test_derivatives(make: Make) -> None:
    leaves = tuple(t.requires_grad_() for t in make((2, 5), dtype=torch.float64))
    for noise in (None, torch.randn(2, 5, dtype=torch.float64)):

        def function(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
            return reparameterize_reference(mean, log_var, noise, seed=3)  # noqa: B023

        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


def test_half_precision_is_rounded_once(make: Make) -> None:
    mean, log_var = make((2, 9), dtype=torch.bfloat16)
    z, kl = reparameterize_reference(mean, log_var, seed=1)
    wide, exact = reparameterize_reference(mean.float(), log_var.float(), seed=1)
    assert z.dtype == torch.bfloat16 and torch.equal(z, wide.bfloat16())
    assert kl.dtype == torch.float32 and torch.equal(kl, exact)


@pytest.mark.parametrize("first", [0, 6, 2**32 - 3])
def test_each_normal_is_made_of_its_own_words(first: int) -> None:
    seed = 2**63 + 11
    noise = normal_noise(seed, (3, 2, 5), first_image=first, dtype=torch.float64)
    for n, e in ((0, 0), (0, 3), (1, 5), (2, 6), (2, 9)):
        words = philox4x32(seed, e // 4, first + n, 0, 2)
        u, v = (float(uniform(words[e % 4 // 2 * 2 + i])) for i in range(2))
        wave = (math.cos, math.sin)[e % 2]
        assert math.isclose(
            float(noise[n].flatten()[e]), math.sqrt(-2 * math.log(u)) * wave(2 * math.pi * v), rel_tol=1e-12
        )


def test_noise_depends_on_seed_image_and_place_alone() -> None:
    whole = normal_noise(7, (4, 3, 50))
    assert torch.equal(whole[2:], normal_noise(7, (2, 3, 50), first_image=2))
    assert torch.equal(whole[:1], normal_noise(7, (1, 3, 50)))
    assert torch.equal(whole.flatten(1)[:, :7], normal_noise(7, (4, 7)))
    for other in (normal_noise(8, (4, 3, 50)), normal_noise(7 + 2**32, (4, 3, 50)), whole.flip(0)):
        assert not (whole == other).any()


def test_noise_is_normal() -> None:
    x = normal_noise(1, (64, 4096), dtype=torch.float64)
    n = x.numel()
    # moments of a standard normal, and six standard deviations of their estimates
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(x.pow(power).mean()) - moment) < 6 * math.sqrt(variance / n)
    ordered = Normal(0.0, 1.0).cdf(x.flatten().sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - ordered).abs().max(), (ordered - steps[:-1]).abs().max())
    assert float(distance) < 2.5 / math.sqrt(n)  # Kolmogorov and Smirnov; once in 10^5 seeds


@pytest.mark.parametrize("power", [1, 2])
def test_normals_do_not_know_of_each_other(power: int) -> None:
    """The four of a counter, those of neighbouring counters, and those of two images; their squares neither."""
    x = normal_noise(2, (64, 4096), dtype=torch.float64).pow(power)
    x = (x - (power - 1)) / math.sqrt(power)  # mean 0, variance 1
    pairs = [(x[:, i::4], x[:, j::4]) for i in range(4) for j in range(i)]
    pairs += [(x[:, 4:], x[:, :-4]), (x[1:], x[:-1])]
    for a, b in pairs:
        assert abs(float((a * b).mean())) < 6 / math.sqrt(a.numel())


@pytest.mark.parametrize("word", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_the_ends_are_finite(monkeypatch: pytest.MonkeyPatch, word: int) -> None:
    monkeypatch.setattr(reference, "philox4x32", lambda *args: [torch.full((1, 1), word)] * 4)
    noise = normal_noise(0, (1, 4))
    assert noise.isfinite().all() and float(noise.abs().max()) <= math.sqrt(-2 * math.log(UNIT / 2)) < 6.7
    if word in (0, 2**32 - 1):
        assert float(noise[0, 0]) > 6.6
