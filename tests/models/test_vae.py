"""Bounds of the likelihood against densities that are known: a linear-Gaussian model, and integrals over one latent."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from fastgen.models import IWAE, VAE, BetaVAE, ConvVAE
from fastgen.models.autoencoders.base import Posterior
from fastgen.models.autoencoders.variational import free_bits

STD = 0.4
DATA = torch.tensor([[0.5, -0.3, 0.1, 0.8, -0.6, 0.2], [-0.2, 0.4, 0.7, -0.5, 0.1, -0.9]], dtype=torch.float64)


def linear_gaussian(kind: type[VAE] = VAE, **options: Any) -> tuple[Any, Tensor]:
    """p(x) = N(b, W W^T + std^2 I) with orthogonal columns of W, its exact posterior as encoder, and log p(DATA)."""
    model = kind(1, 2, (), likelihood=Gaussian(1, std=STD), image_size=(2, 3), **options).double()
    basis = torch.linalg.qr(torch.randn(6, 2, dtype=torch.float64)).Q
    strength = torch.tensor([0.9, 0.5], dtype=torch.float64)
    weight, bias = basis * strength, torch.linspace(-0.2, 0.2, 6, dtype=torch.float64)
    precision = strength.square() + STD**2  # of the posterior, times std^2
    with torch.no_grad():
        model.decoder.out.weight.copy_(weight)
        model.decoder.out.bias.copy_(bias)
        model.posterior.weight.zero_()
        model.posterior.weight[:2] = weight.T / precision[:, None]
        model.posterior.bias[:2] = -(weight.T @ bias) / precision
        model.posterior.bias[2:] = (STD**2 / precision).log()
    covariance = weight @ weight.T + STD**2 * torch.eye(6, dtype=torch.float64)
    return model, MultivariateNormal(bias, covariance).log_prob(DATA)


def images() -> Tensor:
    return DATA.view(2, 1, 2, 3)


def spoil(model: VAE) -> None:
    """Move the encoder off the exact posterior."""
    with torch.no_grad():
        model.posterior.bias += torch.tensor([0.3, -0.2, 0.5, -0.4], dtype=torch.float64)


def test_every_importance_weight_of_the_exact_posterior_is_the_marginal_likelihood() -> None:
    model, exact = linear_gaussian()
    weights = model.log_weights(images(), model.encode(images()), None, 50)
    torch.testing.assert_close(weights, exact[:, None].expand(-1, 50), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.log_prob(images(), n_samples=7), exact, rtol=1e-10, atol=1e-10)


def test_the_bound_touches_the_marginal_likelihood_at_the_optimum_and_misses_it_by_the_divergence_elsewhere() -> None:
    model, exact = linear_gaussian()
    best = model.encode(images())
    q_best = Normal(best.mean, (best.log_var / 2).exp())
    for off in (False, True):
        if off:
            spoil(model)
        many = images().repeat_interleave(20_000, 0)
        with torch.no_grad():
            bounds = model.elbo(many).bound.view(2, -1)
        posterior = model.encode(images())
        q = Normal(posterior.mean, (posterior.log_var / 2).exp())
        gap = kl_divergence(q, q_best).sum(1)
        assert bool((gap > 0.1).all()) == off
        error = bounds.std(1) / 20_000**0.5
        assert ((bounds.mean(1) - (exact - gap)).abs() < 5 * error).all()
        prior = Normal(torch.zeros(2, 2, dtype=torch.float64), 1.0)
        torch.testing.assert_close(model.elbo(images()).kl, kl_divergence(q, prior).sum(1))


def test_the_importance_weighted_bound_rises_to_the_marginal_likelihood_from_below() -> None:
    model, exact = linear_gaussian()
    spoil(model)
    repeats, means, errors = 300, [], []
    for n_samples in (1, 4, 32, 1000):
        with torch.no_grad():
            got = model.log_prob(images().repeat_interleave(repeats, 0), n_samples=n_samples).view(2, repeats)
        means.append(got.mean(1))
        errors.append(got.std(1) / repeats**0.5)
    gaps = exact - torch.stack(means)
    assert (gaps > -4 * torch.stack(errors)).all()
    assert (gaps[:-1] > gaps[1:]).all()
    assert (gaps[-1].abs() < 0.01).all() and (gaps[0] > 0.1).all()


LIKELIHOODS: list[Likelihood] = [
    Bernoulli(2),
    Categorical(2, 5),
    Gaussian(2),
    Gaussian(2, std=0.3),
    DiscretizedLogisticMixture(2, n_mix=2, bits=3),
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("kind", [VAE, ConvVAE])
def test_with_any_likelihood_the_bound_converges_to_the_integral_over_the_latent(
    kind: type[VAE] | type[ConvVAE], likelihood: Likelihood
) -> None:
    options: dict[str, Any] = {"hidden": (4,)} if kind is VAE else {"hidden": 4, "n_filters": (3,)}
    model = kind(2, 1, likelihood=likelihood, image_size=(2, 2), **options).double()
    x = torch.randint(0, likelihood.levels, (2, 2, 2, 2), dtype=torch.uint8)
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]
    with torch.no_grad():
        terms = [
            model.log_likelihood(image.expand(4001, -1, -1, -1), z) + Normal(0.0, 1.0).log_prob(z[:, 0]) for image in x
        ]
        exact = torch.stack(terms).logsumexp(1) + math.log(18 / 4000)
        posterior = model.encode(x)
        weights = model.log_weights(x, posterior, None, 4000)
    got = weights.logsumexp(1) - math.log(4000)
    error = (weights - exact[:, None]).exp().std(1) / 4000**0.5
    assert ((got - exact).abs() < 5 * error + 1e-9).all()
    assert error.max() < 0.1


def test_log_prob_in_chunks_is_one_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastgen.models.autoencoders import variational

    model, exact = linear_gaussian()
    monkeypatch.setattr(variational, "AT_ONCE", 4)  # two draws of two images at a time
    torch.testing.assert_close(model.log_prob(images(), n_samples=5), exact, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="n_samples must be at least 1; got 0"):
        model.log_prob(images(), n_samples=0)


def test_bits_per_dimension_and_parts_are_those_of_the_bound() -> None:
    model, _ = linear_gaussian(beta=3.0)
    spoil(model)
    torch.manual_seed(1)
    terms = model.objective(images())
    torch.manual_seed(1)
    parts = model.elbo(images())
    assert terms["reconstruction"] == pytest.approx(-parts.reconstruction.mean().item())
    assert terms["kl"] == pytest.approx(parts.kl.mean().item())
    assert terms["bits_per_dim"] == pytest.approx(-parts.bound.mean().item() / (6 * math.log(2)))
    assert terms["loss"].item() == pytest.approx((terms["reconstruction"] + 3 * terms["kl"]).item() / 6)
    torch.manual_seed(1)
    held_out = model.held_out(images())
    torch.testing.assert_close(held_out["nats"], held_out["reconstruction"] + held_out["kl"])
    torch.testing.assert_close(held_out["nats"], -parts.bound)


def test_the_divergence_is_warmed_up_over_a_fraction_of_the_budget() -> None:
    model, _ = linear_gaussian(beta=2.0, kl_warmup=0.4)
    spoil(model)
    for progress, weight in [(0.0, 0.0), (0.1, 0.5), (0.4, 2.0), (0.9, 2.0)]:
        model.begin_step(progress)
        terms = model.objective(images())
        assert terms["loss"].item() * 6 == pytest.approx((terms["reconstruction"] + weight * terms["kl"]).item())
    assert BetaVAE(1, image_size=(4, 4)).kl_weight == 4.0


def test_free_bits_cost_nothing_below_the_floor() -> None:
    mean = torch.tensor([[1.0, 0.85, 0.0], [2.0, -0.1, 0.0]], dtype=torch.float64, requires_grad=True)
    log_var = torch.tensor([[0.0, 0.1, 0.0], [-1.0, 0.2, 0.0]], dtype=torch.float64, requires_grad=True)
    each = kl_divergence(Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)).mean(0)
    assert each[0] > 0.3 > each[1] > 0.15  # of latent 1 one image is above the floor, the mean is not
    got = free_bits(Posterior(mean, log_var), 0.3)
    assert got.item() == pytest.approx(each[0].item() + 0.6)
    by_mean, by_log_var = torch.autograd.grad(got, (mean, log_var))
    assert (by_mean[:, 0] != 0).all() and not by_mean[:, 1:].any() and not by_log_var[:, 1:].any()

    model, _ = linear_gaussian(free_bits=50.0)
    terms = model.objective(images())
    assert terms["loss"].item() * 6 == pytest.approx(terms["reconstruction"].item() + 100)
    assert terms["kl"] < 10


def gradients(model: IWAE, n: int) -> Tensor:
    """n draws of the gradient of the bound by the encoder's last layer. Shapes: [n, parameters]."""
    found = []
    for _ in range(n):
        model.zero_grad()
        model.bound(images()).mean().backward()
        grads = [p.grad for p in model.posterior.parameters()]
        found.append(torch.cat([g.flatten() for g in grads if g is not None]))
    return torch.stack(found)


def test_the_doubly_reparameterised_gradient_has_the_same_mean_and_less_variance() -> None:
    drawn = {}
    for gradient in ("iwae", "dreg"):
        torch.manual_seed(2)
        model, _ = linear_gaussian(IWAE, n_samples=4, gradient=gradient)
        spoil(model)
        drawn[gradient] = gradients(model, 400)
    plain, doubly = drawn["iwae"], drawn["dreg"]
    error = ((plain.var(0) + doubly.var(0)) / 400).sqrt()
    assert ((plain.mean(0) - doubly.mean(0)).abs() < 5 * error).all()
    assert (doubly.mean(0).abs() > 5 * error).any()  # else nothing was compared
    assert doubly.var(0).sum() < 0.7 * plain.var(0).sum()


def test_at_the_exact_posterior_the_doubly_reparameterised_gradient_is_zero_in_every_draw() -> None:
    doubly, exact = linear_gaussian(IWAE, n_samples=4)
    assert gradients(doubly, 3).abs().max() < 1e-12
    torch.testing.assert_close(doubly.bound(images()), exact, rtol=1e-10, atol=1e-10)
    plain, _ = linear_gaussian(IWAE, n_samples=4, gradient="iwae")
    assert gradients(plain, 3).abs().max() > 1e-3


def test_both_gradients_are_one_for_the_decoder_and_of_one_bound() -> None:
    results = []
    for gradient in ("iwae", "dreg"):
        torch.manual_seed(3)
        model, _ = linear_gaussian(IWAE, n_samples=4, gradient=gradient)
        spoil(model)
        torch.manual_seed(4)
        terms = model.objective(images())
        terms["loss"].backward()
        results.append((terms["loss"].item(), model.decoder.out.weight.grad))
    assert results[0][0] == pytest.approx(results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_wrong_options_are_refused() -> None:
    for options, message in [
        ({"beta": -1.0}, "beta and free_bits must be at least 0"),
        ({"kl_warmup": 1.5}, "kl_warmup a fraction"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"activation": "rel"}, "unknown activation 'rel'; did you mean relu"),
    ]:
        with pytest.raises(ValueError, match=message):
            VAE(image_size=(4, 4), **options)
    with pytest.raises(ValueError, match="weigh a divergence, which this bound has not"):
        IWAE(image_size=(4, 4), kl_warmup=0.1)
    with pytest.raises(ValueError, match="unknown gradient of IWAE 'dregs'; did you mean dreg"):
        IWAE(image_size=(4, 4), gradient="dregs")
    with pytest.raises(ValueError, match="n_filters must name at least one"):
        ConvVAE(image_size=(4, 4), n_filters=())
