"""Adversarial models: their networks, drawing that no batch size changes, pictures of codes, and their own losses."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgen
from fastgen.likelihoods import signal_to_levels
from fastgen.models import BEGAN, DCGAN, GAN, LSGAN, MODELS, WGAN, WGANGP, AdversarialModel, ConditionalGAN, InfoGAN
from fastgen.models.adversarial.base import sliced_distance
from fastgen.models.autoencoders.base import interpolate_codes
from fastgen.training.adversarial import AdversarialTraining

SMALL: dict[str, dict[str, Any]] = {
    "GAN": {"hidden": (6, 7)},
    **{name: {"n_filters": (3, 5)} for name in ("DCGAN", "LSGAN", "WGAN", "WGANGP", "ConditionalGAN", "InfoGAN")},
    "BEGAN": {"n_filters": (3, 5), "hidden": 6},
}
SIZE = (8, 12)


def make(name: str, channels: int = 3, **options: Any) -> Any:
    torch.manual_seed(0)
    model = MODELS[name](channels, 4, **{**SMALL[name], "image_size": SIZE, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double().eval()


def labels(model: AdversarialModel, n: int) -> Tensor | None:
    return torch.arange(n) % model.n_classes if model.n_classes else None


@pytest.mark.parametrize("name", SMALL)
def test_an_image_of_a_seed_is_the_same_at_any_batch_size_and_place(name: str) -> None:
    model = make(name)
    cond = labels(model, 7)
    whole = model.sample(7, seed=3, cond=cond)
    assert whole.dtype == torch.uint8 and whole.shape == (7, 3, *SIZE)
    assert torch.equal(whole, model.sample(7, seed=3, cond=cond, batch_size=2))
    late = model.sample(3, seed=3, cond=None if cond is None else cond[4:], first_image=4)
    assert torch.equal(whole[4:], late)
    assert not torch.equal(whole, model.sample(7, seed=4, cond=cond))
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 7
    assert model.sample(0, cond=None if cond is None else cond[:0]).shape == (0, 3, *SIZE)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_draws_the_same(name: str, tmp_path: Path) -> None:
    model = make(name).float()
    fastgen.save(model, tmp_path / "model.safetensors")
    loaded = fastgen.load(tmp_path / "model.safetensors").eval()
    assert type(loaded) is type(model) and loaded.config == model.config
    cond = labels(model, 3)
    assert torch.equal(loaded.sample(3, cond=cond), model.sample(3, cond=cond))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "InfoGAN"])
def test_temperature_scales_the_codes(name: str) -> None:
    model = make(name)
    codes = model.draw_latent(5, seed=1)
    torch.testing.assert_close(model.draw_latent(5, seed=1, temperature=0.5), 0.5 * codes)
    cond = labels(model, 5)
    assert torch.equal(model.sample(5, seed=1, temperature=0.5, cond=cond), model.images_of(0.5 * codes, cond))
    frozen = model.sample(5, temperature=0.0, cond=None if cond is None else cond[:1].expand(5))
    assert torch.equal(frozen, frozen[:1].expand_as(frozen))


@pytest.mark.parametrize("spherical", [False, True])
def test_interpolation_generates_the_codes_between(spherical: bool) -> None:
    model = make("ConditionalGAN", n_classes=3)
    a, b = model.draw_latent(2, seed=0), model.draw_latent(2, seed=1)
    cond = torch.tensor([2, 0])
    rows = model.interpolate(a, b, 5, spherical=spherical, cond=cond)
    assert rows.shape == (2, 5, 3, *SIZE)
    assert torch.equal(rows[:, 0], model.images_of(a, cond)) and torch.equal(rows[:, -1], model.images_of(b, cond))
    codes = interpolate_codes(a, b, 5, spherical=spherical)
    for k in range(5):
        assert torch.equal(rows[:, k], model.images_of(codes[:, k], cond))
    with pytest.raises(ValueError, match="one shape"):
        model.interpolate(a, b[:1], cond=cond)


def test_arithmetic_is_of_mean_codes() -> None:
    model = make("GAN")
    a, b, c = (torch.randn(n, 4, dtype=torch.float64) for n in (2, 3, 4))
    torch.testing.assert_close(model.arithmetic(a, b, c), a.mean(0) - b.mean(0) + c.mean(0))
    with pytest.raises(ValueError, match="codes in every group; got 2, 0 and 4"):
        model.arithmetic(a, b[:0], c)


def test_dcgan_follows_the_guidelines() -> None:
    model = DCGAN(3, 5, (8, 16, 32), image_size=(32, 32))
    for network in (model.generator, model.discriminator):
        kinds = [type(part).__name__ for part in network.modules()]
        assert not {"Linear", "MaxPool2d", "AvgPool2d", "Upsample"} & set(kinds)
    generator = [type(part).__name__ for part in model.generator.stages]
    body = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert generator == [*body * 3, "ConvTranspose2d", "Tanh"]
    discriminator = [type(part).__name__ for part in model.discriminator.stages]
    assert discriminator == ["Conv2d", "LeakyReLU", *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 2]
    strides = [part.stride for part in model.discriminator.stages if isinstance(part, torch.nn.Conv2d)]
    assert strides == [(2, 2)] * 3
    weights = torch.cat([p.flatten() for n, p in model.named_parameters() if p.dim() == 4])
    assert float(weights.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert model.generate(torch.randn(2, 5)).shape == (2, 3, 32, 32)
    options = AdversarialTraining(model, {}, 4).options
    assert options.betas_generator == options.betas_discriminator == (0.5, 0.999)


def test_finish_estimates_batch_norms_for_the_weights_that_are_there() -> None:
    """In eval mode a generator then draws as with the statistics of a large batch."""
    model = make("DCGAN")
    for name, buffer in model.generator.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(30.0)  # of other weights
    momenta = [part.momentum for part in model.generator.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    z = model.draw_latent(1000)

    def gap() -> float:
        with torch.no_grad():
            fixed = model.generate(z)
            model.generator.train()
            momentary = copy.deepcopy(model.generator)(z)
            model.generator.eval()
        return float((fixed - momentary).abs().mean())

    assert gap() > 0.2
    torch.manual_seed(0)
    model.finish(lambda: iter([(torch.zeros(64, 3, *SIZE), None)] * 20))
    assert gap() < 0.02
    norms = [part for part in model.generator.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert [part.momentum for part in norms] == momenta and not any(part.training for part in model.modules())


@pytest.mark.parametrize("model", [LSGAN, WGAN])
def test_entries_of_the_table_share_the_networks_and_differ_in_rules(model: type[DCGAN]) -> None:
    torch.manual_seed(0)
    mine = model(1, 4, (3, 5), image_size=(8, 8))
    torch.manual_seed(0)
    theirs = DCGAN(1, 4, (3, 5), image_size=(8, 8))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert mine.adversarial["loss"] != theirs.adversarial["loss"]


def test_no_image_changes_the_critics_mind_about_another() -> None:
    """The gradient penalty is of each image by itself: in training mode too a logit depends on its image alone."""
    for name, alone in (("WGANGP", True), ("DCGAN", False)):
        model = make(name).train()
        x = torch.rand(4, 3, *SIZE, dtype=torch.float64) * 2 - 1
        other = torch.cat([x[:1], torch.rand(3, 3, *SIZE, dtype=torch.float64)])
        same = torch.allclose(model.discriminate(x)[0], model.discriminate(other)[0], rtol=1e-12)
        assert same == alone
    with pytest.raises(ValueError, match="must not mix the images of a batch"):
        WGANGP(discriminator_norm="batch", image_size=(8, 8))


def test_spectral_norm_bounds_every_layer_of_the_discriminator() -> None:
    model = make("DCGAN", discriminator_norm="spectral").train()
    x = torch.rand(2, 3, *SIZE, dtype=torch.float64)
    for _ in range(300):
        model.discriminate(x)
    model.eval()
    for part in model.discriminator.modules():
        if isinstance(part, torch.nn.Conv2d):
            assert float(torch.linalg.matrix_norm(part.weight.flatten(1), 2).detach()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_labels_reach_both_networks(conditioning: str) -> None:
    model = make("ConditionalGAN", n_classes=4, conditioning=conditioning)
    z = model.draw_latent(4)[:1].expand(4, -1)
    images = model.generate(z, torch.arange(4))
    assert len({round(float(image.sum().detach()), 9) for image in images}) == 4
    x = torch.rand(1, 3, *SIZE, dtype=torch.float64).expand(4, -1, -1, -1)
    assert len({round(float(logit), 9) for logit in model.discriminate(x, torch.arange(4)).detach()}) == 4
    for wrong in (None, torch.tensor([0, 1, 2, 4])):
        with pytest.raises(ValueError, match="labels"):
            model.discriminate(x, wrong)


def test_projection_adds_the_inner_product_of_label_and_features() -> None:
    model = make("ConditionalGAN", n_classes=4)
    x = torch.rand(3, 3, *SIZE, dtype=torch.float64)
    a, b = model.discriminate(x, [0, 0, 0]), model.discriminate(x, [3, 3, 3])
    features = model.discriminator.features(x).sum((2, 3))
    v = model.discriminator.embedding.weight
    torch.testing.assert_close(a - b, features @ (v[0] - v[3]))


def test_infogan_codes_have_noise_a_category_and_uniform_latents() -> None:
    model = make("InfoGAN", categorical=(3, 2), n_continuous=2)
    torch.manual_seed(0)
    for codes in (model.draw_latent(2000), model.random_latent(2000)):
        z, (first, second), continuous = model.split(codes)
        assert (z.shape, first.shape, second.shape, continuous.shape) == ((2000, 4), (2000, 3), (2000, 2), (2000, 2))
        assert abs(float(z.std()) - 1) < 0.05
        for one_hot in (first, second):
            assert set(one_hot.unique().tolist()) == {0.0, 1.0} and bool((one_hot.sum(1) == 1).all())
            assert float((one_hot.mean(0) - 1 / one_hot.shape[1]).abs().max()) < 0.05
        assert float(continuous.abs().max()) <= 1 and abs(float(continuous.std()) - 1 / math.sqrt(3)) < 0.03
        assert abs(float(torch.corrcoef(codes.T[[0, 10]])[0, 1])) < 0.1


def test_the_information_is_that_of_equation_5() -> None:
    model = make("InfoGAN", categorical=(3,), n_continuous=2, information_weight=0.7, continuous_weight=0.2)
    x = torch.rand(5, 3, *SIZE, dtype=torch.float64)
    torch.manual_seed(4)
    loss = model.information(x)["loss"]
    torch.manual_seed(4)
    codes = model.random_latent(5)
    _, (one_hot,), continuous = model.split(codes)
    reading = model.read(model.generate(codes))
    category = torch.distributions.Categorical(logits=reading.logits[0]).log_prob(one_hot.argmax(1))
    gaussian = torch.distributions.Normal(reading.mean, reading.log_std.exp()).log_prob(continuous).sum(1)
    torch.testing.assert_close(loss, -(0.7 * category + 0.2 * gaussian).mean(), rtol=1e-5, atol=1e-6)


def test_infogan_has_a_phase_that_moves_generator_convolutions_and_reader() -> None:
    model = make("InfoGAN")
    phases = AdversarialTraining(model, {}, 4).phases()
    assert [phase.name for phase in phases] == ["discriminator", "generator", "information"]
    moved = {id(p) for p in phases[2].parameters}
    parts = (model.generator, model.discriminator.stages, model.reader)
    assert moved == {id(p) for part in parts for p in part.parameters()}
    loss = phases[2].loss(torch.rand(4, 3, *SIZE, dtype=torch.float64), None)["loss"]
    assert all(g is not None for g in torch.autograd.grad(loss, phases[2].parameters, allow_unused=True))


@pytest.mark.parametrize(("dim", "steps"), [(0, 3), (1, 5), (2, 5)])
def test_infogan_traverses_one_latent(dim: int, steps: int) -> None:
    model = make("InfoGAN", categorical=(3,), n_continuous=2)
    rows = model.traverse(dim, steps=5, n=2, seed=1)
    codes = model.draw_latent(2, seed=1)
    assert rows.shape == (2, steps, 3, *SIZE)
    for k in range(steps):
        wanted = codes.clone()
        if dim == 0:
            wanted[:, 4:7] = F.one_hot(torch.tensor(k), 3)
        else:
            wanted[:, 6 + dim] = -1 + k / 2
        assert torch.equal(rows[:, k], model.images_of(wanted))
    with pytest.raises(ValueError, match=r"dim must be a latent in 0..2"):
        model.traverse(3)


def test_began_balances_the_two_errors() -> None:
    model = make("BEGAN", gamma=0.6, k_lr=0.5)
    play = AdversarialTraining(model, {}, 4)
    balance, deceive = (phase.loss for phase in play.phases())
    x = torch.rand(4, 3, *SIZE, dtype=torch.float64) * 2 - 1
    k = 0.3
    model.k.fill_(k)
    torch.manual_seed(5)
    terms = balance(x, None)
    torch.manual_seed(5)
    fake = model.generate(model.random_latent(4))
    real_error, fake_error = (float((v - model.discriminator(v)).abs().mean().detach()) for v in (x, fake))
    assert float(terms["loss"].detach()) == pytest.approx(real_error - k * fake_error, rel=1e-5)
    moved = min(1.0, max(0.0, k + 0.5 * (0.6 * real_error - fake_error)))
    assert float(model.k) == pytest.approx(moved, rel=1e-5) and float(model.k) != k
    assert float(terms["convergence"]) == pytest.approx(real_error + abs(0.6 * real_error - fake_error), rel=1e-5)
    torch.manual_seed(5)
    assert float(deceive(x, None)["loss"].detach()) == pytest.approx(fake_error, rel=1e-5)
    with pytest.raises(
        ValueError, match=r"adversarial\.r1: BEGAN has losses of its own; of these options it takes d_s"
    ):
        AdversarialTraining(model, {"r1": 1.0}, 4)
    model.k.fill_(0.0)
    model.gamma = -1.0  # far beyond: k stays in [0, 1]
    balance(x, None)
    assert float(model.k) == 0


def test_the_sliced_distance_is_zero_for_the_same_images_and_that_of_a_shift() -> None:
    a = torch.randn(50, 7, dtype=torch.float64)
    assert sliced_distance(a, a[torch.randperm(50)]) == 0
    assert sliced_distance(a, a + 0.25) == pytest.approx(0.25)
    gap = sliced_distance(torch.zeros(4, 1), torch.tensor([[0.0], [0.0], [2.0], [0.0]]))
    assert gap == pytest.approx(1.0)


def test_held_out_figures_see_a_collapsed_generator() -> None:
    """All images alike, and real ones: worse than a generator that draws what is held out."""
    model = GAN(1, 2, (4,), image_size=(4, 4)).eval()
    x = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8)
    signals = x.double() / 127.5 - 1

    class Draws(torch.nn.Module):
        def __init__(self, images: Tensor) -> None:
            super().__init__()
            self.images = images

        def forward(self, z: Tensor) -> Tensor:
            return self.images[: len(z)].float()

    figures = {}
    for name, images in (("same", signals.flip(0)), ("one", signals[:1].expand(40, -1, -1, -1))):
        model.generator = Draws(images)
        with torch.no_grad():
            figures[name] = model.summarize(model.held_out(x))
    assert list(figures["same"]) == ["sliced_distance", "logit_real", "logit_fake"]
    assert figures["same"]["sliced_distance"] < 1e-6 < 0.3 < figures["one"]["sliced_distance"]
    assert figures["same"]["logit_real"] == pytest.approx(float(model.discriminate(x).mean().detach()), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GAN(image_size=None), r"GAN: image_size must be \(height, width\)"),
        (lambda: GAN(dropout=1.0, image_size=(4, 4)), r"GAN: dropout must be in \[0, 1\); got 1.0"),
        (lambda: DCGAN(image_size=(28, 30)), r"multiples of 4, as 2 convolutions halve them; got \(28, 30\)"),
        (lambda: DCGAN(n_filters=(), image_size=(8, 8)), r"n_filters must name at least one convolution"),
        (lambda: DCGAN(discriminator_norm="bach", image_size=(8, 8)), r"unknown norm of a discriminator 'bach'"),
        (lambda: ConditionalGAN(conditioning="projecton", image_size=(8, 8)), r"did you mean projection\?"),
        (lambda: ConditionalGAN(n_classes=0, image_size=(8, 8)), r"n_classes must be at least 1; got 0"),
        (lambda: InfoGAN(categorical=(1,), image_size=(8, 8)), r"categorical latents have 2 values or more"),
        (lambda: InfoGAN(categorical=(), n_continuous=0, image_size=(8, 8)), r"there must be a latent; got none"),
        (lambda: BEGAN(gamma=0.0, image_size=(8, 8)), r"BEGAN: gamma must be in \(0, 1\]; got 0.0"),
        (lambda: make("GAN").sample(-1), r"GAN: n must be at least 0"),
        (lambda: make("GAN").sample(1, cond=[1]), r"GAN: cond must be None"),
        (lambda: make("GAN").images_of(torch.zeros(2, 5)), r"GAN: codes must be \[N, 4\]; got \[2, 5\]"),
        (lambda: make("GAN").discriminate(torch.zeros(1, 3, 4, 4)), r"x must be of the size that the weights are for"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_there_is_no_single_objective() -> None:
    with pytest.raises(TypeError, match="GAN: an adversarial model has no single objective; train it with"):
        make("GAN").objective(torch.zeros(1, 3, *SIZE))


def test_samples_are_the_levels_of_what_is_generated() -> None:
    model = make("DCGAN")
    with torch.no_grad():
        images = model(model.draw_latent(3, seed=2))
    assert torch.equal(model.sample(3, seed=2), signal_to_levels(images, 256))
