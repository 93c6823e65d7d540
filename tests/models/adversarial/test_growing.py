"""Networks that grow: the schedule, no jump at the borders of stages, and what a model of any stage draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import fastgen
from fastgen.models import ProgressiveGAN, StyleGAN
from fastgen.training.adversarial import AdversarialTraining

SIZE = (16, 12)  # stages of 4x3, 8x6, 16x12
KINDS = ("ProgressiveGAN", "StyleGAN")


def make(kind: str, **options: Any) -> Any:
    torch.manual_seed(0)
    options = {"n_filters": (3, 4, 5), "growth_share": 0.8, "image_size": SIZE, **options}
    if kind == "StyleGAN":
        options = {"w_dim": 6, "mapping_layers": 2, "progressive": True, "mixing": 0.0, **options}
    model = fastgen.models.MODELS[kind](2, 7, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.double().eval()


def at(model: Any, stage: int, alpha: float) -> Any:
    model.stage.fill_(stage)
    model.alpha.fill_(alpha)
    return model


def drawn(model: Any, seed: int = 0) -> Tensor:
    """Images of the present stage."""
    torch.manual_seed(seed)
    with torch.no_grad():
        images: Tensor = model.imagine(3)[0]
    return images


def halved(x: Tensor, times: int = 1) -> Tensor:
    for _ in range(times):
        x = F.avg_pool2d(x, 2)
    return x


def doubled(x: Tensor, times: int = 1) -> Tensor:
    return F.interpolate(x, scale_factor=2**times, mode="nearest") if times else x


def quiet(model: Any) -> Any:
    """Noise of no strength, so that draws of different stages can be compared."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("strength"):
                parameter.zero_()
    return model


def test_each_stage_fades_in_and_is_trained_for_spans_of_one_length() -> None:
    model = make("ProgressiveGAN", growth_share=0.5)
    found = []
    for progress in (0.0, 0.1249, 0.125, 0.1875, 0.25, 0.374, 0.375, 0.4375, 0.5, 0.99):
        model.begin_step(progress)
        found.append((int(model.stage), round(float(model.alpha), 3)))
    assert found[:6] == [(0, 1.0), (0, 1.0), (1, 0.0), (1, 0.5), (1, 1.0), (1, 1.0)]
    assert found[6:] == [(2, 0.0), (2, 0.5), (2, 1.0), (2, 1.0)]


@pytest.mark.parametrize("kind", KINDS)
def test_phases_agree_with_the_stages_and_move_what_is_in_use(kind: str) -> None:
    model = make(kind)
    play = AdversarialTraining(model, {}, 4)
    phases = play.phases()
    x = torch.rand(4, 2, *SIZE, dtype=torch.float64) * 2 - 1
    for progress in (0.0, 0.1, 0.2, 0.25, 0.59, 0.6, 0.8, 0.999):
        play.begin_step(progress)
        turns = [phase for phase in phases if phase.active(progress)]
        height, width = model.sizes[int(model.stage)]
        assert [t.name for t in turns] == [f"{who}_{height}x{width}" for who in ("discriminator", "generator")]
        for phase, network in zip(turns, (model.discriminator, model.generator), strict=True):
            model.zero_grad(set_to_none=True)
            phase.loss(x, None)["loss"].backward()
            reached = {n for n, p in network.named_parameters() if p.grad is not None}
            mine = {n for n, p in network.named_parameters() if any(p is q for q in phase.parameters)}
            assert reached == mine
    last = {id(p) for phase in phases[-2:] for p in phase.parameters}
    older = [model.discriminator.colors[0], getattr(model.generator, "synthesis", model.generator).colors[0]]
    unused = {id(p) for part in older for p in part.parameters()}
    assert last == {id(p) for p in model.parameters()} - unused


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_starts_as_the_one_before_ended(kind: str, stage: int) -> None:
    model = quiet(make(kind))
    before = drawn(at(model, stage - 1, 1.0))
    torch.testing.assert_close(drawn(at(model, stage, 0.0)), doubled(before))
    x = torch.rand(3, 2, *model.sizes[stage], dtype=torch.float64)
    logits = model.discriminate(x)
    at(model, stage - 1, 1.0)
    torch.testing.assert_close(logits, model.discriminator(halved(x), stage - 1, model.alpha))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_ends_without_a_trace_of_the_one_before(kind: str, stage: int) -> None:
    model = quiet(make(kind))
    images, half = drawn(at(model, stage, 1.0)), drawn(at(model, stage, 0.5))
    x = torch.rand(3, 2, *model.sizes[stage], dtype=torch.float64)
    logits = model.discriminator(x, stage, torch.ones(()))
    coarse = drawn(at(model, stage - 1, 1.0))
    torch.testing.assert_close(half, (doubled(coarse) + images) / 2)
    synthesis = getattr(model.generator, "synthesis", model.generator)
    with torch.no_grad():  # the coarser colours are out of the game
        for colors in (synthesis.colors[stage - 1], model.discriminator.colors[stage - 1]):
            colors.weight.add_(1.0)
    assert torch.equal(drawn(at(model, stage, 1.0)), images)
    assert torch.equal(model.discriminator(x, stage, torch.ones(())), logits)


def test_real_images_are_shown_at_the_resolution_and_with_the_fade_of_the_stage() -> None:
    model = make("ProgressiveGAN")
    x = torch.rand(2, 2, *SIZE, dtype=torch.float64)
    torch.testing.assert_close(at(model, 0, 1.0).shown(x), halved(x, 2))
    wanted = 0.75 * doubled(halved(x, 2)) + 0.25 * halved(x)
    torch.testing.assert_close(at(model, 1, 0.25).shown(x), wanted)
    torch.testing.assert_close(at(model, 2, 1.0).shown(x), x)
    torch.testing.assert_close(at(model, 2, 0.0).shown(x), doubled(halved(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_players_see_real_and_generated_images_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = at(make(kind), 1, 0.5)
    seen: list[tuple[int, ...]] = []
    original = model.discriminator.forward

    def spy(x: Tensor, stage: int, alpha: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        logits: Tensor = original(x, stage, alpha)
        return logits

    monkeypatch.setattr(model.discriminator, "forward", spy)
    play = AdversarialTraining(model, {"gradient_penalty": 1.0}, 4)
    x = torch.rand(4, 2, *SIZE, dtype=torch.float64)
    model.tell_apart(play, x)
    model.deceive(play, x)
    assert seen == [(4, 2, 8, 6)] * 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_images_are_of_full_size_at_every_stage(kind: str, stage: int, tmp_path: Path) -> None:
    model = at(make(kind), stage, 0.5 if stage else 1.0).float()
    images = model.sample(5, seed=2)
    assert images.shape == (5, 2, *SIZE)
    small = images[:, :, :: 2 ** (2 - stage), :: 2 ** (2 - stage)]
    assert torch.equal(doubled(small.float(), 2 - stage).to(torch.uint8), images)
    x = torch.rand(3, 2, *SIZE)
    torch.testing.assert_close(model.discriminate(x), model.discriminate(halved(x, 2 - stage)))
    figures = model.held_out(x)
    assert figures["fake_on_directions"].shape == figures["real_on_directions"].shape
    fastgen.save(model, tmp_path / "model.safetensors")
    loaded = fastgen.load(tmp_path / "model.safetensors").eval()
    assert isinstance(loaded, (ProgressiveGAN, StyleGAN)) and int(loaded.stage) == stage
    assert torch.equal(loaded.sample(5, seed=2), images)


def test_without_growth_there_is_one_pair_of_turns_and_one_layer_of_colours() -> None:
    model = make("StyleGAN", progressive=False)
    phases = AdversarialTraining(model, {}, 4).phases()
    assert [phase.name for phase in phases] == ["discriminator", "generator"]
    model.begin_step(0.0)
    assert int(model.stage) == 2 and len([n for n, _ in model.named_parameters() if ".colors." in n]) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_resolution_is_whole_from_the_start(kind: str) -> None:
    model = make(kind, n_filters=(4,))
    model.begin_step(0.0)
    assert (int(model.stage), float(model.alpha)) == (0, 1.0)
    assert drawn(model).shape == (3, 2, *SIZE)


def test_the_progressive_generator_keeps_features_at_unit_length() -> None:
    model = make("ProgressiveGAN")
    h = model.generator.coarsest(torch.randn(4, 7, dtype=torch.float64) * 50)
    torch.testing.assert_close(h.square().mean(1), torch.ones_like(h[:, 0]), rtol=1e-5, atol=0)  # eps 1e-8 beside 1e-3
    z = torch.randn(4, 7, dtype=torch.float64)
    torch.testing.assert_close(
        model.generate(3 * z), model.generate(z), rtol=1e-5, atol=1e-6
    )  # only the direction of a code counts


def test_its_rules_are_those_of_the_paper() -> None:
    options = AdversarialTraining(make("ProgressiveGAN"), {}, 4).options
    assert (options.loss, options.gradient_penalty, options.drift, options.d_steps) == ("wasserstein", 10.0, 1e-3, 1)
    assert options.betas_generator == options.betas_discriminator == (0.0, 0.99)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make("ProgressiveGAN", image_size=(16, 10)), r"multiples of 4 for 3 resolutions.*got \(16, 10\)"),
        (lambda: make("ProgressiveGAN", n_filters=()), r"n_filters must name the channels of at least one resolution"),
        (lambda: make("ProgressiveGAN", growth_share=0.0), r"ProgressiveGAN: growth_share must be a share.*got 0.0"),
        (lambda: make("StyleGAN", growth_share=1.5), r"StyleGAN: growth_share must be a share"),
        (lambda: make("ProgressiveGAN", group_size=0), r"group_size must be at least 1 each"),
        (lambda: make("ProgressiveGAN", image_size=None), r"image_size must be \(height, width\)"),
        (lambda: make("ProgressiveGAN").discriminate(torch.zeros(1, 2, 8, 8)), r"x must be of the size that the weig"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
