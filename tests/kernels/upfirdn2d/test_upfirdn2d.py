"""upfirdn2d on the CPU: right in every layout and dtype, any order, the gradient an adjoint, clear errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from fastgen.kernels._common.dispatch import plain_operations

Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen
FOUR = torch.outer(torch.tensor([1.0, 3.0, 3.0, 2.0]), torch.tensor([2.0, 3.0, -1.0, 1.0]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_geometry(data: st.DataObject) -> None:
    """Equal to the oracle with its gradient, or both find that nothing is left."""
    n, channels = data.draw(st.tuples(st.integers(0, 2), st.integers(1, 3)), label="n, channels")
    height, width = data.draw(st.tuples(st.integers(0, 6), st.integers(1, 6)), label="size")
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=2), label="taps")
    up, down = (data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)), label=w) for w in ("up", "down"))
    padding = data.draw(st.tuples(*[st.integers(-3, 5)] * 4), label="padding")
    flip = data.draw(st.booleans(), label="flip")
    last = data.draw(st.booleans(), label="channels last")
    f = torch.linspace(-1, 2, math.prod(shape), dtype=torch.float64)
    f = f.reshape(shape)
    x = torch.linspace(-1, 1, n * channels * height * width, dtype=torch.float64).reshape(n, channels, height, width)
    x = (x * 7).sin()
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for impl in ("auto", "reference"):
        leaf = x.clone().requires_grad_()
        try:
            y = upfirdn2d(leaf, f, up, down, padding, flip, 1.5, impl=impl)
        except ValueError as error:
            assert "something must be left" in str(error)
            assert any(
                (size * factor + before + after - taps) // 1 + 1 <= 0
                for size, factor, before, after, taps in (
                    (width, up[0], *padding[:2], shape[-1]),
                    (height, up[1], *padding[2:], shape[0]),
                )
            )
            return
        (by_x,) = torch.autograd.grad(y, leaf, torch.linspace(1, 2, y.numel(), dtype=y.dtype).reshape(y.shape))
        results.append((y.detach(), by_x))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
    if not x.is_contiguous() and last:
        assert results[0][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "options",
    [
        {"up": 2, "padding": (2, 1)},
        {"down": 2, "padding": (1, 2, 0, 3)},
        {"up": (2, 1), "down": (1, 3), "padding": (-1, 4, 3, 2), "flip_filter": True, "gain": -2.0},
        {"up": 3, "down": 2, "padding": 2},
    ],
)
@pytest.mark.parametrize("f", [FOUR, FOUR[0]], ids=["4x4", "4"])
def test_any_order(options: dict[str, Any], f: Tensor) -> None:
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)

    def of(x: Tensor) -> Tensor:
        return upfirdn2d(x, f.double(), **options)

    assert torch.autograd.gradcheck(of, x)
    assert torch.autograd.gradgradcheck(of, x)


def test_the_third_order() -> None:
    x = torch.randn(1, 1, 3, 2, dtype=torch.float64, requires_grad=True)

    def slope(x: Tensor) -> Tensor:
        return torch.autograd.grad(upsample2d(x, FOUR.double()).pow(3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(slope, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("last", [False, True])
def test_within_budget(within_budget: Budget, dtype: torch.dtype, last: bool) -> None:
    x = torch.randn(2, 5, 9, 8).to(dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
    for function in (upsample2d, downsample2d, filter2d):
        for f in (FOUR / FOUR.sum(), FOUR[0]):
            got, formula = (function(x, f, impl=impl) for impl in ("auto", "reference"))
            within_budget(got, formula, function(x.double(), f.double(), impl="reference"))


def test_layouts() -> None:
    x = torch.randn(4, 6, 7, 10)
    for view in (x[::2], x[:, 1:4], x[:, :, 1:5], x[..., ::2], x.transpose(2, 3), x[:, :1].expand(4, 6, 7, 10)):
        for function in (upsample2d, downsample2d):
            torch.testing.assert_close(function(view, FOUR), function(view.contiguous(), FOUR))


def test_zero_size() -> None:
    for shape in ((0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)):
        x = torch.zeros(shape, requires_grad=True)
        y = upfirdn2d(x, FOUR, up=2, padding=3)
        y.sum().backward()
        assert y.shape[:2] == shape[:2] and not y.any() and x.grad is not None and x.grad.shape == shape


def test_nothing_but_the_filter_is_kept() -> None:
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.data_ptr())
        return tensor

    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        upsample2d(downsample2d(x, FOUR), FOUR)
    assert set(kept) == {FOUR.data_ptr()}


def test_recorders_see_plain_operations() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with plain_operations():
        y = downsample2d(x, FOUR)
    assert y.grad_fn is not None and type(y.grad_fn).__name__ == "ConvolutionBackward0"


def test_no_zeros_are_inserted_on_a_cpu() -> None:
    """Nothing as large as the image with zeros is made on the way down, and nothing larger than the result on the way
    up: never more work than the composition of padding, zeros, convolution and slices.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.size = max(self.size, out.numel() if isinstance(out, Tensor) else 0)
            return out

    x = torch.randn(1, 2, 32, 32)
    for function, size in ((upsample2d, 2 * 64 * 64), (downsample2d, 2 * 32 * 32)):
        with Largest() as largest:
            function(x, setup_filter([1.0, 3.0, 3.0, 1.0]))
        assert largest.size <= size


def test_opcheck() -> None:
    for last in (False, True):
        x = torch.randn(2, 3, 5, 6)
        x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
        for numbers in ((2, 2, 1, 1, 2, 1, 2, 1), (1, 1, 2, 3, 1, 2, 0, -1)):
            torch.library.opcheck(OPS.upfirdn2d.default, (x, FOUR, *numbers, False, 1.5, "auto"))
    torch.library.opcheck(OPS.upfirdn2d.default, (x, torch.ones(1, 1), *[1] * 4, *[0] * 4, False, 1.0, "auto"))


def test_compiled() -> None:
    def layer(x: Tensor) -> Tensor:
        return downsample2d(upsample2d(x, FOUR).tanh(), FOUR[0])

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 5, 6, requires_grad=True)
    torch.testing.assert_close(compiled(x), layer(x))
    gradients = [torch.autograd.grad(function(x).square().sum(), x)[0] for function in (compiled, layer)]
    torch.testing.assert_close(*gradients)


def test_autocast() -> None:
    layer = torch.nn.Conv2d(3, 8, 1)
    with torch.autocast("cpu", torch.bfloat16):
        h = layer(torch.randn(2, 3, 4, 4))
        y = upsample2d(h, FOUR / FOUR.sum())
    assert h.dtype == y.dtype == torch.bfloat16
    y.sum().backward()
    torch.testing.assert_close(y.float(), upsample2d(h.float(), FOUR / FOUR.sum()), rtol=1e-2, atol=1e-2)
    assert layer.weight.grad is not None


X = torch.zeros(2, 3, 4, 5)
MISUSE: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rank": ({"x": X[0]}, ValueError, r"x must be \[N, C, H, W\]; got \[3, 4, 5\]"),
    "integers": ({"x": X.long()}, TypeError, "x must be float16"),
    "filter": ({"f": torch.zeros(1, 2, 3)}, ValueError, r"f must be \[K\] or \[Kh, Kw\].* got \[1, 2, 3\]"),
    "no taps": ({"f": torch.zeros(0)}, ValueError, "at least one tap"),
    "filter of integers": ({"f": torch.ones(4, dtype=torch.long)}, TypeError, "f must be float16"),
    "filter elsewhere": ({"f": FOUR.to("meta")}, ValueError, "one device; got x on cpu, f on meta"),
    "filter that learns": ({"f": torch.ones(3, requires_grad=True)}, ValueError, "f is a constant"),
    "up": ({"up": 0}, ValueError, "up must be an int of at least 1, .*; got 0"),
    "down": ({"down": (1, 2, 3)}, ValueError, "down must be an int of at least 1"),
    "half": ({"down": 1.5}, (ValueError, TypeError), "") ,
    "padding": ({"padding": (1, 2, 3)}, ValueError, r"\(left, right, top, bottom\); got \(1, 2, 3\)"),
    "nothing left": ({"padding": -2}, ValueError, "something must be left; got 4 x 5 pixels, up 1 x 1, padding"),
    "long filter": ({"f": torch.ones(6)}, ValueError, "6 x 6 taps; pad more"),
    "gain": ({"gain": float("inf")}, ValueError, "gain must be finite"),
    "impl": ({"impl": "cuda"}, ValueError, "impl must be one of"),
    "float64": ({"x": X.double(), "impl": "triton"}, RuntimeError, "computes in float32; got float64"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISUSE)
def test_errors(case: str) -> None:
    options, error, message = MISUSE[case]
    with pytest.raises(error, match=f"^upfirdn2d: .*{message}" if message else None):
        upfirdn2d(**({"x": X, "f": FOUR} | options))
