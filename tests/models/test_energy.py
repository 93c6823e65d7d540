"""The energy model: its losses against closed forms, chains that are functions of their seed, scores, bad input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fastgen
from fastgen.models import EnergyModel
from fastgen.models.energy.energy import OBJECTIVES, area_under_roc

SMALL: dict[str, Any] = {"image_size": (8, 8), "n_filters": 4, "n_steps": 3, "buffer_size": 12}


def stripes(n: int) -> Tensor:
    """Bright rows or bright columns: levels [n, 1, 8, 8]."""
    line = (torch.arange(8) % 2 * 255).to(torch.uint8)
    rows, columns = line[:, None].expand(8, 8), line[None].expand(8, 8)
    return torch.where((torch.arange(n) % 2 == 0)[:, None, None], rows, columns)[:, None].contiguous()


class Bowl(EnergyModel):
    """E(x) = |x|^2 / (2 width): known gradient, density and score."""

    width = 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.prepare_input(x).square().flatten(1).sum(1) / (2 * self.width)


@pytest.mark.parametrize(("width", "wanted"), [(0.01, 0.0), (0.02, 0.25), (1e9, 1.0)])
def test_the_denoising_loss_of_one_image_is_known(width: float, wanted: float) -> None:
    """Data at 0 with noise of sigma_0 have the energy |y|^2 / (2 sigma_0^2); of width c it errs by 1 - sigma_0^2/c."""
    model = Bowl(**SMALL, objective="score_matching", sigma=0.1)
    model.width = width
    loss = model._denoising_loss(torch.zeros(400, 1, 8, 8), create_graph=False)
    torch.testing.assert_close(loss.mean(), torch.tensor(wanted), rtol=0.05, atol=1e-9)


def test_the_denoising_loss_moves_the_weights_by_its_gradient() -> None:
    """The loss holds a gradient by the image; its own gradient by a weight is that of finite differences."""
    model = EnergyModel(**SMALL, objective="score_matching").double()
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)

    def loss() -> Tensor:
        torch.manual_seed(3)
        return model.objective(x)["loss"]

    weight = model.encoder[2].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn_like(weight)
    values = []
    for step in (1e-5, -1e-5):
        with torch.no_grad():
            weight += step * direction
            values.append(float(loss()))
            weight -= step * direction
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


@pytest.mark.parametrize("objective", ["persistent", "short_run"])
def test_the_contrastive_loss_is_the_published_one(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = EnergyModel(**SMALL, objective=objective, data_noise=0.0, energy_penalty=0.3)
    x, ends = torch.rand(6, 1, 8, 8), torch.rand(6, 1, 8, 8)
    monkeypatch.setattr(model, "_negatives", lambda n: ends)
    real, fake = model(x), model(ends)
    wanted = real.mean() - fake.mean() + 0.3 * (real.square().mean() + fake.square().mean())
    torch.testing.assert_close(model.objective(x)["loss"], wanted)


def test_no_gradient_flows_through_the_chain() -> None:
    """Contrastive divergence: the ends are constants for the loss."""
    model = EnergyModel(**SMALL)
    assert not model._negatives(5).requires_grad
    torch.manual_seed(0)
    model.objective(stripes(4))["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_chain_in_a_known_energy_has_its_density() -> None:
    """Of |x|^2 / (2 width) the variance of the discrete chain is known."""
    model = Bowl(**SMALL, step_size=0.1, temperature=0.5, gradient_clip=1e9)
    model.bound = math.inf
    x = model._chain(torch.zeros(300, 1, 8, 8), model._temperatures(60), seed=4)
    variance = 0.1 * 0.5**2 / (1 - (1 - 0.1 / (2 * model.width)) ** 2)
    assert float(x.var()) == pytest.approx(variance, rel=6 * math.sqrt(2 / x.numel()) + 1e-3)


def test_score_matching_cools_from_the_largest_sigma_to_the_learned_one() -> None:
    model = EnergyModel(**SMALL, objective="score_matching", sigma=0.1, sigma_max=1.0)
    temperatures = list(model._temperatures(5, 2.0))
    assert temperatures[0] == pytest.approx(20.0) and temperatures[-1] == pytest.approx(2.0)
    assert temperatures == sorted(temperatures, reverse=True)
    assert list(EnergyModel(**SMALL)._temperatures(3)) == [0.001] * 3


def test_persistent_chains_go_on_and_some_start_anew() -> None:
    torch.manual_seed(0)
    model = EnergyModel(**{**SMALL, "buffer_size": 400}, restart=0.25, step_size=1e-6)
    before = model.training_state()["chains"].clone()
    ends = model._negatives(400)
    after = model.training_state()["chains"]
    moved = (after - before).abs().amax((1, 2, 3))
    anew = (moved > 0.1).double().mean()
    assert 0.15 < float(anew) < 0.35  # a new chain is elsewhere, one that goes on has hardly moved
    assert {tuple(row) for row in ends.flatten(1).tolist()} == {tuple(row) for row in after.flatten(1).tolist()}
    assert EnergyModel(**SMALL, objective="short_run").training_state() == {}


@pytest.fixture(scope="module")
def trained() -> EnergyModel:
    """Persistent contrastive divergence on stripes for a few seconds."""
    torch.manual_seed(0)
    model = EnergyModel(image_size=(8, 8), n_filters=8, n_steps=10, buffer_size=64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.0, 0.999))
    images = stripes(16)
    for _ in range(120):
        optimizer.zero_grad()
        model.objective(images)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
    model.finish(lambda: iter([(images, None)]))
    return model.eval()


def test_training_lowers_the_energy_of_images_and_draws_some(trained: EnergyModel) -> None:
    images = stripes(40)
    drawn = trained.sample(24, seed=1)
    nearest = (drawn[:, None].int() - stripes(2)[None].int()).abs().double().flatten(2).mean(2).min(1).values
    noise = (torch.randint(0, 256, (24, 2, 1, 8, 8)) - stripes(2)[None].int()).abs().double().flatten(2).mean(2)
    assert float(nearest.mean()) < 0.4 * float(noise.min(1).values.mean())
    figures = trained.held_out(images)
    assert next(iter(figures)) == "misranked" and all(values.shape == (40,) for values in figures.values())
    summary = trained.summarize(figures)
    assert summary["auroc_noise"] > 0.99
    # rolled stripes are the same stripes, and blended rows the same rows: a third and a sixth of the comparisons
    assert summary["auroc_rolled"] == 0.5 and summary["misranked"] == pytest.approx(0.5)
    gray = trained.energy(torch.zeros(1, 1, 8, 8))
    assert float(gray.detach()) > float(figures["energy"].detach().max())


def test_completion_keeps_what_is_given_and_finds_the_rest(
    trained: EnergyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = stripes(12)
    mask = torch.zeros(12, 1, 8, 8, dtype=torch.bool)
    mask[:, :, :5] = True
    seen: list[Tensor] = []
    gradient = trained._gradient
    monkeypatch.setattr(trained, "_gradient", lambda x: (seen.append(x), gradient(x))[1])
    done = trained.complete(images, mask, seed=3)
    signal = trained.prepare_input(images)
    assert len(seen) == 50 and all(torch.equal(x[mask], signal[mask]) for x in seen)  # at every step of the chain
    assert torch.equal(done[mask], images[mask])
    wrong = (done.int() - images.int()).abs()[~mask].double().mean()
    plain = (trained.sample(12, seed=3).int() - images.int()).abs()[~mask].double().mean()
    assert float(wrong) < 0.6 * float(plain)  # the kept half tells rows from columns


def test_the_ood_score_is_in_deviations_of_training_images(trained: EnergyModel) -> None:
    scores = trained.ood_score(stripes(16)).detach().double()
    assert float(scores.mean()) == pytest.approx(0, abs=1e-3) and float(scores.std()) == pytest.approx(1, rel=1e-3)
    assert float(trained.ood_score(torch.rand(9, 1, 8, 8) * 2 - 1).detach().min()) > float(scores.max())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_image_k_of_a_seed_is_the_same_in_any_batch(objective: str) -> None:
    torch.manual_seed(2)
    model = EnergyModel(**SMALL, objective=objective).double()
    whole = model.sample(5, seed=7)
    assert whole.dtype == torch.uint8 and whole.shape == (5, 1, 8, 8)
    assert torch.equal(model.sample(5, seed=7, batch_size=2), whole)
    assert torch.equal(model.sample(2, seed=7, first_image=3), whole[3:])
    assert not torch.equal(model.sample(5, seed=8), whole)
    assert not torch.equal(model.sample(5, seed=7, n_steps=1), whole)
    assert model.sample(0).shape == (0, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(model.sample(5, seed=7), whole)


def test_the_global_generator_is_left_alone_by_sampling() -> None:
    model = EnergyModel(**SMALL)
    state = torch.get_rng_state()
    model.sample(2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("spectral_norm", [False, True])
def test_a_file_holds_the_model_and_no_chains(tmp_path: Path, objective: str, spectral_norm: bool) -> None:
    model = EnergyModel(**SMALL, objective=objective, spectral_norm=spectral_norm)
    model.objective(stripes(4))
    model.eval()
    fastgen.save(model, tmp_path / "m.safetensors")
    loaded = fastgen.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, EnergyModel) and loaded.config == model.config
    torch.testing.assert_close(loaded.energy(stripes(4)), model.energy(stripes(4)))
    assert not any("chains" in name for name in model.state_dict())


def test_spectral_norm_bounds_the_slope_of_the_energy() -> None:
    torch.manual_seed(0)
    model = EnergyModel(**SMALL, spectral_norm=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(30)
        for _ in range(30):  # the power iteration of training
            model(stripes(2))
    weights = [module.weight for module in (*model.encoder, model.head) if hasattr(module, "weight")]
    assert len(weights) == 5
    for weight in weights:
        assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, rel=0.05)


def test_score_matching_is_measured_in_inference_mode() -> None:
    model = EnergyModel(**SMALL, objective="score_matching").eval()
    with torch.inference_mode():
        figures = model.held_out(stripes(4))
    assert next(iter(figures)) == "denoising_loss" and figures["denoising_loss"].isfinite().all()


def test_features_are_differentiable_and_of_one_length() -> None:
    for size in ((8, 8), (7, 9), (4, 13)):
        model = EnergyModel(image_size=size, n_filters=2, image_channels=3)
        x = torch.rand(2, 3, *size).requires_grad_()
        model.features(x).sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0


@pytest.mark.parametrize("n", [1, 7, 50])
def test_the_area_under_the_curve_is_the_share_of_pairs(n: int) -> None:
    inside, outside = torch.randint(0, 6, (n,)).float(), torch.randint(2, 9, (n + 3,)).float()
    a, b = inside[:, None], outside[None]
    wanted = float(((b > a).double() + 0.5 * (b == a).double()).mean())
    assert area_under_roc(inside, outside) == pytest.approx(wanted)


X, MASK = stripes(2), torch.ones(2, 1, 8, 8, dtype=torch.bool)
MISUSE: dict[str, tuple[Any, type[Exception], str]] = {
    "no size": (lambda: EnergyModel(), ValueError, r"image_size must be \(height, width\), at least 4 each; got None"),
    "small": (lambda: EnergyModel(image_size=(3, 8)), ValueError, "at least 4 each"),
    "objective": (lambda: EnergyModel(**SMALL, objective="persistant"), ValueError, "did you mean persistent"),
    "restart": (lambda: EnergyModel(**SMALL, restart=2.0), ValueError, r"restart is a fraction .* got 2.0"),
    "sigmas": (lambda: EnergyModel(**SMALL, sigma=2.0), ValueError, "sigmas must be positive and in order"),
    "step size": (lambda: EnergyModel(**SMALL, step_size=0.0), ValueError, "step_size must be positive; got 0.0"),
    "penalty": (lambda: EnergyModel(**SMALL, energy_penalty=-1.0), ValueError, "energy_penalty must be finite and not"),
    "levels": (lambda: EnergyModel(**SMALL, levels=257), ValueError, r"levels must be in 2..256; got 257"),
    "channels": (lambda: EnergyModel(**SMALL)(torch.zeros(2, 3, 8, 8)), ValueError, r"must be \[N, 1, H, W\]"),
    "size": (
        lambda: EnergyModel(**SMALL).energy(torch.zeros(2, 1, 8, 9)),
        ValueError,
        "size that the weights are",
    ),
    "level range": (lambda: EnergyModel(**SMALL, levels=2)(X), ValueError, r"levels must be in 0..1; got 255"),
    "labels": (lambda: EnergyModel(**SMALL).sample(2, cond=[1, 2]), ValueError, "cond must be None"),
    "temperature": (
        lambda: EnergyModel(**SMALL).sample(2, temperature=-1.0),
        ValueError,
        "temperature must be at",
    ),
    "steps": (lambda: EnergyModel(**SMALL).sample(2, n_steps=0), ValueError, "n_steps and batch_size at least 1"),
    "mask alone": (lambda: EnergyModel(**SMALL).sample(2, mask=MASK), ValueError, "given and mask come together"),
    "mask dtype": (lambda: EnergyModel(**SMALL).complete(X, MASK.float()), TypeError, "mask must be bool"),
    "mask shape": (lambda: EnergyModel(**SMALL).complete(X, MASK[:, :, :4]), ValueError, r"got .* and \[2, 1, 4, 8\]"),
    "chains": (lambda: EnergyModel(**SMALL).objective(stripes(13)), ValueError, "13 images and 12 chains; set buffer"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    call, error, message = MISUSE[name]
    with pytest.raises(error, match=message):
        call()
