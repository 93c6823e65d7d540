"""The adversarial autoencoder: priors that are what they say, phases that move their own weights, labels, bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen.models import AdversarialAutoencoder
from fastgen.models.autoencoders.adversarial import PETAL, ROLL, energy_distance

SMALL: dict[str, Any] = {"image_size": (8, 8), "hidden": [32], "discriminator_hidden": [32]}
LABELLED: dict[str, Any] = {**SMALL, "latent_dim": 2, "prior": "mixture", "n_classes": 4}


def bars(n: int) -> tuple[Tensor, Tensor]:
    """A bright pair of rows at one of four heights, the label: levels [n, 1, 8, 8] and [n]."""
    labels = torch.arange(n) % 4
    rows = torch.arange(8)[None] // 2 == labels[:, None]
    return (rows[:, None, :, None].expand(n, 1, 8, 8) * 255).to(torch.uint8), labels


def draws(model: AdversarialAutoencoder, n: int, labels: Tensor | None = None) -> Tensor:
    return model.draw_codes(n, seed=3, cond=labels).double()


def test_the_gaussian_prior_is_standard_normal() -> None:
    z = draws(AdversarialAutoencoder(**SMALL, latent_dim=3), 20_000)
    assert float(z.mean(0).abs().max()) < 6 / math.sqrt(len(z))
    torch.testing.assert_close(z.T.cov(), torch.eye(3, dtype=torch.float64), atol=0.06, rtol=0)


@pytest.mark.parametrize("informed", [False, True])
def test_the_mixture_has_a_petal_for_each_component(informed: bool) -> None:
    options = LABELLED if informed else {**LABELLED, "n_classes": 0, "n_components": 4}
    model, n = AdversarialAutoencoder(**options), 8_000
    labels = torch.arange(n) % 4
    z = draws(model, n, labels if informed else None)
    turned = torch.atan2(z[:, 1], z[:, 0]) / (2 * math.pi) * 4
    petal = turned.round().long() % 4
    if informed:
        assert float((petal == labels).double().mean()) > 0.995
    assert (torch.bincount(petal, minlength=4) / n - 0.25).abs().max() < 0.03
    distance, along, across = PETAL
    first = z[petal == 0]
    torch.testing.assert_close(first.mean(0), torch.tensor([distance, 0.0], dtype=torch.float64), atol=0.05, rtol=0)
    torch.testing.assert_close(first.std(0), torch.tensor([along, across], dtype=torch.float64), atol=0.05, rtol=0)


@pytest.mark.parametrize("informed", [False, True])
def test_the_swiss_roll_is_even_along_itself_and_labels_are_stretches(informed: bool) -> None:
    options = {**LABELLED, "prior": "swiss_roll", "n_classes": 4 if informed else 0}
    model, n = AdversarialAutoencoder(**options), 8_000
    labels = torch.arange(n) % 4
    z = draws(model, n, labels if informed else None)
    radius, turns = ROLL
    share = (z.norm(dim=1) / radius).square()  # uniform
    quantiles = share.sort().values
    assert float((quantiles - (torch.arange(n) + 0.5) / n).abs().max()) < 0.03
    if informed:
        assert torch.equal((share * 4).floor().long().clamp(max=3), labels)
    angle = 2 * math.pi * turns * z.norm(dim=1) / radius
    on_the_roll = z.norm(dim=1)[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    torch.testing.assert_close(z, on_the_roll, atol=1e-4, rtol=0)


def test_codes_are_functions_of_seed_and_image() -> None:
    for prior in ("mixture", "swiss_roll"):
        model = AdversarialAutoencoder(**SMALL, latent_dim=2, prior=prior)
        whole = model.draw_codes(6, seed=4)
        assert torch.equal(model.draw_codes(2, seed=4, first_image=3), whole[3:5])
        assert not torch.equal(model.draw_codes(6, seed=5), whole)
        images = model.sample(6, seed=4)
        assert torch.equal(model.sample(6, seed=4, batch_size=4), images)


def test_each_phase_moves_its_own_weights_alone() -> None:
    model = AdversarialAutoencoder(**LABELLED)
    x, labels = bars(8)
    reconstruction, discriminator, generator = model.phases()
    assert [phase.name for phase in model.phases()] == ["reconstruction", "discriminator", "generator"]
    everything = {id(p) for p in model.parameters()}
    assert {id(p) for phase in model.phases() for p in phase.parameters} == everything
    critic = {id(p) for p in discriminator.parameters}
    assert critic.isdisjoint(id(p) for p in (*reconstruction.parameters, *generator.parameters))
    assert {id(p) for p in generator.parameters} < {id(p) for p in reconstruction.parameters}
    for phase in model.phases():
        gradients = torch.autograd.grad(phase.loss(x, labels)["loss"], list(phase.parameters))
        assert all(float(gradient.abs().sum()) > 0 for gradient in gradients[:1])
    codes = torch.autograd.grad(
        discriminator.loss(x, labels)["loss"], list(model.encoder.parameters()), allow_unused=True
    )
    assert all(gradient is None for gradient in codes)  # the discriminator takes the codes as they are


def test_the_adversarial_losses_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AdversarialAutoencoder(**SMALL, latent_dim=2)
    x, _ = bars(4)
    codes = model.encode(x).detach()
    monkeypatch.setattr(model, "place", lambda u, normal, labels: torch.full_like(normal, 0.5))
    real = torch.sigmoid(model.discriminator(torch.full_like(codes, 0.5), None))
    fake = torch.sigmoid(model.discriminator(codes, None))
    torch.testing.assert_close(model.discriminator_loss(x)["loss"], -(real.log() + (1 - fake).log()).mean())
    torch.testing.assert_close(model.generator_loss(x)["loss"], -fake.log().mean())


def test_training_brings_codes_to_their_part_of_the_prior_and_samples_to_their_label() -> None:
    torch.manual_seed(0)
    model = AdversarialAutoencoder(**LABELLED)
    x, labels = bars(64)
    turns = [(phase, torch.optim.Adam(phase.parameters, lr=3e-3, betas=(0.5, 0.999))) for phase in model.phases()]
    with torch.no_grad():
        before = model.summarize(model.held_out(x, labels))
    for _ in range(400):
        for phase, optimizer in turns:
            optimizer.zero_grad()
            phase.loss(x, labels)["loss"].backward(inputs=list(phase.parameters))
            optimizer.step()
    model.eval()
    with torch.no_grad():
        after = model.summarize(model.held_out(x, labels))
    assert list(after) == ["mse", "prior_distance"]
    assert after["mse"] < 0.1 * before["mse"] and after["prior_distance"] < 0.3 * before["prior_distance"]
    drawn = model.sample(64, seed=1, cond=labels)
    assert float((drawn.int() - x.int()).abs().double().mean()) < 20
    assert model.sample(3, seed=1).shape == (3, 1, 8, 8)  # of the whole prior
    assert model.reconstruct(x).shape == x.shape  # labels choose codes, not images


def test_the_energy_distance_is_that_of_all_pairs() -> None:
    a, b = torch.randn(5, 2), torch.randn(7, 2) + 1
    pairs = [math.dist(p, q) for p in a.tolist() for q in b.tolist()]
    own = [
        [math.dist(p, q) for i, p in enumerate(t) for j, q in enumerate(t) if i != j] for t in (a.tolist(), b.tolist())
    ]
    wanted = 2 * sum(pairs) / len(pairs) - sum(sum(part) / len(part) for part in own)
    assert energy_distance(a, b) == pytest.approx(wanted, rel=1e-4)
    same = [energy_distance(torch.randn(200, 3), torch.randn(200, 3)) for _ in range(10)]
    assert abs(sum(same) / 10) < 0.02 < energy_distance(torch.randn(200, 3), torch.randn(200, 3) + 0.5)


def test_a_file_holds_the_model(tmp_path: Path) -> None:
    model = AdversarialAutoencoder(**LABELLED).eval()
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, AdversarialAutoencoder) and loaded.config == model.config
    assert torch.equal(loaded.sample(4, seed=2, cond=[0, 1, 2, 3]), model.sample(4, seed=2, cond=[0, 1, 2, 3]))


X, LABELS = bars(4)
MISUSE: dict[str, tuple[Any, type[Exception], str]] = {
    "prior": (lambda: AdversarialAutoencoder(**SMALL, prior="gausian"), ValueError, "did you mean gaussian"),
    "plane": (
        lambda: AdversarialAutoencoder(**SMALL, prior="mixture"),
        ValueError,
        "lies in the plane; got lat",
    ),
    "labels": (lambda: AdversarialAutoencoder(**SMALL, n_classes=3), ValueError, "labels choose a part of the prior"),
    "widths": (lambda: AdversarialAutoencoder(**{**SMALL, "hidden": [0]}), ValueError, "hidden must be at least 1"),
    "rate": (
        lambda: AdversarialAutoencoder(**SMALL, adversarial_lr_scale=0.0),
        ValueError,
        "must be positive",
    ),
    "size": (lambda: AdversarialAutoencoder(), ValueError, r"image_size must be \(height, width\)"),
    "no labels": (
        lambda: AdversarialAutoencoder(**LABELLED).generator_loss(X),
        ValueError,
        "classes takes labels",
    ),
    "label range": (
        lambda: AdversarialAutoencoder(**LABELLED).discriminator_loss(X, LABELS + 1),
        ValueError,
        r"labels must be in 0..3; got 4",
    ),
    "sampled label": (lambda: AdversarialAutoencoder(**LABELLED).sample(2, cond=[0, -1]), ValueError, "got -1"),
    "codes": (lambda: AdversarialAutoencoder(**LABELLED).decode(torch.zeros(2, 3)), ValueError, r"must be \[N, 2\]"),
    "image": (lambda: AdversarialAutoencoder(**SMALL).encode(X[:, :, :4]), ValueError, "size that the weights are for"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    call, error, message = MISUSE[name]
    with pytest.raises(error, match=message):
        call()
