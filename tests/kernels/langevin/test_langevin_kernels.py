"""The Triton kernel: the bits of the oracle in float32, within the error budget in half precision, in every layout."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import langevin_step
from fastgen.kernels.langevin import langevin_noise, langevin_step_reference

Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen
OPTIONS: dict[str, Any] = {"step_size": 0.3, "temperature": 0.7, "seed": 2**64 - 5, "step": 3, "first_image": 2}
SIZES = [(2, 3, 5, 7), (2, 1), (1, 4), (2, 1030)]  # the last in two programs an image


@pytest.mark.parametrize("shape", SIZES)
def test_the_bits_of_the_oracle(poisoned_memory: None, kernel_device: str, shape: tuple[int, ...]) -> None:
    if kernel_device == "cuda":
        shape = (shape[0] + 5, *(11 * size for size in shape[1:]))
    x, gradient = torch.randn(2, *shape)
    got = langevin_step(x.to(kernel_device), gradient.to(kernel_device), impl="triton", **OPTIONS)
    assert got.is_contiguous() and torch.equal(got.cpu(), langevin_step_reference(x, gradient, **OPTIONS))


@pytest.mark.parametrize("seed", [0, 2**31, 2**63, 2**64 - 1])
@pytest.mark.parametrize(("step", "first_image"), [(0, 0), (2**32 - 1, 2**32 - 2), (2**31, 5)])
def test_noise_has_the_bits_of_the_oracle(kernel_device: str, seed: int, step: int, first_image: int) -> None:
    zeros = torch.zeros(2, 4101 if seed == 0 else 101, device=kernel_device)
    options: dict[str, Any] = {"seed": seed, "step": step, "first_image": first_image}
    got = langevin_step(zeros, zeros, step_size=1.0, low=-math.inf, high=math.inf, impl="triton", **options)
    assert torch.equal(got.cpu(), langevin_noise(seed, zeros.shape, step=step, first_image=first_image))


def test_half_precision_within_budget(within_budget: Budget, poisoned_memory: None, kernel_device: str) -> None:
    # the interpreter does not round to bfloat16
    for dtype in (torch.float16, torch.bfloat16) if kernel_device == "cuda" else (torch.float16,):
        x, gradient = torch.randn(2, 3, 2, 5, 5, device=kernel_device).to(dtype)
        exact = langevin_step_reference(x.double(), gradient.double(), **OPTIONS)
        formula = langevin_step_reference(x, gradient, **OPTIONS)
        within_budget(langevin_step(x, gradient, impl="triton", **OPTIONS), formula, exact)


def test_layouts(poisoned_memory: None, kernel_device: str) -> None:
    x, gradient = torch.randn(2, 4, 6, 5, device=kernel_device)
    wanted = langevin_step_reference(x.cpu(), gradient.cpu(), **OPTIONS)
    both = torch.cat((x, gradient), 1).chunk(2, 1)
    for views in (both, (x.mT.contiguous().mT, gradient), (x, gradient.transpose(0, 1).contiguous().transpose(0, 1))):
        assert torch.equal(langevin_step(*views, impl="triton", **OPTIONS).cpu(), wanted)
    kernels = pytest.importorskip("fastgen.kernels.langevin.triton")
    assert all(kernels._by_image(half) is half for half in both)


@pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3)])
def test_zero_size(kernel_device: str, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape, device=kernel_device)
    assert langevin_step(x, x, impl="triton", **OPTIONS).shape == shape


def test_without_noise_and_with_nan(kernel_device: str) -> None:
    x = torch.tensor([[0.5, math.nan, 5.0, -5.0, -0.25]], device=kernel_device)
    gradient = torch.ones_like(x)
    got = langevin_step(x, gradient, step_size=0.5, temperature=0.0, seed=0, impl="triton")
    torch.testing.assert_close(got.cpu(), torch.tensor([[0.25, math.nan, 1.0, -1.0, -0.5]]), equal_nan=True)
    noisy = langevin_step(x, gradient, step_size=0.5, seed=0, impl="triton")
    assert noisy.isnan().tolist() == [[False, True, False, False, False]]


def test_opcheck(kernel_device: str) -> None:
    x, gradient = torch.randn(2, 2, 3, device=kernel_device)
    torch.library.opcheck(OPS.langevin_step.default, (x, gradient, 0.3, 0.7, -5, 3, 2, -1.0, 1.0, "triton"))


def test_compile_fullgraph(kernel_device: str) -> None:
    def chain(x: Tensor) -> Tensor:
        return langevin_step(x, 2 * x, step_size=0.1, seed=2**63 + 3, impl="triton")

    x = torch.randn(2, 3, device=kernel_device)
    assert torch.equal(torch.compile(chain, fullgraph=True, backend="aot_eager")(x), chain(x))


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_strides_and_options(kernel_device: str, data: st.DataObject) -> None:
    """Slices and transpositions of a larger tensor, random sizes, seeds and step sizes."""
    n, *image = shape = data.draw(st.lists(st.integers(0, 5), min_size=2, max_size=4), label="shape")
    order = data.draw(st.permutations(range(len(shape))), label="order of the dimensions in memory")
    skip = data.draw(st.integers(1, 2), label="stride of a slice")
    options = {
        "step_size": data.draw(st.floats(2.0**-20, 2.0**10, width=32), label="step size"),
        "temperature": data.draw(st.floats(0, 10, width=32), label="temperature"),
        "seed": data.draw(st.integers(0, 2**64 - 1), label="seed"),
        "step": data.draw(st.integers(0, 2**32 - 1), label="step"),
        "first_image": data.draw(st.integers(0, 2**32 - n), label="first image"),
    }
    stored = torch.randn(2, *(shape[i] * skip for i in order), generator=torch.Generator().manual_seed(0))
    inverse = [1 + order.index(i) for i in range(len(shape))]
    views = stored.to(kernel_device).permute(0, *inverse)
    x, gradient = views[(slice(None), *[slice(None, None, skip)] * len(shape))]
    assert list(x.shape) == [n, *image]
    got = langevin_step(x, gradient, impl="triton", **options)  # type: ignore[arg-type]
    assert torch.equal(got.cpu(), langevin_step_reference(x.cpu(), gradient.cpu(), **options))  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_takes_the_kernel_on_a_gpu(dtype: torch.dtype) -> None:
    x, gradient = torch.randn(2, 64, 3, 32, 32, device="cuda").to(dtype)
    forced = langevin_step(x, gradient, impl="triton", **OPTIONS)
    assert torch.equal(langevin_step(x, gradient, **OPTIONS), forced)
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.equal(langevin_step(x, gradient, **OPTIONS), forced)


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    n = 2**31 // 2**20 + 3
    x = torch.zeros(1, device="cuda", dtype=torch.float16).expand(n, 2**20).contiguous()
    y = langevin_step(x, x, step_size=0.1, seed=3)
    assert torch.equal(y[-2:], langevin_step(x[-2:], x[-2:], step_size=0.1, seed=3, first_image=n - 2))
