"""Matrix products in the place of 1x1 convolutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgen._cpu import products
from fastgen.kernels.masked_conv2d import masked_conv2d
from fastgen.nn import Conv1x1, MaskedConv2d, WeightNormConv2d


@pytest.fixture
def convolutions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The kernels that `F.conv2d` was asked for."""
    seen: list[tuple[int, ...]] = []
    convolve = F.conv2d

    def conv2d(x: Tensor, weight: Tensor, *arguments: object, **options: object) -> Tensor:
        seen.append(tuple(weight.shape))
        return convolve(x, weight, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "conv2d", conv2d)
    return seen


def inputs(n: int = 3, channels: int = 5, out: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = [(n, channels, 6, 7), (out, channels, 1, 1), (out,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_convolution(convolutions: list[tuple[int, ...]], bias: bool) -> None:
    torch.manual_seed(0)
    leaves = inputs()[: 2 + bias]
    y = products.conv1x1(leaves[0], leaves[1], leaves[2] if bias else None)
    assert not convolutions
    wanted = F.conv2d(*leaves)
    torch.testing.assert_close(y, wanted, rtol=1e-13, atol=1e-13)
    assert y.stride() == wanted.stride()
    grad = torch.randn_like(y)
    found, true = (torch.autograd.grad(value, leaves, grad) for value in (y, wanted))
    torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-12)


def test_any_order_of_derivative() -> None:
    leaves = [t.detach()[..., :2, :2].clone().requires_grad_() if t.ndim == 4 else t for t in inputs(2, 2, 2)]
    assert torch.autograd.gradcheck(products.conv1x1, leaves)
    assert torch.autograd.gradgradcheck(products.conv1x1, leaves)


def test_where_the_library_serves(convolutions: list[tuple[int, ...]]) -> None:
    x, weight, bias = inputs(dtype=torch.float32)
    others: list[tuple[Tensor, Tensor]] = [
        (x.contiguous(memory_format=torch.channels_last), weight),
        (x[:0], weight),
        (x[0], weight),
        (torch.randn(1, 91, 2, 2), torch.randn(91, 91, 1, 1)),  # more weights than pay
    ]
    for given, its_weight in others:
        count = len(convolutions)
        products.conv1x1(given, its_weight, None)
        assert len(convolutions) == count + 1
    with torch.no_grad():  # a recorder of models looks into evaluation
        products.conv1x1(x, weight, bias)
    with torch.autocast("cpu", torch.bfloat16):
        assert products.conv1x1(x, weight, bias).dtype == torch.bfloat16
    assert len(convolutions) == len(others) + 2
    torch.compile(products.conv1x1, backend="eager", fullgraph=True)(x, weight, bias)


def test_layers_take_it(convolutions: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3)
    layers: list[nn.Module] = [Conv1x1(4, 6), WeightNormConv2d(4, 6), MaskedConv2d(4, 6, 1, mask_type="B", groups=2)]
    for layer in layers:
        y = layer(x)
        assert not convolutions
        with torch.no_grad():
            torch.testing.assert_close(layer(x), y)
        assert convolutions.pop() == (6, 4, 1, 1)
    masked_conv2d(x, torch.randn(6, 4, 3, 3), mask_type="B")
    assert len(convolutions) == 1


def test_names_and_first_values_are_those_of_the_convolution() -> None:
    torch.manual_seed(0)
    mine = Conv1x1(3, 5).state_dict()
    torch.manual_seed(0)
    theirs = nn.Conv2d(3, 5, 1).state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert Conv1x1(3, 5, bias=False).bias is None
