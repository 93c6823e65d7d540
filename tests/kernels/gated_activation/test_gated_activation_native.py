"""What training on a CPU runs: compiled C, against the oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen._cpu import eager
from fastgen.functional import concat_elu, gated_activation
from fastgen.kernels.gated_activation import api, concat_elu_reference, gated_activation_reference, native, op

Make = Callable[..., dict[str, Tensor]]
Run = Callable[..., list[Tensor]]
Budget = Callable[[Tensor, Tensor, Tensor], None]

pytestmark = pytest.mark.skipif(not eager.compiles(), reason="no C compiler that knows OpenMP")

SHAPES = [
    (6, (9, 11), 3),
    (1, (1, 1), 64),
    (5, (4, 4), 2),
    (70, (2, 3), 2),
    (4, (3, 40), 2),
    (9, (17,), 2),
    (3, (), 40),
]


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the compiled functions that ran; one at least."""
    ran: list[str] = []
    run = native._run
    monkeypatch.setattr(native, "_run", lambda name, *arguments: (ran.append(name), run(name, *arguments))[1])
    yield ran
    assert ran


def compare(got: list[Tensor], formula: list[Tensor], exact: list[Tensor], within_budget: Budget) -> None:
    for mine, theirs, true in zip(got, formula, exact, strict=True):
        assert mine.dtype == theirs.dtype and mine.shape == true.shape
        if mine.dtype == torch.float64:
            torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-12)
        else:
            within_budget(mine, theirs, true)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 2, 0), (2, 3, 0, 1)], ids=str)
def test_concat_elu(
    make: Make,
    run: Run,
    within_budget: Budget,
    padding: Any,
    shape: Any,
    dropout: float,
    last: bool,
    dtype: torch.dtype,
) -> None:
    channels, spatial, n = shape
    if (any(padding) or last) and len(spatial) != 2:
        padding, last = (0, 0, 0, 0), False
    options = {"dropout": dropout, "seed": 2**63 + 7}
    inputs = make(channels, spatial, n=n, last=last, dtype=dtype)

    def reference(x: Tensor) -> Tensor:
        y = concat_elu_reference(x, **options)
        return F.pad(y, padding) if any(padding) else y

    got = run(lambda x: concat_elu(x, padding=padding, **options), inputs)
    formula = run(reference, inputs)
    exact = run(reference, {"x": inputs["x"].double()})
    compare(got, formula, exact, within_budget)
    assert got[0].stride() == formula[0].stride() and got[1].stride() == inputs["x"].stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["tanh", "linear"])
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gates(
    make: Make,
    run: Run,
    within_budget: Budget,
    shape: Any,
    residual: bool,
    bias: int,
    kind: str,
    last: bool,
    dtype: torch.dtype,
) -> None:
    channels, spatial, n = shape
    last = last and len(spatial) == 2
    inputs = make(2 * channels, spatial, n=n, bias=bias, residual=residual, last=last, dtype=dtype)
    got = run(lambda **t: gated_activation(kind=kind, **t), inputs)
    formula = run(lambda **t: gated_activation_reference(kind=kind, **t), inputs)
    exact = run(
        lambda **t: gated_activation_reference(kind=kind, **t), {name: t.double() for name, t in inputs.items()}
    )
    compare(got, formula, exact, within_budget)
    assert got[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("last", [False, True])
def test_derivatives_of_any_order(make: Make, last: bool) -> None:
    inputs = make(2, (2, 3), bias=1, residual=True, last=last, dtype=torch.float64)
    leaves = tuple(t.requires_grad_() for t in inputs.values())
    for kind in ("tanh", "linear"):

        def gate(x: Tensor, bias: Tensor, residual: Tensor, kind: str = kind) -> Tensor:
            return gated_activation(x, kind=kind, bias=bias, residual=residual)

        assert torch.autograd.gradcheck(gate, leaves) and torch.autograd.gradgradcheck(gate, leaves)
    padded = functools.partial(concat_elu, dropout=0.4, seed=3, padding=(1, 0, 2, 1))
    assert torch.autograd.gradcheck(padded, leaves[:1]) and torch.autograd.gradgradcheck(padded, leaves[:1])


@pytest.mark.parametrize("last", [False, True])
def test_what_is_dropped_has_no_gradient_and_a_zero_that_stays_has_one(last: bool) -> None:
    x = torch.zeros(2, 8, 5, 5)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    y = concat_elu(x, dropout=0.5, seed=1)
    kept = concat_elu_reference(torch.full_like(x, 1.0), dropout=0.5, seed=1)[:, :8] != 0
    (by_x,) = torch.autograd.grad(y[:, :8].sum(), x)  # of the positive half
    assert not y.any() and torch.equal(by_x, 2.0 * kept)


def test_special_values() -> None:
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 100.0, -100.0, 1e-30, -1e-30, -0.0], requires_grad=True)
    y = concat_elu(x.view(1, 8))
    torch.testing.assert_close(y, concat_elu_reference(x.view(1, 8)), rtol=1e-6, atol=0, equal_nan=True)
    (by_x,) = torch.autograd.grad(y.sum(), x)
    wanted = torch.autograd.grad(concat_elu_reference(x.view(1, 8)).sum(), x)[0]
    assert by_x[2].isnan()  # where PyTorch's has ones
    torch.testing.assert_close(by_x[[0, 1, 3, 4, 5, 6, 7]], wanted[[0, 1, 3, 4, 5, 6, 7]], rtol=1e-6, atol=0)
    gate = torch.stack([x.detach(), x.detach().flip(0)]).view(1, 16).requires_grad_()
    for kind in ("tanh", "linear"):
        got = gated_activation(gate, kind=kind)
        torch.testing.assert_close(
            got, gated_activation_reference(gate, kind=kind), rtol=1e-6, atol=1e-35, equal_nan=True
        )


def test_any_number_of_threads_gives_the_same_bits(make: Make, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ELEMENTS_A_THREAD", 1)
    inputs = make(6, (9, 11), n=3)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(lambda x: concat_elu(x, dropout=0.3, seed=5, padding=(1, 1, 1, 0)), inputs))
            found[-1] += run(lambda x: gated_activation(x, residual=x[:, :3]), inputs)
    finally:
        torch.set_num_threads(before)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_gradients_of_any_layout(make: Make, compiled: list[str]) -> None:
    x = make(4, (5, 6))["x"].requires_grad_()
    y = concat_elu(x, padding=(1, 1, 1, 0))
    grad = torch.randn(2, 8, 6, 8)
    (plain,) = torch.autograd.grad(y, x, grad, retain_graph=True)
    (last,) = torch.autograd.grad(y, x, grad.contiguous(memory_format=torch.channels_last), retain_graph=True)
    (expanded,) = torch.autograd.grad(y, x, grad[:, :, :1, :1].expand_as(grad), retain_graph=True)
    (dense,) = torch.autograd.grad(y, x, grad[:, :, :1, :1].expand_as(grad).contiguous())
    assert torch.equal(plain, last) and torch.equal(expanded, dense)
    assert compiled == ["concat_elu", *["concat_elu_backward"] * 4]


def test_no_one_else_gets_them(make: Make, compiled: list[str]) -> None:
    x = make(4)["x"]
    with torch.no_grad():
        concat_elu(x.requires_grad_())  # a recorder of models looks into evaluation
    concat_elu(x.detach())
    concat_elu(x.half())
    concat_elu(x, bias=torch.zeros(4))
    gated_activation(x, dropout=0.5, seed=1)
    torch.compile(concat_elu, backend="eager", fullgraph=True)(x)
    assert not compiled
    assert type(concat_elu(x).grad_fn).__name__ == f"{op.NativeElu.__name__}Backward"


def test_without_a_compiler_they_are_not_there(
    make: Make, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
) -> None:
    x = make(4)["x"].requires_grad_()
    wanted = concat_elu(x, dropout=0.5, seed=1, padding=(1, 0, 1, 0))
    count = len(compiled)
    monkeypatch.setattr(eager, "compiles", lambda: False)
    assert not api.runs_on(x)
    torch.testing.assert_close(concat_elu(x, dropout=0.5, seed=1, padding=(1, 0, 1, 0)), wanted)
    assert len(compiled) == count
