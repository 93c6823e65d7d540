"""The fused heads: a convolution and a likelihood in every layout, dtype and chunk, for any gradient by pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastgen.functional import categorical_head_log_prob, dmol_head_log_prob, dmol_log_prob
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.output_head import (
    categorical_head_log_prob_reference,
    chunked,
    dmol_head_log_prob_reference,
    op,
)
from fastgen.kernels.output_head.likelihoods import Categorical, Likelihood, Mixture
from fastgen.kernels.output_head.reference import convolve

Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen
F = 6

# function, oracle, channels, parameters, options
KINDS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], int, int, dict[str, Any]]] = {
    "mixture": (dmol_head_log_prob, dmol_head_log_prob_reference, 3, 30, {}),
    "mixture, one channel": (
        dmol_head_log_prob,
        dmol_head_log_prob_reference,
        1,
        6,
        {"bits": 5, "tails": "pixelcnn++"},
    ),
    "categorical": (categorical_head_log_prob, categorical_head_log_prob_reference, 3, 57, {"levels": 19}),
    "categorical, bytes": (categorical_head_log_prob, categorical_head_log_prob_reference, 1, 256, {}),
}
EXACT = {"rtol": 1e-7, "atol": 1e-8}  # in float64, where the published tails lose the most
kinds = pytest.mark.parametrize("kind", list(KINDS))


def make(
    kind: str, n: int = 3, height: int = 5, width: int = 7, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Levels with both ends, features, weight, bias."""
    _, _, channels, n_params, options = KINDS[kind]
    levels = options.get("levels", 2 ** options.get("bits", 8))
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, levels, (n, channels, height, width), generator=generator, dtype=torch.uint8)
    x[:, :, :1], x[:, :, 1:2] = 0, levels - 1
    features = torch.randn(n, F, height, width, generator=generator)
    # of moderate size: a narrow logistic multiplies the products' rounding by 1/s, and the budget would measure luck
    weight = torch.randn(n_params, F, generator=generator) / 4
    bias = torch.randn(n_params, generator=generator) / 2
    return x.to(device), *(t.to(device, dtype) for t in (features, weight, bias))


def run(
    function: Callable[..., Tensor], x: Tensor, leaves: tuple[Tensor, ...], by_pixel: Tensor | None, **options: Any
) -> list[Tensor]:
    """The value, and the gradient of its mean or of its sum weighted by pixel."""
    leaves = tuple(leaf.detach().requires_grad_() for leaf in leaves)
    value = function(*leaves, x, **options)
    total = value.mean() if by_pixel is None else (value * by_pixel.to(value)).sum()
    return [value.detach(), *torch.autograd.grad(total, leaves)]


def formulae(
    kind: str, x: Tensor, leaves: list[Tensor], by_pixel: Tensor | None, impl: str = "auto"
) -> list[list[Tensor]]:
    """The two steps unfused, with the products of the convolution summed in two orders: neither is righter.

    The mixture is that of plain PyTorch and that of its own op, which is held to its own budget by its own tests.
    """
    _, oracle, _, _, options = KINDS[kind]
    features, weight, bias = leaves
    flipped = features.flip(1), weight.flip(1), bias

    def two_steps(features: Tensor, weight: Tensor, bias: Tensor, x: Tensor, **options: Any) -> Tensor:
        return dmol_log_prob(x, convolve(features, weight, bias), impl=impl, **options)

    found = []
    for function in (oracle, two_steps) if kind.startswith("mixture") else (oracle,):
        value, by_features, by_weight, by_bias = run(function, x, flipped, by_pixel, **options)
        found.append([value, by_features.flip(1), by_weight.flip(1), by_bias])
        found.append(run(function, x, (features, weight, bias), by_pixel, **options))
    return found


def check_budget(within_budget: Budget, got: list[Tensor], formulae: list[list[Tensor]], exact: list[Tensor]) -> None:
    for mine, truth, *candidates in zip(got, exact, *formulae):
        if not truth.numel():
            assert mine.shape == truth.shape
            continue
        errors = [float((candidate.double() - truth).abs().max()) for candidate in candidates]
        within_budget(mine, candidates[errors.index(max(errors))], truth)


def by_pixel_of(x: Tensor) -> Tensor:
    return (torch.rand(x.shape[0], *x.shape[2:], generator=torch.Generator().manual_seed(1)) + 0.5).to(x.device)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def shrink(params: int) -> None:
        monkeypatch.setattr(chunked, "CHUNK", {"cpu": params, "cuda": params})

    return shrink


@kinds
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_within_budget(
    poisoned_memory: None, within_budget: Budget, kind: str, dtype: torch.dtype, last: bool, uniform: bool
) -> None:
    function, oracle, _, _, options = KINDS[kind]
    x, *leaves = make(kind, dtype=dtype)
    if last:
        leaves[0] = leaves[0].contiguous(memory_format=torch.channels_last)
    weight = None if uniform else by_pixel_of(x)
    got = run(function, x, tuple(leaves), weight, **options)
    exact = run(oracle, x, tuple(leaf.double() for leaf in leaves), weight, **options)
    assert got[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert got[1].dtype == dtype and got[1].stride() == leaves[0].stride()
    if dtype == torch.float64:
        torch.testing.assert_close(got, exact, **EXACT)
    else:
        check_budget(within_budget, got, formulae(kind, x, leaves, weight), exact)


@kinds
@pytest.mark.parametrize("uniform", [True, False])
@pytest.mark.parametrize("pixels", [1, 10, 35, 80, 1000])  # parts of an image, one image, two, all
@pytest.mark.parametrize("last", [False, True])
def test_chunks_cover_everything(
    poisoned_memory: None,
    small_chunks: Callable[[int], None],
    kind: str,
    pixels: int,
    uniform: bool,
    last: bool,
) -> None:
    function, oracle, _, n_params, options = KINDS[kind]
    small_chunks(pixels * n_params)
    x, *leaves = make(kind, dtype=torch.float64, n=2 if pixels == 1 else 3, height=2 if pixels == 1 else 5)
    if last:
        leaves[0] = leaves[0].contiguous(memory_format=torch.channels_last)
    weight = None if uniform else by_pixel_of(x)
    got = run(function, x, tuple(leaves), weight, **options)
    for mine, truth in zip(got, run(oracle, x, tuple(leaves), weight, **options)):
        torch.testing.assert_close(mine, truth, **EXACT)
    with torch.no_grad():
        assert torch.equal(function(*leaves, x, **options), got[0])


@kinds
@pytest.mark.parametrize("uniform", [True, False])
def test_kernels(
    poisoned_memory: None,
    within_budget: Budget,
    kernel_device: str,
    small_chunks: Callable[[int], None],
    kind: str,
    uniform: bool,
) -> None:
    function, oracle, _, n_params, options = KINDS[kind]
    small_chunks(n_params * 12)
    x, *leaves = make(kind, n=2, height=3, width=7, device=kernel_device)
    weight = None if uniform else by_pixel_of(x)
    got = run(function, x, tuple(leaves), weight, impl="triton", **options)
    exact = run(oracle, x, tuple(leaf.double() for leaf in leaves), weight, **options)
    check_budget(within_budget, got, formulae(kind, x, leaves, weight, "triton"), exact)


@pytest.mark.gpu
@kinds
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_on_gpu(
    poisoned_memory: None,
    within_budget: Budget,
    small_chunks: Callable[[int], None],
    kind: str,
    dtype: torch.dtype,
    last: bool,
) -> None:
    function, oracle, _, n_params, options = KINDS[kind]
    small_chunks(n_params * 1000)
    x, *leaves = make(kind, n=4, height=33, width=37, dtype=dtype, device="cuda")
    if last:
        leaves[0] = leaves[0].contiguous(memory_format=torch.channels_last)
    weight = by_pixel_of(x)
    got = run(function, x, tuple(leaves), weight, **options)
    exact = run(oracle, x, tuple(leaf.double() for leaf in leaves), weight, **options)
    check_budget(within_budget, got, formulae(kind, x, leaves, weight), exact)


@kinds
def test_second_backward_through_one_graph(kind: str) -> None:
    function, _, _, _, options = KINDS[kind]
    x, *leaves = make(kind, dtype=torch.float64)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = function(*leaves, x, **options)
    first = torch.autograd.grad(value.mean(), leaves, retain_graph=True)
    first = [gradient.clone() for gradient in first]
    for one, other in zip(first, torch.autograd.grad(value.mean(), leaves)):
        torch.testing.assert_close(one, other)


@kinds
@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
def test_only_what_is_wanted(kind: str, impl: str, wanted: tuple[int, ...]) -> None:
    if impl == "triton":
        pytest.importorskip("triton")
        if torch.cuda.is_available():
            pytest.skip("kernels run on the GPU here")
    function, _, _, _, options = KINDS[kind]
    x, *leaves = make(kind, n=1, height=2, width=3)
    every = run(function, x, tuple(leaves), None, impl=impl, **options)[1:]
    some = [leaf.detach().requires_grad_(i in wanted) for i, leaf in enumerate(leaves)]
    value = function(*some, x, impl=impl, **options)
    gradients = torch.autograd.grad(value.mean(), [some[i] for i in wanted])
    for i, gradient in zip(wanted, gradients):
        torch.testing.assert_close(gradient, every[i])


@kinds
def test_layouts(poisoned_memory: None, kind: str) -> None:
    function, oracle, _, _, options = KINDS[kind]
    x, features, weight, bias = make(kind, dtype=torch.float64)
    cases = {
        "columns first": (features.transpose(2, 3).contiguous().transpose(2, 3), x),
        "a slice": (torch.cat([features, features], 3)[..., :7], torch.cat([x, x], 2)[:, :, :5]),
        "expanded": (features[:, :, :1].expand_as(features), x[:, :, :1].expand_as(x)),
        "float": (features, x.double() * 2 / (options.get("levels", 2 ** options.get("bits", 8)) - 1) - 1),
        "zero size": (features[:0], x[:0]),
        "no columns": (features[..., :0], x[..., :0]),
        "no rows": (features[:, :, :0], x[:, :, :0]),
    }
    for name, (one, other) in cases.items():
        for by_pixel in (None, by_pixel_of(other)):
            if by_pixel is None and not other.numel():
                continue
            got = run(function, other, (one, weight, bias), by_pixel, **options)
            wanted = run(oracle, other, (one.contiguous(), weight, bias), by_pixel, **options)
            for mine, truth in zip(got, wanted):
                torch.testing.assert_close(mine, truth, **EXACT, msg=lambda m, n=name: f"{n}: {m}")


@kinds
def test_weight_of_a_convolution_and_no_bias(kind: str) -> None:
    function, oracle, _, _, options = KINDS[kind]
    x, features, weight, _ = make(kind, dtype=torch.float64)
    got = function(features, weight[:, :, None, None], None, x, **options)
    torch.testing.assert_close(got, oracle(features, weight, None, x, **options))


@pytest.mark.parametrize("kind", ["mixture", "categorical", "categorical, bytes"])
def test_memory_holds_no_parameters(small_chunks: Callable[[int], None], kind: str) -> None:
    """No tensor larger than a chunk is made, but for the gradient by the features."""
    small_chunks(1 << 14)
    x, *leaves = make(kind, n=4, height=32, width=32)
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            largest = max([largest, *(leaf.untyped_storage().nbytes() for leaf in made)])
            return result

    head = chunked.Head(*leaves, x, likelihood_of(kind))
    with Sizes():
        with torch.no_grad():
            log_prob, _ = head.log_prob_and_gradient((True, True, True))
            head.gradient(log_prob, log_prob, (True, True, True))
        run(KINDS[kind][0], x, tuple(leaves), None, **KINDS[kind][4])
    params = x.shape[0] * leaves[1].shape[0] * 32 * 32 * 4
    # a chunk of float32 parameters, or of the mixture's few temporaries, which are as large
    assert 0 < largest <= max(4 << 14, leaves[0].nbytes) < params / 4

    with Sizes():
        run(KINDS[kind][1], x, tuple(leaves), None, **KINDS[kind][4])
    assert largest >= params  # the two steps do


@kinds
def test_autocast_computes_as_a_convolution_does(kind: str) -> None:
    function, _, _, _, options = KINDS[kind]
    x, *leaves = make(kind)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(function, x, tuple(leaves), None, **options)
    wanted = run(function, x, tuple(leaf.bfloat16() for leaf in leaves), None, **options)
    assert all(one.dtype == torch.float32 for one in got)
    for mine, theirs in zip(got, wanted):
        torch.testing.assert_close(mine, theirs.float(), rtol=1e-5, atol=1e-6)


@settings(deadline=None, derandomize=True, max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(list(KINDS)),
    impl=st.sampled_from(["auto", "triton"]),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 6)),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    order=st.permutations([0, 1, 2, 3]),
    step=st.integers(1, 2),
    chunk=st.sampled_from([1, 7, 1 << 20]),
)
def test_any_shape_and_strides(
    within_budget: Budget,
    kind: str,
    impl: str,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    order: list[int],
    step: int,
    chunk: int,
) -> None:
    if impl == "triton" and (torch.cuda.is_available() or not runs_triton(torch.device("cpu"))):
        impl = "auto"
    function, oracle, _, n_params, options = KINDS[kind]
    n, height, width = shape
    x, features, weight, bias = make(kind, n, height, width * step, dtype)
    back = [order.index(axis) for axis in range(4)]
    x, features = (t.permute(order).contiguous().permute(back)[..., ::step] for t in (x, features))
    by_pixel = by_pixel_of(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CHUNK", {"cpu": n_params * chunk, "cuda": n_params * chunk})
        got = run(function, x, (features, weight, bias), by_pixel, impl=impl, **options)
    exact = run(oracle, x, (features.double(), weight.double(), bias.double()), by_pixel, **options)
    check_budget(within_budget, got, formulae(kind, x, [features, weight, bias], by_pixel, impl), exact)


@pytest.mark.parametrize(("convolutions", "products"), [("tf32", "ieee"), ("ieee", "ieee"), ("ieee", "tf32")])
def test_products_take_tf32_where_convolutions_may(convolutions: str, products: str) -> None:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = convolution.fp32_precision, matmul.fp32_precision
    try:
        convolution.fp32_precision, matmul.fp32_precision = convolutions, products
        with chunked.as_a_convolution(torch.device("cuda")):
            assert matmul.fp32_precision == ("tf32" if "tf32" in (convolutions, products) else "ieee")
        assert matmul.fp32_precision == products
        with chunked.as_a_convolution(torch.device("cpu")):
            assert matmul.fp32_precision == products
    finally:
        convolution.fp32_precision, matmul.fp32_precision = before


def likelihood_of(kind: str) -> Likelihood:
    options = KINDS[kind][4]
    if kind.startswith("mixture"):
        return Mixture(options.get("bits", 8), options.get("tails", "exact"), "auto")
    return Categorical(options.get("levels", 256), "auto")


@kinds
def test_second_derivative_is_refused(kind: str) -> None:
    function, _, _, _, options = KINDS[kind]
    x, *leaves = make(kind, n=1, height=2, width=2)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    value = function(*leaves, x, **options)
    (gradient,) = torch.autograd.grad(value.sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="first derivative only"):
        gradient.sum().backward()


def op_arguments(kind: str, impl: str) -> tuple[Any, ...]:
    options = KINDS[kind][4]
    if kind.startswith("mixture"):
        return (options.get("bits", 8), options.get("tails", "exact"), impl)
    return (options.get("levels", 256), impl)


@pytest.mark.parametrize("impl", ["auto", "triton"])
@pytest.mark.parametrize("kind", ["mixture, one channel", "categorical"])
def test_opcheck(kernel_device: str, kind: str, impl: str) -> None:
    name = "dmol" if kind.startswith("mixture") else "categorical"
    x, *leaves = make(kind, n=2, height=2, width=3, device=kernel_device)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    forward = getattr(OPS, f"{name}_head_log_prob_forward").default
    torch.library.opcheck(forward, (*leaves, x, *op_arguments(kind, impl)))


@pytest.mark.parametrize("kind", ["mixture, one channel", "categorical"])
def test_compiles_once_for_all_sizes(kind: str) -> None:
    from torch._dynamo.backends.debugging import aot_eager

    function, oracle, _, _, options = KINDS[kind]
    compiles = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal compiles
        compiles += 1
        return aot_eager(graph, inputs)

    compiled = torch.compile(function, fullgraph=True, backend=backend, dynamic=True)
    for n, height, width in ((2, 4, 5), (3, 8, 7)):
        x, *leaves = make(kind, n=n, height=height, width=width)
        for mine, theirs in zip(
            run(compiled, x, tuple(leaves), by_pixel_of(x), **options),
            run(oracle, x, tuple(leaves), by_pixel_of(x), **options),
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    assert compiles == 1


def test_uniform_gradient_is_not_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("evaluated again")

    x, *leaves = make("mixture", dtype=torch.float64)
    monkeypatch.setattr(chunked.Head, "gradient", refuse)
    run(dmol_head_log_prob, x, tuple(leaves), None)
    with pytest.raises(AssertionError, match="evaluated again"):
        run(dmol_head_log_prob, x, tuple(leaves), by_pixel_of(x))
    assert op._is_uniform(torch.ones(3, 1, 1)) and not op._is_uniform(torch.tensor([[[1.0, torch.nan]]]))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    x, features, weight, bias = make("mixture")
    mixture, softmax = dmol_head_log_prob, categorical_head_log_prob
    for bad, kind, message in (
        (lambda: mixture(features[:2], weight, bias, x), ValueError, r"dmol_head_log_prob: .*same N, H, W; got \[2, 6"),
        (lambda: mixture(features, weight[:, :5], bias, x), ValueError, r"F = 6; got \[30, 5\]"),
        (lambda: mixture(features, weight[:, :, None, None].expand(-1, -1, 3, 3), bias, x), ValueError, "1x1"),
        (lambda: mixture(features, weight[:29], bias[:29], x), ValueError, "multiple of .* 10 for C = 3"),
        (lambda: mixture(features, weight, bias[:29], x), ValueError, "bias must be"),
        (lambda: mixture(features.long(), weight, bias, x), TypeError, "features must be float16"),
        (lambda: mixture(features, weight.double(), bias, x), TypeError, "one dtype"),
        (lambda: mixture(features, weight, bias, x.long()), TypeError, "uint8 levels or float"),
        (lambda: mixture(features, weight, bias, x.to("meta")), ValueError, "one device"),
        (lambda: mixture(features, weight, bias, x, bits=9), ValueError, "bits must be"),
        (lambda: mixture(features, weight, bias, x, bits=5), ValueError, "levels 0..31"),
        (lambda: mixture(features, weight, bias, x, tails="none"), ValueError, "tails must be"),
        (lambda: mixture(features, weight, bias, x, impl="fast"), ValueError, "impl must be"),
        (lambda: softmax(features, weight, bias, x, levels=9), ValueError, r"\[C levels, F\] = \[27, 6\]"),
        (lambda: softmax(features, weight, bias, x, levels=1), ValueError, "levels must be an integer"),
        (lambda: softmax(features, weight, bias, x, levels=10), ValueError, "levels 0..9"),
        (lambda: softmax(features, weight, bias, x.float(), levels=10), ValueError, "lie in"),
    ):
        with pytest.raises(kind, match=message):
            bad()
    with pytest.raises(RuntimeError, match="impl='triton'"):
        mixture(features.double(), weight.double(), bias.double(), x, impl="triton")
    with pytest.raises(TypeError, match="one dtype"):
        mixture(features, weight, bias.long(), x)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu"):
        softmax(features, weight, bias, x % 10, levels=10, impl="triton")
