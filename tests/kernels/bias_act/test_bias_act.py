"""bias_act on the CPU: right in every layout and dtype, to the second order, well-behaved ops, clear errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.functional import ACTIVATIONS, bias_act
from fastgen.kernels._common.dispatch import plain_operations
from fastgen.kernels.bias_act import bias_act_reference

Derivatives = Callable[..., list[Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen


def inputs(
    shape: tuple[int, ...] = (2, 6, 5, 7), dim: int = 1, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    return {"x": x.to(dtype), "b": torch.randn(shape[dim], generator=generator, dtype=torch.float64).to(dtype)}


@pytest.mark.parametrize("clamp", [None, 0.7])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_derivatives_are_those_of_the_oracle(derivatives: Derivatives, act: str, clamp: float | None) -> None:
    for gain in (None, -0.5, 0.0):
        options = {"act": act, "clamp": clamp, "gain": gain}
        got = derivatives(lambda **t: bias_act(**t, **options), inputs(dtype=torch.float64))  # noqa: B023
        wanted = derivatives(lambda **t: bias_act_reference(**t, **options), inputs(dtype=torch.float64))  # noqa: B023
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_order_by_differences(act: str) -> None:
    leaves = tuple(t.requires_grad_() for t in inputs((2, 3, 4), dtype=torch.float64).values())

    def of(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(x, b, act=act, clamp=0.8)

    def slope(x: Tensor, b: Tensor) -> Tensor:
        return torch.autograd.grad(of(x, b).square().sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(of, leaves)
    assert torch.autograd.gradgradcheck(of, leaves)
    assert torch.autograd.gradgradcheck(slope, leaves)  # the third


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_within_budget(derivatives: Derivatives, within_budget: Budget, act: str, dtype: torch.dtype) -> None:
    tensors = inputs(dtype=dtype)
    got = derivatives(lambda **t: bias_act(**t, act=act), tensors, second=False)
    formula = derivatives(lambda **t: bias_act_reference(**t, act=act), tensors, second=False)
    exact = derivatives(
        lambda **t: bias_act_reference(**t, act=act), {name: t.double() for name, t in tensors.items()}, second=False
    )
    for mine, theirs, true in zip(got, formula, exact):
        assert mine.dtype == dtype
        within_budget(mine, theirs, true)


@pytest.mark.parametrize("shape", [(2, 6, 5, 7), (3, 4), (5,), (2, 3, 4, 5, 6)])
def test_any_dimension_and_layout(derivatives: Derivatives, shape: tuple[int, ...]) -> None:
    for dim in range(-len(shape), len(shape)):
        plain = inputs(shape, dim)
        wanted = derivatives(lambda **t: bias_act_reference(**t, dim=dim, act="tanh"), plain)  # noqa: B023
        for x in (plain["x"], plain["x"].movedim(dim, -1).contiguous().movedim(-1, dim)):
            got = derivatives(lambda **t: bias_act(**t, dim=dim, act="tanh"), plain | {"x": x})  # noqa: B023
            torch.testing.assert_close(got, wanted)
            assert got[0].stride() == x.stride()
    strided = torch.randn(4, 6, 5, 14)[::2, :, :, ::2]
    b = torch.randn(6)
    torch.testing.assert_close(bias_act(strided, b, act="lrelu"), bias_act(strided.contiguous(), b, act="lrelu"))


def test_scale_and_noise(derivatives: Derivatives) -> None:
    for images in (1, 2):
        tensors = inputs(dtype=torch.float64) | {
            "scale": torch.randn(2, 6, dtype=torch.float64),
            "noise": torch.randn(images, 1, 5, 7, dtype=torch.float64),
        }
        got = derivatives(lambda **t: bias_act(**t, act="lrelu", clamp=2.0), tensors)

        def written_out(x: Tensor, b: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
            y = x * scale[:, :, None, None] + noise + b[:, None, None]
            return (torch.where(y > 0, y, 0.2 * y) * 2**0.5).clamp(-2, 2)

        torch.testing.assert_close(got, derivatives(written_out, tensors))


@pytest.mark.parametrize("shape", [(0, 6, 3, 3), (2, 6, 0, 3), (2, 0, 3)])
def test_zero_size(shape: tuple[int, ...]) -> None:
    x, b = torch.zeros(shape, requires_grad=True), torch.zeros(shape[1], requires_grad=True)
    y = bias_act(x, b, act="lrelu", clamp=1.0)
    y.sum().backward()
    assert y.shape == shape and x.grad is not None and b.grad is not None and not b.grad.any()


def kept(**options: Any) -> set[str]:
    """Which of its tensors the function keeps for a gradient."""
    x, b = (t.requires_grad_() for t in inputs().values())
    found: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = bias_act(x, b, **options)
    names = {x.data_ptr(): "x", b.data_ptr(): "b", y.data_ptr(): "y"}
    assert set(found) <= set(names)
    return {names[pointer] for pointer in found} - {"b"}


def test_what_is_kept() -> None:
    assert kept(act="linear") == set()
    assert kept(act="linear", clamp=1.0) == kept(act="lrelu", clamp=1.0) == {"y"}
    assert all(kept(act=act) == {"y"} for act in ACTIVATIONS if act not in ("linear", "swish"))
    assert kept(act="swish", clamp=1.0) == kept(act="lrelu", alpha=-0.1) == {"x"}


def test_recorders_see_plain_operations() -> None:
    x, b = (t.requires_grad_() for t in inputs().values())
    with plain_operations():
        y = bias_act(x, b, act="tanh")
    assert y.grad_fn is not None and type(y.grad_fn).__name__ == "TanhBackward0"


def test_opcheck() -> None:
    for act, clamp in (("lrelu", 0.5), ("tanh", None), ("swish", 0.5), ("linear", None)):
        x, b = (t.requires_grad_() for t in inputs((2, 3, 4)).values())
        scale, noise = torch.randn(2, 3, requires_grad=True), torch.randn(1, 1, 4)
        extra = (None, None) if act == "swish" else (scale, noise)
        torch.library.opcheck(OPS.bias_act_forward.default, (x, b, *extra, 1, act, 0.2, 1.5, clamp, "auto"))
        grad = torch.randn(2, 3, 4, requires_grad=True)
        torch.library.opcheck(OPS.bias_act_backward.default, (grad, x, b, 1, act, 0.2, 1.5, clamp, True, "auto"))
    with pytest.raises(RuntimeError, match=r"second derivative only; .* use impl='reference'"):
        x = torch.randn(2, 3, requires_grad=True)
        second = OPS.bias_act_second_backward(x, x, x.detach(), None, 1, "tanh", 0.0, 1.0, None, "auto")
        second.sum().backward()


def test_compiled_to_the_second_order(derivatives: Derivatives) -> None:
    def layer(x: Tensor, b: Tensor) -> Tensor:
        return bias_act(bias_act(x, b, act="lrelu", clamp=2.0), act="softplus")

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, wanted = (derivatives(function, inputs(), second=False) for function in (compiled, layer))
    torch.testing.assert_close(got, wanted)


def test_autocast() -> None:
    layer = torch.nn.Conv2d(3, 8, 1, bias=False)
    b = torch.nn.Parameter(torch.randn(8))  # float32, where the convolution gives bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        h = layer(torch.randn(2, 3, 4, 4))
        y = bias_act(h, b, act="lrelu")
    assert h.dtype == y.dtype == torch.bfloat16
    y.sum().backward()
    assert b.grad is not None and b.grad.dtype == torch.float32 and layer.weight.grad is not None


X, B = torch.zeros(2, 4, 3, 3), torch.zeros(4)
MISUSE: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "near name": ({"act": "leaky_relu"}, ValueError, "got 'leaky_relu'; did you mean 'lrelu'"),
    "no name": ({"act": "xyzzy"}, ValueError, "got 'xyzzy'; known: linear, relu"),
    "integers": ({"x": X.long()}, TypeError, "x must be float16, .*; got torch.int64"),
    "dim": ({"dim": 4}, ValueError, r"dim must be a dimension of x, \[2, 4, 3, 3\]; got 4"),
    "b": ({"b": torch.zeros(3)}, ValueError, r"b must be \[4\].* got \[3\]"),
    "b of integers": ({"b": B.long()}, TypeError, "b must be float16"),
    "b elsewhere": ({"b": B.to("meta")}, ValueError, "one device; got x on cpu, b on meta"),
    "alpha": ({"act": "relu", "alpha": 0.1}, ValueError, "alpha is the slope of lrelu; got alpha=0.1 for 'relu'"),
    "infinite alpha": ({"act": "lrelu", "alpha": float("inf")}, ValueError, "alpha must be finite"),
    "gain": ({"gain": float("nan")}, ValueError, "gain must be finite"),
    "clamp": ({"clamp": -1.0}, ValueError, "clamp must not be negative; got -1.0"),
    "scale": ({"scale": torch.zeros(2, 3)}, ValueError, r"scale must be \[N, C\]"),
    "noise": ({"noise": torch.zeros(2, 4, 3, 3)}, ValueError, r"noise must be \[N or 1, 1"),
    "scale elsewhere": ({"b": None, "dim": 0, "scale": B}, ValueError, "with dim=1"),
    "impl": ({"impl": "cuda"}, ValueError, "impl must be one of"),
    "float64": ({"x": X.double(), "impl": "triton"}, RuntimeError, "computes in float32; got float64"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_errors(case: str) -> None:
    options, error, message = MISUSE[case]
    with pytest.raises(error, match=f"^bias_act: .*{message}"):
        bias_act(**({"x": X, "b": B} | options))
