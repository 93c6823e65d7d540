"""PixelVAE: p(x | z) sums to one, the bound lies below the integral over z, and draws are those of full forwards."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastgen
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, levels_to_signal
from fastgen.models import PixelVAE

SMALL: dict[str, Any] = {
    "latent_dim": 2, "n_filters": (4, 6), "n_layers": 2, "pixel_filters": 5, "hidden": 8, "head_filters": 6,
    "first_kernel_size": 3, "image_size": (6, 5),
}  # fmt: skip


def make(channels: int = 1, **options: Any) -> PixelVAE:
    torch.manual_seed(0)
    model = PixelVAE(channels, **{**SMALL, "likelihood": Bernoulli(channels), **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.double().eval()


def images(model: PixelVAE, n: int) -> Tensor:
    shape = (n, model.image_channels, *model.image_size)
    return torch.randint(0, model.levels, shape, generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def every_image(n_values: int, shape: tuple[int, ...]) -> Tensor:
    bits = [[(n >> k) & 1 for k in range(n_values)] for n in range(2**n_values)]
    return torch.tensor(bits, dtype=torch.uint8).view(-1, *shape)


@torch.no_grad()
def test_probabilities_given_a_code_sum_to_one_and_depend_on_it() -> None:
    model = make(image_size=(3, 3))
    every = every_image(9, (1, 3, 3))
    totals = []
    for z in torch.tensor([[0.0, 0.0], [2.0, -1.0]], dtype=torch.float64):
        log_p = model.log_likelihood(every, z.expand(512, 2))
        torch.testing.assert_close(log_p.exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-12, atol=0)
        totals.append(log_p)
    assert (totals[0] - totals[1]).abs().max() > 0.1


@torch.no_grad()
def test_parameters_see_the_code_and_the_pixels_before_only() -> None:
    model = make()
    z, x = torch.randn(1, 2, dtype=torch.float64), torch.rand(1, 1, 6, 5, dtype=torch.float64) * 2 - 1
    base = model.decode(z, x=x)
    assert (model.decode(z + 1, x=x) != base).all()
    for i, j in [(0, 0), (2, 3), (5, 3)]:
        moved = x.clone()
        moved[0, 0, i, j] += 0.7
        changed = (model.decode(z, x=moved) != base)[0, 0].nonzero().tolist()
        assert changed and all((a, b) > (i, j) for a, b in changed)


@torch.no_grad()
def test_the_bounds_lie_below_the_evidence_and_reach_it() -> None:
    model = make(latent_dim=1, image_size=(2, 2))
    every = every_image(4, (1, 2, 2))
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.hermite_e.hermegauss(64))
    log_weight = (weights / weights.sum()).log()
    log_p = torch.stack(
        [(model.log_likelihood(x.expand(64, 1, 2, 2), nodes[:, None]) + log_weight).logsumexp(0) for x in every]
    )
    torch.testing.assert_close(log_p.exp().sum(), torch.ones((), dtype=torch.float64), rtol=1e-8, atol=0)
    # the bound itself, integrated over the posterior
    q = model.encode(every)
    z = q.mean + torch.exp(q.log_var / 2) * nodes  # [16, 64]
    terms = torch.stack([model.log_likelihood(every, at[:, None]) for at in z.T], 1)
    kl = (q.mean.square() + q.log_var.exp() - 1 - q.log_var).sum(1) / 2
    bound = (terms * log_weight.exp()).sum(1) - kl
    assert (bound < log_p).all()
    drawn = model.elbo(every.repeat_interleave(500, 0)).bound.view(16, 500)
    assert ((drawn.mean(1) - bound).abs() < 5 * drawn.std(1) / math.sqrt(500) + 1e-9).all()
    tight = model.log_prob(every.repeat_interleave(10, 0), n_samples=500).view(16, 10).mean(1)
    assert (tight - log_p < 0.05).all() and ((log_p - tight) < 0.2 * (log_p - bound)).all()


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli(1), Categorical(2, 3), DiscretizedLogisticMixture(2, 2, 3)],
    ids=lambda likelihood: type(likelihood).__name__,
)
@torch.no_grad()
def test_draws_are_those_of_full_forwards(likelihood: Any) -> None:
    model = make(likelihood.channels, likelihood=likelihood)
    naive = model.sample(5, seed=3, method="naive")
    assert naive.shape == (5, likelihood.channels, 6, 5) and naive.float().std() > 0
    for method in ("native", "cached"):
        assert torch.equal(model.sample(5, seed=3, method=method), naive)
    assert torch.equal(model.sample(5, seed=3, batch_size=2), naive)
    assert torch.equal(model.sample(2, seed=3, first_image=3), naive[3:])
    assert not torch.equal(model.sample(5, seed=4), naive)
    # pixel by pixel from the parameters of the image so far
    z = model.draw_codes(5, seed=3)
    assert torch.equal(model.draw_images(z, seed=3), naive)
    mode = model.draw_images(z, temperature=0.0)
    params = model.decode(z, x=mode)
    best = likelihood.sample(params, torch.full((5, likelihood.n_draws, 6, 5), 0.5), temperature=0.0)
    assert torch.equal(best, levels_to_signal(mode, model.levels, torch.float64))


def test_learns_what_only_the_code_can_carry() -> None:
    """Images of one level, either of two: after the first pixel all is known, so the code is worth 1 bit at most."""
    torch.manual_seed(0)
    model = PixelVAE(1, 1, (8,), 1, 8, hidden=16, head_filters=8, first_kernel_size=3, image_size=(4, 4))
    x = torch.tensor([0, 1], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4).repeat(8, 1, 1, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        model.begin_step(step / 60)
        optimiser.zero_grad()
        model.objective(x)["loss"].backward()
        optimiser.step()
    nats = model.held_out(x)["nats"].mean()
    assert nats < math.log(2) + 0.6  # 11.1 of noise


def test_the_pictures_around_codes() -> None:
    model = make()
    x = images(model, 2)
    assert model.reconstruct(x).shape == (2, 1, 6, 5) and int(model.reconstruct(x).max()) == 1
    assert set(model.reconstruct(x, expected=True).unique().tolist()) <= {0, 255}
    assert model.interpolate(x, x.flip(0), 3).shape == (2, 3, 1, 6, 5)
    assert model.manifold(2).shape == (4, 1, 6, 5)


def test_config_and_weights_survive_a_file(tmp_path: Path) -> None:
    model = make(2, likelihood=Categorical(2, 3))
    assert PixelVAE.from_config(json.loads(json.dumps(model.config))).config == model.config
    fastgen.save(model, tmp_path / "m.safetensors")
    assert torch.equal(fastgen.load(tmp_path / "m.safetensors").sample(2, seed=1), model.sample(2, seed=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": None}, "image_size must be"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"n_filters": ()}, "n_filters must name one"),
        ({"kl_warmup": 2.0}, "kl_warmup a fraction"),
        ({"n_layers": 0}, "n_layers must be at least 1"),
        ({"likelihood": Bernoulli(2)}, "channels=1"),
    ],
)
def test_refuses_options_that_make_no_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_refuses_what_does_not_fit() -> None:
    model = make()
    with pytest.raises(ValueError, match="got decode without x"):
        model.decode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"codes must be \[N, 2\]"):
        model.draw_images(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="of the size that the weights are for"):
        model.objective(torch.zeros(1, 1, 5, 6, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"levels must be in 0\.\.1"):
        model.objective(images(model, 1) + 2)
    with pytest.raises(ValueError, match="at least 0; got n=-1"):
        model.sample(-1)
