"""The Triton kernels: within the error budget against float64 to the second order, in every layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import ACTIVATIONS, bias_act
from fastgen.kernels.bias_act import bias_act_reference

Derivatives = Callable[..., list[Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen


def tensors(shape: tuple[int, ...], dtype: torch.dtype, device: str, last: bool = False) -> dict[str, Tensor]:
    x = torch.randn(shape, dtype=torch.float64) * 2
    x.flatten()[::29] *= 20
    if last:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    return {"x": x.to(device, dtype), "b": torch.randn(shape[1], dtype=torch.float64).to(device, dtype)}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_within_budget(
    derivatives: Derivatives,
    within_budget: Budget,
    poisoned_memory: None,
    kernel_device: str,
    act: str,
    dtype: torch.dtype,
    last: bool,
) -> None:
    """The first order; the second is exact by the next test, and in half precision rounds more than once."""
    inputs = tensors((2, 5, 3, 7) if kernel_device == "cpu" else (3, 37, 33, 65), dtype, kernel_device, last)
    got = derivatives(lambda **t: bias_act(**t, act=act, impl="triton"), inputs, second=False)
    formula = derivatives(lambda **t: bias_act_reference(**t, act=act), inputs, second=False)
    exact = derivatives(
        lambda **t: bias_act_reference(**t, act=act), {k: t.double() for k, t in inputs.items()}, second=False
    )
    for mine, theirs, true in zip(got, formula, exact):
        within_budget(mine, theirs, true)
    assert got[0].stride() == got[1].stride() == inputs["x"].stride()


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_second_order(
    derivatives: Derivatives, poisoned_memory: None, kernel_device: str, act: str, clamp: float | None
) -> None:
    inputs = tensors((2, 3, 5), torch.float32, kernel_device)
    for gain in (None, -0.5):
        options: dict[str, Any] = {"act": act, "clamp": clamp, "gain": gain}
        got = derivatives(lambda **t: bias_act(**t, **options, impl="triton"), inputs)  # noqa: B023
        wanted = derivatives(lambda **t: bias_act(**t, **options, impl="reference"), inputs)  # noqa: B023
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_a_clamp_that_half_precision_rounds_has_no_gradient_beyond(kernel_device: str) -> None:
    for clamp in (0.1, 0.3, 0.6, 0.7):  # some of them round down, some up
        x = torch.full((1, 1, 4), 2.0, dtype=torch.float16, device=kernel_device, requires_grad=True)
        bias_act(x, act="lrelu", clamp=clamp, impl="triton").sum().backward()
        assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("images", [1, 2])
def test_scale_and_noise(
    derivatives: Derivatives, poisoned_memory: None, kernel_device: str, images: int, last: bool
) -> None:
    inputs = tensors((2, 5, 3, 7), torch.float32, kernel_device, last) | {
        "scale": torch.randn(2, 5, device=kernel_device),
        "noise": torch.randn(images, 1, 3, 7, device=kernel_device),
    }
    for act in ("lrelu", "tanh", "swish"):
        got = derivatives(lambda **t: bias_act(**t, act=act, clamp=1.5, impl="triton"), inputs)  # noqa: B023
        wanted = derivatives(lambda **t: bias_act_reference(**t, act=act, clamp=1.5), inputs)  # noqa: B023
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    gray = {name: t[:, :1].contiguous() if name != "b" else t[:1] for name, t in inputs.items()}
    got = derivatives(lambda **t: bias_act(**t, act="lrelu", impl="triton"), gray)
    torch.testing.assert_close(got, derivatives(lambda **t: bias_act_reference(**t, act="lrelu"), gray))


@pytest.mark.parametrize("last", [False, True])
def test_many_blocks(
    derivatives: Derivatives, poisoned_memory: None, kernel_device: str, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """Several programs along both rows and columns, some of them partly outside."""
    kernels = pytest.importorskip("fastgen.kernels.bias_act.triton")
    monkeypatch.setattr(kernels, "block_sizes", lambda rows, columns, last, itemsize: (4, 8))
    inputs = tensors((2, 11, 3, 7), torch.float32, kernel_device, last)
    got = derivatives(lambda **t: bias_act(**t, act="tanh", impl="triton"), inputs)
    wanted = derivatives(lambda **t: bias_act(**t, act="tanh", impl="reference"), inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_extremes(kernel_device: str, act: str) -> None:
    big = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 60.0, -60.0, 500.0, -500.0, 1e30, -1e30, torch.inf])
    x = torch.cat((big, torch.tensor([torch.nan])))[None].to(kernel_device)
    got, wanted = (bias_act(x, act=act, impl=impl) for impl in ("triton", "reference"))
    torch.testing.assert_close(got, wanted, rtol=2e-6, atol=0.0, equal_nan=True)
    clamped, wanted = (bias_act(x, act=act, clamp=3.0, impl=impl) for impl in ("triton", "reference"))
    torch.testing.assert_close(clamped, wanted, rtol=2e-6, atol=0.0, equal_nan=True)
    finite = big[None, :-1].to(kernel_device).requires_grad_()
    slopes = [
        torch.autograd.grad(bias_act(finite, act=act, impl=impl).sum(), finite)[0] for impl in ("triton", "reference")
    ]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-7)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_strides_and_dimension(kernel_device: str, derivatives: Derivatives, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5), label="shape")
    dim = data.draw(st.integers(-len(shape), len(shape) - 1), label="dim")
    order = data.draw(st.permutations(range(len(shape))), label="order of the dimensions in memory")
    step = data.draw(st.integers(1, 2), label="step")
    stored = torch.randn([shape[i] * step for i in order], device=kernel_device)
    x = stored.permute([order.index(i) for i in range(len(shape))])[(slice(None, None, step),) * len(shape)]
    inputs = {"x": x} | ({"b": torch.randn(shape[dim], device=kernel_device)} if data.draw(st.booleans()) else {})
    act = data.draw(st.sampled_from(sorted(ACTIVATIONS)), label="act")
    got = derivatives(lambda **t: bias_act(**t, dim=dim, act=act, impl="triton"), inputs)
    wanted = derivatives(lambda **t: bias_act(**t, dim=dim, act=act, impl="reference"), inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    if x.is_contiguous():
        assert got[0].is_contiguous()


def test_opcheck(kernel_device: str) -> None:
    x, b = (t.requires_grad_() for t in tensors((1, 3, 4), torch.float32, kernel_device).values())
    torch.library.opcheck(OPS.bias_act_forward.default, (x, b, None, None, 1, "tanh", 0.0, 1.0, 0.5, "triton"))


def test_compile_fullgraph(derivatives: Derivatives, kernel_device: str) -> None:
    def layer(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x * 2, b, act="lrelu", clamp=2.0, impl="triton")

    inputs = tensors((1, 3, 4), torch.float32, kernel_device)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(derivatives(compiled, inputs, second=False), derivatives(layer, inputs, second=False))


@pytest.mark.gpu
def test_auto_takes_the_kernel_on_a_gpu(derivatives: Derivatives) -> None:
    inputs = tensors((4, 32, 16, 16), torch.float32, "cuda", last=True)
    auto = derivatives(lambda **t: bias_act(**t, act="tanh"), inputs)
    forced = derivatives(lambda **t: bias_act(**t, act="tanh", impl="triton"), inputs)
    assert all(torch.equal(a, b) for a, b in zip(auto, forced))


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    n = 2**31 // 2**20 + 3
    image = torch.linspace(-3, 3, 2**20, device="cuda", dtype=torch.float16).view(1, 1024, 32, 32)
    b = torch.randn(1024, device="cuda")
    for layout in (torch.contiguous_format, torch.channels_last):
        x = image.expand(n, 1024, 32, 32).contiguous(memory_format=layout)
        y = bias_act(x, b, act="lrelu")
        assert torch.equal(y[-1], y[0]) and torch.equal(y[-1], bias_act(image, b, act="lrelu")[0])
        del x, y
