"""The Triton kernels: within the error budget against float64 in every layout, and the noise of the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import reparameterize
from fastgen.kernels.reparameterize import normal_noise, reparameterize_reference

Make = Callable[..., tuple[Tensor, Tensor]]
Run = Callable[..., list[Tensor]]
Layout = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen

SIZES: list[tuple[tuple[int, ...], torch.dtype]] = [
    ((2, 3, 5, 7), torch.float32),
    ((3, 2, 4, 4), torch.float16),
    ((2, 50), torch.bfloat16),
    ((2, 1), torch.float32),
    ((1, 4), torch.float32),
    ((2, 1030), torch.float32),  # two programs an image
]


@pytest.mark.parametrize("with_noise", [False, True])
@pytest.mark.parametrize(("shape", "dtype"), SIZES)
def test_results_and_gradients_within_budget(
    make: Make,
    run: Run,
    within_budget: Budget,
    poisoned_memory: None,
    kernel_device: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    with_noise: bool,
) -> None:
    if kernel_device == "cuda":
        shape = (shape[0] + 5, *(11 * size for size in shape[1:]))
    elif dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter does not round to bfloat16
    mean, log_var = make(shape, dtype=dtype, device=kernel_device)
    options: dict[str, Any] = {"seed": 2**64 - 5, "first_image": 3}
    if with_noise:
        options = {"noise": torch.randn(shape).to(kernel_device)}
    got = run(lambda *t: reparameterize(*t, impl="triton", **options), mean, log_var)
    formula = run(lambda *t: reparameterize_reference(*t, **options), mean, log_var)
    exact = run(lambda *t: reparameterize_reference(*t, **options), mean.double(), log_var.double())
    for mine, theirs, true in zip(got, formula, exact):
        within_budget(mine, theirs, true)
    assert all(t.is_contiguous() for t in got)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 + 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("first_image", [0, 2**32 - 2])
def test_noise_is_that_of_the_oracle(kernel_device: str, seed: int, first_image: int) -> None:
    zeros = torch.zeros(2, 101, device=kernel_device)
    got, _ = reparameterize(zeros, zeros, seed=seed, first_image=first_image, impl="triton")
    wanted = normal_noise(seed, (2, 101), first_image=first_image, dtype=torch.float64)
    # a turn is rounded to 2^-24 of itself, and a normal is at most 6.7 long
    torch.testing.assert_close(got.cpu().double(), wanted, rtol=2e-6, atol=2e-6)


def test_noise_at_every_angle_and_radius(kernel_device: str, within_budget: Budget) -> None:
    """Many draws: Box and Muller by polynomials does not lose to the functions of PyTorch anywhere."""
    size = 4096 if kernel_device == "cpu" else 2**22
    zeros = torch.zeros(1, size, device=kernel_device)
    got, _ = reparameterize(zeros, zeros, seed=11, impl="triton")
    formula = normal_noise(11, (1, size), device=kernel_device)
    within_budget(got, formula, normal_noise(11, (1, size), dtype=torch.float64, device=kernel_device))
    small = got[0].abs() < 0.1
    assert small.any()
    exact = normal_noise(11, (1, size), dtype=torch.float64, device=kernel_device)[0]
    assert float((got[0].double() - exact)[small].abs().max()) < 1e-6


def test_an_image_is_the_same_in_any_batch(make: Make, kernel_device: str) -> None:
    mean, log_var = make((4, 3, 11), device=kernel_device)
    z, kl = reparameterize(mean, log_var, seed=9, impl="triton")
    for first, count in ((0, 1), (1, 3), (3, 1)):
        part = slice(first, first + count)
        again = reparameterize(mean[part], log_var[part], seed=9, first_image=first, impl="triton")
        assert torch.equal(again[0], z[part]) and torch.equal(again[1], kl[part])


def test_layouts(make: Make, run: Run, poisoned_memory: None, kernel_device: str, in_layout: Layout) -> None:
    mean, log_var = in_layout(*make((4, 6, 5), device=kernel_device))
    got = run(lambda *t: reparameterize(*t, seed=3, impl="triton"), mean, log_var)
    wanted = run(lambda *t: reparameterize(*t, seed=3, impl="reference"), mean.contiguous(), log_var.contiguous())
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_halves_are_not_copied(make: Make, kernel_device: str) -> None:
    kernels = pytest.importorskip("fastgen.kernels.reparameterize.triton")
    halves = torch.cat(make((4, 6, 5), device=kernel_device), 1).chunk(2, 1)
    assert all(kernels._by_image(half) is half for half in halves)
    assert kernels._by_image(halves[0][:1].expand(4, 6, 5)).is_contiguous()


@pytest.mark.parametrize("result", [0, 1])
def test_one_result_alone(make: Make, poisoned_memory: None, kernel_device: str, result: int) -> None:
    leaves = [t.requires_grad_() for t in make((2, 10), device=kernel_device)]
    got = torch.autograd.grad(reparameterize(*leaves, seed=3, impl="triton")[result].sum(), leaves)
    wanted = torch.autograd.grad(reparameterize(*leaves, seed=3, impl="reference")[result].sum(), leaves)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


EDGES = [0.0, -0.0, 1e-30, -1e-6, 0.49999, -0.5, 88.5, 88.7, -87.0, -103.0, 1e4, -1e4, -1e9]


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of the interpreter
def test_the_ends_of_the_log_variance(kernel_device: str) -> None:
    log_var = torch.tensor(EDGES, device=kernel_device)[:, None]
    mean = torch.full_like(log_var, 0.25)
    noise = torch.full_like(log_var, -1.5)
    found = []
    for impl, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in (mean, log_var)]
        z, kl = reparameterize(*leaves, noise, impl=impl)
        gradients = [torch.autograd.grad(part.sum(), leaves[1], retain_graph=True)[0] for part in (z, kl)]
        found.append([t.detach().float() for t in (z, kl, *gradients)])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-15)  # 1 + 1e-30 - 1, by autograd


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.3])
def test_small_divergences_keep_their_digits(kernel_device: str, scale: float) -> None:
    """Near the prior kl is nearly log_var^2 / 4: relative error, not absolute."""
    log_var = (torch.linspace(-1, 1, 40, device=kernel_device) * scale)[:, None]
    mean = torch.zeros_like(log_var)
    _, kl = reparameterize(mean, log_var, seed=0, impl="triton")
    x = log_var.double()[:, 0]
    wanted = (torch.expm1(x) - x) / 2 if scale > 0.1 else x**2 / 4 * (1 + x / 3 + x**2 / 12)
    torch.testing.assert_close(kl.double(), wanted, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
def test_zero_size(kernel_device: str, shape: tuple[int, ...]) -> None:
    mean = torch.zeros(shape, device=kernel_device, requires_grad=True)
    z, kl = reparameterize(mean, mean * 2, seed=0, impl="triton")
    assert z.shape == shape and kl.shape == shape[:1] and not kl.any()
    (z.sum() + kl.sum()).backward()
    assert mean.grad is not None and mean.grad.shape == shape


def test_opcheck(make: Make, kernel_device: str) -> None:
    leaves = [t.requires_grad_() for t in make((2, 3), device=kernel_device)]
    torch.library.opcheck(OPS.reparameterize_forward.default, (*leaves, None, -5, 2, "triton"))


def test_compile_fullgraph(make: Make, run: Run, kernel_device: str) -> None:
    mean, log_var = make((2, 3), device=kernel_device)

    def layer(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        return reparameterize(mean * 2, log_var, seed=2**63 + 3, impl="triton")

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, mean, log_var), run(layer, mean, log_var))


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_strides_and_dtype(kernel_device: str, run: Run, data: st.DataObject) -> None:
    """Slices and transpositions of a larger tensor, random sizes, seeds and dtypes."""
    n, *latent = shape = data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=4), label="shape")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16]), label="dtype")
    order = data.draw(st.permutations(range(len(shape))), label="order of the dimensions in memory")
    step = data.draw(st.integers(1, 2), label="step")
    seed = data.draw(st.integers(0, 2**64 - 1), label="seed")
    first = data.draw(st.integers(0, 2**32 - n), label="first image")
    stored = torch.randn(2, *(shape[i] * step for i in order), generator=torch.Generator().manual_seed(0))
    inverse = [1 + order.index(i) for i in range(len(shape))]
    views = stored.to(kernel_device, dtype).permute(0, *inverse)
    mean, log_var = views[(slice(None), *[slice(None, None, step)] * len(shape))]
    assert list(mean.shape) == [n, *latent]
    options = {"seed": seed, "first_image": first}
    got = run(lambda *t: reparameterize(*t, impl="triton", **options), mean, log_var)
    wanted = run(lambda *t: reparameterize_reference(*t, **options), mean, log_var)
    near = 1e-5 if dtype == torch.float32 else 1e-3
    torch.testing.assert_close(got, wanted, rtol=near, atol=near)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_takes_the_kernel_on_a_gpu(make: Make, run: Run, dtype: torch.dtype) -> None:
    mean, log_var = torch.cat(make((64, 16, 32, 32), dtype=dtype, device="cuda"), 1).chunk(2, 1)
    auto = run(lambda *t: reparameterize(*t, seed=3), mean, log_var)
    forced = run(lambda *t: reparameterize(*t, seed=3, impl="triton"), mean, log_var)
    assert all(torch.equal(a, b) for a, b in zip(auto, forced))
    with torch.autocast("cuda", torch.bfloat16):
        z, kl = reparameterize(mean, log_var, seed=3)
    assert torch.equal(z, auto[0]) and torch.equal(kl, auto[1])


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    n = 2**31 // 2**20 + 3
    mean = torch.zeros(1, device="cuda", dtype=torch.float16).expand(n, 2**20).contiguous()
    z, kl = reparameterize(mean, mean, seed=3)
    tail, _ = reparameterize(mean[-2:], mean[-2:], seed=3, first_image=n - 2)
    assert torch.equal(z[-2:], tail) and not kl.any()
