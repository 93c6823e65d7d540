"""Every model with codes: drawing, what lies between and around codes, files, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen.functional import reparameterize
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian, Likelihood
from fastgen.models import MODELS, LatentModel
from fastgen.models.autoencoders.base import interpolate_codes, latent_noise, mean_signal

SIZE = (5, 4)
GRAY = Gaussian(2)
DENSE: dict[str, Any] = {"hidden": (7,), "latent_dim": 3}
CONV: dict[str, Any] = {"n_filters": (4, 5), "hidden": 6, "latent_dim": 3}
SMALL: dict[str, dict[str, Any]] = {
    "Autoencoder": DENSE,
    "ConvAutoencoder": CONV,
    "DenoisingAutoencoder": {**DENSE, "density": "mixture", "n_components": 2},
    "VAE": {**DENSE, "likelihood": GRAY},
    "ConvVAE": CONV,
    "ConditionalVAE": {**DENSE, "n_classes": 3, "likelihood": GRAY},
    "BetaVAE": CONV,
    "IWAE": {**DENSE, "n_samples": 3, "likelihood": GRAY},
}
LIKELIHOODS: dict[str, Likelihood] = {
    "bernoulli": Bernoulli(2),
    "categorical": Categorical(2, 256),
    "fixed variance": Gaussian(2, std=0.5),
    "learned variance": Gaussian(2),
    "mixture of logistics": DiscretizedLogisticMixture(2, n_mix=3),
}


def images(n: int, levels: int = 256) -> Tensor:
    return torch.randint(0, levels, (n, 2, *SIZE), dtype=torch.uint8)


def labels(model: LatentModel, n: int) -> Tensor | None:
    return torch.arange(n) % model.n_classes if model.n_classes else None


def build(name: str, **options: Any) -> LatentModel:
    """A small model in float64 whose codes' density, if it has one, is fitted."""
    model = MODELS[name](2, image_size=SIZE, **{**SMALL[name], **options}).double().eval()
    assert isinstance(model, LatentModel)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = images(40, model.levels)
    model.finish(lambda: [(x[:25], labels(model, 25)), (x[25:], labels(model, 15))])
    return model


@pytest.mark.parametrize("name", SMALL)
def test_an_image_of_a_seed_is_the_same_in_any_batch(name: str) -> None:
    model = build(name)
    cond = labels(model, 7)
    whole = model.sample(7, seed=5, cond=cond)
    assert whole.dtype == torch.uint8 and whole.shape == (7, 2, *SIZE)
    assert torch.equal(whole, model.sample(7, seed=5, cond=cond, batch_size=3))
    part = None if cond is None else cond[4:]
    assert torch.equal(whole[4:], model.sample(3, seed=5, cond=part, first_image=4))
    assert not torch.equal(whole, model.sample(7, seed=6, cond=cond))
    assert model.sample(0, cond=labels(model, 0)).shape == (0, 2, *SIZE)


@pytest.mark.parametrize("name", ["VAE", "Autoencoder"])
def test_temperatures_are_of_the_code_and_of_the_pixels(name: str) -> None:
    model = build(name, likelihood=Bernoulli(2))
    z = model.draw_codes(4000, seed=1)
    mean, std = model.code_moments()
    assert torch.allclose(z.mean(0), mean, atol=5 * float(std.max()) / 4000**0.5)
    assert torch.allclose(z.std(0), std, rtol=0.08)
    assert torch.allclose(model.draw_codes(5, seed=1, temperature=0.5) - mean, (z[:5] - mean) / 2)
    own = {"VAE": 1.0, "Autoencoder": 0.0}[name]
    assert torch.equal(model.sample(9), model.sample(9, pixel_temperature=own))
    assert not torch.equal(model.sample(9), model.sample(9, pixel_temperature=1 - own))
    modes = model.sample(5, temperature=0.0, pixel_temperature=0.0)
    assert (modes == modes[:1]).all()
    assert torch.equal(modes[:1], model.images_of(mean[None]))
    assert not (model.sample(5, temperature=0.0, pixel_temperature=1.0) == modes).all()


@pytest.mark.parametrize("name", SMALL)
def test_a_file_holds_the_model_and_what_was_fitted(name: str, tmp_path: Path) -> None:
    model = build(name, likelihood=Categorical(2, 256))
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, LatentModel) and type(loaded) is type(model) and loaded.config == model.config
    x, cond = images(3), labels(model, 3)
    assert torch.equal(loaded.code(x, cond), model.code(x, cond))
    assert torch.equal(loaded.sample(3, seed=2, cond=cond), model.sample(3, seed=2, cond=cond))


@pytest.mark.parametrize("kind", LIKELIHOODS)
@pytest.mark.parametrize("name", ["Autoencoder", "ConvAutoencoder", "VAE", "ConvVAE"])
def test_the_fused_head_and_the_plain_likelihood_agree_and_every_weight_learns(name: str, kind: str) -> None:
    likelihood = LIKELIHOODS[kind]
    model = build(name, likelihood=likelihood)
    x = images(3, likelihood.levels)
    z = torch.randn(3, 3, dtype=torch.float64)
    plain = likelihood.log_prob(x, model.decode(z)).sum((1, 2))
    torch.testing.assert_close(model.log_likelihood(x, z), plain, rtol=1e-9, atol=1e-9)
    model.objective(x)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_the_mean_of_a_pixel_is_the_mean_of_its_draws(kind: str) -> None:
    likelihood = LIKELIHOODS[kind]
    params = 0.4 * torch.randn(1, likelihood.n_params, 1, 1, dtype=torch.float64)
    mean = mean_signal(likelihood, params)
    if kind == "mixture of logistics":  # narrow ones, weighed by strata of their weights
        params[:, 3:] *= 0.5
        for first in (6, 12):  # log-scales of the two channels
            params[:, first : first + 3] = -4.0
        mean = mean_signal(likelihood, params)
        draws = likelihood.sample(params.expand(20_000, -1, 1, 1), torch.rand(20_000, 3, 1, 1))
        assert torch.allclose(draws.mean(0, keepdim=True), mean, atol=0.05)
        return
    if kind == "learned variance":
        params[:, 2:] -= 2.0  # narrow, as draws are clamped to [-1, 1]
        params[:, :2].clamp_(-0.3, 0.3)
        mean = mean_signal(likelihood, params)
    if kind == "fixed variance":
        likelihood, params = Gaussian(2, std=0.1), params.clamp(-0.4, 0.4)
        mean = mean_signal(likelihood, params)
    uniforms = torch.rand(20_000, 2, 1, 1)
    draws = likelihood.sample(params.expand(20_000, -1, 1, 1), uniforms)
    assert ((draws.mean(0, keepdim=True) - mean).abs() < 5 * draws.std(0) / 20_000**0.5 + 1e-9).all()


def test_ends_of_interpolations_are_reconstructions_and_the_middle_is_the_mean_code() -> None:
    model = build("VAE")
    a, b = images(2), images(2)
    rows = model.interpolate(a, b, 5, expected=True)
    assert rows.shape == (2, 5, 2, *SIZE)
    assert torch.equal(rows[:, 0], model.reconstruct(a, expected=True))
    assert torch.equal(rows[:, -1], model.reconstruct(b, expected=True))
    middle = (model.code(a) + model.code(b)) / 2
    assert torch.equal(rows[:, 2], model.images_of(middle, expected=True))
    assert torch.equal(rows[0, 1], model.interpolate(a[:1], b[:1], 5, expected=True)[0, 1])


def test_spherical_paths_go_at_even_angles_and_keep_the_length() -> None:
    a = torch.randn(3, 2, 4, dtype=torch.float64)
    b = torch.randn(3, 2, 4, dtype=torch.float64)
    b *= (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1))[:, None, None]
    path = interpolate_codes(a, b, 7, spherical=True)
    assert torch.allclose(path[:, 0], a) and torch.allclose(path[:, -1], b)
    flat = path.flatten(2)
    lengths = flat.norm(dim=2)
    assert torch.allclose(lengths, lengths[:, :1].expand(-1, 7))
    cosines = (flat[:, 1:] * flat[:, :-1]).sum(2) / lengths[:, 1:] ** 2
    assert torch.allclose(cosines, cosines[:, :1].expand(-1, 6))
    assert not torch.allclose(path, interpolate_codes(a, b, 7))
    in_line = interpolate_codes(a, 2 * a, 3, spherical=True)
    assert torch.allclose(in_line[:, 1], 1.5 * a)


def test_spherical_paths_go_about_the_mean_of_the_codes() -> None:
    model = build("Autoencoder")
    centre, _ = model.code_moments()
    model.density.means.add_(7.0)  # type: ignore[union-attr, operator]
    a, b = images(1), images(1)
    rows = model.interpolate(a, b, 3, spherical=True, expected=True)
    path = interpolate_codes(model.code(a) - centre - 7, model.code(b) - centre - 7, 3, spherical=True) + centre + 7
    assert torch.equal(rows[0], model.images_of(path[0], expected=True))


def test_a_traversal_moves_one_latent_over_its_span() -> None:
    model = build("Autoencoder")
    mean, std = model.code_moments()
    at_mean = model.traverse(1, steps=3, span=2.0, expected=True)
    codes = mean.repeat(3, 1)
    codes[:, 1] += 2 * std[1] * torch.tensor([-1.0, 0.0, 1.0])
    assert torch.equal(at_mean, model.images_of(codes, expected=True)[None])
    x = images(2)
    codes = model.code(x)[:, None].repeat(1, 3, 1)
    codes[:, :, 1] = mean[1] + 2 * std[1] * torch.tensor([-1.0, 0.0, 1.0])
    from_images = model.traverse(1, steps=3, span=2.0, x=x, expected=True)
    assert torch.equal(from_images, model.images_of(codes.flatten(0, 1), expected=True).unflatten(0, (2, 3)))


def test_the_manifold_is_a_grid_of_quantiles() -> None:
    model = build("VAE", latent_dim=2)
    low, high = torch.special.ndtri(torch.tensor([0.25, 0.75], dtype=torch.float64)).tolist()
    corners = torch.tensor([[low, high], [high, high], [low, low], [high, low]], dtype=torch.float64)
    assert torch.equal(model.manifold(2, expected=True), model.images_of(corners, expected=True))
    with pytest.raises(ValueError, match="grid over two latents"):
        build("VAE").manifold(2)


def test_mean_codes_and_features() -> None:
    model = build("ConvVAE")
    x = images(6)
    assert torch.allclose(model.mean_code(x), model.code(x).mean(0))
    features = model.features(x)
    assert features.shape == (6, 3) and features.requires_grad
    assert model.encoder(model.prepare_input(x)).shape == (6, model.encoder.n_features)
    with pytest.raises(ValueError, match="mean_code needs images"):
        model.mean_code(x[:0])


def test_labels_reach_encoder_and_decoder_of_a_conditional_vae() -> None:
    model = build("ConditionalVAE")
    x, z = images(1), torch.zeros(1, 3, dtype=torch.float64)
    assert not torch.allclose(model.code(x, 0), model.code(x, 1))
    assert not torch.allclose(model.decode(z, 0), model.decode(z, 1))
    rows = model.interpolate(images(2), images(2), 3, cond=[1, 2], expected=True)
    assert rows.shape == (2, 3, 2, *SIZE)
    assert model.manifold is not None and model.traverse(0, cond=2).shape == (1, 9, 2, *SIZE)


def test_streams_of_latent_noise_are_independent_of_each_other_and_of_the_pixels() -> None:
    like = torch.zeros((), dtype=torch.float64)
    first, second = (latent_noise((2000, 2), 3, stream=stream, like=like) for stream in (0, 1))
    plain, _ = reparameterize(torch.zeros_like(first), torch.zeros_like(first), seed=3)
    for a, b in ((first, second), (first, plain)):
        assert abs(float((a * b).mean())) < 5 / 4000**0.5
    assert torch.equal(first[5:], latent_noise((1995, 2), 3, 5, like=like))
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^64\)"):
        latent_noise((1, 2), -1, like=like)


@pytest.mark.parametrize("name", SMALL)
def test_what_does_not_fit_is_refused(name: str) -> None:
    model = build(name)
    cond = labels(model, 2)
    with pytest.raises(ValueError, match=r"size that the weights are for, \(5, 4\); got \(4, 5\)"):
        model.code(images(2).mT, cond)
    with pytest.raises(ValueError, match=r"x must be \[N, 2, H, W\]"):
        model.code(images(2)[:, :1], cond)
    with pytest.raises(ValueError, match=r"codes must be \[N, 3\]; got \[2, 4\]"):
        model.decode(torch.zeros(2, 4), cond)
    with pytest.raises(ValueError, match=r"dim must be a latent in 0..2; got 3"):
        model.traverse(3)
    with pytest.raises(ValueError, match="steps must be at least 2"):
        model.interpolate(images(2), images(2), 1, cond=cond)
    with pytest.raises(ValueError, match="a and b must have one shape"):
        model.interpolate(images(2), images(3), cond=cond)
    with pytest.raises(ValueError, match="n and temperature must be at least 0"):
        model.sample(2, temperature=-1.0, cond=cond)
    with pytest.raises(ValueError, match="image_size must be"):
        MODELS[name](2, **SMALL[name])
    with pytest.raises(ValueError, match="the likelihood must be one of 2 channels"):
        MODELS[name](2, image_size=SIZE, **{**SMALL[name], "likelihood": Bernoulli(1)})
    with pytest.raises(ValueError, match="hidden"):
        MODELS[name](2, image_size=SIZE, **{**SMALL[name], "hidden": 0 if "n_filters" in SMALL[name] else (0,)})
    few = build(name, likelihood=Categorical(2, 4))
    with pytest.raises(ValueError, match=r"levels must be in 0..3; got 4"):
        few.code(torch.full((2, 2, *SIZE), 4, dtype=torch.uint8), cond)


def test_labels_out_of_range_are_refused() -> None:
    model = build("ConditionalVAE")
    for call in (lambda c: model.code(images(1), c), lambda c: model.sample(1, cond=c)):
        with pytest.raises(ValueError, match=r"labels must be in 0..2; got 3"):
            call([3])
        with pytest.raises(ValueError, match="built with classes"):
            call(None)
    with pytest.raises(ValueError, match="has no classes"):
        build("VAE").sample(1, cond=[0])
