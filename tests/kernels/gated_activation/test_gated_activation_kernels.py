"""The Triton kernels: within the error budget against float64 in every layout, and the same elements dropped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import concat_elu, gated_activation
from fastgen.kernels.gated_activation import concat_elu_reference, gated_activation_reference
from fastgen.kernels.gated_activation.reference import keep_mask

Make = Callable[..., dict[str, Tensor]]
Run = Callable[..., list[Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen

# kind, channels, spatial, bias, residual, dropout, channels last, dtype
SIZES: list[tuple[str, int, tuple[int, ...], int, bool, float, bool, torch.dtype]] = [
    ("tanh", 10, (5, 7), 0, False, 0.0, False, torch.float32),
    ("tanh", 10, (5, 7), 1, True, 0.4, False, torch.float32),
    ("tanh", 12, (3, 5), 2, True, 0.4, True, torch.bfloat16),
    ("linear", 2, (3, 3), 2, False, 0.0, False, torch.float16),
    ("linear", 96, (2, 3), 1, True, 0.0, True, torch.float32),
    ("elu", 5, (5, 7), 0, False, 0.0, True, torch.float32),
    ("elu", 6, (3, 5), 2, False, 0.4, False, torch.float16),
    ("elu", 6, (3, 5), 1, False, 0.4, True, torch.float32),
    ("elu", 3, (), 1, False, 0.0, False, torch.float32),
    ("tanh", 8, (1, 1), 1, False, 0.4, False, torch.float32),
    ("linear", 6, (7,), 1, True, 0.4, False, torch.float32),
]


@pytest.mark.parametrize(("kind", "channels", "spatial", "bias", "residual", "dropout", "last", "dtype"), SIZES)
def test_value_and_gradients_within_budget(
    make: Make,
    run: Run,
    within_budget: Budget,
    poisoned_memory: None,
    kernel_device: str,
    kind: str,
    channels: int,
    spatial: tuple[int, ...],
    bias: int,
    residual: bool,
    dropout: float,
    last: bool,
    dtype: torch.dtype,
) -> None:
    n = 2
    if kernel_device == "cuda":
        n, spatial = 5, tuple(11 * size for size in spatial)
    elif dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter does not round to bfloat16
    inputs = make(channels, spatial, n=n, bias=bias, residual=residual, last=last, dtype=dtype, device=kernel_device)
    options: dict[str, Any] = {"dropout": dropout, "seed": 2**63 + 17 if dropout else None}
    function, reference = concat_elu, concat_elu_reference
    if kind != "elu":
        function, reference = gated_activation, gated_activation_reference  # type: ignore[assignment]
        options["kind"] = kind
    got = run(lambda **t: function(**t, impl="triton", **options), inputs)
    formula = run(lambda **t: reference(**t, **options), inputs)
    exact = run(lambda **t: reference(**t, **options), {name: t.double() for name, t in inputs.items()})
    for mine, theirs, true in zip(got, formula, exact):
        within_budget(mine, theirs, true)
    if last:
        assert got[0].is_contiguous(memory_format=torch.channels_last)
        assert got[1].is_contiguous(memory_format=torch.channels_last)
    if dropout and kind != "elu" and not residual:  # exactly the same elements
        keep = keep_mask(options["seed"], dropout, got[0].shape, got[0].device)
        assert not got[0][~keep].any() and torch.equal(got[0] == 0, formula[0] == 0)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("op", ["gate", "elu"])
def test_many_blocks(
    make: Make,
    run: Run,
    poisoned_memory: None,
    kernel_device: str,
    monkeypatch: pytest.MonkeyPatch,
    op: str,
    last: bool,
) -> None:
    """Several programs an image along both pixels and channels, some of them partly outside."""
    kernels = pytest.importorskip("fastgen.kernels.gated_activation.triton")
    monkeypatch.setattr(kernels, "block_sizes", lambda channels, pixels, last, itemsize: (4, 16))
    inputs = make(14 if op == "gate" else 7, (3, 7), n=2, bias=2, last=last, device=kernel_device)
    options = {"dropout": 0.3, "seed": 9}
    function = gated_activation if op == "gate" else concat_elu
    got = run(lambda **t: function(**t, impl="triton", **options), inputs)
    wanted = run(lambda **t: function(**t, impl="reference", **options), inputs)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_saturation(kernel_device: str) -> None:
    big = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 60.0, -60.0, 500.0, -500.0, 1e30, -1e30, torch.inf, -torch.inf])
    a, b = torch.meshgrid(big, big, indexing="ij")
    x = torch.stack((a, b))[None].to(kernel_device)
    got, wanted = (gated_activation(x, impl=impl) for impl in ("triton", "reference"))
    torch.testing.assert_close(got, wanted)
    finite = x[..., :10, :10].contiguous().requires_grad_()
    for function in (gated_activation, concat_elu):
        gradients = [
            torch.autograd.grad(function(finite, impl=impl).sum(), finite)[0] for impl in ("triton", "reference")
        ]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 0.2])
def test_small_values_keep_their_digits(kernel_device: str, scale: float) -> None:
    """Near zero tanh and elu are nearly their argument: relative error, not absolute."""
    x = torch.linspace(-1, 1, 41, device=kernel_device).reshape(1, 1, 41) * scale
    torch.testing.assert_close(
        concat_elu(x, impl="triton").double(), concat_elu_reference(x.double()), rtol=4e-7, atol=0.0
    )
    both = torch.cat((x, torch.zeros_like(x)), 1)
    got = gated_activation(both, impl="triton").double()
    torch.testing.assert_close(got, gated_activation_reference(both.double()), rtol=4e-7, atol=0.0)


def test_zero_size(kernel_device: str) -> None:
    for shape in ((0, 4, 3, 3), (2, 4, 0, 3)):
        x = torch.zeros(shape, device=kernel_device, requires_grad=True)
        bias = torch.zeros(4, device=kernel_device, requires_grad=True)
        gated_activation(x, bias=bias, impl="triton").sum().backward()
        concat_elu(x, bias=bias, impl="triton").sum().backward()
        assert bias.grad is not None and not bias.grad.any()


def test_opcheck(make: Make, kernel_device: str) -> None:
    x, bias = (t.requires_grad_() for t in make(4, (2, 3), n=1, bias=1, device=kernel_device).values())
    torch.library.opcheck(OPS.gated_activation_forward.default, (x, bias, None, "linear", 0.4, -5, "triton"))
    torch.library.opcheck(OPS.concat_elu_forward.default, (x, None, 0.0, 0, "triton"))


def test_compile_fullgraph(make: Make, run: Run, kernel_device: str) -> None:
    inputs = make(4, (2, 3), n=1, bias=1, device=kernel_device)

    def layer(x: Tensor, bias: Tensor) -> Tensor:
        return concat_elu(gated_activation(x * 2, bias=bias, dropout=0.4, seed=3, impl="triton"), impl="triton")

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled, inputs), run(layer, inputs))


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_shape_strides_and_dtype(kernel_device: str, run: Run, data: st.DataObject) -> None:
    """Slices and transpositions of larger tensors, random sizes, dtypes, seeds and everything on the way or not."""
    function = data.draw(st.sampled_from([gated_activation, concat_elu]), label="function")
    n, pairs, *spatial = data.draw(st.lists(st.integers(0, 4), min_size=2, max_size=4), label="sizes")
    channels = 2 * (pairs + 1) if function is gated_activation else pairs + 1
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16]), label="dtype")
    generator = torch.Generator().manual_seed(0)

    def view(*shape: int) -> Tensor:
        order = data.draw(st.permutations(range(len(shape))), label="order of the dimensions in memory")
        step = data.draw(st.integers(1, 2), label="step")
        stored = torch.randn([shape[i] * step for i in order], generator=generator).to(kernel_device, dtype)
        return stored.permute([order.index(i) for i in range(len(shape))])[(slice(None, None, step),) * len(shape)]

    inputs = {"x": view(n, channels, *spatial)}
    options: dict[str, Any] = {}
    bias = data.draw(st.integers(0, 2), label="dimensions of the bias")
    if bias:
        inputs["bias"] = view(*(n, channels)[2 - bias :])
    if function is gated_activation:
        options["kind"] = data.draw(st.sampled_from(["tanh", "linear"]), label="kind")
        if data.draw(st.booleans(), label="residual"):
            inputs["residual"] = view(n, channels // 2, *spatial)
    if data.draw(st.booleans(), label="with dropout"):
        options["dropout"] = data.draw(st.floats(0, 0.9), label="dropout")
        options["seed"] = data.draw(st.integers(0, 2**64 - 1), label="seed")
    got = run(lambda **t: function(**t, impl="triton", **options), inputs)
    wanted = run(lambda **t: function(**t, impl="reference", **options), inputs)
    near = 1e-5 if dtype == torch.float32 else 4e-3  # sums of the bias's gradient are rounded to half precision
    torch.testing.assert_close(got, wanted, rtol=near, atol=near)


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 + 1, 2**63, 2**64 - 1])
def test_any_seed_and_probability_drop_the_same_elements(kernel_device: str, seed: int) -> None:
    x = torch.ones(2, 10, 3, 3, device=kernel_device)
    for dropout in (2**-20, 0.5, 0.75, 1 - 2**-20):  # thresholds on both sides of the sign's bit
        keep = keep_mask(seed, dropout, torch.Size((2, 5, 3, 3)), x.device)
        got = gated_activation(x, dropout=dropout, seed=seed, impl="triton")
        assert torch.equal(got != 0, keep)


@pytest.mark.gpu
def test_auto_takes_the_kernel_on_a_gpu(make: Make, run: Run) -> None:
    inputs = make(320, (32, 32), n=4, bias=1, residual=True, last=True, device="cuda")
    for dropout in (0.0, 0.5):
        auto = run(lambda **t: gated_activation(**t, dropout=dropout, seed=3), inputs)  # noqa: B023
        forced = run(lambda **t: gated_activation(**t, dropout=dropout, seed=3, impl="triton"), inputs)  # noqa: B023
        assert all(torch.equal(a, b) for a, b in zip(auto, forced))


@pytest.mark.gpu
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 30e9:
        pytest.skip("needs 30 GB")
    n = 2**31 // 2**20 + 3
    x = torch.linspace(-3, 3, 2**20, device="cuda", dtype=torch.float16).view(1, 1024, 32, 32)
    x = x.expand(n, 1024, 32, 32).contiguous(memory_format=torch.channels_last)
    y = gated_activation(x)
    assert torch.equal(y[-1], gated_activation(x[-1:])[0]) and torch.equal(y[-1], y[0])
    del y
    rows = x.permute(0, 2, 3, 1).reshape(-1, 1024)  # one pixel each
    assert torch.equal(gated_activation(rows)[-1], gated_activation(rows[-1:])[0])
