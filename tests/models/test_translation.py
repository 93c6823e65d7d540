"""Models of two domains: networks, noise by seed and image, pools of translations, and the losses of their papers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastgen
from fastgen.models import MODELS, CycleGAN, ImageToImage
from fastgen.models.adversarial.base import random_directions, sliced_distance
from fastgen.models.adversarial.image_pool import ImagePool
from fastgen.models.adversarial.translation_networks import PatchDiscriminator, ResidualGenerator, UNet
from fastgen.training.adversarial import AdversarialTraining

SMALL: dict[str, dict[str, Any]] = {
    "ImageToImage": {"domain_channels": (1, 3), "n_filters": (3, 4, 5), "discriminator_filters": (3,)},
    "CycleGAN": {"n_filters": 2, "n_blocks": 1, "discriminator_filters": (3,), "pool_size": 3},
}
SIZE = (16, 24)


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = MODELS[name](**{**SMALL[name], "image_size": SIZE, "domains": ("gray", "colour"), **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double().eval()


def pairs_for(model: Any, n: int) -> Tensor:
    return torch.rand(n, model.channels, *SIZE, dtype=torch.float64) * 2 - 1


def rules(model: Any, **changes: Any) -> AdversarialTraining:
    play = AdversarialTraining(model, changes, 4)
    play.begin_step(0.0)
    return play


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [SIZE, (8, 8), (40, 16)])
def test_a_translation_is_the_same_at_any_batch_size_and_place(name: str, size: tuple[int, int]) -> None:
    model = make(name)
    c = model.domain_channels[0]
    x = torch.randint(0, 256, (7, c, *size), dtype=torch.uint8)
    whole = model.translate(x, seed=3)
    assert whole.dtype == torch.uint8 and whole.shape == (7, model.domain_channels[1], *size)
    assert torch.equal(whole, model.translate(x, seed=3, batch_size=2))
    assert torch.equal(whole[4:], model.translate(x[4:], seed=3, first_image=4))
    assert torch.equal(whole, model.sample(7, cond=x.double() / 127.5 - 1, seed=3, batch_size=3))
    assert model.translate(x[:0]).shape == (0, *whole.shape[1:])
    assert len({image.numpy().tobytes() for image in whole}) == 7


def test_noise_is_dropout_that_the_seed_and_the_image_decide() -> None:
    model = make("ImageToImage", dropout=0.25)
    x = torch.rand(1, 1, *SIZE, dtype=torch.float64).expand(6, -1, -1, -1)
    drawn = model.translate(x, seed=0)
    assert len({image.numpy().tobytes() for image in drawn}) == 6
    assert not torch.equal(drawn, model.translate(x, seed=1))
    masks = model.masks(torch.zeros(300, 1, *SIZE), 5)
    assert [tuple(mask.shape[1:]) for mask in masks] == [(4, 4, 6), (3, 8, 12)]
    for mask in masks:
        assert float(mask.double().mean()) == pytest.approx(0.75, abs=0.01)
    assert not torch.equal(masks[0][:, :3, :4, :6], masks[1][:, :, :4, :6])  # levels have streams of their own
    with torch.no_grad():
        kept = model.generator(x, [mask[:6] for mask in masks])
        again = model.generator(x, [mask[:6].double() for mask in masks])
        assert torch.equal(kept, again) and torch.equal(model.translated(x, 1, seed=5), kept)
    coarse = make("ImageToImage", n_noisy=1)
    assert [tuple(mask.shape) for mask in coarse.masks(x, 5)] == [(6, 4, 4, 6)]
    certain = make("ImageToImage", dropout=0.0)
    assert certain.masks(x, 0) == [] and torch.equal(certain.translate(x, seed=0), certain.translate(x, seed=1))


def test_dropout_without_a_seed_is_that_of_the_global_generator_and_keeps_the_scale() -> None:
    model = make("ImageToImage", dropout=0.4)
    unet: UNet = model.generator
    x = torch.rand(2, 1, *SIZE, dtype=torch.float64)
    with torch.no_grad():
        torch.manual_seed(1)
        drawn = unet(x)
        torch.manual_seed(1)
        masks = [F.dropout(torch.ones(2, *shape, dtype=torch.float64), 0.4) > 0 for shape in unet.mask_shapes(SIZE)]
        assert torch.allclose(drawn, unet(x, masks), atol=1e-12)


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_translates_the_same(name: str, tmp_path: Path) -> None:
    model = make(name).float()
    fastgen.save(model, tmp_path / "model.safetensors")
    loaded: Any = fastgen.load(tmp_path / "model.safetensors").eval()
    assert type(loaded) is type(model) and loaded.config == model.config and loaded.domains == ("gray", "colour")
    x = torch.rand(2, model.domain_channels[0], *SIZE)
    assert torch.equal(loaded.translate(x), model.translate(x))


@pytest.mark.parametrize(("widths", "patch"), [((8, 16, 32), 70), ((8, 16), 34), ((8,), 16)])
def test_an_output_of_the_discriminator_sees_a_patch(widths: tuple[int, ...], patch: int) -> None:
    """The support of the gradient of one logit, far from borders; positive weights cancel nothing."""
    net = PatchDiscriminator(2, widths, "none").double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(0.01)
    x = torch.rand(1, 2, 256, 192, dtype=torch.float64, requires_grad=True)
    logits = net(x)
    k = 2 ** len(widths)
    assert logits.shape == (1, 1, 256 // k - 2, 192 // k - 2)
    (gradient,) = torch.autograd.grad(logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2], x)
    seen = gradient[0].abs().sum(0) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    assert (len(rows), int(rows[-1] - rows[0]) + 1) == (patch, patch)
    assert (len(columns), int(columns[-1] - columns[0]) + 1) == (patch, patch)


@pytest.mark.parametrize("norm", ["batch", "instance", "spectral", "none"])
def test_norms_of_the_discriminator(norm: str) -> None:
    torch.manual_seed(0)
    net = PatchDiscriminator(3, (4, 8), norm).double().train()
    x = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    alone, beside = net(x[:1]), net(torch.cat([x[:1], x[1:] * 9]))[:1]
    assert torch.allclose(alone, beside, rtol=1e-9) == (norm in ("instance", "none"))  # spectral: u moves a step
    kinds = {type(part) for part in net.modules()}
    assert (nn.BatchNorm2d in kinds, nn.InstanceNorm2d in kinds) == (norm == "batch", norm == "instance")


def test_the_residual_generator_sees_neither_brightness_nor_contrast() -> None:
    """Instance norms take both away, the first of them as borders are reflected: zeros would be an edge."""
    torch.manual_seed(0)
    net = ResidualGenerator(3, 2, 4, 2).double()
    x = 100 * torch.rand(1, 3, 12, 20, dtype=torch.float64)
    out = net(x)
    assert out.shape == (1, 2, 12, 20) and float(out.detach().std()) > 1e-3
    assert torch.allclose(net(3 * x), out, rtol=1e-4, atol=1e-7) and torch.allclose(net(x + 70), out, atol=1e-9)
    convs = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert [c.stride[0] for c in convs] == [1, 2, 2, 1, 1, 1, 1, 1]
    assert [c.padding_mode for c in convs] == ["reflect", "zeros", "zeros", *["reflect"] * 5]


def test_the_unet_joins_maps_of_one_size() -> None:
    """With everything between cut off, the input still reaches the output through the finest map."""
    torch.manual_seed(0)
    net = UNet(1, 2, (3, 4, 5), 0.0).double().eval()
    with torch.no_grad():
        net.up[1][1].weight.zero_()  # what comes from coarser maps
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 0, 8, 8], x)
    assert 0 < int((gradient != 0).sum()) <= 36
    deep = UNet(1, 1, (2,) * 5, 0.5).train()  # down to one pixel, of one image
    assert deep(torch.rand(1, 1, 32, 32)).shape == (1, 1, 32, 32)
    assert net.mask_shapes((16, 16)) == [] and len(deep.mask_shapes((32, 32))) == 3


@pytest.mark.parametrize("direction", ["a_to_b", "b_to_a"])
@pytest.mark.parametrize("reconstruction", ["l1", "l2"])
def test_the_losses_of_pairs_are_those_of_the_paper(direction: str, reconstruction: str) -> None:
    model = make("ImageToImage", direction=direction, reconstruction=reconstruction, reconstruction_weight=7.0)
    play = rules(model)
    x = pairs_for(model, 3)
    gray, colour = x[:, :1], x[:, 1:]
    source, real = (gray, colour) if direction == "a_to_b" else (colour, gray)
    torch.manual_seed(3)
    told = {phase.name: phase.loss(x, None) for phase in play.phases()[:1]}["discriminator"]
    torch.manual_seed(3)
    fake = model.generator(source)
    assert fake.shape == real.shape and model.target == (1 if direction == "a_to_b" else 0)
    both = torch.cat([source, fake] if direction == "a_to_b" else [fake, source], 1)
    r, f = model.discriminator(x), model.discriminator(both)
    torch.testing.assert_close(told["loss"], F.softplus(-r).mean() + F.softplus(f).mean())
    torch.manual_seed(3)
    terms = model.deceive(play, x)
    error = (fake - real).abs() if reconstruction == "l1" else (fake - real).square()
    torch.testing.assert_close(
        terms["loss"].detach(), (F.softplus(-f).mean() + 7 * error.mean()).detach(), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(terms["reconstruction"].double().detach(), error.mean().detach(), rtol=1e-6, atol=0)
    for key in ("a", "gray") if direction == "a_to_b" else ("b", "colour"):
        with pytest.raises(ValueError, match=f"it was trained to translate to .*; got to='{key}'"):
            model.translate(source, to=key)


def test_held_out_figures_of_pairs() -> None:
    model = make("ImageToImage")
    x = pairs_for(model, 6)

    class Off(nn.Module):
        def forward(self, source: Tensor, kept: Any = None) -> Tensor:
            return x[:, 1:] + 0.1

    model.generator = Off()
    with torch.no_grad():
        figures = model.held_out(x)
        told = model.summarize(figures)
    assert list(told)[:3] == ["l1", "psnr", "sliced_distance"]
    assert told["l1"] == pytest.approx(0.1) and told["psnr"] == pytest.approx(10 * math.log10(4 / 0.01))
    shift = (0.1 * random_directions(x[:, 1:]).sum(0)).square().mean().sqrt()
    assert told["sliced_distance"] == pytest.approx(float(shift))
    assert figures["logit_fake"].shape == (6,) and told["logit_real"] != told["logit_fake"]


class Apply(nn.Module):
    """A generator that is a function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.function(x)
        return out


def test_the_losses_without_pairs_are_those_of_the_paper() -> None:
    model = make("CycleGAN", cycle_weight=3.0, identity_weight=0.25, adversarial_weight=2.0)
    play = rules(model)
    x = pairs_for(model, 2)
    a, b = x[:, :3], x[:, 3:]
    to_a, to_b = model.generators
    d_a, d_b = model.discriminators
    fake_a, fake_b = to_a(b), to_b(a)
    adversarial = (d_b(fake_b) - 1).square().mean() + (d_a(fake_a) - 1).square().mean()
    cycle = (to_a(fake_b) - a).abs().mean() + (to_b(fake_a) - b).abs().mean()
    identity = (to_b(b) - b).abs().mean() + (to_a(a) - a).abs().mean()
    terms = model.deceive(play, x)
    torch.testing.assert_close(terms["loss"], adversarial + 3 * cycle + 0.75 * identity, rtol=1e-6, atol=0)
    told = model.tell_apart(play, x)  # pools are empty yet: these translations are shown
    halves = [(d(y) - 1).square().mean() + d(z).square().mean() for d, y, z in ((d_a, a, fake_a), (d_b, b, fake_b))]
    torch.testing.assert_close(told["loss"], 0.5 * sum(halves), rtol=1e-6, atol=0)
    assert {"logit_real_gray", "logit_fake_colour"} < told.keys()
    gradients = torch.autograd.grad(terms["loss"], list(model.generators.parameters()), allow_unused=True)
    assert all(g is not None for g in gradients)
    phases = play.phases()
    assert [len(phase.parameters) for phase in phases] == [
        len(list(model.discriminators.parameters())),
        len(list(model.generators.parameters())),
    ]


@pytest.mark.parametrize(
    ("function", "inverse"),
    [(torch.neg, torch.neg), (lambda x: x.flip(3), lambda x: x.flip(3)), (lambda x: 2 * x, lambda x: x / 2)],
)
def test_inverse_generators_have_no_cycle_loss(function: Any, inverse: Any) -> None:
    model = make("CycleGAN")
    model.generators = nn.ModuleList([Apply(inverse), Apply(function)])
    x = pairs_for(model, 3)
    a, b = model.split(x)
    terms = model.deceive(rules(model), x)
    assert float(terms["cycle"].detach()) == pytest.approx(0, abs=1e-12)
    wanted = (function(b) - b).abs().mean() + (inverse(a) - a).abs().mean()
    assert float(terms["identity"].detach()) == pytest.approx(float(wanted), rel=1e-6) and float(wanted) > 0.1
    there, back = model.cycle(a)
    assert torch.equal(there, function(a)) and torch.allclose(back, a)
    assert torch.equal(model.cycle(b, to="gray")[0], inverse(b))


def test_generators_that_do_nothing_have_no_identity_loss() -> None:
    model = make("CycleGAN")
    model.generators = nn.ModuleList([Apply(lambda x: x), Apply(lambda x: x)])
    terms = model.deceive(rules(model), pairs_for(model, 3))
    assert float(terms["cycle"].detach()) == 0 and float(terms["identity"].detach()) == 0
    off = make("CycleGAN", domain_channels=(1, 3), identity_weight=0.0)
    assert "identity" not in off.deceive(rules(off), pairs_for(off, 2))


def test_held_out_figures_without_pairs() -> None:
    model = make("CycleGAN")
    x = pairs_for(model, 40)
    a, b = model.split(x)
    b = b + 1.0
    x = torch.cat([a, b], 1)
    shift = float(random_directions(a).sum(0).square().mean().sqrt())
    model.generators = nn.ModuleList([Apply(lambda x: x - 1), Apply(lambda x: x + 1)])
    with torch.no_grad():
        good = model.summarize(model.held_out(x))
        model.generators = nn.ModuleList([Apply(lambda x: x), Apply(lambda x: x)])
        idle = model.summarize(model.held_out(x))
    assert next(iter(good)) == "sliced_distance" and good["cycle_error"] == pytest.approx(0, abs=1e-12)
    assert good["sliced_distance"] < 0.3 * idle["sliced_distance"]
    assert idle["sliced_distance"] == pytest.approx(idle["untranslated"])
    directions = random_directions(a)
    wanted = sliced_distance(a.flatten(1) @ directions, b.flatten(1) @ directions)
    assert idle["sliced_distance_to_colour"] == idle["sliced_distance_to_gray"] == pytest.approx(wanted)
    assert wanted == pytest.approx(shift, rel=0.3)


def numbered(first: int, n: int) -> Tensor:
    return torch.arange(first, first + n, dtype=torch.float64)[:, None, None, None].expand(n, 1, 2, 2)


def test_a_pool_exchanges_every_other_image_once_it_is_full() -> None:
    pool, like = ImagePool(5, (1, 2, 2)), torch.zeros((), dtype=torch.float64)
    shown = [pool.exchange(numbered(4 * k, 4), like)[:, 0, 0, 0] for k in range(500)]
    seen = torch.cat(shown)
    assert torch.equal(seen[:5], torch.arange(5.0, dtype=torch.float64))  # while it fills
    now = torch.arange(2000, dtype=torch.float64)
    assert float((seen[5:] == now[5:]).double().mean()) == pytest.approx(0.5, abs=0.04)
    assert bool((seen <= now).all())
    kept = pool.state(like)["images"][:, 0, 0, 0]
    # the first five are shown at once and stay; after that nothing is lost and nothing comes twice
    everything = torch.cat([seen[5:], kept]).sort().values
    assert torch.equal(everything, now)
    ages = (now - seen)[5:][seen[5:] < now[5:]]
    assert float(ages.mean()) == pytest.approx(10, rel=0.15)  # 5 places, replaced with probability 1/10 each time


def test_a_pool_of_nothing_shows_the_latest() -> None:
    pool = ImagePool(0, (1, 2, 2))
    x = numbered(0, 3).clone().requires_grad_()
    shown = pool.exchange(x, x)
    assert torch.equal(shown, x) and not shown.requires_grad


def test_a_pool_goes_on_from_its_state() -> None:
    like = torch.zeros(())
    first, second = ImagePool(3, (1, 2, 2)), ImagePool(3, (1, 2, 2))
    first.exchange(numbered(0, 7), like)
    for name, value in second.state(like).items():
        value.copy_(first.state(like)[name])
    for pool, shown in ((first, []), (second, [])):
        torch.manual_seed(4)
        shown.extend(pool.exchange(numbered(7, 9), like))
        pool.shown = torch.stack(shown)  # type: ignore[attr-defined]
    assert torch.equal(first.shown, second.shown) and not torch.equal(first.shown, numbered(7, 9))  # type: ignore[attr-defined]
    assert torch.equal(first.state(like)["images"], second.state(like)["images"])


def test_the_discriminators_are_shown_the_pools() -> None:
    model = make("CycleGAN", pool_size=2)
    play = rules(model)
    state = model.training_state()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "pool_a/images": (2, 3, *SIZE), "pool_a/held": (), "pool_b/images": (2, 3, *SIZE), "pool_b/held": ()
    }  # fmt: skip
    x = pairs_for(model, 2)
    with torch.no_grad():
        fake_b = model.generators[1](x[:, :3])
    model.tell_apart(play, x)
    assert torch.allclose(state["pool_b/images"], fake_b) and int(state["pool_a/held"]) == 2
    seen: list[Tensor] = []
    model.discriminators[1].register_forward_hook(lambda m, inputs, out: seen.append(inputs[0]))
    torch.manual_seed(0)
    for _ in range(6):
        model.tell_apart(play, pairs_for(model, 2))
    assert any(torch.allclose(image, old) for batch in seen[1::2] for image in batch for old in fake_b)


@pytest.mark.parametrize("name", SMALL)
def test_there_are_no_codes(name: str) -> None:
    model = make(name)
    z = torch.zeros(1, 4)
    for call in (lambda: model.draw_latent(2), lambda: model.interpolate(z, z), lambda: model.arithmetic(z, z, z)):
        with pytest.raises(TypeError, match=f"{name}: it draws images from images of 'gray', not from codes; use"):
            call()


X = torch.zeros(2, 3, *SIZE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CycleGAN(image_size=(30, 32)), r"both sides of image_size must be multiples of 4, at least 8"),
        (lambda: CycleGAN(image_size=(16, 32)), r"must be at least 24 for patches of 3 .*; got \(16, 32\)"),
        (lambda: CycleGAN(), r"CycleGAN: image_size must be \(height, width\)"),
        (lambda: make("CycleGAN", domain_channels=(1, 3)), r"got 1 of 'gray' and 3 of 'colour'; set id"),
        (lambda: make("CycleGAN", domain_channels=(3,)), r"domain_channels must be two numbers"),
        (
            lambda: make("CycleGAN", image_channels=5),
            r"image_channels must be the sum of domain_channels \(3, 3\); got 5",
        ),
        (lambda: make("CycleGAN", domains=("a", "a")), r"domains must be two names"),
        (lambda: make("CycleGAN", cycle_weight=-1.0), r"cycle_weight must be finite and not negative; got -1"),
        (lambda: make("CycleGAN", pool_size=-1), r"pool_size at least 0; got 2, 1 and -1"),
        (lambda: make("CycleGAN", discriminator_norm="layer"), r"unknown norm of a discriminator of patches 'layer'"),
        (lambda: make("CycleGAN", discriminator_filters=()), r"must name at least one convolution"),
        (lambda: make("ImageToImage", n_filters=(4,)), r"at least two convolutions"),
        (
            lambda: make("ImageToImage", n_filters=(4,) * 4),
            r"multiples of 16, as 4 convolutions halve them; got \(16, 24\)",
        ),
        (lambda: make("ImageToImage", reconstruction="l3"), r"unknown reconstruction 'l3'; did you mean l"),
        (lambda: make("ImageToImage", direction="ab"), r"unknown direction 'ab'"),
        (lambda: make("ImageToImage", dropout=1.0), r"dropout must be in \[0, 1\)"),
        (lambda: make("ImageToImage", reconstruction_weight=math.inf), r"reconstruction_weight must be finite"),
        (
            lambda: make("CycleGAN").translate(X[:, :1]),
            r"images of 'gray' must be \[N, 3, H, W\]; got \[2, 1, 16, 24\]",
        ),
        (
            lambda: make("CycleGAN").translate(X, to="red"),
            r"one of the domains 'gray' and 'colour', or 'a' .* got 'red'",
        ),
        (lambda: make("CycleGAN").translate(X, batch_size=0), r"batch_size must be at least 1; got 0"),
        (
            lambda: make("CycleGAN").translate(X[:, :, :10]),
            r"sides of images must be multiples of 4, .*; got \[10, 24\]",
        ),
        (
            lambda: make("CycleGAN").sample(3, cond=X),
            r"cond must hold the 3 images of 'gray' that are tr.*; got 2 of them",
        ),
        (lambda: make("CycleGAN").sample(3), r"\[3, C, H, W\]; got None"),
        (lambda: make("CycleGAN").deceive(rules(make("CycleGAN")), X), r"x must be \[N, 6, H, W\]"),
    ],
)
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="uint8 levels or float"):
        make("CycleGAN").translate(X.long())


@pytest.mark.parametrize("name", SMALL)
def test_a_path_length_has_no_codes_to_be_of(name: str) -> None:
    model = make(name)
    with pytest.raises(ValueError, match=rf"adversarial\.path_length: {name} must give the codes"):
        model.deceive(rules(model, path_length=1.0), pairs_for(model, 2))


def test_either_domain_can_be_the_target() -> None:
    model = make("CycleGAN")
    x = torch.rand(2, 3, *SIZE, dtype=torch.float64)
    to_a, to_b = (network(x) for network in model.generators)
    for name, wanted in (("a", to_a), ("gray", to_a), ("b", to_b), ("colour", to_b), (None, to_b)):
        assert torch.equal(model(x, name), wanted)
    assert torch.equal(model.discriminate(x, "gray"), model.discriminators[0](x))
    assert isinstance(make("ImageToImage", direction="b_to_a"), ImageToImage)
    assert make("CycleGAN", domains=("b", "a")).domain_number("b") == 0  # names before letters


def test_one_pair_is_learned_by_heart() -> None:
    torch.manual_seed(0)
    model = ImageToImage((1, 3), n_filters=(8, 16), discriminator_filters=(4,), dropout=0.0, image_size=(8, 8)).train()
    play = AdversarialTraining(model, {}, 1)
    x = torch.rand(1, 4, 8, 8) * 2 - 1
    optimizers = [(phase, torch.optim.Adam(phase.parameters, lr=5e-3)) for phase in play.phases()]
    errors = []
    for _ in range(150):
        play.begin_step(0.0)
        for phase, optimizer in optimizers:
            terms = phase.loss(x, None)
            optimizer.zero_grad()
            terms["loss"].backward(inputs=list(phase.parameters))
            optimizer.step()
        errors.append(float(terms["reconstruction"].detach()))
    assert errors[0] > 0.4 and errors[-1] < 0.1
