"""The oracle against the definitions of the activations, number by number, and its derivatives by differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from fastgen.kernels.bias_act import ACTIVATIONS, bias_act_reference

LAMBDA, ALPHA = 1.0507009873554805, 1.6732632423543772

WRITTEN_OUT: dict[str, tuple[Callable[[float], float], float]] = {
    "linear": (lambda v: v, 1.0),
    "relu": (lambda v: max(v, 0.0), math.sqrt(2)),
    "lrelu": (lambda v: v if v > 0 else 0.2 * v, math.sqrt(2)),
    "tanh": (math.tanh, 1.0),
    "sigmoid": (lambda v: 1 / (1 + math.exp(-v)), 1.0),
    "elu": (lambda v: v if v > 0 else math.expm1(v), 1.0),
    "selu": (lambda v: LAMBDA * (v if v > 0 else ALPHA * math.expm1(v)), 1.0),
    "softplus": (lambda v: math.log1p(math.exp(v)) if v < 30 else v, 1.0),
    "swish": (lambda v: v / (1 + math.exp(-v)), math.sqrt(2)),
}


def test_every_activation_is_written_out() -> None:
    assert set(WRITTEN_OUT) == set(ACTIVATIONS)


@pytest.mark.parametrize("act", WRITTEN_OUT)
def test_definition(act: str) -> None:
    function, gain = WRITTEN_OUT[act]
    x = torch.linspace(-9, 12, 84, dtype=torch.float64).reshape(2, 3, 14)
    b = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64)
    got = bias_act_reference(x, b, act=act)
    halved = bias_act_reference(x, b, act=act, gain=0.5, clamp=0.75)
    for n, c, i in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        value = function(float(x[n, c, i] + b[c]))
        assert math.isclose(got[n, c, i], gain * value, rel_tol=1e-12, abs_tol=1e-14)
        assert math.isclose(halved[n, c, i], max(-0.75, min(0.5 * value, 0.75)), rel_tol=1e-12, abs_tol=1e-14)


def test_slope_dimension_scale_and_noise() -> None:
    x = torch.randn(4, 3, 5, 2, dtype=torch.float64)
    for dim in range(-4, 4):
        b = torch.randn(x.shape[dim], dtype=torch.float64)
        moved = (x.movedim(dim, -1) + b).movedim(-1, dim)
        wanted = torch.where(moved > 0, moved, -0.5 * moved)
        torch.testing.assert_close(bias_act_reference(x, b, dim, "lrelu", alpha=-0.5, gain=1), wanted)
    scale, noise = torch.randn(4, 3, dtype=torch.float64), torch.randn(1, 1, 5, 2, dtype=torch.float64)
    wanted = torch.tanh(torch.einsum("ncij,nc->ncij", x, scale) + noise)
    torch.testing.assert_close(bias_act_reference(x, act="tanh", scale=scale, noise=noise), wanted)


@pytest.mark.parametrize("clamp", [None, 0.6])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives(act: str, clamp: float | None) -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def of(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act_reference(x, b, act=act, clamp=clamp)

    assert torch.autograd.gradcheck(of, (x, b))
    assert torch.autograd.gradgradcheck(of, (x, b))


def test_no_gradient_on_the_bounds() -> None:
    x = torch.tensor([-2.0, -1.0, 0.5, 1.0, 2.0], requires_grad=True)
    bias_act_reference(x, clamp=1.0).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0, 1, 0, 0]
