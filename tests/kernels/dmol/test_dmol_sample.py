"""Draws follow the log-probability, on the grid, as a pure function of the uniforms."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen.functional import dmol_log_prob, dmol_sample
from fastgen.kernels.dmol.reference import blocks_per_mixture

Make = Callable[..., tuple[Tensor, Tensor]]


def to_levels(signal: Tensor, bits: int) -> Tensor:
    half = (2**bits - 1) / 2
    levels = signal.double() * half + half
    assert (levels - levels.round()).abs().max() < 1e-4, "off the grid"
    return levels.round().long()


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("log_scale", [-7.0, -2.0, 1.0])
def test_one_channel_inverts_the_distribution(bits: int, log_scale: float) -> None:
    # uniforms in the middle of n equal cells: a level's share of draws is its probability to within 1/n
    n = 50_000
    params = torch.tensor([0.3, 0.2, log_scale], dtype=torch.float64).view(1, 3, 1)
    uniforms = torch.full((1, 2, n), 0.5, dtype=torch.float64)
    uniforms[0, 1] = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    drawn = dmol_sample(params.expand(1, 3, n), uniforms, channels=1, bits=bits)
    assert (drawn.diff() >= 0).all()  # a quantile function
    share = torch.bincount(to_levels(drawn, bits).flatten(), minlength=2**bits) / n
    every = torch.arange(2**bits, dtype=torch.uint8).view(1, 1, 1, -1)
    probability = dmol_log_prob(every, params[..., None].expand(1, 3, 1, 2**bits), bits=bits).exp().flatten()
    assert (share - probability).abs().max() < 1 / n + 2e-5 + 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("channels", "bits"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_mixtures_of_channels_follow_the_log_probability(channels: int, bits: int, dtype: torch.dtype) -> None:
    n = 100_000
    pixels = torch.tensor(list(itertools.product(range(2**bits), repeat=channels)), dtype=torch.uint8)
    params = torch.randn(1, 3 * blocks_per_mixture(channels), 1, 1, dtype=dtype) * 0.8
    log_prob = dmol_log_prob(pixels.T[None, :, None], params.expand(-1, -1, 1, len(pixels)), bits=bits)
    probability = log_prob.double().exp().flatten()
    drawn = dmol_sample(params[..., 0].expand(-1, -1, n), torch.rand(1, 1 + channels, n), channels=channels, bits=bits)
    weights = torch.tensor([(2**bits) ** (channels - 1 - c) for c in range(channels)])
    index = (to_levels(drawn, bits)[0] * weights[:, None]).sum(0)
    counts = torch.bincount(index, minlength=len(pixels)).double()
    expected = probability * n
    often = expected > 5
    chi_square = ((counts - expected)[often] ** 2 / expected[often]).sum()
    freedom = int(often.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 2
    assert counts[~often].sum() < expected[~often].sum() + 30


def test_mixture_by_inverse_distribution() -> None:
    weights = torch.tensor([0.1, 0.0, 0.6, 0.3, 0.0])
    blocks = torch.stack([weights.log().clamp(min=-1e4), torch.linspace(-0.8, 0.8, 5), torch.full((5,), -7.0)])
    u = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 2**-24])
    uniforms = torch.stack([u, torch.full_like(u, 0.5)])[None]
    drawn = dmol_sample(blocks.view(1, 15, 1).expand(-1, -1, 6), uniforms, channels=1, snap=False)
    wanted = blocks[1][[0, 0, 2, 2, 3, 3]]
    torch.testing.assert_close(drawn.flatten(), wanted, rtol=0, atol=1e-5)


def test_a_mixture_without_weight_is_never_drawn() -> None:
    # the weights' sum in float32 may fall short of the largest uniform
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        logits = torch.cat([torch.randn(1, 9, generator=generator), torch.full((1, 1), -1e4)], 1)
        means = torch.tensor([[0.0] * 9 + [1.0]])
        params = torch.cat([logits, means, torch.full((1, 10), -7.0)], 1)
        assert dmol_sample(params, torch.tensor([[1 - 2**-24, 0.5]]), channels=1) < 0.5


def test_temperature_zero_is_the_mode(make: Make) -> None:
    _, params = make(3, 4, spread=0.5)
    drawn = dmol_sample(params, torch.rand(2, 4, 5, 7), channels=3, temperature=0.0, snap=False)
    blocks = params.unflatten(1, (10, 4))
    best = blocks[:, 0].argmax(1)[:, None, None].expand(-1, 10, 1, -1, -1)
    _, m0, _, c0, m1, _, c1, m2, _, c2 = blocks.gather(2, best).squeeze(2).unbind(1)
    x0 = m0.clamp(-1, 1)
    x1 = (m1 + c0.tanh() * x0).clamp(-1, 1)
    x2 = (m2 + c1.tanh() * x0 + c2.tanh() * x1).clamp(-1, 1)
    torch.testing.assert_close(drawn, torch.stack([x0, x1, x2], 1), rtol=0, atol=1e-6)


def test_temperature_divides_logits_and_multiplies_scales(make: Make) -> None:
    _, params = make(3, 4)
    uniforms = torch.rand(2, 4, 5, 7)
    colder = params.clone().unflatten(1, (10, 4))
    colder[:, 0] /= 0.6
    colder[:, [2, 5, 8]] += math.log(0.6)
    wanted = dmol_sample(colder.flatten(1, 2), uniforms, channels=3, snap=False)
    got = dmol_sample(params, uniforms, channels=3, temperature=0.6, snap=False)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)


def test_snap_rounds_before_the_next_channel(make: Make) -> None:
    _, params = make(3, 1, bits=2, spread=0.5)
    uniforms = torch.rand(2, 4, 5, 7)
    snapped = dmol_sample(params, uniforms, channels=3, bits=2)
    smooth = dmol_sample(params, uniforms, channels=3, bits=2, snap=False)
    half = 1.5

    def nearest(x: Tensor) -> Tensor:
        return ((x * half + half).round().clamp(0, 3) - half) / half

    # what the second channel gains from the first's rounding is the coefficient times it
    shift = params[:, 3].tanh() * (snapped[:, 0] - smooth[:, 0])
    inside = smooth[:, 1].abs() < 1
    torch.testing.assert_close(snapped[:, 0], nearest(smooth[:, 0]), rtol=0, atol=1e-6)
    second = nearest(smooth[:, 1] + shift)
    assert (snapped[:, 1] - second)[inside].abs().lt(1e-5).float().mean() > 0.97
    assert smooth.abs().max() <= 1 and (smooth - nearest(smooth)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_spatial_forms_agree(make: Make, channels: int, dtype: torch.dtype) -> None:
    _, params = make(channels, 3, dtype=dtype)
    uniforms = torch.rand(2, 1 + channels, 5, 7)
    image = dmol_sample(params, uniforms, channels=channels)
    assert image.dtype == dtype and image.shape == (2, channels, 5, 7)
    row = dmol_sample(params[:, :, 2], uniforms[:, :, 2], channels=channels)
    pixel = dmol_sample(params[:, :, 2, 3], uniforms[:, :, 2, 3], channels=channels)
    assert torch.equal(row, image[:, :, 2]) and torch.equal(pixel, image[:, :, 2, 3])
    last = params.contiguous(memory_format=torch.channels_last)
    assert torch.equal(dmol_sample(last, uniforms, channels=channels), image)


def test_pure_and_without_gradient(make: Make) -> None:
    _, params = make()
    params.requires_grad_()
    uniforms = torch.rand(2, 4, 5, 7)
    kept = params.detach().clone(), uniforms.clone()
    first = dmol_sample(params, uniforms, channels=3)
    torch.manual_seed(1)
    with torch.inference_mode():
        second = dmol_sample(params, uniforms, channels=3)
    assert torch.equal(first, second) and not first.requires_grad
    assert torch.equal(params, kept[0]) and torch.equal(uniforms, kept[1])


def test_saturated_parameters_stay_on_the_grid() -> None:
    for value in (-1e4, -1000.0, 100.0, 1e4):
        params = torch.full((8, 30), value)
        uniforms = torch.linspace(0, 1 - 2**-24, 8)[:, None].expand(8, 4)
        drawn = dmol_sample(params, uniforms, channels=3)
        assert drawn.isfinite().all() and drawn.abs().max() <= 1
        to_levels(drawn, 8)


def test_the_op_is_what_the_function_does(make: Make) -> None:
    _, params = make()
    uniforms = torch.rand(2, 4, 5, 7)
    arguments = (params, uniforms, 3, 8, 0.8, True, "auto")
    torch.library.opcheck(torch.ops.fastgen.dmol_sample.default, arguments)
    expected = dmol_sample(params, uniforms, channels=3, temperature=0.8)
    assert torch.equal(torch.ops.fastgen.dmol_sample(*arguments), expected)
    compiled = torch.compile(
        lambda p, u: dmol_sample(p, u, channels=3, temperature=0.8), fullgraph=True, backend="aot_eager"
    )
    assert torch.equal(compiled(params, uniforms), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": torch.zeros(2, 19)}, r"a multiple of 10 for C = 3; got \[2, 19\]"),
        ({"uniforms": torch.zeros(2, 3)}, r"uniforms must be \[N, 1 \+ C, \*spatial\].*got \[2, 3\] and \[2, 20\]"),
        ({"uniforms": torch.zeros(2, 4, 1)}, r"got \[2, 4, 1\]"),
        ({"temperature": -0.1}, "temperature must be finite and at least 0, one number"),
        ({"temperature": math.nan}, "temperature must be finite"),
        ({"bits": 0}, r"bits must be an integer in 1\.\.16; got 0"),
        ({"channels": 0}, "at least one channel"),
        ({"impl": "fast"}, "impl must be one of"),
    ],
)
def test_misuse(change: dict[str, object], message: str) -> None:
    arguments = {"params": torch.zeros(2, 20), "uniforms": torch.zeros(2, 4), "channels": 3} | change
    with pytest.raises(ValueError, match=message):
        dmol_sample(**arguments)  # type: ignore[arg-type]


def test_a_temperature_for_each_channel() -> None:
    """The mixture is drawn at their mean, and every channel's noise is scaled by its own."""
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(64, 40, generator=generator, dtype=torch.float64)
    uniforms = torch.rand(64, 4, generator=generator)
    options = {"channels": 3, "snap": False}
    mixed = dmol_sample(params, uniforms, temperature=(0.5, 1.0, 1.5), **options)
    same_mixture = dmol_sample(params, uniforms, temperature=1.0, **options)
    still = uniforms.clone()
    still[:, 1:] = 0.5  # no noise
    means = dmol_sample(params, still, temperature=1.0, **options)
    inside = (torch.stack((mixed, same_mixture, means)).abs() < 1).all(0)
    first = inside[:, 0]
    assert first.sum() > 20
    torch.testing.assert_close((mixed - means)[first, 0], 0.5 * (same_mixture - means)[first, 0])
    assert torch.equal(
        dmol_sample(params, uniforms, temperature=(0.7,) * 3, **options),
        dmol_sample(params, uniforms, temperature=0.7, **options),
    )
    with pytest.raises(ValueError, match="one for each of 3 channels"):
        dmol_sample(params, uniforms, temperature=(1.0, 1.0), **options)
    with pytest.raises(ValueError, match="takes one temperature"):
        dmol_sample(params, uniforms, temperature=(1.0, 1.0, 0.5), impl="triton", **options)
