"""dmol_log_prob on the CPU: right in every layout and dtype, right gradient, a well-behaved op, clear errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastgen.functional import dmol_log_prob
from fastgen.kernels.dmol import chunked, dmol_log_prob_reference

Make = Callable[..., tuple[Tensor, Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]
OPS = torch.ops.fastgen


def value_and_gradient(function: Callable[[Tensor], Tensor], params: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    params = params.detach().requires_grad_()
    value = function(params)
    (gradient,) = torch.autograd.grad((value * weight.to(value)).sum(), params)
    return value.detach(), gradient


@pytest.mark.parametrize("tails", ["exact", "pixelcnn++"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("channels", "n_mix", "bits"), [(3, 10, 8), (1, 5, 8), (1, 1, 1), (2, 3, 5), (4, 2, 3), (5, 3, 2)]
)
def test_value_and_gradient_within_budget(
    make: Make, within_budget: Budget, channels: int, n_mix: int, bits: int, dtype: torch.dtype, tails: str
) -> None:
    x, params = make(channels, n_mix, bits, n=6, height=9, width=11, dtype=dtype)
    weight = torch.rand(6, 9, 11) + 0.5
    options = {"bits": bits, "tails": tails}
    got = value_and_gradient(lambda p: dmol_log_prob(x, p, **options), params, weight)
    formula = value_and_gradient(lambda p: dmol_log_prob_reference(x, p, **options), params, weight)
    exact = value_and_gradient(lambda p: dmol_log_prob_reference(x, p, **options), params.double(), weight)
    assert got[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and got[1].dtype == dtype
    if dtype == torch.float64:
        torch.testing.assert_close(got[0], exact[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(got[1], exact[1], rtol=1e-7, atol=1e-9)
    else:
        within_budget(got[0], formula[0], exact[0])
        within_budget(got[1], formula[1], exact[1])


def test_large_logits_lose_nothing(make: Make, within_budget: Budget) -> None:
    x, params = make(n_mix=4, n=4)
    params[:, :4] += 1e4
    exact = dmol_log_prob_reference(x, params.double())
    within_budget(dmol_log_prob(x, params), dmol_log_prob_reference(x, params), exact)


@pytest.mark.parametrize("log_scale", [-1000.0, -7.0, 19.0, 21.0, 59.0, 61.0, 1e4])
@pytest.mark.parametrize("mean", [0.0, 1e4, -1e4])
def test_saturated_parameters_within_budget(within_budget: Budget, log_scale: float, mean: float) -> None:
    x = torch.tensor([0, 1, 127, 128, 254, 255], dtype=torch.uint8).expand(1, 3, 1, 6).contiguous()
    blocks = torch.linspace(-1, 1, 20).view(10, 2).clone()
    blocks[[1, 4, 7]], blocks[[2, 5]], blocks[0, 1] = mean, log_scale, -1e4
    params = blocks.view(1, 20, 1, 1).expand(-1, -1, 1, 6)
    for dtype in (torch.float32, torch.float64):
        got, formula, exact = (
            value_and_gradient(lambda p, f=f: f(x, p), params.to(d), torch.ones(()))
            for f, d in (
                (dmol_log_prob, dtype),
                (dmol_log_prob_reference, dtype),
                (dmol_log_prob_reference, torch.float64),
            )
        )
        if dtype == torch.float64:
            torch.testing.assert_close(got, exact, rtol=1e-7, atol=1e-12)
        else:
            within_budget(got[0], formula[0], exact[0])
            within_budget(got[1], formula[1], exact[1])


def layouts(params: Tensor) -> dict[str, Tensor]:
    """The same values in other strides."""
    n, p, h, w = params.shape
    padded = torch.full((n, p, h, w + 3), torch.nan, dtype=params.dtype)
    padded[..., 1 : w + 1] = params
    return {
        "contiguous": params.contiguous(),
        "channels_last": params.contiguous(memory_format=torch.channels_last),
        "columns first": params.transpose(2, 3).contiguous().transpose(2, 3),
        "a slice": padded[..., 1 : w + 1],
        "every other image": params.repeat_interleave(2, 0)[::2],
        "expanded": params[:, :, :1, :1].expand(n, p, h, w),
    }


@pytest.mark.parametrize(
    "name", ["contiguous", "channels_last", "columns first", "a slice", "every other image", "expanded"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(make: Make, poisoned_memory: None, name: str, dtype: torch.dtype) -> None:
    x, params = make(3, 3, dtype=dtype)
    params = layouts(params)[name]
    weight = torch.rand(2, 5, 7)
    got = value_and_gradient(lambda p: dmol_log_prob(x, p), params, weight)
    plain = value_and_gradient(lambda p: dmol_log_prob(x.clone(), p), params.contiguous(), weight)
    torch.testing.assert_close(got[0], plain[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got[1], plain[1], rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)
    if name == "channels_last":
        assert got[1].is_contiguous(memory_format=torch.channels_last)
    in_x = dmol_log_prob(x.contiguous(memory_format=torch.channels_last), params)
    torch.testing.assert_close(in_x, got[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 60, 100, 400, 1 << 20])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_chunks_do_not_show(
    make: Make, poisoned_memory: None, monkeypatch: pytest.MonkeyPatch, chunk: int, format: torch.memory_format
) -> None:
    x, params = make(3, 2, n=5, height=3, width=5)
    params = params.contiguous(memory_format=format)
    weight = torch.rand(5, 3, 5)
    whole = value_and_gradient(lambda p: dmol_log_prob(x, p), params, weight)
    monkeypatch.setattr(chunked, "CHUNK", chunk)
    parts = value_and_gradient(lambda p: dmol_log_prob(x, p), params, weight)
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-5, atol=1e-6)


def test_extra_memory_does_not_grow_with_the_batch(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    sizes: list[int] = []
    real = torch.empty

    def spy(*size: object, **options: object) -> Tensor:
        out = real(*size, **options)  # type: ignore[call-overload]
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(torch, "empty", spy)
    for n in (32, 128):
        x, params = make(3, 10, n=n, height=16, width=16)
        dmol_log_prob(x, params)
    assert max(sizes) <= max(chunked.CHUNK, 128 * 16 * 16)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_zero_size(shape: tuple[int, int, int]) -> None:
    n, h, w = shape
    x = torch.zeros(n, 3, h, w, dtype=torch.uint8)
    params = torch.zeros(n, 20, h, w, requires_grad=True)
    log_prob = dmol_log_prob(x, params)
    assert log_prob.shape == (n, h, w)
    log_prob.sum().backward()
    assert params.grad is not None and params.grad.shape == params.shape


def test_no_gradient_for_x(make: Make) -> None:
    x, params = make()
    signal = (x.float() / 127.5 - 1).requires_grad_()
    assert not dmol_log_prob(signal, params).requires_grad
    dmol_log_prob(signal, params.requires_grad_()).sum().backward()
    assert signal.grad is None and params.grad is not None


def test_the_two_ways_to_the_gradient_agree(make: Make) -> None:
    x, params = make(n_mix=10)
    weight = torch.rand(2, 5, 7)
    fused = value_and_gradient(lambda p: dmol_log_prob(x, p), params, weight)
    again = value_and_gradient(lambda p: OPS.dmol_log_prob_forward(x, p, 8, "exact", "auto"), params, weight)
    torch.testing.assert_close(fused[0], again[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fused[1], again[1], rtol=1e-5, atol=1e-6)


def test_backward_more_than_once(make: Make) -> None:
    x, params = make()
    params.requires_grad_()
    loss = dmol_log_prob(x, params).sum()  # its backward sends a gradient of stride 0
    first, second, third = (torch.autograd.grad(loss, params, retain_graph=True)[0] for _ in range(3))
    kept = first.clone()
    first.zero_()
    assert torch.equal(second, third) and kept.abs().max() > 0
    torch.testing.assert_close(second, kept, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_a_constant(make: Make) -> None:
    x, params = make()
    value, gradient = OPS.dmol_log_prob_forward_gradient(x, params.requires_grad_(), 8, "exact", "auto")
    assert value.requires_grad and not gradient.requires_grad


@pytest.mark.parametrize("op", ["public", "dmol_log_prob_forward"])
def test_second_order_says_that_there_is_none(make: Make, op: str) -> None:
    x, params = make()
    params.requires_grad_()
    call = (
        (lambda p: dmol_log_prob(x, p))
        if op == "public"
        else (lambda p: OPS.dmol_log_prob_forward(x, p, 8, "exact", "auto"))
    )
    (gradient,) = torch.autograd.grad(call(params).sum(), params, create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivative only; .* use impl='reference'"):
        gradient.square().sum().backward()
    (gradient,) = torch.autograd.grad(dmol_log_prob(x, params, impl="reference").sum(), params, create_graph=True)
    gradient.square().sum().backward()
    assert params.grad is not None and params.grad.isfinite().all()


def test_opcheck(make: Make) -> None:
    x, params = make(n_mix=2)
    params.requires_grad_()
    for tails in ("exact", "pixelcnn++"):
        options = (8, tails, "auto")
        torch.library.opcheck(OPS.dmol_log_prob_forward.default, (x, params, *options))
        torch.library.opcheck(OPS.dmol_log_prob_forward_gradient.default, (x, params, *options))
    plain = params.detach()
    grad = torch.rand(2, 5, 7)
    log_prob = dmol_log_prob(x, plain)
    torch.library.opcheck(OPS.dmol_log_prob_backward.default, (grad, x, plain, log_prob, 8, "exact", "auto"))
    torch.library.opcheck(OPS.dmol_log_prob_scale_gradient.default, (grad, plain.clone(), plain))
    last = plain.contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(OPS.dmol_log_prob_forward.default, (x, last, 8, "exact", "auto"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compile_fullgraph(make: Make, dtype: torch.dtype) -> None:
    x, params = make(dtype=dtype)

    def loss(params: Tensor) -> Tensor:
        return -dmol_log_prob(x, params * 0.5, bits=8).mean()

    eager = value_and_gradient(loss, params, torch.ones(()))
    compiled = value_and_gradient(torch.compile(loss, fullgraph=True, backend="aot_eager"), params, torch.ones(()))
    assert torch.equal(eager[0], compiled[0])
    torch.testing.assert_close(eager[1], compiled[1])
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(loss, fullgraph=True, backend="aot_eager")(params), eager[0])


def test_autocast(make: Make) -> None:
    x, _ = make()
    layer = torch.nn.Conv2d(3, 50, 1)
    with torch.autocast("cpu", torch.bfloat16):
        params = layer(x / 127.5 - 1)
        log_prob = dmol_log_prob(x, params)
    assert params.dtype == torch.bfloat16 and log_prob.dtype == torch.float32
    torch.testing.assert_close(log_prob, dmol_log_prob(x, params.float()), rtol=1e-5, atol=1e-5)
    log_prob.mean().backward()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


X = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
PARAMS = torch.zeros(2, 20, 4, 4)
SIGNAL = torch.zeros(2, 3, 4, 4)
MISUSE = {
    "levels": ((X + 32, PARAMS), {"bits": 5}, ValueError, r"levels 0\.\.31; got 32; quantize"),
    "beyond": ((SIGNAL + 1.1, PARAMS), {}, ValueError, r"must lie in \[-1, 1\]; got 1\.1"),
    "NaN": ((SIGNAL * torch.nan, PARAMS), {}, ValueError, r"must lie in \[-1, 1\]; got nan"),
    "NaN without gradient": ((SIGNAL * torch.nan, PARAMS.clone().requires_grad_()), {}, ValueError, "got nan"),
    "NaN, reference": ((SIGNAL * torch.nan, PARAMS), {"impl": "reference"}, ValueError, "got nan"),
    "shape": ((X[:, :, :3], PARAMS), {}, ValueError, r"same N, H, W; got \[2, 3, 3, 4\] and \[2, 20, 4, 4\]"),
    "dimensions": ((X[0], PARAMS[0]), {}, ValueError, r"x must be \[N, C, H, W\]"),
    "parameters": ((X, PARAMS[:, :19]), {}, ValueError, r"a multiple of 10 for C = 3; got \[2, 19, 4, 4\]"),
    "no parameters": ((X, PARAMS[:, :0]), {}, ValueError, "a multiple of 10"),
    "no channels": ((X[:, :0], PARAMS), {}, ValueError, "at least one channel"),
    "tails": ((X, PARAMS), {"tails": "fat"}, ValueError, "tails must be one of 'exact', 'pixelcnn\\+\\+'; got 'fat'"),
    "bits": ((X, PARAMS), {"bits": 9}, ValueError, r"bits must be an integer in 1\.\.8 for torch\.uint8 x; got 9"),
    "float bits": ((SIGNAL, PARAMS), {"bits": 17}, ValueError, r"in 1\.\.16"),
    "half bits": ((SIGNAL.half(), PARAMS), {"bits": 9}, ValueError, r"in 1\.\.8 for torch.float16 x"),
    "x dtype": ((X.long(), PARAMS), {}, TypeError, r"got torch.int64; use x.to\(torch.uint8\)"),
    "params dtype": ((X, PARAMS.long()), {}, TypeError, "params must be float16"),
    "impl": (
        (X, PARAMS),
        {"impl": "cuda"},
        ValueError,
        "impl must be one of 'auto', 'triton', 'reference'; got 'cuda'",
    ),
    "device": ((X, PARAMS.to("meta")), {}, ValueError, "on one device; got x on cpu, params on meta"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse(name: str) -> None:
    arguments, options, error, message = MISUSE[name]
    with pytest.raises(error, match=message):
        dmol_log_prob(*arguments, **options)


def test_triton_where_it_cannot_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    x, params = make()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="impl='triton' cannot run on cpu tensors here"):
        dmol_log_prob(x, params, impl="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match="computes in float32; got float64"):
        dmol_log_prob(x, params.double(), impl="triton")
