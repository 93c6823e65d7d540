"""Each loss is its formula, written out, and pulls the logits the right way with the right strength."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen.training.adversarial import LOSSES, adversarial_loss

REAL = torch.tensor([1.3, -0.4, 0.2, 2.5], dtype=torch.float64)
FAKE = torch.tensor([-0.7, 0.9, -1.8, 0.1], dtype=torch.float64)


def s(t: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-t))


def log(t: Tensor) -> Tensor:
    return torch.log(t)


def zero_or(t: Tensor) -> Tensor:
    return torch.where(t > 0, t, torch.zeros_like(t))


Formula = Callable[[Tensor, Tensor], Tensor]
FORMULAS: dict[str, tuple[Formula, Formula]] = {
    "minimax": (
        lambda r, f: -(log(s(r)) + log(1 - s(f))).mean(),
        lambda r, f: log(1 - s(f)).mean(),
    ),
    "non_saturating": (
        lambda r, f: -(log(s(r)) + log(1 - s(f))).mean(),
        lambda r, f: -log(s(f)).mean(),
    ),
    "least_squares": (
        lambda r, f: ((r - 1) ** 2).mean() / 2 + (f**2).mean() / 2,
        lambda r, f: ((f - 1) ** 2).mean() / 2,
    ),
    "wasserstein": (lambda r, f: (f - r).mean(), lambda r, f: -f.mean()),
    "hinge": (lambda r, f: (zero_or(1 - r) + zero_or(1 + f)).mean(), lambda r, f: -f.mean()),
    "relativistic": (lambda r, f: -log(s(r - f)).mean(), lambda r, f: -log(s(f - r)).mean()),
    "relativistic_average": (
        lambda r, f: -(log(s(r - f.mean())) + log(1 - s(f - r.mean()))).mean(),
        lambda r, f: -(log(s(f - r.mean())) + log(1 - s(r - f.mean()))).mean(),
    ),
}


def test_every_loss_is_tested() -> None:
    assert FORMULAS.keys() == LOSSES.keys()


@pytest.mark.parametrize("player", ["discriminator", "generator"])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradient_are_those_of_the_formula(name: str, player: str) -> None:
    found, expected = [], []
    formula = FORMULAS[name][player == "generator"]
    for function, out in ((getattr(adversarial_loss(name), player), found), (formula, expected)):
        r, f = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
        loss = function(r, f)
        loss.backward()
        out += [loss.detach(), *(torch.zeros_like(t) if t.grad is None else t.grad for t in (r, f))]
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_players_want_opposite_things(name: str) -> None:
    """The discriminator wants real logits up and generated ones down, the generator the latter up."""
    loss = adversarial_loss(name)
    r, f = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    down_r, down_f = torch.autograd.grad(loss.discriminator(r, f), (r, f), allow_unused=True, materialize_grads=True)
    (up_f,) = torch.autograd.grad(loss.generator(r, f), f)
    assert (down_r < 0).all() and (up_f < 0).all()
    if name == "least_squares":  # at its target already
        f = torch.full((3,), 0.5, requires_grad=True)
        (down_f,) = torch.autograd.grad(loss.discriminator(r, f), f)
    assert (down_f > 0).all()


@pytest.mark.parametrize("name", FORMULAS)
def test_whether_the_generator_looks_at_real_images(name: str) -> None:
    loss = adversarial_loss(name)
    moved = loss.generator(REAL + 1, FAKE) != loss.generator(REAL, FAKE)
    assert bool(moved) == loss.compares


@pytest.mark.parametrize("name", ["minimax", "non_saturating", "relativistic", "relativistic_average"])
def test_extreme_logits_stay_finite(name: str) -> None:
    loss = adversarial_loss(name)
    r, f = torch.tensor([-1e4], requires_grad=True), torch.tensor([1e4], requires_grad=True)
    for value in (loss.discriminator(r, f), loss.generator(r, f)):
        assert torch.isfinite(value)
        assert all(
            torch.isfinite(g).all()
            for g in torch.autograd.grad(value, (r, f), materialize_grads=True, allow_unused=True)
        )
    assert loss.discriminator(r, f).item() >= 2e4


def test_minimax_vanishes_where_non_saturating_does_not() -> None:
    f = torch.tensor([-20.0], requires_grad=True)
    slopes = [
        abs(torch.autograd.grad(adversarial_loss(name).generator(f.detach(), f), f)[0].item())
        for name in ("minimax", "non_saturating")
    ]
    assert slopes[0] < math.exp(-19) and slopes[1] > 0.99


def test_an_unknown_loss_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown adversarial loss 'wassertein'; did you mean wasserstein\?"):
        adversarial_loss("wassertein")
