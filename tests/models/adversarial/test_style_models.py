"""StyleGAN and StyleGAN2: styles, their mixture, truncation and lines, noise by seed, and penalties of second order."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastgen
from fastgen.functional import setup_filter, upsample2d
from fastgen.models import MODELS
from fastgen.models.adversarial.stylegan import AdaptiveNorm
from fastgen.nn import EqualizedConv2d, EqualizedLinear, ModulatedConv2d
from fastgen.training.adversarial import AdversarialTraining
from fastgen.training.adversarial.regularizers import path_lengths, zero_centred

KINDS = ("StyleGAN", "StyleGAN2")
SIZE = (8, 12)
LAYERS = 4  # two resolutions


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    values = {"n_filters": (4, 5), "w_dim": 6, "mapping_layers": 2, "mapping_lr": 0.1, "image_size": SIZE}
    model = MODELS[kind](2, 7, **{**values, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
        model.generator.mapping.average.normal_()
    return model.double().eval()


def codes(model: Any, n: int = 3, seed: int = 0) -> Tensor:
    z: Tensor = model.draw_latent(n, seed=seed)
    return z


@pytest.mark.parametrize("kind", ["ProgressiveGAN", *KINDS])
@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_resolutions_from_4_to_64(kind: str, stages: int) -> None:
    side = 4 * 2 ** (stages - 1)
    model = MODELS[kind](3, 8, n_filters=range(4, 4 + stages), image_size=(side, side))
    assert model.sample(2).shape == (2, 3, side, side)
    x = torch.rand(2, 3, side, side)
    assert model.discriminate(x).shape == (2,)
    if kind != "ProgressiveGAN":
        assert model.n_styles == 2 * stages  # 18 for the 1024 pixels of the papers, which are 9 resolutions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["random", "constant", "none"])
def test_an_image_of_a_seed_is_the_same_at_any_batch_size_and_place(kind: str, noise: str) -> None:
    model = make(kind)
    whole = model.sample(7, seed=3, noise=noise, truncation=0.9)
    assert whole.dtype == torch.uint8 and whole.shape == (7, 2, *SIZE)
    assert torch.equal(whole, model.sample(7, seed=3, noise=noise, truncation=0.9, batch_size=2))
    assert torch.equal(whole[4:], model.sample(3, seed=3, noise=noise, truncation=0.9, first_image=4))
    assert not torch.equal(whole, model.sample(7, seed=4, noise=noise, truncation=0.9))
    assert len({tuple(image.flatten().tolist()) for image in whole}) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_noise(kind: str) -> None:
    model = make(kind)
    by_seed = [model.noise_inputs("random", 2, seed=seed, first_image=1) for seed in (0, 0, 1)]
    sizes = [tuple(noise.shape) for noise in by_seed[0]]
    last = [(2, 1, *SIZE)] * 2
    assert sizes == [*[(2, 1, 4, 6)] * (2 if kind == "StyleGAN" else 1), *last]
    assert all(torch.equal(a, b) for a, b in zip(by_seed[0], by_seed[1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(by_seed[0], by_seed[2], strict=True))
    assert not torch.equal(by_seed[0][-1], by_seed[0][-2])  # of each layer its own
    many = torch.cat([n.flatten() for n in model.noise_inputs("random", 200)])
    assert abs(float(many.mean())) < 0.02 and abs(float(many.std()) - 1) < 0.02
    constant = model.noise_inputs("constant", 5, seed=9, first_image=3)
    assert all(noise.shape[0] == 1 and float(noise.std()) > 0.5 for noise in constant)
    images = {noise: model.sample(2, noise=noise) for noise in ("random", "constant", "none")}
    assert len({tuple(x.flatten().tolist()) for x in images.values()}) == 3
    with pytest.raises(ValueError, match=r"unknown noise 'radom'.*did you mean random"):
        model.sample(1, noise="radom")


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_draws_styles_to_their_average(kind: str) -> None:
    model = make(kind)
    z = codes(model, 4)
    average = model.generator.mapping.average
    w = model.map(z)
    torch.testing.assert_close(model.truncated(w, 0.3), average + 0.3 * (w - average))
    assert model.truncated(w, 1.0) is w
    one = model.sample(4, truncation=0.0, noise="constant")
    assert torch.equal(one, one[:1].expand_as(one))
    assert torch.equal(one[:1], model.images_of(average[None], space="w"))
    half = model.images_of(z, truncation=0.5)
    assert torch.equal(half, model.images_of(average + 0.5 * (w - average), space="w"))
    assert not torch.equal(half, model.images_of(z))
    with pytest.raises(ValueError, match="truncation must be finite; got nan"):
        model.sample(1, truncation=math.nan)


@pytest.mark.parametrize("kind", KINDS)
def test_lines_between_codes_and_between_styles(kind: str) -> None:
    model = make(kind)
    a, b = codes(model, 2, 0), codes(model, 2, 1)
    for space in ("z", "w"):
        rows = model.interpolate(a, b, 3, space=space, truncation=0.8)
        assert rows.shape == (2, 3, 2, *SIZE)
        assert torch.equal(rows[:, 0], model.images_of(a, truncation=0.8))
        assert torch.equal(rows[:, 2], model.images_of(b, truncation=0.8))
        middle = (a + b) / 2 if space == "z" else (model.map(a) + model.map(b)) / 2
        assert torch.equal(rows[:, 1], model.images_of(middle, space=space, truncation=0.8))
    with pytest.raises(ValueError, match=r"unknown space of codes 'v'"):
        model.interpolate(a, b, space="v")
    with pytest.raises(ValueError, match="one shape"):
        model.interpolate(a, b[:1], space="w")


@pytest.mark.parametrize("kind", KINDS)
def test_arithmetic_on_codes_and_on_styles(kind: str) -> None:
    model = make(kind)
    groups = [codes(model, n, n) for n in (2, 3, 4)]
    a, b, c = (model.map(z).mean(0) for z in groups)
    torch.testing.assert_close(model.arithmetic(*groups, space="w"), a - b + c)
    first, second, third = (z.mean(0) for z in groups)
    torch.testing.assert_close(model.arithmetic(*groups), first - second + third)
    with pytest.raises(ValueError, match="codes in every group; got 2, 0 and 4"):
        model.arithmetic(groups[0], groups[1][:0], groups[2], space="w")


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_images_have_the_styles_of_both(kind: str) -> None:
    model = make(kind)
    a, b = codes(model, 2, 0), codes(model, 2, 1)
    assert torch.equal(model.mix(a, b, LAYERS), model.images_of(a))
    assert torch.equal(model.mix(a, b, 0), model.images_of(b))
    first, second = model.map(a), model.map(b)
    noise = model.noise_inputs("constant", 2)
    for crossover in range(1, LAYERS):
        styles = torch.stack([first if k < crossover else second for k in range(LAYERS)], 1)
        wanted = ((model.synthesize(styles, noise) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        assert torch.equal(model.mix(a, b, crossover), wanted)
    assert len({tuple(model.mix(a, b, k).flatten().tolist()) for k in range(LAYERS + 1)}) == LAYERS + 1
    with pytest.raises(ValueError, match=r"crossover must be a layer in 0..4; got 5"):
        model.mix(a, b, 5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_training_mixes_two_styles_from_a_random_layer_on(kind: str, share: float) -> None:
    model = make(kind, mixing=share)
    _, styles = model.imagine(500)
    first = styles[:, 0]
    own = (styles == first[:, None]).all(2)  # the layers of the first style
    layers = own.sum(1)
    mixed = layers < LAYERS
    assert float(mixed.double().mean()) == pytest.approx(share, abs=0.07)
    assert bool((own == (torch.arange(LAYERS) < layers[:, None])).all())
    assert all(torch.equal(styles[i, k], styles[i, -1]) for i in range(500) for k in range(int(layers[i]), LAYERS))
    if share:
        found = layers[mixed].bincount(minlength=LAYERS)[1:]
        assert len(found) == LAYERS - 1 and float(found.min()) > 0.7 * float(found.double().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_follows_the_styles_of_training(kind: str, tmp_path: Path) -> None:
    model = make(kind, mixing=0.0).train()
    mapping = model.generator.mapping
    before = mapping.average.clone()
    torch.manual_seed(5)
    _, styles = model.imagine(6)
    torch.testing.assert_close(mapping.average, before + 0.005 * (styles[:, 0].mean(0) - before))
    assert not mapping.average.requires_grad
    model = model.float()
    fastgen.save(model, tmp_path / "model.safetensors")
    loaded: Any = fastgen.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config and torch.equal(loaded.generator.mapping.average, mapping.average)
    assert torch.equal(loaded.sample(3, truncation=0.5), model.eval().sample(3, truncation=0.5))


@pytest.mark.parametrize("kind", ["ProgressiveGAN", *KINDS])
def test_weights_have_unit_variance_and_their_scale_at_run_time(kind: str) -> None:
    torch.manual_seed(0)
    options = {} if kind == "ProgressiveGAN" else {"w_dim": 32, "mapping_lr": 0.01}
    model = MODELS[kind](3, 32, (32, 32), image_size=(8, 8), **options)
    assert not any(isinstance(part, (nn.Conv2d, nn.Linear)) for part in model.modules())
    for name, part in model.named_modules():
        if isinstance(part, (EqualizedConv2d, EqualizedLinear, ModulatedConv2d)):
            lr = 0.01 if ".mapping." in name else 1.0
            inputs = part.weight[0].numel()
            assert part.scale == pytest.approx(lr / math.sqrt(inputs))
            if part.weight.numel() > 2000:
                assert float(part.weight.detach().std()) == pytest.approx(1 / lr, rel=0.1)


def test_adaptive_norm_gives_maps_the_mean_and_deviation_of_the_style() -> None:
    torch.manual_seed(0)
    norm = AdaptiveNorm(3, 5).double()
    x, w = torch.randn(2, 3, 6, 7, dtype=torch.float64) * 4 + 9, torch.randn(2, 5, dtype=torch.float64)
    y = norm(x, w)
    scale, shift = norm.affine(w).chunk(2, 1)
    torch.testing.assert_close(y.mean((2, 3)), shift)
    torch.testing.assert_close(y.std((2, 3), correction=0), (1 + scale).abs())


def test_stylegan2_sums_the_colours_of_its_resolutions() -> None:
    model = make("StyleGAN2")
    synthesis = model.generator.synthesis
    added: list[Tensor] = []
    for block in synthesis.blocks:
        block.to_colors.register_forward_hook(lambda module, args, output: added.append(output.detach()))
    with torch.no_grad():
        images = model.generate(codes(model))
    f = setup_filter([1.0, 3.0, 3.0, 1.0]).double()
    torch.testing.assert_close(images, upsample2d(added[0], f) + added[1])


def test_stylegan2_takes_the_papers_rules() -> None:
    options = AdversarialTraining(make("StyleGAN2"), {}, 4).options
    assert (options.r1, options.r1_interval, options.path_length_interval) == (10.0, 16, 8)
    assert options.lr_discriminator == pytest.approx(16 / 17) and options.lr_generator == pytest.approx(8 / 9)
    assert options.betas_discriminator == pytest.approx((0.0, 0.99 ** (16 / 17)))
    assert options.betas_generator == pytest.approx((0.0, 0.99 ** (8 / 9)))


@pytest.mark.parametrize("kind", ["ProgressiveGAN", *KINDS])
def test_the_discriminator_sees_the_variety_within_a_group(kind: str) -> None:
    options = {} if kind == "ProgressiveGAN" else {"w_dim": 6}
    torch.manual_seed(0)
    model = MODELS[kind](2, 7, (4, 5), image_size=SIZE, group_size=2, **options).double()
    x = torch.rand(4, 2, *SIZE, dtype=torch.float64)  # groups of images 0 and 2, 1 and 3
    logits = model.discriminate(x)
    other = x.clone()
    other[2] = other[0]
    moved = (model.discriminate(other) - logits).abs() > 1e-9
    assert moved.tolist() == [True, False, True, False]
    assert model.discriminate(x[:3]).shape == (3,)  # no group of two divides three


def test_labels_reach_both_networks_and_join_as_an_inner_product() -> None:
    model = make("StyleGAN2", n_classes=4)
    z = codes(model, 1).expand(4, -1)
    assert len({tuple(w.tolist()) for w in model.map(z, torch.arange(4)).detach()}) == 4
    x = torch.rand(2, 2, *SIZE, dtype=torch.float64)
    verdict = model.discriminator.verdict
    kept: list[Tensor] = []
    verdict.dense.register_forward_hook(lambda module, args, output: kept.append(output))
    gap = model.discriminate(x, [0, 0]) - model.discriminate(x, [3, 3])
    v = verdict.embedding.weight
    torch.testing.assert_close(gap, kept[0] @ (v[0] - v[3]) / math.sqrt(5))
    rows = model.interpolate(z[:2], codes(model, 2, 1), 3, space="w", cond=[1, 2])
    assert torch.equal(rows[:, 0], model.images_of(z[:2], [1, 2]))
    with pytest.raises(ValueError, match="labels"):
        model.sample(2)


@pytest.mark.parametrize("kind", ["ProgressiveGAN", *KINDS])
def test_the_gradient_of_r1_is_that_of_finite_differences(kind: str) -> None:
    options = {} if kind == "ProgressiveGAN" else {"w_dim": 6}
    torch.manual_seed(0)
    model = MODELS[kind](2, 7, (3, 4), image_size=SIZE, **options).double()
    weights = list(model.discriminator.parameters())
    x = torch.rand(4, 2, *SIZE, dtype=torch.float64).requires_grad_()
    direction = [torch.randn_like(weight) for weight in weights]

    def penalty() -> Tensor:
        return zero_centred(model.discriminate(x), x)

    found = torch.autograd.grad(penalty(), weights, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(found, direction, strict=True) if g is not None)
    values, h = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            for weight, d in zip(weights, direction, strict=True):
                weight.add_(d, alpha=sign * h)
        values.append(float(penalty().detach()))
        with torch.no_grad():
            for weight, d in zip(weights, direction, strict=True):
                weight.sub_(d, alpha=sign * h)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5) and abs(slope) > 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_path_lengths_are_those_of_the_jacobian(kind: str) -> None:
    model = make(kind)
    noise = model.noise_inputs("constant", 2)
    styles = torch.randn(2, LAYERS, 6, dtype=torch.float64).requires_grad_()
    images = model.synthesize(styles, noise)
    torch.manual_seed(3)
    lengths = path_lengths(images, styles)
    torch.manual_seed(3)
    y = torch.randn_like(images) / math.sqrt(math.prod(SIZE))
    for k in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda w: model.synthesize(w[None], noise)[0], styles[k].detach())
        product = torch.einsum("chw,chwld->ld", y[k], jacobian)
        assert float(lengths[k].detach()) == pytest.approx(float(product.square().sum(1).mean().sqrt()), rel=1e-9)
    weight = model.generator.synthesis.parameters()
    assert all(
        torch.isfinite(g).all() for g in torch.autograd.grad(lengths.sum(), weight, allow_unused=True) if g is not None
    )


@pytest.mark.parametrize("kind", ["ProgressiveGAN", *KINDS])
def test_bfloat16_gives_nearly_the_same_gradients(kind: str) -> None:
    torch.manual_seed(0)
    options = {} if kind == "ProgressiveGAN" else {"w_dim": 16, "mapping_layers": 2, "mapping_lr": 1.0}
    model = MODELS[kind](2, 16, (16, 16), image_size=SIZE, **options)
    play = AdversarialTraining(model, {"r1": 1.0, "r1_interval": 1, "path_length": 1.0, "path_length_interval": 1}, 8)
    x = torch.rand(8, 2, *SIZE) * 2 - 1
    for phase in play.phases()[-2:]:
        gradients = []
        for enabled in (False, True):
            torch.manual_seed(1)
            play.begin_step(0.9)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                loss = phase.loss(x, None)["loss"]
            assert loss.dtype == torch.float32
            found = torch.autograd.grad(loss, phase.parameters)
            gradients.append(torch.cat([g.flatten() for g in found]))
        cosine = torch.cosine_similarity(gradients[0], gradients[1], dim=0)
        assert float(cosine) > 0.98


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("StyleGAN2", image_size=(8, 9)), r"StyleGAN2: both sides of image_size must be multiples of 2"),
        (lambda: make("StyleGAN2", w_dim=0), r"StyleGAN2: w_dim must be at least 1"),
        (lambda: make("StyleGAN", mapping_layers=0), r"StyleGAN: mapping_layers must be at least 1"),
        (lambda: make("StyleGAN", mapping_lr=0.0), r"mapping_lr must be positive"),
        (lambda: make("StyleGAN", mixing=1.1), r"mixing must be a share of the images, in \[0, 1\]; got 1.1"),
        (lambda: make("StyleGAN2", clamp=0.0), r"clamp must be positive; got 0.0"),
        (lambda: make("StyleGAN2", n_classes=-1), r"n_classes must be at least 0; got -1"),
        (lambda: make("StyleGAN2").sample(-1), r"StyleGAN2: n must be at least 0"),
        (lambda: make("StyleGAN2").sample(1, cond=[1]), r"StyleGAN2: cond must be None"),
        (lambda: make("StyleGAN2").images_of(torch.zeros(2, 6)), r"StyleGAN2: codes must be \[N, 7\]; got \[2, 6\]"),
        (lambda: make("StyleGAN2").images_of(torch.zeros(2, 7), space="w"), r"codes must be \[N, 6\]; got \[2, 7\]"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
