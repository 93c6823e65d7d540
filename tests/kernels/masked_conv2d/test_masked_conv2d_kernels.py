"""The Triton kernels: value and every gradient within the error budget against float64, in every mask and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import masked_conv2d
from fastgen.kernels.masked_conv2d import configurations, dispatch

Tensors = dict[str, Tensor]
Make = Callable[..., Tensors]
Differentiate = Callable[..., Tensors]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen

# shape of the problem, options; fewer than 16 input channels are summed across taps, fewer than 64 in the gradient
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"kernel": (7, 7), "co": 5}, {"mask_type": "A"}),
    ({"ci": 20, "co": 18, "condition": "pixel", "residual": True}, {"mask_type": "B", "dilation": 2}),
    ({"kernel": (5, 3), "co": 12, "condition": "image"}, {"mask_type": "A", "groups": 3, "gate": "tanh"}),
    ({"ci": 18, "co": 12}, {"mask_type": "B", "groups": 3, "gate": "linear"}),
    (
        {"co": 5, "residual": True},
        {"mask_type": "B", "in_groups": [0, 1, 1], "out_groups": [1, 0, 2, 0, 1], "stride": 2},
    ),
    (
        {"ci": 17, "co": 4, "condition": "pixel"},
        {"mask_type": "A", "in_groups": [0] * 9 + [2] * 8, "out_groups": [2, 1, 0, 3], "gate": "tanh"},
    ),
    ({"ci": 16, "co": 4, "kernel": (1, 5)}, {"mask_type": "A"}),
    ({"ci": 4, "kernel": (1, 5), "bias": False}, {"mask_type": "A", "groups": 2, "dilation": 2}),
    (
        {"ci": 16, "kernel": (1, 3), "condition": "pixel", "residual": True},
        {"mask_type": "B", "gate": "linear"},
    ),
    ({"kernel": (3, 1)}, {"mask_type": "A"}),
    ({"kernel": (1, 1), "ci": 4}, {"mask_type": "B", "groups": 2}),
    ({"kernel": (1, 1), "co": 6, "condition": "image"}, {"mask_type": "A", "groups": 3}),
    ({"kernel": (3, 5), "condition": "image"}, {"mask_type": "A", "stack": "vertical", "gate": "tanh"}),
    ({"kernel": (5, 3), "ci": 18, "co": 3}, {"mask_type": "B", "stack": "vertical", "stride": 2}),
    ({}, {"mask_type": "B", "stride": 2, "dilation": 3}),
    ({"kernel": (2, 3), "ci": 20, "co": 40}, {"mask_type": "B", "stack": "vertical", "center": (1, 1), "stride": 2}),
    ({"kernel": (2, 2), "ci": 70, "co": 36, "residual": True}, {"mask_type": "B", "center": (1, 1), "gate": "linear"}),
    ({"kernel": (1, 3), "ci": 64, "co": 70}, {"mask_type": "B"}),
    ({"kernel": (2, 4)}, {"mask_type": "A", "center": (0, 3), "stride": 3}),
]


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Products of float32 that are not rounded to TF32, neither by the kernels nor by the library."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def build(make: Make, device: str, shape: dict[str, Any], options: dict[str, Any], **more: Any) -> Tensors:
    """The tensors of a case, larger ones on a GPU."""
    epilogue = {"gate": options.get("gate"), "stride": options.get("stride", 1)}
    size = {"size": (5, 6), "n": 2} if device == "cpu" else {"size": (19, 23), "n": 3}
    return make(**{**size, **shape, **epilogue, "device": device, **more})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_value_and_gradients_within_budget(
    make: Make,
    differentiate: Differentiate,
    within_budget: Budget,
    poisoned_memory: None,
    full_float32: None,
    kernel_device: str,
    shape: dict[str, Any],
    options: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    if kernel_device == "cpu" and dtype != torch.float32 and "gate" not in options:
        pytest.skip("half precision is interpreted for the gated cases, float16 in place of bfloat16 only")
    if kernel_device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter does not round to bfloat16")
    tensors = build(make, kernel_device, shape, options, dtype=dtype)
    got = differentiate(masked_conv2d, tensors, **options, impl="triton")
    formula = differentiate(masked_conv2d, tensors, **options, impl="reference")
    exact = differentiate(masked_conv2d, tensors, torch.float64, **options, impl="reference")
    assert got["y"].is_contiguous(memory_format=torch.channels_last)
    for key in exact:
        within_budget(got[key], formula[key], exact[key])


@pytest.mark.parametrize("gate", [None, "tanh"])
def test_tf32_is_a_rounding_of_the_factors(
    make: Make, differentiate: Differentiate, poisoned_memory: None, kernel_device: str, gate: str | None
) -> None:
    assert dispatch.tf32_allowed()  # PyTorch's default for convolutions
    tensors = build(make, kernel_device, {"ci": 20, "co": 16}, {"gate": gate})
    got = differentiate(masked_conv2d, tensors, mask_type="B", gate=gate, impl="triton")
    exact = differentiate(masked_conv2d, tensors, torch.float64, mask_type="B", gate=gate, impl="reference")
    if gate:  # what comes through the gate has no bound as simple as that of a sum of products
        for key in exact:
            torch.testing.assert_close(got[key].double(), exact[key], rtol=0, atol=4e-3 * float(exact[key].abs().max()))
        return
    sizes = {key: tensor.double().abs() for key, tensor in tensors.items()}
    weighting = torch.linspace(-1, 1, exact["y"].numel(), dtype=torch.float64, device=kernel_device)
    leaves = {key: tensor.requires_grad_() for key, tensor in sizes.items()}
    y = masked_conv2d(**leaves, mask_type="B", impl="reference")
    sums = torch.autograd.grad(y, list(leaves.values()), weighting.abs().view(y.shape))
    for key, bound in {"y": y.detach(), **dict(zip(leaves, sums))}.items():
        error = (got[key].double() - exact[key]).abs()
        assert (error <= 2**-9 * bound + 1e-6).all()  # both factors lose what is below ten bits


@pytest.mark.parametrize("stride", [1, 2])
def test_many_blocks(
    make: Make, differentiate: Differentiate, poisoned_memory: None, full_float32: None, kernel_device: str, stride: int
) -> None:
    tensors = make(3, 132, (1, 3), (11, 13), n=3, gate="tanh", stride=stride, condition="pixel", device=kernel_device)
    options = {"mask_type": "B", "gate": "tanh", "stride": stride}
    got = differentiate(masked_conv2d, tensors, **options, impl="triton")
    exact = differentiate(masked_conv2d, tensors, torch.float64, **options, impl="reference")
    for key in exact:
        torch.testing.assert_close(got[key].double(), exact[key], rtol=1e-4, atol=1e-4)


def test_images_of_many_pixels(
    make: Make, differentiate: Differentiate, poisoned_memory: None, full_float32: None, kernel_device: str
) -> None:
    # more pixels than a program of the gate's backward sums, and a part of the weight's gradient that ends early
    tensors = make(2, 4, (1, 3), (18, 17), n=2, gate="linear", device=kernel_device)
    got = differentiate(masked_conv2d, tensors, mask_type="A", gate="linear", impl="triton")
    exact = differentiate(masked_conv2d, tensors, torch.float64, mask_type="A", gate="linear", impl="reference")
    assert configurations.PIXELS_A_SUM < 18 * 17
    for key in exact:
        torch.testing.assert_close(got[key].double(), exact[key], rtol=1e-4, atol=1e-4)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t,
    "transposed": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2) if t.ndim > 1 else t,
    "every second": lambda t: torch.stack((t, t.neg()), -1).flatten(-2)[..., ::2],
    "expanded": lambda t: t[:1].expand(t.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(make: Make, poisoned_memory: None, full_float32: None, kernel_device: str, layout: str) -> None:
    tensors = make(gate="tanh", condition="pixel", residual=True, device=kernel_device)
    leaves = {key: LAYOUTS[layout](tensor).requires_grad_() for key, tensor in tensors.items()}
    results = []
    for impl in ("triton", "reference"):
        y = masked_conv2d(**leaves, mask_type="B", groups=1, gate="tanh", impl=impl)
        results.append([y, *torch.autograd.grad(y.sum(), list(leaves.values()))])  # a gradient of stride 0
    for got, wanted in zip(*results):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    if layout == "channels last":
        assert results[0][2].stride() == leaves["weight"].stride()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)], ids=str)
def test_images_smaller_than_the_window(
    make: Make, differentiate: Differentiate, poisoned_memory: None, full_float32: None, kernel_device: str, size: Any
) -> None:
    tensors = make(3, 4, (5, 5), size, n=1, stride=2, device=kernel_device)
    got = differentiate(masked_conv2d, tensors, mask_type="B", stride=2, impl="triton")
    wanted = differentiate(masked_conv2d, tensors, mask_type="B", stride=2, impl="reference")
    for key in wanted:
        torch.testing.assert_close(got[key], wanted[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gate", [None, "tanh"])
def test_empty_batch(make: Make, differentiate: Differentiate, kernel_device: str, gate: str | None) -> None:
    tensors = make(n=0, gate=gate, condition="image", residual=True, device=kernel_device)
    got = differentiate(masked_conv2d, tensors, mask_type="B", gate=gate, impl="triton")
    for key, tensor in tensors.items():
        assert got[key].shape == tensor.shape and (got[key] == 0).all()
    assert got["y"].shape == (0, 2 if gate else 4, 5, 6)


DEAD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"kernel": (3, 3)}, {"mask_type": "A"}),
    ({"co": 6}, {"mask_type": "B", "groups": 3, "gate": "tanh"}),
    ({"ci": 16}, {"mask_type": "B", "stack": "vertical"}),
    ({"co": 6, "kernel": (1, 3)}, {"mask_type": "A", "groups": 3, "stride": 2}),
]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize(("shape", "options"), DEAD, ids=str)
def test_dead_taps_are_not_read_and_have_exactly_zero_gradient(
    make: Make,
    differentiate: Differentiate,
    poisoned_memory: None,
    full_float32: None,
    kernel_device: str,
    shape: dict[str, Any],
    options: dict[str, Any],
    value: float,
) -> None:
    tensors = build(make, kernel_device, shape, options)
    wanted = differentiate(masked_conv2d, tensors, **options, impl="reference")
    dead = wanted["weight"] == 0
    tensors["weight"] = tensors["weight"].masked_fill(dead, value)
    got = differentiate(masked_conv2d, tensors, **options, impl="triton")
    assert dead.any() and (got["weight"][dead] == 0).all()
    for key in wanted:
        torch.testing.assert_close(got[key], wanted[key], rtol=1e-4, atol=1e-5)


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A small convolution of any kind: (shape of the problem, options)."""
    kernel = draw(st.sampled_from([(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 3)]))
    center = (draw(st.integers(0, kernel[0] - 1)), draw(st.integers(0, kernel[1] - 1)))
    gate = draw(st.sampled_from([None, "tanh", "linear"]))
    grouped = draw(st.booleans())
    stack = "raster" if grouped else draw(st.sampled_from(["raster", "vertical"]))
    before = center[0] if stack == "vertical" else center[0] + center[1] + grouped
    options: dict[str, Any] = {
        "mask_type": draw(st.sampled_from("AB" if before else "B")),
        "stack": stack,
        "center": center,
        "stride": draw(st.integers(1, 3)),
        "dilation": draw(st.integers(1, 2)),
        "gate": gate,
    }
    ci, co = draw(st.sampled_from([1, 2, 5, 16, 19])), draw(st.integers(1, 5)) * (2 if gate else 1)
    if grouped:
        options["in_groups"] = draw(st.lists(st.integers(0, 3), min_size=ci, max_size=ci))
        options["out_groups"] = draw(st.lists(st.integers(0, 3), min_size=co, max_size=co))
    return {
        "ci": ci,
        "co": co,
        "kernel": kernel,
        "size": (draw(st.integers(1, 5)), draw(st.integers(1, 5))),
        "n": draw(st.integers(0, 3)),
        "bias": draw(st.booleans()),
        "condition": draw(st.sampled_from([None, "image", "pixel"])),
        "residual": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float16])),
    }, options


@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(problem=problems(), layouts=st.lists(st.sampled_from(["", *LAYOUTS]), min_size=5, max_size=5))
def test_any_problem(
    make: Make,
    differentiate: Differentiate,
    within_budget: Budget,
    poisoned_memory: None,
    full_float32: None,
    kernel_device: str,
    problem: tuple[dict[str, Any], dict[str, Any]],
    layouts: list[str],
) -> None:
    shape, options = problem
    tensors = make(**shape, gate=options["gate"], stride=options["stride"], device=kernel_device)
    tensors = {key: LAYOUTS[layout](t) if layout else t for layout, (key, t) in zip(layouts, tensors.items())}
    got = differentiate(masked_conv2d, tensors, **options, impl="triton")
    formula = differentiate(masked_conv2d, tensors, **options, impl="reference")
    exact = differentiate(masked_conv2d, tensors, torch.float64, **options, impl="reference")
    for key in exact:
        within_budget(got[key], formula[key], exact[key])


def test_only_the_gradients_that_are_asked_for(make: Make, kernel_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = pytest.importorskip("fastgen.kernels.masked_conv2d.triton")
    tensors = make(gate="tanh", device=kernel_device)
    tensors["bias"].requires_grad_()
    for name in ("masked_conv2d_input_gradient", "masked_conv2d_weight_gradient"):
        monkeypatch.setattr(kernels, name, None)  # not callable
    y = masked_conv2d(**tensors, mask_type="B", gate="tanh", impl="triton")
    (got,) = torch.autograd.grad(y.sum(), tensors["bias"])
    reference = masked_conv2d(**tensors, mask_type="B", gate="tanh", impl="reference")
    torch.testing.assert_close(got, torch.autograd.grad(reference.sum(), tensors["bias"])[0], rtol=1e-2, atol=1e-2)


def test_a_second_derivative_is_refused(make: Make, kernel_device: str) -> None:
    tensors = make(gate="tanh", size=(2, 3), n=1, device=kernel_device)
    x = tensors["x"].requires_grad_()
    y = masked_conv2d(**tensors, mask_type="B", gate="tanh", impl="triton")
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        first.square().sum().backward()


def test_float64_is_refused(make: Make, kernel_device: str) -> None:
    with pytest.raises(RuntimeError, match="computes in float32; got float64"):
        masked_conv2d(**make(dtype=torch.float64, device=kernel_device), mask_type="B", impl="triton")


def test_autocast(make: Make, differentiate: Differentiate, kernel_device: str) -> None:
    tensors = make(gate="tanh", residual=True, device=kernel_device)
    dtype = torch.float16 if kernel_device == "cpu" else torch.bfloat16
    with torch.autocast(kernel_device, dtype):
        got = differentiate(masked_conv2d, tensors, mask_type="B", gate="tanh", impl="triton")
    wanted = differentiate(masked_conv2d, tensors, mask_type="B", gate="tanh", impl="reference")
    assert got["y"].dtype == dtype
    for key in tensors:
        assert got[key].dtype == torch.float32
        torch.testing.assert_close(got[key], wanted[key], rtol=0.05, atol=0.05)


def test_opcheck(make: Make, kernel_device: str) -> None:
    groups = [torch.tensor(g, dtype=torch.int32, device=kernel_device) for g in ([0, 1, 2], [0, 1, 0, 1])]
    taps = (2, 0, 1, False, 1, 1)  # live taps, center, strict, stride, dilation
    small = {"kernel": (1, 3), "size": (2, 3), "n": 1, "device": kernel_device}
    tensors = make(**small, gate="tanh", condition="image", residual=True)
    inputs = [tensor.requires_grad_() for tensor in tensors.values()]
    torch.library.opcheck(OPS.masked_conv2d_forward.default, (*inputs, *groups, *taps, "tanh", True))
    plain = make(**small)
    x, weight, bias = (tensor.requires_grad_() for tensor in plain.values())
    torch.library.opcheck(OPS.masked_conv2d_forward.default, (x, weight, bias, None, None, None, None, *taps, "", True))
    x, weight, grad = x.detach(), weight.detach(), torch.rand(1, 4, 2, 3, device=kernel_device)
    torch.library.opcheck(OPS.masked_conv2d_input_gradient.default, (grad, weight, *groups, 2, 3, *taps))
    torch.library.opcheck(OPS.masked_conv2d_weight_gradient.default, (grad, x, weight, *groups, *taps))
    pre = torch.rand(1, 8, 2, 3, device=kernel_device)
    torch.library.opcheck(OPS.masked_conv2d_gate_backward.default, (grad, pre, "linear"))


def test_compiled_once_for_all_sizes(make: Make, differentiate: Differentiate, kernel_device: str) -> None:
    def f(**tensors: Tensor) -> Tensor:
        return masked_conv2d(**tensors, mask_type="B", gate="tanh", impl="triton")

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager", dynamic=True)
    for count, size in enumerate(((5, 6), (7, 9))):  # all sizes differ, or they would be taken for one
        tensors = make(3, 4, (1, 3), size, n=10 + count, gate="tanh", condition="pixel", device=kernel_device)
        wanted = differentiate(f, tensors)
        with torch._dynamo.config.patch(error_on_recompile=count > 0):
            got = differentiate(compiled, tensors)
        for key in wanted:
            torch.testing.assert_close(got[key], wanted[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 32, 33, 255, 256, 2**15 - 1, 2**20 + 1, 2**31 - 1])
def test_a_division_by_multiplication_is_exact(divisor: int) -> None:
    kernels = pytest.importorskip("fastgen.kernels.masked_conv2d.triton")
    multiplier, shift = kernels._multiplier(divisor)
    largest = 2**31 - 1
    multiples = {k * divisor + more for k in (0, 1, 2, 1000, largest // divisor) for more in (-1, 0, 1)}
    for n in (n for n in multiples | {largest} if 0 <= n <= largest):
        assert n * multiplier < 2**63 and (n * multiplier) >> shift == n // divisor
    assert multiplier >= 2**31  # always of the type that is compiled for it
