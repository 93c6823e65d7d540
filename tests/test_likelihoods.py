"""Likelihoods: probabilities sum to one, draws follow them, channels are what `channel` says, errors say what to do."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch import Tensor

from fastgen.functional import dmol_log_prob
from fastgen.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogisticMixture,
    Gaussian,
    Likelihood,
    levels_to_signal,
    likelihood_from_config,
    signal_to_levels,
)

ALL: list[Likelihood] = [
    DiscretizedLogisticMixture(channels=3, n_mix=4, bits=2),
    DiscretizedLogisticMixture(channels=1, n_mix=3, bits=3, tails="pixelcnn++"),
    Categorical(2, levels=5),
    Bernoulli(3),
    Gaussian(2, levels=4),
    Gaussian(3, std=0.1, levels=16),
]
DISCRETE = [likelihood for likelihood in ALL if not isinstance(likelihood, Gaussian)]
UNCOUPLED = [likelihood for likelihood in ALL if not likelihood.coupled]
DTYPES = [torch.float32, torch.float64]


def name_of(likelihood: Likelihood) -> str:
    return f"{type(likelihood).__name__}-{likelihood.channels}"


@pytest.mark.parametrize("levels", [2, 5, 32, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_levels_and_signal_are_inverse(levels: int, dtype: torch.dtype) -> None:
    x = torch.arange(levels, dtype=torch.uint8)
    signal = levels_to_signal(x, levels, dtype)
    assert signal.dtype == dtype and signal[0] == -1 and signal[-1] == 1
    assert torch.equal(signal_to_levels(signal, levels), x)
    exact = 2 * x.double() / (levels - 1) - 1
    assert (signal.double() - exact).abs().max() <= torch.finfo(dtype).eps / 2


def test_signal_to_levels_rounds_and_clamps() -> None:
    x = torch.tensor([-3.0, -1.0, -0.5, 0.1, 0.4, 1.0, 7.0])
    assert signal_to_levels(x, 4).tolist() == [0, 0, 1, 2, 2, 3, 3]


def every_pixel(likelihood: Likelihood) -> Tensor:
    """All values of a pixel, side by side: uint8 [1, C, 1, L^C]."""
    pixels = itertools.product(range(likelihood.levels), repeat=likelihood.channels)
    return torch.tensor(list(pixels), dtype=torch.uint8).T[None, :, None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", DISCRETE, ids=name_of)
def test_probabilities_sum_to_one_and_draws_follow_them(likelihood: Likelihood, dtype: torch.dtype) -> None:
    x = every_pixel(likelihood)
    params = torch.randn(1, likelihood.n_params, 1, 1, dtype=dtype) * 0.7
    log_prob = likelihood.log_prob(x, params.expand(-1, -1, 1, x.shape[3]))
    assert log_prob.dtype == dtype and log_prob.shape == (1, 1, x.shape[3])
    probability = log_prob.double().exp().flatten()
    assert abs(float(probability.sum()) - 1) < (1e-5 if dtype == torch.float32 else 1e-9)

    n = 100_000
    drawn = likelihood.sample(params[..., 0].expand(-1, -1, n), torch.rand(1, likelihood.n_draws, n))
    assert drawn.dtype == dtype and drawn.shape == (1, likelihood.channels, n)
    levels = signal_to_levels(drawn, likelihood.levels)
    assert torch.equal(levels_to_signal(levels, likelihood.levels, dtype), drawn)  # on the grid, bit for bit
    weights = torch.tensor([likelihood.levels ** (likelihood.channels - 1 - c) for c in range(likelihood.channels)])
    counts = torch.bincount((levels[0].long() * weights[:, None]).sum(0), minlength=x.shape[3]).double()
    expected = probability * n
    often = expected > 5
    chi_square = float(((counts - expected)[often] ** 2 / expected[often]).sum())
    freedom = int(often.sum()) - 1
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaussian_density(dtype: torch.dtype) -> None:
    mean, log_std = torch.tensor([0.2, -0.1], dtype=dtype), torch.tensor([-1.5, -2.0], dtype=dtype)
    x = torch.linspace(-1, 1, 41, dtype=dtype)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"))[None]
    params = torch.cat([mean, log_std]).view(1, 4, 1, 1).expand(1, 4, 41, 41)
    wanted = torch.distributions.Normal(mean.view(2, 1, 1), log_std.exp().view(2, 1, 1)).log_prob(grid).sum(1)
    torch.testing.assert_close(Gaussian(2).log_prob(grid, params), wanted)
    fixed = Gaussian(2, std=0.3).log_prob(grid, params[:, :2])
    wanted = torch.distributions.Normal(mean.view(2, 1, 1), 0.3).log_prob(grid).sum(1)
    torch.testing.assert_close(fixed, wanted)
    levels = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    corner = Gaussian(2).log_prob(levels, params[:, :, :1, :1])
    torch.testing.assert_close(corner, Gaussian(2).log_prob(grid[:, :, :1, -1:], params[:, :, :1, :1]))


def test_gaussian_draws() -> None:
    n = 40_000
    likelihood = Gaussian(1)
    params = torch.tensor([0.1, math.log(0.2)]).view(1, 2, 1).expand(1, 2, n)
    middle = ((torch.arange(n) + 0.5) / n).view(1, 1, n)
    drawn = likelihood.sample(params, middle)
    assert abs(float(drawn.mean()) - 0.1) < 1e-3 and abs(float(drawn.std()) - 0.2) < 1e-3
    assert (drawn.diff() >= 0).all() and drawn.abs().max() <= 1
    warm = likelihood.sample(params, middle, temperature=0.5)
    assert abs(float(warm.std()) - 0.1) < 1e-3
    ends = likelihood.sample(params[..., :2], torch.tensor([0.0, 1 - 2**-24]).view(1, 1, 2))
    assert ends.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
def test_temperature_zero_is_the_mode(likelihood: Likelihood, dtype: torch.dtype) -> None:
    params = torch.randn(1, likelihood.n_params, dtype=dtype)
    drawn = likelihood.sample(params, torch.rand(1, likelihood.n_draws), temperature=0)
    assert torch.equal(drawn, likelihood.sample(params, torch.rand(1, likelihood.n_draws), temperature=0.0))
    if isinstance(likelihood, (Categorical, Bernoulli)):
        x = every_pixel(likelihood)
        best = likelihood.log_prob(x, params[..., None, None].expand(-1, -1, 1, x.shape[3])).argmax()
        assert torch.equal(signal_to_levels(drawn, likelihood.levels)[0], x[0, :, 0, best])


@pytest.mark.parametrize("likelihood", [Categorical(2, 6), Bernoulli(2)], ids=name_of)
def test_temperature_divides_logits(likelihood: Likelihood) -> None:
    params, uniforms = torch.randn(200, likelihood.n_params), torch.rand(200, likelihood.n_draws)
    got = likelihood.sample(params, uniforms, temperature=0.5)
    assert torch.equal(got, likelihood.sample(params * 2, uniforms))
    assert not torch.equal(got, likelihood.sample(params, uniforms))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
@pytest.mark.parametrize("spatial", [(), (3,), (4, 5)])
def test_spatial_forms_agree(likelihood: Likelihood, spatial: tuple[int, ...], dtype: torch.dtype) -> None:
    params = torch.randn(2, likelihood.n_params, 4, 5, dtype=dtype)
    uniforms = torch.rand(2, likelihood.n_draws, 4, 5)
    with torch.inference_mode():
        image = likelihood.sample(params, uniforms)
    at = {0: (..., 1, 2), 1: (..., slice(0, 3), 2), 2: (...,)}[len(spatial)]
    got = likelihood.sample(params[at], uniforms[at])
    assert got.shape == (2, likelihood.channels, *spatial) and torch.equal(got, image[at])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("likelihood", UNCOUPLED, ids=name_of)
def test_channels_one_by_one(likelihood: Likelihood, dtype: torch.dtype) -> None:
    params = torch.randn(3, likelihood.n_params, 4, 5, dtype=dtype)
    uniforms = torch.rand(3, likelihood.n_draws, 4, 5)
    x = torch.randint(0, likelihood.levels, (3, likelihood.channels, 4, 5), dtype=torch.uint8)
    whole = likelihood.sample(params, uniforms, temperature=0.8)
    used = torch.zeros(likelihood.n_params, dtype=torch.int64)
    total = torch.zeros(3, 4, 5, dtype=dtype)
    for c in range(likelihood.channels):
        one, of_params, of_uniforms = likelihood.channel(c)
        assert one.channels == 1 and one.levels == likelihood.levels
        assert params[:, of_params].shape[1] == one.n_params and uniforms[:, of_uniforms].shape[1] == one.n_draws
        drawn = one.sample(params[:, of_params], uniforms[:, of_uniforms], temperature=0.8)
        assert torch.equal(drawn, whole[:, c : c + 1])
        total += one.log_prob(x[:, c : c + 1], params[:, of_params])
        used[of_params] += 1
    assert (used == 1).all()
    torch.testing.assert_close(total, likelihood.log_prob(x, params))


def test_coupled_channels_cannot_be_taken_apart() -> None:
    likelihood = DiscretizedLogisticMixture()
    assert likelihood.coupled and not Categorical(3).coupled
    with pytest.raises(ValueError, match="drawn together"):
        likelihood.channel(0)


@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
def test_config_survives_json(likelihood: Likelihood) -> None:
    again = likelihood_from_config(json.loads(json.dumps(likelihood.config)))
    assert again == likelihood and hash(again) == hash(likelihood) and again.config == likelihood.config


def test_immutable() -> None:
    with pytest.raises(AttributeError):
        Categorical(3).channels = 1  # type: ignore[misc]


def test_sizes() -> None:
    assert [
        (likelihood.n_params, likelihood.n_draws, likelihood.levels)
        for likelihood in (
            DiscretizedLogisticMixture(),
            DiscretizedLogisticMixture(1, 10, 5),
            DiscretizedLogisticMixture(4, 2),
            Categorical(3),
            Bernoulli(1),
            Gaussian(3),
            Gaussian(3, std=1.0),
        )
    ] == [(100, 4, 256), (30, 2, 32), (30, 5, 256), (768, 3, 256), (1, 1, 2), (6, 3, 256), (3, 3, 256)]


def test_mixture_is_the_op() -> None:
    likelihood = DiscretizedLogisticMixture(3, 2, bits=5, tails="pixelcnn++")
    x = torch.randint(0, 32, (2, 3, 4, 4), dtype=torch.uint8)
    params = torch.randn(2, 20, 4, 4)
    assert torch.equal(likelihood.log_prob(x, params), dmol_log_prob(x, params, bits=5, tails="pixelcnn++"))


@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
def test_float_signal_is_the_same_as_levels(likelihood: Likelihood) -> None:
    x = torch.randint(0, likelihood.levels, (2, likelihood.channels, 3, 3), dtype=torch.uint8)
    params = torch.randn(2, likelihood.n_params, 3, 3)
    signal = levels_to_signal(x, likelihood.levels, torch.float32)
    torch.testing.assert_close(likelihood.log_prob(signal, params), likelihood.log_prob(x, params))


@pytest.mark.parametrize("likelihood", [likelihood for likelihood in ALL if not likelihood.coupled], ids=name_of)
def test_gradients(likelihood: Likelihood) -> None:
    x = torch.randint(0, likelihood.levels, (3, likelihood.channels, 2, 2), dtype=torch.uint8)
    params = torch.randn(3, likelihood.n_params, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: likelihood.log_prob(x, p), params)


@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
def test_half_precision_params(likelihood: Likelihood) -> None:
    x = torch.randint(0, likelihood.levels, (2, likelihood.channels, 3, 3), dtype=torch.uint8)
    params = torch.randn(2, likelihood.n_params, 3, 3).bfloat16().requires_grad_()
    log_prob = likelihood.log_prob(x, params)
    torch.testing.assert_close(log_prob, likelihood.log_prob(x, params.float()))
    log_prob.sum().backward()
    assert params.grad is not None and params.grad.dtype == torch.bfloat16 and params.grad.isfinite().all()
    drawn = likelihood.sample(params.detach(), torch.rand(2, likelihood.n_draws, 3, 3))
    assert drawn.dtype == torch.bfloat16


@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
@pytest.mark.parametrize("value", [-1e4, 1e4])
def test_saturated_parameters(likelihood: Likelihood, value: float) -> None:
    x = torch.zeros(1, likelihood.channels, 1, 2, dtype=torch.uint8)
    x[..., 1] = likelihood.levels - 1
    params = torch.full((1, likelihood.n_params, 1, 2), value, requires_grad=True)
    log_prob = likelihood.log_prob(x, params)
    log_prob.sum().backward()
    assert log_prob.isfinite().all() and params.grad is not None and params.grad.isfinite().all()
    drawn = likelihood.sample(params.detach(), torch.full((1, likelihood.n_draws, 1, 2), 0.5))
    assert drawn.isfinite().all() and drawn.abs().max() <= 1


def test_categorical_gradient_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import fastgen.likelihoods

    x = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    params = torch.randn(5, 768, 4, 4, requires_grad=True)
    logits = params.unflatten(1, (3, 256)).transpose(1, 2)
    wanted = -torch.nn.functional.cross_entropy(logits, x.long(), reduction="none").sum(1)
    weight = torch.rand(5, 4, 4)
    (wanted_gradient,) = torch.autograd.grad((wanted * weight).sum(), params)
    for step in (1, 2):
        monkeypatch.setattr(
            fastgen.likelihoods,
            "_image_slices",
            lambda logits: [slice(i, i + step) for i in range(0, len(logits), step)],  # noqa: B023
        )
        got = Categorical(3).log_prob(x, params)
        (gradient,) = torch.autograd.grad((got * weight).sum(), params)
        torch.testing.assert_close(got, wanted)
        torch.testing.assert_close(gradient, wanted_gradient)
    monkeypatch.undo()
    compiled = torch.compile(lambda p: Categorical(3).log_prob(x, p), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(params), wanted)


def test_categorical_draws_only_levels_of_positive_probability() -> None:
    logits = torch.randn(500, 256)
    logits[:, -1] = -1e4
    drawn = Categorical(1).sample(logits, torch.full((500, 1), 1 - 2**-24))
    assert signal_to_levels(drawn, 256).max() < 255


@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
def test_misuse(likelihood: Likelihood) -> None:
    c, p, u = likelihood.channels, likelihood.n_params, likelihood.n_draws
    x = torch.zeros(2, c, 4, 4, dtype=torch.uint8)
    params, uniforms = torch.zeros(2, p, 4, 4), torch.zeros(2, u, 4, 4)
    with pytest.raises(ValueError, match=rf"x must be \[N, {c}, H, W\]; got \[2, {c + 1}, 4, 4\]"):
        likelihood.log_prob(torch.zeros(2, c + 1, 4, 4, dtype=torch.uint8), params)
    with pytest.raises(ValueError, match=rf"params must be \[2, {p}, 4, 4\]; got \[2, {p * 2}, 4, 4\]"):
        likelihood.log_prob(x, params.repeat(1, 2, 1, 1))
    with pytest.raises(ValueError, match="params must be"):
        likelihood.log_prob(x, params[..., :3])
    with pytest.raises(TypeError, match="x must be uint8 levels or float"):
        likelihood.log_prob(x.int(), params)
    with pytest.raises(TypeError, match="params must be floating point"):
        likelihood.log_prob(x, params.int())
    top = likelihood.levels
    with pytest.raises(ValueError, match=rf"levels (must be in )?0\.\.{top - 1}; got {top}"):
        likelihood.log_prob(x + top, params)
    for bad in (1.5, -1.01, math.nan):
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]; got"):
            likelihood.log_prob(torch.full((2, c, 4, 4), bad), params)
    with pytest.raises(ValueError, match="uniforms"):
        likelihood.sample(params, uniforms[:, :, :3])
    with pytest.raises(ValueError, match="params must be"):
        likelihood.sample(params.repeat(1, 2, 1, 1), uniforms)
    with pytest.raises(ValueError, match="temperature must be finite and at least 0"):
        likelihood.sample(params, uniforms, temperature=-1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DiscretizedLogisticMixture(bits=17), r"bits in 1\.\.16; got .*bits=17"),
        (lambda: DiscretizedLogisticMixture(n_mix=0), "at least 1"),
        (lambda: DiscretizedLogisticMixture(tails="exactly"), "did you mean exact"),
        (lambda: Categorical(3, levels=2**16 + 1), r"levels in 2\.\.65536"),
        (lambda: Bernoulli(0), "at least 1; got 0"),
        (lambda: Gaussian(std=0.0), "std positive"),
        (lambda: likelihood_from_config({"name": "Categoric"}), "did you mean Categorical"),
        (lambda: likelihood_from_config({"channels": 3}), "unknown likelihood"),
        (lambda: likelihood_from_config({"name": "Bernoulli", "levels": 3}), "options of Bernoulli do not fit"),
    ],
)
def test_misuse_of_constructors(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]


@pytest.mark.parametrize("likelihood", ALL, ids=name_of)
def test_a_signal_is_an_image_of_one_row(likelihood: Likelihood) -> None:
    x = torch.randint(0, likelihood.levels, (2, likelihood.channels, 1, 7), dtype=torch.uint8)
    params = torch.randn(2, likelihood.n_params, 1, 7, requires_grad=True)
    image = likelihood.log_prob(x, params)
    (gradient,) = torch.autograd.grad(image.sum(), params)
    signal = likelihood.log_prob(x[:, :, 0], params[:, :, 0])
    assert signal.shape == (2, 7)
    assert torch.equal(signal, image[:, 0])
    assert torch.equal(torch.autograd.grad(signal.sum(), params)[0], gradient)
    with pytest.raises(ValueError, match=rf"x must be \[N, {likelihood.channels}, T\]"):
        likelihood.log_prob(torch.zeros(2, likelihood.channels + 1, 7), params[:, :, 0])


@pytest.mark.parametrize("bits", [9, 12, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_more_than_eight_bits(bits: int, dtype: torch.dtype) -> None:
    """Bins of int32 levels and of their float signal sum to one, and draws are levels."""
    levels = 2**bits
    likelihood = DiscretizedLogisticMixture(1, n_mix=2, bits=bits)
    every = torch.arange(levels, dtype=torch.int32).view(1, 1, -1)
    signal = levels_to_signal(every, levels, torch.float32)
    assert torch.equal(signal_to_levels(signal, levels), every)
    params = torch.tensor([0.3, -0.2, 0.4, -0.97, -3.0, -6.5], dtype=dtype).view(1, 6, 1)
    wide = params.expand(-1, -1, levels).contiguous()
    for x in (every, signal):
        # float32 holds the bin of a mean at 0.97 to 6e-8 of 3e-5, of which 2^16 add up without a trend
        total = likelihood.log_prob(x, wide).double().exp().sum()
        assert abs(float(total) - 1) < 1e-5
    uniforms = torch.rand(1, 2, 4000, generator=torch.Generator().manual_seed(0))
    drawn = likelihood.sample(params.expand(-1, -1, 4000), uniforms)
    found = signal_to_levels(drawn, levels)
    assert found.dtype == torch.int32
    torch.testing.assert_close(levels_to_signal(found, levels, dtype), drawn, rtol=0, atol=1e-7)
    mass = likelihood.log_prob(every, wide).double().exp().view(8, -1).sum(1)  # eighths of the range
    counted = torch.bincount(found.flatten().long() // (levels // 8), minlength=8) / 4000
    torch.testing.assert_close(counted.double(), mass, rtol=0, atol=0.03)  # four standard deviations of 4000 draws
    for bad, message in ((levels, f"got {levels}"), (-1, "got -1")):
        with pytest.raises(ValueError, match=rf"0\.\.{levels - 1}; {message}"):
            likelihood.log_prob(torch.full_like(every, bad), wide)
    for integer in (torch.uint8, torch.int64):
        with pytest.raises(TypeError, match="int32 levels"):
            likelihood.log_prob(every.to(integer), wide)


def test_categories_of_a_large_codebook_are_int32() -> None:
    likelihood, params = Categorical(2, 300), torch.randn(3, 600, 2, 2, requires_grad=True)
    x = torch.randint(0, 300, (3, 2, 2, 2), dtype=torch.int32)
    got = likelihood.log_prob(x, params)
    logits = params.view(3, 2, 300, 2, 2).log_softmax(2)
    want = logits.gather(2, x.long().unsqueeze(2)).squeeze(2).sum(1)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), params, retain_graph=True)[0] for y in (got, want)))
    assert torch.equal(likelihood.log_prob(levels_to_signal(x, 300, torch.float32), params), got)
    drawn = likelihood.sample(50 * params.detach(), torch.rand(3, 2, 2, 2))
    assert torch.equal(signal_to_levels(drawn, 300), (params.view(3, 2, 300, 2, 2) * 50).argmax(2).int())
    with pytest.raises(ValueError, match=r"levels must be in 0\.\.299; got 300"):
        likelihood.log_prob(x + 300 - x.max(), params)
    with pytest.raises(TypeError, match="int32 levels"):
        likelihood.log_prob(x.to(torch.uint8), params)
