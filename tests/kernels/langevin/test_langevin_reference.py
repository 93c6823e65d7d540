"""The oracle: the formula, its derivatives, noise that is normal and has its place, and what the chain converges to."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from fastgen.kernels._common.philox import UNIT, philox4x32, uniform
from fastgen.kernels.langevin import langevin_noise, langevin_step_reference, reference


def test_is_the_formula() -> None:
    x, gradient = torch.randn(2, 3, 2, 5, dtype=torch.float64)
    got = langevin_step_reference(x, gradient, step_size=0.3, temperature=0.7, seed=5, step=4, first_image=2)
    noise = langevin_noise(5, x.shape, step=4, first_image=2).double()
    wanted = x - 0.15 * gradient + math.sqrt(0.3) * 0.7 * noise
    torch.testing.assert_close(got, wanted.clamp(-1, 1))
    assert (wanted.abs() > 1).any() and (wanted.abs() < 1).any()


def test_the_chain_has_the_density_of_its_energy() -> None:
    """Of the energy a x^2 / 2 the discrete chain is Gaussian with a variance that is known to the last digit."""
    a, step_size, temperature = 2.0, 0.5, 0.8
    x = torch.zeros(1, 2**16)
    options = {"step_size": step_size, "temperature": temperature, "seed": 1, "low": -math.inf, "high": math.inf}
    for step in range(20):
        x = langevin_step_reference(x, a * x, step=step, **options)  # type: ignore[arg-type]
    variance = step_size * temperature**2 / (1 - (1 - a * step_size / 2) ** 2)
    assert abs(float(x.var()) / variance - 1) < 6 * math.sqrt(2 / x.numel())
    assert abs(float(x.mean())) < 6 * math.sqrt(variance / x.numel())


def test_derivatives() -> None:
    x, gradient = (torch.rand(2, 5, dtype=torch.float64) - 0.5 for _ in range(2))
    x[0, 0] = 30.0  # clamped

    def function(x: Tensor, gradient: Tensor) -> Tensor:
        return langevin_step_reference(x, gradient**2, step_size=0.3, temperature=0.1, seed=3)

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), gradient.requires_grad_()))
    assert torch.autograd.gradgradcheck(function, (x, gradient))


def test_half_precision_is_rounded_once() -> None:
    x, gradient = torch.randn(2, 3, 9).bfloat16()
    got = langevin_step_reference(x, gradient, step_size=0.3, seed=1)
    wide = langevin_step_reference(x.float(), gradient.float(), step_size=0.3, seed=1)
    assert got.dtype == torch.bfloat16 and torch.equal(got, wide.bfloat16())


def test_nan_stays() -> None:
    x = torch.tensor([[math.nan, 0.0]])
    got = langevin_step_reference(x, torch.zeros_like(x), step_size=0.1)
    assert got.isnan().tolist() == [[True, False]]


@pytest.mark.parametrize("first", [0, 6, 2**32 - 3])
def test_each_normal_is_made_of_its_own_words(first: int) -> None:
    seed = 2**63 + 11
    noise = langevin_noise(seed, (3, 2, 5), step=9, first_image=first).double()
    for n, e in ((0, 0), (0, 3), (1, 5), (2, 6), (2, 9)):
        words = philox4x32(seed, e // 4, first + n, 9, 3)
        u, v = (float(uniform(words[e % 4 // 2 * 2 + i])) for i in range(2))
        wave = (math.cos, math.sin)[e % 2]
        wanted = math.sqrt(-2 * math.log(u)) * wave(2 * math.pi * v)
        assert abs(float(noise[n].flatten()[e]) - wanted) < 1e-6


def test_noise_errs_little_at_every_angle_and_radius() -> None:
    noise = langevin_noise(11, (8, 2**15)).double()
    words = philox4x32(11, torch.arange(2**13), torch.arange(8)[:, None], 0, 3)
    for first in (0, 2):
        u, v = (uniform(words[first + i]).double() for i in range(2))
        radius, angle = u.clamp(min=UNIT / 2).log().mul(-2).sqrt(), 2 * math.pi * v
        for place, wanted in ((first, radius * angle.cos()), (first + 1, radius * angle.sin())):
            error = (noise[:, place::4] - wanted).abs()
            assert float(error.max()) < 1e-6
            assert float((error / wanted.abs().clamp(min=1e-3)).max()) < 1e-6  # relative, near zero too


@pytest.mark.parametrize("word", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_the_ends_are_finite(monkeypatch: pytest.MonkeyPatch, word: int) -> None:
    monkeypatch.setattr(reference, "philox4x32", lambda *args: [torch.full((1, 1), word)] * 4)
    noise = langevin_noise(0, (1, 4))
    assert noise.isfinite().all() and float(noise.abs().max()) < math.sqrt(-2 * math.log(UNIT / 2)) + 1e-6 < 6.7
    if word in (0, 2**32 - 1):
        assert float(noise[0, 0]) > 6.6


def test_noise_depends_on_seed_step_image_and_place_alone() -> None:
    whole = langevin_noise(7, (4, 3, 50), step=2)
    assert torch.equal(whole[2:], langevin_noise(7, (2, 3, 50), step=2, first_image=2))
    assert torch.equal(whole.flatten(1)[:, :7], langevin_noise(7, (4, 7), step=2))
    others = [langevin_noise(8, (4, 3, 50), step=2), langevin_noise(7, (4, 3, 50), step=3), whole.flip(0)]
    for other in [*others, langevin_noise(7 + 2**32, (4, 3, 50), step=2)]:
        assert not (whole == other).any()


def test_noise_is_normal_and_steps_do_not_know_of_each_other() -> None:
    x = langevin_noise(1, (64, 4096)).double()
    n = x.numel()
    # moments of a standard normal, and six standard deviations of their estimates
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float(x.pow(power).mean()) - moment) < 6 * math.sqrt(variance / n)
    ordered = Normal(0.0, 1.0).cdf(x.flatten().sort().values)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    distance = torch.maximum((steps[1:] - ordered).abs().max(), (ordered - steps[:-1]).abs().max())
    assert float(distance) < 2.5 / math.sqrt(n)  # Kolmogorov and Smirnov; once in 10^5 seeds
    pairs = [(x[:, i::4], x[:, j::4]) for i in range(4) for j in range(i)]
    pairs += [(x[:, 4:], x[:, :-4]), (x[1:], x[:-1]), (x, langevin_noise(1, (64, 4096), step=1).double())]
    for a, b in pairs:
        assert abs(float((a * b).mean())) < 6 / math.sqrt(a.numel())
