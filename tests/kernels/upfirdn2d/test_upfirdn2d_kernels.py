"""The Triton kernel: within the error budget against float64, in both layouts and for any geometry, any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import downsample2d, filter2d, upfirdn2d, upsample2d

Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen
FOUR = torch.outer(torch.tensor([1.0, 3.0, 3.0, 2.0]), torch.tensor([2.0, 3.0, -1.0, 1.0]))


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("function", [upsample2d, downsample2d, filter2d])
def test_within_budget(
    within_budget: Budget, poisoned_memory: None, kernel_device: str, function: Any, dtype: torch.dtype, last: bool
) -> None:
    size = (1, 2, 3, 5) if kernel_device == "cpu" else (3, 37, 65, 131)
    x = torch.randn(size, device=kernel_device, dtype=torch.float64).to(dtype)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    for f in (FOUR / FOUR.sum(), FOUR[0])[: 1 if last else 2]:
        f = f.to(kernel_device)
        results = []
        for impl, wide in (("triton", False), ("reference", False), ("reference", True)):
            leaf = (x.double() if wide else x).detach().requires_grad_()
            y = function(leaf, f.double() if wide else f, impl=impl)
            grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=kernel_device).reshape(y.shape)
            results.append((y, torch.autograd.grad(y, leaf, grad.to(dtype).to(y.dtype))[0]))
        for mine, formula, exact in zip(*results):
            within_budget(mine, formula, exact)
        assert results[0][0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", ["up", "down", "both", "three", "crop"])
def test_inside_and_at_the_borders(
    poisoned_memory: None, kernel_device: str, monkeypatch: pytest.MonkeyPatch, name: str, last: bool
) -> None:
    """Many small tiles, some that see no border, some that are partly outside."""
    kernels = pytest.importorskip("fastgen.kernels.upfirdn2d.triton")
    monkeypatch.setattr(kernels, "block_sizes", lambda rows, columns, channels, last: (8, 2) if last else (2, 4))
    options: dict[str, Any] = {
        "up": {"up": 2, "padding": (2, 1)},
        "down": {"down": 2, "padding": 1},
        "both": {"up": (2, 3), "down": (3, 2), "padding": (3, 1, 0, 4), "flip_filter": True},
        "three": {"up": (3, 1), "padding": (-1, 4, 3, 2)},
        "crop": {"padding": (-2, 4, 3, -1), "gain": 0.5},
    }[name]
    x = torch.randn((1, 3, 2, 9) if last else (1, 1, 7, 11), device=kernel_device)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    f = FOUR.to(kernel_device)
    got, wanted = (upfirdn2d(x, f, **options, impl=impl) for impl in ("triton", "reference"))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_geometry_and_strides(kernel_device: str, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 5)))
    order = data.draw(st.permutations(range(4)), label="order of the dimensions in memory")
    step = data.draw(st.integers(1, 2), label="step")
    stored = torch.randn([shape[i] * step for i in order], device=kernel_device)
    x = stored.permute([order.index(i) for i in range(4)])[(slice(None, None, step),) * 4]
    taps = data.draw(st.lists(st.sampled_from([1, 2, 4, 9]), min_size=1, max_size=2), label="taps")
    f = torch.randn(taps, device=kernel_device)
    up, down = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 2)), label=w) for w in ("up", "down"))
    padding = data.draw(st.tuples(*[st.integers(-1, 5)] * 4), label="padding")
    flip = data.draw(st.booleans(), label="flip")
    try:
        wanted = upfirdn2d(x, f, up, down, padding, flip, impl="reference")
    except ValueError:
        return
    got = upfirdn2d(x, f, up, down, padding, flip, impl="triton")
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_second_order(kernel_device: str) -> None:
    """The penalty on a gradient: through the op, its adjoint, and the adjoint's adjoint."""
    x = torch.randn(1, 1, 2, 3, device=kernel_device, requires_grad=True)
    found = []
    for impl in ("triton", "reference"):
        y = downsample2d(upsample2d(x, FOUR.to(kernel_device), impl=impl).sin(), FOUR[0].to(kernel_device), impl=impl)
        (by_x,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append((y, by_x, torch.autograd.grad(by_x.square().sum(), x)[0]))
    for mine, wanted in zip(*found):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4 * float(wanted.detach().abs().max()))


def test_opcheck(kernel_device: str) -> None:
    x = torch.randn(1, 1, 2, 3, device=kernel_device, requires_grad=True)
    f = FOUR[:2].to(kernel_device)
    torch.library.opcheck(OPS.upfirdn2d.default, (x, f, 2, 1, 1, 2, 2, 1, 2, 1, False, 1.5, "triton"))


def test_compile_fullgraph(kernel_device: str) -> None:
    def layer(x: Tensor) -> Tensor:
        return upsample2d(x * 2, FOUR.to(kernel_device), impl="triton")

    x = torch.randn(1, 2, 3, 4, device=kernel_device)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.gpu
def test_auto_takes_the_kernel_on_a_gpu() -> None:
    x, f = torch.randn(4, 32, 33, 65, device="cuda"), FOUR.cuda()
    for function in (upsample2d, downsample2d, filter2d):
        assert torch.equal(function(x, f), function(x, f, impl="triton"))


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    image = torch.randn(1, 512, 64, 64, device="cuda", dtype=torch.float16)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = image.expand(2**31 // 2**21 + 3, 512, 64, 64).contiguous(memory_format=layout)
        y = downsample2d(x, FOUR.cuda())
        assert torch.equal(y[-1], y[0]) and torch.equal(y[-1], downsample2d(image, FOUR.cuda())[0])
        del x, y
