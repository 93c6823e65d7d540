"""Plain autoencoders: principal components, corruption, and the density that codes are drawn from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fastgen.likelihoods import Bernoulli
from fastgen.models import Autoencoder, ConvAutoencoder, DenoisingAutoencoder
from fastgen.models.autoencoders.densities import CodeDensity


def test_the_linear_autoencoder_finds_the_principal_subspace() -> None:
    mix = torch.randn(3, 12, dtype=torch.float64) * torch.tensor([[0.25], [0.2], [0.1]], dtype=torch.float64)
    x = torch.randn(300, 3, dtype=torch.float64) @ mix + 0.03 * torch.randn(300, 12, dtype=torch.float64)
    x = (x + 0.1).clamp(-1, 1)
    model = Autoencoder(1, 3, (), image_size=(3, 4)).double()
    images = x.view(300, 1, 3, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.objective(images)["loss"]
        loss.backward()
        return loss

    optimizer.step(closure)
    left = torch.linalg.svdvals(x - x.mean(0))[3:].square().sum() / x.numel()
    got = model.held_out(images)["mse"].mean()
    assert got.item() == pytest.approx(left.item(), rel=1e-3)
    assert left < 0.1 * (x - x.mean(0)).square().mean()


def test_the_loss_is_half_the_squared_error_and_the_likelihood_any_other() -> None:
    model = ConvAutoencoder(1, 2, (3,), hidden=4, image_size=(5, 3))
    x = torch.randint(0, 256, (4, 1, 5, 3), dtype=torch.uint8)
    loss, error = model.objective(x)["loss"].item(), model.held_out(x)["mse"].mean().item()
    assert loss == pytest.approx(error / 2 + math.log(2 * math.pi) / 2, rel=1e-6)
    model = Autoencoder(1, 2, code_activation="sigmoid", hidden=(), likelihood=Bernoulli(1), image_size=(5, 3))
    code = model.code(x // 128)
    assert ((code > 0) & (code < 1)).all()
    logits = model.decode(code)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, (x // 128).float())
    assert model.objective(x // 128)["loss"].item() == pytest.approx(entropy.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "masking", "salt-and-pepper"])
def test_corruption_has_the_law_that_it_says(kind: str) -> None:
    model = DenoisingAutoencoder(1, 2, (3,), corruption=kind, noise=0.3, image_size=(20, 20))
    x = torch.full((100, 1, 20, 20), 100, dtype=torch.uint8)
    clean, noisy = model.prepare_input(x), model.corrupt(x)
    n = noisy.numel()
    if kind == "gaussian":
        noise = noisy - clean
        assert abs(noise.mean().item()) < 5 * 0.3 / n**0.5 and noise.std().item() == pytest.approx(0.3, rel=0.03)
        return
    black, white = (noisy == -1).float().mean().item(), (noisy == 1).float().mean().item()
    assert black + white == pytest.approx(0.3, abs=5 * 0.5 / n**0.5)
    assert white == pytest.approx(0.0 if kind == "masking" else 0.15, abs=5 * 0.5 / n**0.5)
    assert (noisy[(noisy != -1) & (noisy != 1)] == clean[0, 0, 0, 0]).all()


def test_a_denoising_autoencoder_learns_from_the_corrupted_image_to_give_the_clean_one() -> None:
    model = DenoisingAutoencoder(1, 2, (3,), noise=0.4, image_size=(4, 4)).double()
    x = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    torch.manual_seed(1)
    loss = model.objective(x)["loss"]
    torch.manual_seed(1)
    by_hand = -model.log_likelihood(x, model.code(model.corrupt(x))).mean() / 16
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-12)
    assert loss.item() != pytest.approx(-model.log_likelihood(x, model.code(x)).mean().item() / 16, rel=1e-6)
    torch.manual_seed(1)
    measured = model.held_out(x)
    torch.manual_seed(1)
    torch.testing.assert_close(measured["denoised_mse"], model.squared_error(x, model.code(model.corrupt(x))))
    torch.testing.assert_close(measured["mse"], model.squared_error(x, model.code(x)))


def codes(n: int) -> Tensor:
    """Two clusters in the plane, one of them tilted."""
    tilt = torch.tensor([[1.0, 0.0], [0.8, 0.3]], dtype=torch.float64)
    near = torch.randn(n, 2, dtype=torch.float64) @ tilt.T
    far = 0.5 * torch.randn(n // 3, 2, dtype=torch.float64) + torch.tensor([6.0, -4.0])
    return torch.cat([near, far])[torch.randperm(n + n // 3)]


def test_a_gaussian_density_is_the_maximum_of_the_likelihood() -> None:
    z = codes(600)
    density = CodeDensity(2).double()
    density.fit(z.split(100))
    best = MultivariateNormal(z.mean(0), torch.cov(z.T, correction=0))
    torch.testing.assert_close(density.log_prob(z), best.log_prob(z), rtol=1e-4, atol=1e-4)
    mean, std = density.moments()
    torch.testing.assert_close(mean, z.mean(0))
    torch.testing.assert_close(std, z.std(0, correction=0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_codes_are_drawn_from_the_density(kind: str) -> None:
    z = codes(900)
    density = CodeDensity(2, kind, n_components=2).double()
    density.fit([z])
    drawn = density.sample(20_000, seed=3, temperature=1.0, first_image=0)
    mean, std = density.moments()
    assert ((drawn.mean(0) - mean).abs() < 5 * std / 20_000**0.5).all()
    assert torch.allclose(drawn.std(0), std, rtol=0.03)
    torch.testing.assert_close(torch.cov(drawn.T), torch.cov(z.T), rtol=0.1, atol=0.1)
    entropy, spread = density.log_prob(drawn).mean(), density.log_prob(drawn).std() / 20_000**0.5
    if kind == "gaussian":
        assert abs(entropy - MultivariateNormal(mean, torch.cov(z.T, correction=0)).entropy().neg()) < 5 * spread
    else:
        components = MultivariateNormal(density.means, scale_tril=density.scales)
        whole = MixtureSameFamily(Categorical(density.weights), components)
        torch.testing.assert_close(density.log_prob(z), whole.log_prob(z))
        assert abs(entropy - whole.log_prob(whole.sample((20_000,))).mean()) < 7 * spread
        assert (drawn[:, 0] > 3).double().mean() == pytest.approx(0.25, abs=0.03)  # a quarter is of the far cluster
    cold = density.sample(50, seed=3, temperature=0.0, first_image=0)
    assert (torch.cdist(cold, density.means).amin(1) < 1e-9).all()
    assert torch.equal(drawn[10:12], density.sample(2, seed=3, temperature=1.0, first_image=10))


def test_a_latent_that_never_moves_has_a_density() -> None:
    z = torch.cat([codes(300), torch.full((400, 1), 2.0, dtype=torch.float64)], 1)
    density = CodeDensity(3).double()
    density.fit([z])
    assert torch.allclose(density.sample(9, seed=0, temperature=1.0, first_image=0)[:, 2], z[:9, 2], atol=0.02)


def test_what_has_no_density_yet_is_not_sampled() -> None:
    model = Autoencoder(1, 2, (3,), image_size=(4, 4))
    with pytest.raises(ValueError, match="must be fitted before codes are drawn"):
        model.sample(2)
    x = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    with pytest.raises(ValueError, match="more finite codes than its 1 components; got 1 codes"):
        model.finish(lambda: [(x[:1], None)])
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="lower lr if codes diverged"):
        model.finish(lambda: [(x, None)])


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown density of codes 'gauss'; did you mean gaussian"):
        Autoencoder(image_size=(4, 4), density="gauss")
    with pytest.raises(ValueError, match="n_components must be at least 1"):
        Autoencoder(image_size=(4, 4), density="mixture", n_components=0)
    with pytest.raises(ValueError, match="unknown corruption 'mask'; did you mean masking"):
        DenoisingAutoencoder(image_size=(4, 4), corruption="mask")
    with pytest.raises(ValueError, match=r"fraction in \[0, 1\]; got 1.5 for masking"):
        DenoisingAutoencoder(image_size=(4, 4), corruption="masking", noise=1.5)
