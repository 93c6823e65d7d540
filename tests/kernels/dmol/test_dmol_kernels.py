"""The Triton kernels: within the error budget against float64, in every layout, and NaN for levels that are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen.functional import dmol_log_prob, dmol_sample
from fastgen.kernels.dmol import dmol_log_prob_reference, dmol_sample_reference

Make = Callable[..., tuple[Tensor, Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen

# channels, mixtures, bits, dtype, channels_last; 18 mixtures take the loop, the others are unrolled
SIZES = [
    (3, 10, 8, torch.float32, False),
    (3, 10, 8, torch.float32, True),
    (1, 18, 8, torch.float32, False),
    (3, 3, 8, torch.bfloat16, True),
    (1, 5, 1, torch.float32, True),
    (2, 1, 3, torch.float16, False),
    (4, 2, 5, torch.float32, False),
    (5, 2, 2, torch.float32, True),
]


def run(function: Callable[[Tensor], Tensor], params: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    params = params.detach().requires_grad_()
    value = function(params)
    (gradient,) = torch.autograd.grad((value * weight.to(value)).sum(), params)
    return value.detach(), gradient


@pytest.mark.parametrize("tails", ["exact", "pixelcnn++"])
@pytest.mark.parametrize(("channels", "n_mix", "bits", "dtype", "last"), SIZES)
def test_value_and_gradient_within_budget(
    make: Make,
    within_budget: Budget,
    poisoned_memory: None,
    kernel_device: str,
    channels: int,
    n_mix: int,
    bits: int,
    dtype: torch.dtype,
    last: bool,
    tails: str,
) -> None:
    if dtype == torch.bfloat16 and kernel_device == "cpu":
        dtype = torch.float16  # the interpreter does not round to bfloat16
    n, height, width = (2, 5, 11) if kernel_device == "cpu" else (8, 33, 37)
    x, params = make(channels, n_mix, bits, n, height, width, dtype=dtype)
    x, params = x.to(kernel_device), params.to(kernel_device)
    if last:
        params = params.contiguous(memory_format=torch.channels_last)
    weight = torch.rand(n, height, width, device=kernel_device) + 0.5
    options = {"bits": bits, "tails": tails}
    formula = run(lambda p: dmol_log_prob_reference(x, p, **options), params, weight)
    exact = run(lambda p: dmol_log_prob_reference(x, p, **options), params.double(), weight)
    # the gradient along with the value, and by a backward that evaluates the mixture again
    fused = run(lambda p: OPS.dmol_log_prob_forward_gradient(x, p, bits, tails, "triton")[0], params, weight)
    again = run(lambda p: OPS.dmol_log_prob_forward(x, p, bits, tails, "triton"), params, weight)
    for value, gradient in (fused, again):
        within_budget(value, formula[0], exact[0])
        within_budget(gradient, formula[1], exact[1])
        assert gradient.stride() == params.stride()


@pytest.mark.parametrize("last", [False, True])
def test_many_blocks(make: Make, poisoned_memory: None, kernel_device: str, last: bool) -> None:
    x, params = (t.to(kernel_device) for t in make(1, 1, n=3, height=13, width=21))  # 273 pixels: three blocks
    if last:
        params = params.contiguous(memory_format=torch.channels_last)
    weight = torch.rand(3, 13, 21, device=kernel_device)
    got = run(lambda p: OPS.dmol_log_prob_forward(x, p, 8, "exact", "triton"), params, weight)
    wanted = run(lambda p: dmol_log_prob_reference(x, p), params, weight)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-4, atol=1e-5)


def test_public_function_takes_the_kernel(make: Make, kernel_device: str) -> None:
    x, params = (t.to(kernel_device) for t in make(n_mix=2))
    got = run(lambda p: dmol_log_prob(x, p, impl="triton"), params, torch.ones(()))
    wanted = run(lambda p: OPS.dmol_log_prob_forward_gradient(x, p, 8, "exact", "triton")[0], params, torch.ones(()))
    torch.testing.assert_close(got[0], wanted[0])
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["a slice", "one pixel", "columns first", "zero size"])
def test_layouts(make: Make, poisoned_memory: None, kernel_device: str, name: str) -> None:
    x, params = make(1, 3, n=70 if name == "one pixel" else 2)
    if name == "one pixel":
        x, params = x[:, :, :1, :1], params[:, :, :1, :1]
    elif name == "a slice":
        x, params = x[:, :, 1:4], params[:, :, 1:4]
    elif name == "columns first":
        params = params.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        x, params = x[:0], params[:0]
    x, params = x.to(kernel_device), params.to(kernel_device)
    weight = torch.rand(x.shape[0], *x.shape[2:], device=kernel_device)
    got = run(lambda p: dmol_log_prob(x, p, impl="triton"), params, weight)
    wanted = run(lambda p: dmol_log_prob(x, p, impl="reference"), params, weight)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("log_scale", [-1000.0, -7.0, 20.0, 100.0])
@pytest.mark.parametrize("mean", [0.0, 1e4, -1e4])
def test_saturated_parameters(within_budget: Budget, kernel_device: str, log_scale: float, mean: float) -> None:
    x = torch.tensor([0, 1, 127, 128, 254, 255], dtype=torch.uint8, device=kernel_device)
    x = x.expand(1, 3, 1, 6).contiguous()
    blocks = torch.linspace(-1, 1, 20).view(10, 2).clone()
    blocks[[1, 4, 7]], blocks[[2, 5, 8]] = mean, log_scale
    blocks[0, 1] = -1e4
    params = blocks.view(1, 20, 1, 1).expand(-1, -1, 1, 6).to(kernel_device)
    for tails in ("exact", "pixelcnn++"):
        got = run(lambda p: dmol_log_prob(x, p, tails=tails, impl="triton"), params, torch.ones(()))  # noqa: B023
        formula = run(lambda p: dmol_log_prob_reference(x, p, tails=tails), params, torch.ones(()))  # noqa: B023
        exact = run(lambda p: dmol_log_prob_reference(x, p, tails=tails), params.double(), torch.ones(()))  # noqa: B023
        assert got[1].isfinite().all()
        within_budget(got[0], formula[0], exact[0])
        within_budget(got[1], formula[1], exact[1])


@pytest.mark.parametrize("tails", ["exact", "pixelcnn++"])
@pytest.mark.parametrize("log_scale", [-1000.0, -12.5, -9.0, 0.0])
def test_sixteen_bits_within_budget(within_budget: Budget, kernel_device: str, log_scale: float, tails: str) -> None:
    """Levels beside the means and far from them, at scales below, at and above the smallest one of 8 bits."""
    half = (2**16 - 1) / 2
    spread = torch.arange(0, 2**16, 257)
    levels = torch.cat([spread, *(torch.arange(n - 40, n + 40) for n in (26214, 42598))]).to(kernel_device)
    x = ((levels.float() - half) / half).view(1, 1, 1, -1)
    params = torch.tensor([0.3, -0.2, 0.0, 1.0, log_scale, log_scale + 0.1]).view(1, 6, 1, 1)
    params = params.to(kernel_device).expand(-1, -1, 1, len(levels)).contiguous()
    options = {"bits": 16, "tails": tails}
    weight = torch.ones((), device=kernel_device)
    got = run(lambda p: dmol_log_prob(x, p, impl="triton", **options), params, weight)
    formula = run(lambda p: dmol_log_prob_reference(x, p, **options), params, weight)
    exact = run(lambda p: dmol_log_prob_reference(x, p, **options), params.double(), weight)
    assert got[1].isfinite().all()
    within_budget(got[0], formula[0], exact[0])
    within_budget(got[1], formula[1], exact[1])
    # drawn at the same smallest scale
    uniforms = torch.rand(1, 2, 1, len(levels), device=kernel_device)
    drawn = dmol_sample(params, uniforms, channels=1, bits=16, snap=False, impl="triton")
    wanted = dmol_sample_reference(params.double(), uniforms, channels=1, bits=16, snap=False)
    torch.testing.assert_close(drawn.double(), wanted, rtol=1e-5, atol=1e-7)


def test_bins_sum_to_one(kernel_device: str) -> None:
    x = torch.arange(256, dtype=torch.uint8, device=kernel_device).view(1, 1, 1, 256)
    params = torch.randn(1, 9, 1, 1, device=kernel_device).expand(-1, -1, 1, 256)
    assert abs(float(dmol_log_prob(x, params, impl="triton").exp().sum()) - 1) < 3e-5


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter
def test_what_is_no_level_is_nan(make: Make, kernel_device: str) -> None:
    x, params = make(3, 2, bits=5)
    x[1, 2, 3, 4] = 32
    signal = (x.float() - 15.5) / 15.5
    signal[1, 2, 3, 4] = torch.nan
    for image in (x, signal):
        image, moved = image.to(kernel_device), params.to(kernel_device)
        value, gradient = run(lambda p: dmol_log_prob(image, p, bits=5, impl="triton"), moved, torch.ones(()))  # noqa: B023
        bad = value.isnan()
        assert bad[1, 3, 4] and bad.sum() == 1
        assert gradient[1, 3:, 3, 4].isnan().any() and gradient.isnan().any(1).sum() == 1


def test_opcheck(make: Make, kernel_device: str) -> None:
    x, params = (t.to(kernel_device) for t in make(1, 2, n=1, height=2, width=3))
    params.requires_grad_()
    torch.library.opcheck(OPS.dmol_log_prob_forward.default, (x, params, 8, "exact", "triton"))
    torch.library.opcheck(OPS.dmol_log_prob_forward_gradient.default, (x, params, 8, "exact", "triton"))
    uniforms = torch.rand(1, 2, 2, 3, device=kernel_device)
    torch.library.opcheck(OPS.dmol_sample.default, (params.detach(), uniforms, 1, 8, 1.0, True, "triton"))


def test_compile_fullgraph(make: Make, kernel_device: str) -> None:
    x, params = (t.to(kernel_device) for t in make(1, 2, n=1, height=2, width=3))

    def loss(params: Tensor) -> Tensor:
        return dmol_log_prob(x, params * 2, impl="triton")

    eager = run(loss, params, torch.ones(()))
    compiled = run(torch.compile(loss, fullgraph=True, backend="aot_eager"), params, torch.ones(()))
    assert torch.equal(eager[0], compiled[0])
    torch.testing.assert_close(eager[1], compiled[1])


@pytest.mark.parametrize("snap", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    ("channels", "n_mix", "bits", "layout"),
    [(3, 10, 8, "NCHW"), (3, 3, 8, "NHWC"), (1, 18, 5, "NP"), (5, 2, 1, "NPT")],
)
def test_draws_equal_the_reference(
    make: Make,
    poisoned_memory: None,
    kernel_device: str,
    channels: int,
    n_mix: int,
    bits: int,
    layout: str,
    temperature: float,
    snap: bool,
) -> None:
    _, params = make(channels, n_mix, bits, n=2, height=10, width=14)  # 140 pixels: two blocks
    uniforms = torch.rand(2, 1 + channels, 10, 14)
    if layout == "NHWC":
        params = params.contiguous(memory_format=torch.channels_last)
    elif layout == "NP":
        params, uniforms = params[:, :, 0, 0], uniforms[:, :, 0, 0]
    elif layout == "NPT":
        params, uniforms = params[:, :, 0], uniforms[:, :, 0]
    params, uniforms = params.to(kernel_device), uniforms.to(kernel_device)
    options = {"channels": channels, "bits": bits, "temperature": temperature, "snap": snap}
    got = dmol_sample(params, uniforms, impl="triton", **options)
    wanted = dmol_sample_reference(params, uniforms, **options)
    assert got.shape == wanted.shape and got.dtype == wanted.dtype and got.is_contiguous()
    same = (got - wanted).abs() < (1e-6 if snap else 1e-4)
    assert same.float().mean() > 0.995  # a rounding error may take a draw over an edge
