"""The oracle: its formula, its derivatives of any order, and the mask that is a function of seed and place."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen.kernels._common.philox import philox4x32
from fastgen.kernels.gated_activation import concat_elu_reference, gated_activation_reference
from fastgen.kernels.gated_activation.reference import keep_mask, keep_threshold

Make = Callable[..., dict[str, Tensor]]


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("kind", ["tanh", "linear"])
def test_gate_is_its_formula(make: Make, kind: str, per_image: bool) -> None:
    inputs = make(6, bias=1 + per_image, residual=True, dtype=torch.float64)
    x, bias, residual = inputs["x"], inputs["bias"], inputs["residual"]
    got = gated_activation_reference(x, kind=kind, bias=bias, residual=residual)
    for n in range(2):
        for c in range(3):
            offsets = bias[n] if per_image else bias
            a, b = x[n, c] + offsets[c], x[n, 3 + c] + offsets[3 + c]
            first = (a.exp() - (-a).exp()) / (a.exp() + (-a).exp()) if kind == "tanh" else a
            torch.testing.assert_close(got[n, c], first / (1 + (-b).exp()) + residual[n, c])


def test_elu_is_its_formula(make: Make) -> None:
    inputs = make(3, bias=1, dtype=torch.float64)
    x = inputs["x"] + inputs["bias"][:, None, None]
    got = concat_elu_reference(**inputs)
    torch.testing.assert_close(got[:, :3], torch.where(x > 0, x, x.exp() - 1))
    torch.testing.assert_close(got[:, 3:], torch.where(x < 0, -x, (-x).exp() - 1))


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("kind", ["tanh", "linear", "elu"])
def test_derivatives(make: Make, kind: str, dropout: float) -> None:
    inputs = {name: value.requires_grad_() for name, value in make(2, (2,), bias=2, dtype=torch.float64).items()}
    names = list(inputs)

    def function(*values: Tensor) -> Tensor:
        given = dict(zip(names, values))
        if kind == "elu":
            return concat_elu_reference(**given, dropout=dropout, seed=3)
        return gated_activation_reference(**given, kind=kind, dropout=dropout, seed=3)

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))
    assert torch.autograd.gradgradcheck(function, tuple(inputs.values()))


def test_an_element_is_dropped_by_its_own_word() -> None:
    seed, dropout, shape = 2**63 + 11, 0.3, torch.Size((3, 6, 2, 5))
    for half in (0, 1):
        keep = keep_mask(seed, dropout, shape, torch.device("cpu"), half)
        for n, c, y, x in ((0, 0, 0, 0), (2, 5, 1, 4), (1, 3, 0, 2), (1, 4, 1, 0)):
            word = philox4x32(seed, y * 5 + x, c // 4, n, half)[c % 4]
            assert bool(keep[n, c, y, x]) == (int(word) >= round(0.3 * 2**32))


def test_a_mask_does_not_depend_on_the_batch() -> None:
    device = torch.device("cpu")
    whole = keep_mask(7, 0.5, torch.Size((4, 5, 3, 3)), device)
    assert torch.equal(whole[:2], keep_mask(7, 0.5, torch.Size((2, 5, 3, 3)), device))
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, keep_mask(8, 0.5, torch.Size((4, 5, 3, 3)), device))


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_for(dropout: float) -> None:
    n = 64 * 32 * 32
    keep = keep_mask(0, dropout, torch.Size((1, 64, 32, 32)), torch.device("cpu"))
    deviation = (dropout * (1 - dropout) / n) ** 0.5
    assert abs(float((~keep).double().mean()) - dropout) < 4 * deviation
    # neighbours, and the four channels of one counter, do not know of each other
    for a, b in ((keep[:, 1:], keep[:, :-1]), (keep[..., 1:], keep[..., :-1]), (keep[:, ::4], keep[:, 2::4])):
        both = (a.double() - (1 - dropout)) * (b.double() - (1 - dropout))
        assert abs(float(both.mean())) < 5 * dropout * (1 - dropout) / a.numel() ** 0.5


def test_the_mean_stays(make: Make) -> None:
    x = make(64, (16, 16), dtype=torch.float64)["x"].abs() + 1
    plain = gated_activation_reference(x, kind="linear")
    dropped = gated_activation_reference(x, kind="linear", dropout=0.25, seed=1)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], plain[kept] / 0.75)
    assert abs(float(dropped.mean() / plain.mean()) - 1) < 0.03


def test_the_threshold_is_the_probability() -> None:
    assert keep_threshold(0.5) == 2**31 and keep_threshold(0.0) == 0 and keep_threshold(1 - 2**-60) == 2**32 - 1
