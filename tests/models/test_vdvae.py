"""VDVAE: bound and weights against the densities written out, and against integrals over its latents."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Gaussian
from fastgen.models import VDVAE
from fastgen.nn import DMOLHead

SMALL: dict[str, Any] = {
    "n_filters": 8, "latent_channels": 2, "scales": (1, 2, 4), "encoder_blocks": (1, 2, 0), "decoder_blocks": (2, 1, 1),
    "bottleneck": 0.5, "image_size": (4, 8),
}  # fmt: skip
POINT: dict[str, Any] = {
    **SMALL, "latent_channels": 1, "scales": (1,), "encoder_blocks": (1,), "decoder_blocks": (2,), "image_size": (1, 1),
}  # fmt: skip
"""Two scalar latents: what they explain can be integrated."""


def make(channels: int = 1, **options: Any) -> VDVAE:
    torch.manual_seed(0)
    model = VDVAE(channels, **{**SMALL, "likelihood": Bernoulli(channels), **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.double().eval()


def images(model: VDVAE, n: int) -> Tensor:
    shape = (n, model.image_channels, *model.image_size)
    return torch.randint(0, model.levels, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def written_out(model: VDVAE, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Figure 3 with densities of z itself, at the z that u stands for: features, KL, log q(z | x) and log p(z)."""
    c = model.config
    h, found, scale = model.encoder.conv_in(model.prepare_input(x)), [], 1
    for next_scale, blocks in zip(c["scales"], model.encoder.blocks):
        h = F.avg_pool2d(h, next_scale // scale) if next_scale > scale else h
        for block in blocks:
            h = h + block(h)
        found.append(h)
        scale = next_scale
    path, kl, log_q, log_p = model.biases[0].expand(len(x), -1, -1, -1), 0.0, 0.0, 0.0
    for index, (blocks, seen) in enumerate(zip(model.blocks, reversed(found))):
        if index:
            path = F.interpolate(path, size=seen.shape[2:], mode="nearest") + model.biases[index]
        for block in blocks:
            q_mean, q_log_var = block.posterior(torch.cat((path, seen), 1)).chunk(2, 1)
            latents = q_mean.shape[1]
            told = block.prior(path)
            p = Normal(told[:, :latents], torch.exp(told[:, latents : 2 * latents] / 2))
            q = Normal(q_mean, torch.exp(q_log_var / 2))
            part, u = u[:, : q_mean[0].numel()].view_as(q_mean), u[:, q_mean[0].numel() :]
            z = p.loc + p.scale * part
            kl = kl + kl_divergence(q, p).flatten(1).sum(1)
            log_q, log_p = log_q + q.log_prob(z).flatten(1).sum(1), log_p + p.log_prob(z).flatten(1).sum(1)
            path = path + told[:, 2 * latents :] + block.project(z)
            path = path + block.resnet(path)
    assert u.shape[1] == 0
    return path * model.gain + model.shift, kl, log_q, log_p  # type: ignore[return-value]


@torch.no_grad()
def test_a_pass_is_the_papers_with_its_densities() -> None:
    model = make()
    x = images(model, 3)
    found = model.infer(x)
    features, kl, log_q, log_p = written_out(model, x, found.code)
    torch.testing.assert_close(found.features, features, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.kl, kl, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.log_ratio, log_q - log_p, rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(model.decode_features(found.code), features, rtol=1e-10, atol=1e-10)
    mean = model.encode(x)
    assert torch.equal(model.encode(x), mean) and not torch.equal(mean, found.code)
    assert mean.shape == (3, *model.latent_shape) == (3, 2 * (1 * 2 + 2 * 4 + 2 * 4 * 8))


def evidence(model: VDVAE, x: Tensor, n: int = 48) -> Tensor:
    """log p(x) of a model with two latents, by Gauss-Hermite quadrature over their standard normal prior."""
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(n))
    u = torch.cartesian_prod(nodes, nodes)
    log_weight = (weights / weights.sum()).log()
    log_p = torch.cartesian_prod(log_weight, log_weight).sum(1)
    return torch.stack([(model.log_likelihood(one.expand(len(u), -1, -1, -1), u) + log_p).logsumexp(0) for one in x])


@torch.no_grad()
def test_the_bound_and_the_weighted_bound_lie_below_the_evidence_and_reach_it() -> None:
    model = make(3, **POINT)
    every = torch.tensor([[(n >> k) & 1 for k in range(3)] for n in range(8)], dtype=torch.uint8).view(8, 3, 1, 1)
    log_p = evidence(model, every)
    torch.testing.assert_close(log_p.exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-6, atol=0)
    repeated = every.repeat_interleave(2000, 0)
    found = model.infer(repeated)
    weights = model.score(repeated, found.features) - found.log_ratio
    weight = weights.view(8, 2000).exp()
    error = weight.std(1) / math.sqrt(2000)
    assert ((weight.mean(1) - log_p.exp()).abs() < 5 * error).all() and (error < 0.2 * log_p.exp()).all()
    terms = model.elbo(repeated).bound.view(8, 2000)
    assert (terms.mean(1) < log_p + 3 * terms.std(1) / math.sqrt(2000)).all()
    by_weights = weights.view(8, 2000).mean(1)  # the same expectation, with the divergence by draws
    spread = (weights.view(8, 2000).std(1) + terms.std(1)) / math.sqrt(2000)
    assert ((by_weights - terms.mean(1)).abs() < 5 * spread).all()
    several = every.repeat_interleave(100, 0)
    few, many = (model.log_prob(several, n_samples=k).view(8, 100).mean(1) for k in (2, 50))
    assert (few < many + 0.05).all() and ((many - log_p).abs() < (terms.mean(1) - log_p).abs() + 0.02).all()
    assert (many - log_p).abs().max() < 0.1


@torch.no_grad()
def test_a_posterior_that_is_the_prior_has_no_divergence() -> None:
    model = make()
    for block in (block for blocks in model.blocks for block in blocks):
        for layer in (block.prior.widen, block.posterior.widen):
            layer.weight.zero_()
            layer.bias.copy_(torch.linspace(-1, 1, len(layer.bias))[: len(layer.bias)])
        block.posterior.widen.bias.copy_(block.prior.widen.bias[: len(block.posterior.widen.bias)])
    found = model.infer(images(model, 2))
    torch.testing.assert_close(found.kl, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.log_ratio, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-10)


def test_gradients_are_those_of_the_bound_written_out() -> None:
    model = make()
    x = images(model, 2)
    torch.manual_seed(5)
    found = model.infer(x)
    torch.manual_seed(5)
    loss = model.objective(x)["loss"]
    loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    dims = math.prod(x.shape[1:])
    features, kl, _, _ = written_out(model, x, found.code)
    want = (kl - model.likelihood.log_prob(x, model.head(features)).flatten(1).sum(1)).mean() / dims
    torch.testing.assert_close(loss, want)
    parameter = model.blocks[0][0].posterior.widen.bias
    direction = torch.randn_like(parameter)
    change = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            parameter.add_(step * direction)
            torch.manual_seed(5)
            change.append(model.objective(x)["loss"])
            parameter.sub_(step * direction)
    torch.testing.assert_close((change[0] - change[1]) / 2e-5, (parameter.grad * direction).sum(), rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_draws_are_a_function_of_seed_and_number() -> None:
    model = make()
    drawn = model.sample(5, seed=3)
    assert drawn.dtype == torch.uint8 and drawn.shape == (5, 1, 4, 8) and drawn.float().std() > 0
    assert torch.equal(model.sample(5, seed=3, batch_size=2), drawn)
    assert torch.equal(model.sample(2, seed=3, first_image=3), drawn[3:])
    assert not torch.equal(model.sample(5, seed=4), drawn)
    still = model.sample(5, seed=3, temperature=0.0, pixel_temperature=0.0)
    assert (still == still[:1]).all()
    u = model.draw_codes(4, seed=3, temperature=0.7)
    torch.testing.assert_close(u, 0.7 * model.draw_codes(4, seed=3))


@torch.no_grad()
def test_a_temperature_multiplies_the_deviations_of_the_prior() -> None:
    """At u = 0 each latent is its prior's mean, and a step of u is one deviation of it."""
    model = make(**{**POINT, "decoder_blocks": (1,)}, likelihood=Gaussian(1, std=1.0))
    block = model.blocks[0][0]
    mean, log_var = block.prior(model.biases[0])[:, :2].flatten().tolist()
    seen: list[float] = []
    block.project.register_forward_pre_hook(lambda module, args: seen.append(float(args[0])))
    for u in (0.0, 0.5):
        model.decode_features(torch.full((1, 1), u, dtype=torch.float64))
    assert seen == pytest.approx([mean, mean + 0.5 * math.exp(log_var / 2)])


@pytest.mark.parametrize(
    "likelihood", [DiscretizedLogisticMixture(3, 2), Categorical(3, 4), Gaussian(3), Bernoulli(3)], ids=repr
)
@torch.no_grad()
def test_the_head_scores_by_the_likelihood(likelihood: Any) -> None:
    model = make(3, likelihood=likelihood)
    assert isinstance(model.head, DMOLHead) or not isinstance(likelihood, DiscretizedLogisticMixture)
    x, u = images(model, 2), model.draw_codes(2)
    want = likelihood.log_prob(x, model.decode(u)).flatten(1).sum(1)
    torch.testing.assert_close(model.log_likelihood(x, u), want)
    assert int(model.sample(2).max()) < model.levels
    held = model.held_out(x)
    torch.testing.assert_close(held["nats"], held["reconstruction"] + held["kl"])


@pytest.mark.parametrize("size", [32, 64])
def test_learns_one_batch(size: int) -> None:
    """Of colour images, as mixtures of logistics, at 32x32 and 64x64."""
    torch.manual_seed(0)
    model = VDVAE(
        3, 12, 2, (1, 4, size), (1, 1, 1), (1, 1, 1), image_size=(size, size),
        likelihood=DiscretizedLogisticMixture(3, 2),
    )  # fmt: skip
    ramp = torch.linspace(0, 255, size)
    x = torch.stack([ramp[:, None].expand(size, size), ramp.expand(size, size), 255 - ramp.expand(size, size)])
    x = torch.stack([x, 255 - x]).round().to(torch.uint8)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = model.objective(x)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.85 * losses[0]


def test_the_pictures_between_two_images_begin_and_end_at_them() -> None:
    model = make()
    a, b = images(model, 4).split(2)
    path = model.interpolate(a, b, 3, spherical=True)
    assert torch.equal(path[:, 0], model.reconstruct(a)) and torch.equal(path[:, -1], model.reconstruct(b))
    assert model.traverse(7, steps=3).shape == (1, 3, 1, 4, 8)
    assert model.encoder(model.prepare_input(a)).shape == (2, model.encoder.n_features)


def test_config_and_weights_survive_a_file(tmp_path: Path) -> None:
    model = make(3, likelihood=DiscretizedLogisticMixture(3, 2))
    assert VDVAE.from_config(json.loads(json.dumps(model.config))).config == model.config
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded.sample(2, seed=1), model.sample(2, seed=1))


def test_the_defaults_are_the_papers_cifar10_model() -> None:
    config = VDVAE.config_class(image_size=(32, 32))
    assert config.n_filters == 384 and config.latent_channels == 16 and config.bottleneck_filters == 96
    assert sum(config.decoder_blocks) == 43 and config.likelihood == DiscretizedLogisticMixture(3, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": None}, "image_size must be"),
        ({"image_size": (6, 8)}, "the largest scale must divide height and width; got 4 and 6 x 8"),
        ({"scales": (2, 4, 8)}, "scales must begin with 1"),
        ({"scales": (1, 2, 3)}, "each divide the next"),
        ({"decoder_blocks": (2, 1)}, "one number a scale"),
        ({"decoder_blocks": (2, 0, 1)}, "one number a scale"),
        ({"bottleneck": 0.01}, "bottleneck n_filters must be at least 1"),
        ({"likelihood": Bernoulli(2)}, "channels=1"),
    ],
)
def test_refuses_options_that_make_no_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_refuses_what_does_not_fit() -> None:
    model = make()
    with pytest.raises(ValueError, match="of the size that the weights are for"):
        model.objective(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"levels must be in 0\.\.1"):
        model.objective(images(model, 1) + 3)
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        model.log_prob(images(model, 1), n_samples=0)
    with pytest.raises(ValueError, match="codes must be"):
        model.decode(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="no classes"):
        model.sample(2, cond=1)
