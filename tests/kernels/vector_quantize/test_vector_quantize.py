"""vector_quantize: the nearest entry in every layout and dtype, the straight-through gradient, a well-behaved op."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastgen.functional import vector_quantize
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.vector_quantize import chunked, vector_quantize_reference

OPS = torch.ops.fastgen


@pytest.fixture(params=["chunked", "kernel"])
def impl_and_device(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Both implementations; the kernel where one can run."""
    if request.param == "chunked":
        return "auto", "cpu"
    pytest.importorskip("triton")
    return "triton", "cuda" if torch.cuda.is_available() else "cpu"


def make(
    n: int, dim: int, spatial: tuple[int, ...], n_codes: int, dtype: torch.dtype, device: str
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, dim, *spatial, generator=generator)
    codebook = torch.randn(n_codes, dim, generator=generator)
    return x.to(device, dtype), codebook.to(device, dtype)


def distances(x: Tensor, codebook: Tensor) -> Tensor:
    """All of them, term by term in float64: [N, *spatial, K]."""
    difference = x.double().movedim(1, -1).unsqueeze(-2) - codebook.double()
    return difference.square().sum(-1)


def check_nearest(x: Tensor, codebook: Tensor, indices: Tensor) -> None:
    """An index may miss the least distance by twice what the formula in that dtype misses, plus one unit."""
    exact = distances(x, codebook)
    least = exact.amin(-1)

    def excess(found: Tensor) -> Tensor:
        return (exact.gather(-1, found.unsqueeze(-1)).squeeze(-1) - least).max()

    formula = vector_quantize_reference(x, codebook)[1]
    unit = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps * exact.max()
    assert excess(indices) <= 2 * excess(formula) + unit
    assert (indices != exact.argmin(-1)).sum() <= indices.numel() // 100


SIZES = [
    (2, 20, (5, 7), 70, torch.float32, False),
    (2, 20, (5, 7), 70, torch.float16, True),
    (3, 16, (4, 8), 33, torch.float32, True),
    (150, 40, (), 5, torch.float32, False),
    (2, 130, (9,), 65, torch.float32, False),  # vectors in pieces
    (1, 150, (3, 5), 130, torch.float16, False),
    (2, 3, (2, 3, 4), 1, torch.float32, False),
]


@pytest.mark.parametrize(("n", "dim", "spatial", "n_codes", "dtype", "last"), SIZES)
def test_nearest_entry(
    poisoned_memory: None,
    impl_and_device: tuple[str, str],
    n: int,
    dim: int,
    spatial: tuple[int, ...],
    n_codes: int,
    dtype: torch.dtype,
    last: bool,
) -> None:
    impl, device = impl_and_device
    x, codebook = make(n, dim, spatial, n_codes, dtype, device)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    quantized, indices = vector_quantize(x, codebook, impl=impl)
    check_nearest(x, codebook, indices)
    assert indices.dtype == torch.int64 and indices.shape == (n, *spatial) and indices.is_contiguous()
    assert torch.equal(quantized, codebook[indices].movedim(-1, 1))
    assert quantized.dtype == dtype and quantized.stride() == x.stride()


@pytest.mark.gpu
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [8, 64, 100, 256])
def test_large_on_gpu(poisoned_memory: None, dim: int, dtype: torch.dtype, last: bool) -> None:
    x, codebook = make(4, dim, (24, 31), 509, dtype, "cuda")
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    quantized, indices = vector_quantize(x, codebook)
    check_nearest(x, codebook, indices)
    assert torch.equal(quantized, codebook[indices].movedim(-1, 1))


@pytest.mark.gpu
def test_tf32_is_close() -> None:
    x, codebook = make(4, 64, (32, 32), 512, torch.float32, "cuda")
    exact = distances(x, codebook)
    indices = vector_quantize(x, codebook, tf32=True).indices
    excess = exact.gather(-1, indices.unsqueeze(-1)).squeeze(-1) - exact.amin(-1)
    assert excess.max() < 1e-2 * exact.max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_on_cpu(dtype: torch.dtype) -> None:
    x, codebook = make(3, 12, (5, 6), 40, dtype, "cpu")
    quantized, indices = vector_quantize(x, codebook)
    check_nearest(x, codebook, indices)
    assert torch.equal(quantized, codebook[indices].movedim(-1, 1))


@pytest.mark.parametrize(("n", "pixels"), [(1, 50), (7, 3), (5, 16), (3, 17)])
def test_chunks_cover_everything(monkeypatch: pytest.MonkeyPatch, poisoned_memory: None, n: int, pixels: int) -> None:
    monkeypatch.setattr(chunked, "CHUNK", 16 * 9)  # 16 vectors at a time: whole images, or runs of one
    x, codebook = make(n, 4, (pixels,), 9, torch.float32, "cpu")
    quantized, indices = vector_quantize(x, codebook)
    assert torch.equal(indices, distances(x, codebook).argmin(-1))
    assert torch.equal(quantized, codebook[indices].movedim(-1, 1))


def test_ties_go_to_the_smallest_index(impl_and_device: tuple[str, str]) -> None:
    impl, device = impl_and_device
    codebook = torch.tensor([[9.0], [2.0], [0.0], [2.0], [0.0]] + [[0.0]] * 95, device=device)
    x = torch.tensor([[1.0], [0.0], [2.5], [-3.0]], device=device)  # 1 is as far from 0 as from 2
    assert vector_quantize(x, codebook, impl=impl).indices.tolist() == [1, 2, 1, 2]


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # of the interpreter
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_nan_gets_entry_zero(impl_and_device: tuple[str, str]) -> None:
    impl, device = impl_and_device
    x, codebook = make(3, 4, (), 40, torch.float32, device)
    x[1] = torch.nan
    indices = vector_quantize(x, codebook, impl=impl).indices
    assert indices[1] == 0 and torch.equal(indices[::2], vector_quantize(x[::2], codebook, impl=impl).indices)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of the interpreter
def test_what_is_not_finite(impl_and_device: tuple[str, str]) -> None:
    impl, device = impl_and_device
    x, codebook = make(3, 4, (5,), 9, torch.float32, device)
    wanted = vector_quantize(x, codebook, impl=impl).indices
    for bad in (torch.nan, torch.inf, -torch.inf, 1e30):  # the square of the last overflows
        spoilt = torch.cat([codebook[:2], codebook[:1], codebook[2:]])
        spoilt[2, 1] = bad
        assert torch.equal(vector_quantize(x, spoilt, impl=impl).indices, wanted + (wanted >= 2))
        assert not vector_quantize(x, spoilt[2:3].expand(3, -1), impl=impl).indices.any()
    x[1, 2] = torch.inf
    quantized, indices = vector_quantize(x, codebook, impl=impl)
    assert torch.equal(quantized, codebook[indices].movedim(-1, 1))
    assert torch.equal(indices[::2], wanted[::2])


@settings(deadline=None, derandomize=True, max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    n=st.integers(0, 3),
    dim=st.integers(1, 20),
    spatial=st.lists(st.integers(1, 4), max_size=3),
    n_codes=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    axes=st.randoms(use_true_random=False),
    step=st.integers(1, 2),
)
def test_any_shape_and_strides(
    n: int, dim: int, spatial: list[int], n_codes: int, dtype: torch.dtype, axes: random.Random, step: int
) -> None:
    x, codebook = make(n, dim * step, tuple(spatial), n_codes, dtype, "cpu")
    order = axes.sample(range(x.ndim), x.ndim)
    x = x.permute(order).contiguous().permute([order.index(axis) for axis in range(x.ndim)])[:, ::step]
    codebook = codebook[:, ::step]
    is_kernel_here = runs_triton(torch.device("cpu"))
    results = [vector_quantize(x, codebook, impl=impl) for impl in ("auto", "triton")[: 1 + is_kernel_here]]
    for quantized, indices in results:
        assert indices.shape == (n, *spatial) and indices.is_contiguous() and quantized.dtype == dtype
        assert torch.equal(quantized, codebook[indices].movedim(-1, 1))
        if indices.numel():
            check_nearest(x, codebook, indices)


def layouts(x: Tensor) -> dict[str, Tensor]:
    return {
        "columns first": x.transpose(2, 3).contiguous().transpose(2, 3),
        "a slice": torch.cat([x, x], 2)[:, :, : x.shape[2]],
        "expanded": x[:, :, :1].expand_as(x),
        "zero size": x[:0],
        "no pixels": x[:, :, :0],
    }


@pytest.mark.parametrize("name", ["columns first", "a slice", "expanded", "zero size", "no pixels"])
def test_layouts(poisoned_memory: None, impl_and_device: tuple[str, str], name: str) -> None:
    impl, device = impl_and_device
    x, codebook = make(2, 5, (3, 4), 6, torch.float32, device)
    x = layouts(x)[name]
    quantized, indices = vector_quantize(x, codebook, impl=impl)
    wanted = vector_quantize_reference(x.contiguous(), codebook)
    assert torch.equal(indices, wanted[1]) and torch.equal(quantized, wanted[0])


def test_codebook_may_be_transposed(impl_and_device: tuple[str, str]) -> None:
    impl, device = impl_and_device
    x, codebook = make(2, 5, (3, 4), 6, torch.float32, device)
    wanted = vector_quantize(x, codebook, impl=impl)
    got = vector_quantize(x, codebook.t().contiguous().t(), impl=impl)
    assert torch.equal(got.indices, wanted.indices) and torch.equal(got.quantized, wanted.quantized)


@pytest.mark.parametrize("impl", ["auto", "triton", "reference"])
def test_straight_through(kernel_device: str, impl: str) -> None:
    x, codebook = make(2, 5, (3, 4), 6, torch.float32, kernel_device)
    x.requires_grad_()
    codebook.requires_grad_()
    quantized, indices = vector_quantize(x, codebook, impl=impl)
    assert torch.equal(quantized, codebook[indices].movedim(-1, 1))  # exactly, not x + (e - x)
    weight = torch.rand_like(x)
    by_x, by_codebook = torch.autograd.grad((quantized * weight).sum(), (x, codebook), allow_unused=True)
    assert torch.equal(by_x, weight) and by_codebook is None
    assert not indices.requires_grad
    with torch.no_grad():
        assert not vector_quantize(x, codebook, impl=impl).quantized.requires_grad


def test_second_derivative_passes_through() -> None:
    x, codebook = make(2, 3, (2,), 4, torch.float64, "cpu")
    x.requires_grad_()
    (first,) = torch.autograd.grad(vector_quantize(x, codebook).quantized.pow(3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * vector_quantize(x, codebook).quantized.detach())


def test_opcheck(kernel_device: str) -> None:
    x, codebook = make(2, 5, (2, 3), 6, torch.float32, kernel_device)
    torch.library.opcheck(OPS.vector_quantize_forward.default, (x.requires_grad_(), codebook, False, "triton"))
    torch.library.opcheck(OPS.vector_quantize_forward.default, (x.detach()[:, :, 0], codebook, True, "auto"))


def test_compiles_once_for_all_sizes() -> None:
    compiles = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal compiles
        compiles += 1
        from torch._dynamo.backends.debugging import aot_eager

        return aot_eager(graph, inputs)

    def loss(x: Tensor, codebook: Tensor) -> Tensor:
        return vector_quantize(x * 2, codebook).quantized

    compiled = torch.compile(loss, fullgraph=True, backend=backend, dynamic=True)
    for n, height, width in ((2, 3, 4), (3, 6, 5)):
        x, codebook = make(n, 5, (height, width), 6, torch.float32, "cpu")
        x.requires_grad_()
        got = compiled(x, codebook)
        assert torch.equal(got, loss(x, codebook))
        (gradient,) = torch.autograd.grad(got.sum(), x)
        assert torch.equal(gradient, torch.full_like(x, 2))
    assert compiles == 1


def test_autocast_leaves_the_dtype_alone() -> None:
    x, codebook = make(2, 5, (3,), 6, torch.float32, "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        got = vector_quantize(x, codebook)
    assert got.quantized.dtype == torch.float32
    assert torch.equal(got.indices, vector_quantize(x, codebook).indices)


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    x, codebook = make(2, 5, (3, 4), 6, torch.float32, "cpu")
    for bad, kind, message in (
        (lambda: vector_quantize(x[:, :4], codebook), ValueError, r"same D; got \[2, 4, 3, 4\] and \[6, 5\]"),
        (lambda: vector_quantize(x[0, 0, 0], codebook), ValueError, r"x must be \[N, D, \*spatial\]"),
        (lambda: vector_quantize(x, codebook[0]), ValueError, r"codebook must be \[K, D\]"),
        (lambda: vector_quantize(x, codebook[:0]), ValueError, "at least one entry"),
        (lambda: vector_quantize(x.long(), codebook), TypeError, "x must be float16"),
        (lambda: vector_quantize(x, codebook.double()), TypeError, "one dtype"),
        (lambda: vector_quantize(x, codebook.to("meta")), ValueError, "one device"),
        (lambda: vector_quantize(x, codebook, impl="fast"), ValueError, "impl must be one of"),
        (lambda: vector_quantize(x.double(), codebook.double(), impl="triton"), RuntimeError, "impl='triton'"),
        (lambda: vector_quantize(x[:1].expand(2**28, -1, -1, -1), codebook), ValueError, "2\\^31 vectors"),
        (lambda: vector_quantize(x, codebook[:1].expand(2**29, -1)), ValueError, r"2\^31 values; .*\[536870912, 5\]"),
    ):
        with pytest.raises(kind, match="vector_quantize: .*" + message):
            bad()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu"):
        vector_quantize(x, codebook, impl="triton")
