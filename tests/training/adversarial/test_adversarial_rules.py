"""The rules of a run: options, lazy regularisers, augmentation of both players, clipping, and what they carry along."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.models import DCGAN, GAN, WGAN, WGANGP
from fastgen.training.adversarial import AdversarialOptions, AdversarialTraining
from fastgen.training.adversarial.regularizers import path_lengths

REAL = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
FAKE = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.linspace(-1, 1, 16)


def rules(**changes: Any) -> AdversarialTraining:
    torch.manual_seed(0)
    return AdversarialTraining(GAN(1, 5, (7,), image_size=(4, 4)), changes, batch_size=6)


def judge(x: Tensor, cond: Any = None) -> Tensor:
    return x.flatten(1) @ WEIGHT


def test_a_model_names_what_a_recipe_may_change() -> None:
    model = WGANGP(1, image_size=(4, 4), n_filters=(4, 4))
    options = AdversarialOptions.of(model, {"d_steps": 2, "betas_generator": [0.5, 0.9]})
    assert (options.loss, options.gradient_penalty, options.d_steps) == ("wasserstein", 10.0, 2)
    assert (options.betas_discriminator, options.betas_generator) == ((0.0, 0.9), (0.5, 0.9))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"los": "hinge"}, r"unknown adversarial option 'los'; did you mean loss"),
        ({"loss": "hinges"}, r"unknown adversarial loss 'hinges'; did you mean hinge\?"),
        ({"augment": "colour"}, r"unknown augmentation 'colour'; did you mean color"),
        ({"d_steps": 0}, r"adversarial.d_steps must be an integer, at least 1; got 0"),
        ({"r1_interval": 2.5}, r"adversarial.r1_interval must be an integer, at least 1; got 2.5"),
        ({"r1": -1}, r"adversarial.r1 must be finite and not negative; got -1"),
        ({"r1": "much"}, r"adversarial.r1 must be finite and not negative; got 'much'"),
        ({"lr_generator": 0}, r"adversarial.lr_generator must be positive and finite; got 0"),
        ({"augment_p": 1.5}, r"adversarial.augment_p must be at most 1; got 1.5"),
        ({"betas_generator": [0.5]}, r"adversarial.betas_generator must be two numbers in \[0, 1\); got \[0.5\]"),
        ({"betas_generator": 0.5}, r"adversarial.betas_generator must be two numbers"),
        ({"ada_target": 0.6}, r"adversarial.ada_target controls the probability of augmentations; got none"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules(**changes)


@pytest.mark.parametrize(
    ("key", "penalty"),
    [
        ("r1", float(WEIGHT.square().sum()) / 2),
        ("r2", float(WEIGHT.square().sum()) / 2),
        ("gradient_penalty", float((WEIGHT.norm() - 1) ** 2)),
    ],
)
def test_a_lazy_regulariser_of_a_linear_discriminator_comes_every_k_steps_k_times_as_strong(
    key: str, penalty: float
) -> None:
    plain = rules(loss="wasserstein").discriminator_terms(judge, REAL, FAKE)["loss"]
    lazy = rules(loss="wasserstein", **{key: 0.7, f"{key}_interval": 3})
    added = []
    for _ in range(7):
        lazy.begin_step(0.0)
        terms = lazy.discriminator_terms(judge, REAL, FAKE)
        added.append((terms["loss"] - plain).item())
        assert (key in terms) == (abs(added[-1]) > 1e-4)
    once = pytest.approx(3 * 0.7 * penalty, rel=1e-5)
    nothing = pytest.approx(0, abs=1e-5)
    assert added == [once, nothing, nothing, once, nothing, nothing, once]


def test_drift_is_the_mean_square_of_real_logits() -> None:
    plain, more = (rules(loss="wasserstein", drift=d).discriminator_terms(judge, REAL, FAKE) for d in (0.0, 0.25))
    assert (more["loss"] - plain["loss"]).item() == pytest.approx(0.25 * float(judge(REAL).square().mean()), rel=1e-5)


def test_path_length_draws_lengths_to_their_moving_average() -> None:
    torch.manual_seed(0)
    lazy = rules(path_length=2.0, path_length_interval=2, loss="wasserstein")
    matrix = torch.randn(5, 16)
    average = 0.0
    for step in range(6):
        lazy.begin_step(0.0)
        assert lazy.needs_latents() == (step % 2 == 0)
        z = torch.randn(6, 5).requires_grad_(lazy.needs_latents())
        images = (z @ matrix).view(6, 1, 4, 4)
        torch.manual_seed(step)
        terms = lazy.generator_terms(judge, images, REAL, latents=z)
        plain = -judge(images).mean()
        if not lazy.needs_latents():
            assert (terms["loss"] - plain).item() == 0
            continue
        torch.manual_seed(step)
        lengths = path_lengths(images, z).detach()
        average += (float(lengths.mean()) - average) / (1 + step // 2)  # of all so far, up to 100
        assert float(terms["path_length"]) == pytest.approx(average, rel=1e-5)
        wanted = 2 * 2.0 * float((lengths - average).square().mean())
        assert (terms["loss"] - plain).item() == pytest.approx(wanted, rel=1e-4)
    for _ in range(301):
        lazy.begin_step(0.0)
    before, z = float(lazy.training_state()["adversarial/path_length"]), torch.randn(6, 5, requires_grad=True)
    torch.manual_seed(9)
    images = (z @ (10 * matrix)).view(6, 1, 4, 4)
    found = float(lazy.generator_terms(judge, images, REAL, latents=z)["path_length"])
    torch.manual_seed(9)
    assert found == pytest.approx(before + 0.01 * (float(path_lengths(images, z).mean()) - before), rel=1e-4)
    with pytest.raises(ValueError, match=r"adversarial\.path_length: GAN must give the codes"):
        lazy.generator_terms(judge, FAKE, REAL)


@pytest.mark.parametrize("shape", [(), (6, 1), (5,), (6, 2, 3, 3), (6, 4, 4)])
def test_a_discriminator_of_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    def wrong(x: Tensor, cond: Any) -> Tensor:
        return x.sum() * torch.ones(shape)

    for play in (rules().discriminator_terms, rules().generator_terms):
        with pytest.raises(ValueError, match=r"GAN: a discriminator must give \[N\] logits of N images.*got \["):
            play(wrong, REAL, FAKE)


def test_logits_of_patches_are_welcome() -> None:
    terms = rules(loss="hinge", r1=1.0).discriminator_terms(lambda x, cond: x, REAL, FAKE)
    assert terms["loss"].shape == ()


def test_both_players_see_real_and_generated_images_through_the_same_augmentation() -> None:
    """What is cut out, of real and of generated images alike, no gradient reaches."""
    seen: list[Tensor] = []

    def spy(x: Tensor, cond: Any = None) -> Tensor:
        seen.append(x)
        return judge(x)

    play = rules(augment="cutout", loss="relativistic")
    play.begin_step(0.0)
    real, fake = REAL.abs() + 1, (FAKE.abs() + 1).requires_grad_()
    play.discriminator_terms(spy, real, fake)
    terms = play.generator_terms(spy, fake, real)
    assert len(seen) == 4  # real and generated, in both turns
    for x in seen:
        holes = (x == 0).flatten(1).sum(1)
        assert (holes >= 1).all() and (holes <= 4).all()
    terms["loss"].backward()
    generated = seen[2]
    assert torch.equal(fake.grad == 0, generated == 0)


def test_the_probability_of_augmentation_follows_the_discriminator() -> None:
    def overfits(x: Tensor, cond: Any = None) -> Tensor:
        return torch.ones(len(x)) + 0 * x.sum()

    play = rules(augment="color", augment_p=0.0, ada_target=0.6, ada_images=6 * 40)
    state = play.training_state()
    p = []
    for step in range(13):
        play.begin_step(0.0)
        sure = step < 8
        play.discriminator_terms(overfits if sure else lambda x, cond: -overfits(x), REAL, FAKE)
        p.append(float(state["adversarial/augment_p"]))
    assert p == pytest.approx([0, 0, 0, 0, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2, 0.2, 0.1])
    assert int(state["adversarial/images_seen"]) == 13 * 6 and int(state["adversarial/steps"]) == 12


def test_phases_have_what_the_options_say() -> None:
    model = WGAN(1, image_size=(4, 4), n_filters=(4, 4))
    changes = {"lr_discriminator": 4.0, "lr_generator": 0.5, "d_steps": 3, "clip_weights": 0.004}
    critic, generator = AdversarialTraining(model, changes, batch_size=2).phases()
    assert (critic.lr_scale, critic.betas, critic.repeats, critic.averaged) == (4.0, (0.0, 0.99), 3, False)
    assert (generator.lr_scale, generator.betas, generator.repeats, generator.averaged) == (0.5, (0.0, 0.99), 1, True)
    assert generator.after is None and critic.after is not None
    before = [p.clone() for p in model.discriminator.parameters()]
    critic.after()
    for old, new in zip(before, model.discriminator.parameters(), strict=True):
        assert torch.equal(old.clamp(-0.004, 0.004), new)
    assert max(float(p.detach().abs().max()) for p in model.generator.parameters()) > 0.1


def test_the_discriminator_learns_with_the_generator_held_and_the_other_way_round() -> None:
    torch.manual_seed(0)
    model = DCGAN(1, 4, (4, 8), image_size=(8, 8))
    x = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    play = AdversarialTraining(model, {"r1": 1.0, "path_length": 1.0}, batch_size=5)
    play.begin_step(0.0)
    for phase, other in ((0, "generator"), (1, "discriminator")):
        turn = play.phases()[phase]
        terms = turn.loss(x, None)
        wanted = {id(p) for p in turn.parameters}
        assert not wanted & {id(p) for p in getattr(model, other).parameters()}
        gradients = torch.autograd.grad(terms["loss"], turn.parameters, allow_unused=True)
        used = [g for g in gradients if g is not None]
        assert len(used) >= len(gradients) - 1 and all(torch.isfinite(g).all() for g in used)
        assert max(float(g.abs().max()) for g in used) > 0


def test_gradients_of_r1_are_those_of_finite_differences_of_the_whole_loss() -> None:
    torch.manual_seed(0)
    model = GAN(1, 3, (5,), image_size=(3, 3)).double()
    play = AdversarialTraining(model, {"r1": 2.0, "r2": 1.0, "gradient_penalty": 3.0}, batch_size=4)
    play.begin_step(0.0)
    real, fake = (torch.randn(4, 1, 3, 3, dtype=torch.float64) for _ in range(2))
    names = [name for name, _ in model.discriminator.named_parameters()]

    def loss(*weights: Tensor) -> Tensor:
        torch.manual_seed(1)

        def called(x: Tensor, cond: Any) -> Tensor:
            return torch.func.functional_call(model.discriminator, dict(zip(names, weights, strict=True)), x)

        return play.discriminator_terms(called, real, fake)["loss"]

    weights = [p.detach().clone().requires_grad_() for p in model.discriminator.parameters()]
    assert torch.autograd.gradcheck(loss, weights, rtol=1e-5, atol=1e-7)
    assert math.isfinite(loss(*weights).item())
