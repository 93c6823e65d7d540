"""Penalties on slopes against closed forms, their own gradients, and through our ops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastgen.functional import bias_act, upfirdn2d
from fastgen.training.adversarial.regularizers import gradient_penalty, path_lengths, zero_centred

X = torch.randn(6, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.randn(6, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def linear(weight: Tensor, x: Tensor) -> Tensor:
    return x.flatten(1) @ weight.flatten()


def quadratic(scale: Tensor, x: Tensor) -> Tensor:
    """a |x|^2 / 2, whose slope is a x."""
    return scale / 2 * x.flatten(1).square().sum(1)


def test_zero_centred_of_a_linear_discriminator_is_half_the_squared_weight() -> None:
    weight = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    x = X.clone().requires_grad_()
    penalty = zero_centred(linear(weight, x), x)
    torch.testing.assert_close(penalty, weight.detach().square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_zero_centred_of_a_quadratic_one_is_half_its_mean_squared_slope() -> None:
    a = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    x = X.clone().requires_grad_()
    penalty = zero_centred(quadratic(a, x), x)
    squares = X.flatten(1).square().sum(1).mean()
    torch.testing.assert_close(penalty, 1.7**2 * squares / 2)
    (slope,) = torch.autograd.grad(penalty, a)
    torch.testing.assert_close(slope, 1.7 * squares)


def test_zero_centred_sums_over_patches() -> None:
    """Logits of patches: the slope of their sum, as of one discriminator that adds them."""
    x = X.clone().requires_grad_()
    torch.testing.assert_close(zero_centred(3 * x[:, :1], x), torch.tensor(9.0 * 12 / 2, dtype=torch.float64))


def test_gradient_penalty_of_a_linear_discriminator() -> None:
    weight = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    penalty = gradient_penalty(lambda x: linear(weight, x), X, Y)
    length = weight.detach().norm()
    torch.testing.assert_close(penalty, (length - 1) ** 2)
    (slope,) = torch.autograd.grad(penalty, weight)
    torch.testing.assert_close(slope, 2 * (length - 1) * weight.detach() / length)


def test_gradient_penalty_is_taken_on_the_line_between_the_images() -> None:
    seen: list[Tensor] = []

    def judge(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return quadratic(torch.tensor(1.0, dtype=torch.float64), x)

    torch.manual_seed(3)
    penalty = gradient_penalty(judge, X, Y)
    (points,) = seen
    place = ((points - X) / (Y - X)).flatten(1)
    torch.testing.assert_close(place, place[:, :1].expand_as(place))  # each image its own place
    assert (place > 0).all() and (place < 1).all() and place[:, 0].std() > 0.1
    torch.testing.assert_close(penalty, (points.flatten(1).norm(dim=1) - 1).square().mean())


def test_gradient_penalty_of_a_constant_discriminator_is_one_with_a_finite_gradient() -> None:
    weight = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(lambda x: linear(weight, x), X, Y)
    assert penalty.item() == 1
    (slope,) = torch.autograd.grad(penalty, weight)
    assert torch.isfinite(slope).all()


def test_path_lengths_of_a_linear_generator_are_its_singular_values() -> None:
    """images = A w: |A^T y|^2 has the mean |A|_F^2 / (H W) over y ~ N(0, I / (H W))."""
    torch.manual_seed(0)
    matrix = torch.randn(5, 24, dtype=torch.float64)
    w = torch.randn(4000, 5, dtype=torch.float64).requires_grad_()
    lengths = path_lengths((w @ matrix).view(-1, 2, 3, 4), w)
    assert lengths.shape == (4000,)
    expected = matrix.square().sum() / 12
    assert lengths.square().mean().item() == pytest.approx(expected.item(), rel=0.05)


def test_path_lengths_of_several_codes_are_the_root_mean_square_over_them() -> None:
    torch.manual_seed(0)
    w = torch.randn(3, 4, 5, dtype=torch.float64)
    matrix = torch.randn(5, 24, dtype=torch.float64)
    lengths = []
    for codes in (w.clone().requires_grad_(), w[:, 0].clone().requires_grad_()):
        torch.manual_seed(1)
        first = codes[:, 0] if codes.dim() == 3 else codes  # the other three change nothing
        lengths.append(path_lengths((first @ matrix).view(-1, 2, 3, 4), codes))
    torch.testing.assert_close(lengths[0], lengths[1] / math.sqrt(4))


def test_every_penalty_has_the_gradient_of_finite_differences_through_our_ops() -> None:
    torch.manual_seed(0)
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    bias = torch.randn(2, dtype=torch.float64)

    def judge(x: Tensor, scale: Tensor) -> Tensor:
        h = bias_act(x * scale[None, :, None, None], bias, 1, "swish")
        h = upfirdn2d(h, kernel[:, None] * kernel[None], down=2, padding=1)
        return h.square().flatten(1).sum(1)

    def penalties(scale: Tensor) -> Tensor:
        torch.manual_seed(5)
        x, w = X.clone().requires_grad_(), Y.clone().requires_grad_()
        images = bias_act(w * scale[None, :, None, None], bias, 1, "swish")
        lengths = path_lengths(images, w)
        return (
            zero_centred(judge(x, scale), x)
            + gradient_penalty(lambda y: judge(y, scale), X, Y)
            + lengths.square().mean()
        )

    scale = torch.tensor([0.8, -1.3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalties, (scale,), rtol=1e-5, atol=1e-7)
