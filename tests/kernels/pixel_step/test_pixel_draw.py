"""A draw of a pixel: the oracle against the likelihoods, the kernel against the oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.functional import pixel_draw
from fastgen.kernels.pixel_step import pixel_draw_reference
from fastgen.likelihoods import Bernoulli, Categorical, DiscretizedLogisticMixture, Likelihood

LIKELIHOODS: dict[str, tuple[Likelihood, str]] = {
    "mixture of three": (DiscretizedLogisticMixture(3, 5), "mixture"),
    "mixture of one": (DiscretizedLogisticMixture(1, 3, 4), "mixture"),
    "mixture of two at 16 bits": (DiscretizedLogisticMixture(2, 2, 16), "mixture"),
    "one mixture": (DiscretizedLogisticMixture(4, 1), "mixture"),
    "categorical": (Categorical(2, 5), "categorical"),
    "256 levels": (Categorical(1, 256), "categorical"),
    "bernoulli": (Bernoulli(3), "bernoulli"),
}
TEMPERATURES = {"1": (1.0,), "0": (0.0,), "each": (0.7, 1.3, 0.4, 1.1)}


@pytest.fixture(params=LIKELIHOODS)
def case(request: pytest.FixtureRequest) -> tuple[Likelihood, str]:
    return LIKELIHOODS[request.param]


def operands(likelihood: Likelihood, n: int, temperature: tuple[float, ...]) -> dict[str, Tensor]:
    """Parameters in float64, uniforms, nothing kept, and a temperature for each channel."""
    each = torch.tensor((temperature * likelihood.channels)[: likelihood.channels], dtype=torch.float64)
    return {
        "params": torch.randn(n, likelihood.n_params, dtype=torch.float64) * 2,
        "uniforms": torch.rand(n, likelihood.n_draws),
        "kept": torch.full((n, likelihood.channels), torch.nan, dtype=torch.float64),
        "temperature": torch.cat((each.mean()[None], each)),
    }


def drawn(function: Any, given: dict[str, Tensor], kind: str, levels: int, **options: Any) -> Tensor:
    out = torch.full_like(given["kept"], torch.nan)
    function(**given, out=out, kind=kind, levels=levels, **options)
    return out


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_oracle_draws_what_the_likelihood_draws(case: tuple[Likelihood, str], temperature: str) -> None:
    likelihood, kind = case
    given = operands(likelihood, 50, TEMPERATURES[temperature])
    found = drawn(pixel_draw_reference, given, kind, likelihood.levels)
    each = given["temperature"][1:].tolist()
    if likelihood.coupled:
        wanted = likelihood.sample(given["params"], given["uniforms"], temperature=tuple(each))  # type: ignore[arg-type]
    else:
        channels = (likelihood.channel(c) for c in range(likelihood.channels))
        wanted = torch.cat(
            [
                one.sample(given["params"][:, part], given["uniforms"][:, draws], temperature=t)
                for (one, part, draws), t in zip(channels, each)
            ],
            1,
        )
    assert found.std() > 0
    torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_kernel(case: tuple[Likelihood, str], temperature: str, kernel_device: str) -> None:
    """The level of the oracle, where a change in the sixth digit of the parameters does not change that."""
    likelihood, kind = case
    given = operands(likelihood, 67, TEMPERATURES[temperature])
    wanted = drawn(pixel_draw_reference, given, kind, likelihood.levels)
    sure = torch.ones_like(wanted, dtype=torch.bool)
    for _ in range(8):
        noise = 1 + 2e-6 * (2 * torch.rand_like(given["params"]) - 1)
        sure &= (
            drawn(pixel_draw_reference, {**given, "params": given["params"] * noise}, kind, likelihood.levels) == wanted
        )
    assert sure.float().mean() > (0.5 if likelihood.levels > 256 else 0.9)
    moved = {k: v.to(kernel_device, torch.float32 if k in ("params", "kept") else v.dtype) for k, v in given.items()}
    found = drawn(pixel_draw, moved, kind, likelihood.levels, impl="triton").cpu()
    assert torch.equal(found[sure], wanted.float()[sure])
    assert (found - wanted).abs().median() <= 2 / (likelihood.levels - 1)


def test_what_is_kept(case: tuple[Likelihood, str], kernel_device: str) -> None:
    likelihood, kind = case
    given = operands(likelihood, 30, (1.0,))
    free = drawn(pixel_draw_reference, given, kind, likelihood.levels)
    keep = torch.rand_like(free) < 0.5
    given["kept"] = torch.where(keep, 2 * torch.rand_like(free) - 1, torch.nan)
    found = drawn(pixel_draw_reference, given, kind, likelihood.levels)
    assert torch.equal(found[keep], given["kept"][keep])
    assert torch.equal(found[~keep], free[~keep])
    moved = {k: v.to(kernel_device, torch.float32 if k in ("params", "kept") else v.dtype) for k, v in given.items()}
    again = drawn(pixel_draw, moved, kind, likelihood.levels, impl="triton").cpu()
    assert torch.equal(again[keep], given["kept"].float()[keep])


def test_a_channel_of_several(kernel_device: str) -> None:
    """`first` says which temperature is a channel's."""
    given = operands(Categorical(1, 4), 20, (1.0,))
    given["temperature"] = torch.tensor([0.5, 1.0, 0.0], dtype=torch.float64)
    mode = (given["params"].argmax(1, keepdim=True).double() - 1.5) / 1.5
    assert torch.equal(drawn(pixel_draw_reference, given, "categorical", 4, first=1), mode)
    assert not torch.equal(drawn(pixel_draw_reference, given, "categorical", 4, first=0), mode)
    moved = {k: v.to(kernel_device, torch.float32 if k in ("params", "kept") else v.dtype) for k, v in given.items()}
    assert torch.equal(drawn(pixel_draw, moved, "categorical", 4, first=1, impl="triton").cpu(), mode.float())


def test_a_level_of_weight_0_is_never_drawn(kernel_device: str) -> None:
    given = operands(Categorical(1, 4), 3, (1.0,))
    given["params"] = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0]] * 3, dtype=torch.float64)
    given["uniforms"] = torch.tensor([[0.0], [0.5], [1 - 2**-24]])
    moved = {k: v.to(kernel_device, torch.float32 if k in ("params", "kept") else v.dtype) for k, v in given.items()}
    for found in (
        drawn(pixel_draw_reference, given, "categorical", 4),
        drawn(pixel_draw, moved, "categorical", 4, impl="triton").cpu(),
    ):
        assert ((found[:, 0] + 1) * 1.5).round().tolist() == [1, 3, 3]


def test_misuse() -> None:
    given = operands(Categorical(2, 4), 3, (1.0,))
    with pytest.raises(ValueError, match="kind must be one of 'mixture', 'categorical', 'bernoulli'; got 'gaussian'"):
        drawn(pixel_draw, given, "gaussian", 4)
    with pytest.raises(ValueError, match=r"params must be \[3, P\] for 2 channels of 5 levels as a categorical"):
        drawn(pixel_draw, given, "categorical", 5)
    with pytest.raises(ValueError, match=r"uniforms must be \[3, 2\]"):
        drawn(pixel_draw, {**given, "uniforms": torch.rand(3, 3)}, "categorical", 4)
    with pytest.raises(TypeError, match=r"uniforms must be float32 and temperature float64; got torch\.float64"):
        drawn(pixel_draw, {**given, "uniforms": torch.rand(3, 2).double()}, "categorical", 4)
    with pytest.raises(RuntimeError, match="computes in float32"):
        drawn(pixel_draw, given, "categorical", 4, impl="triton")
