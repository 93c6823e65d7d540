"""The oracle against sums written out tap by tap, against what a mask means, and against finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fastgen.functional import masked_conv2d
from fastgen.kernels.masked_conv2d import masked_conv2d_reference

OPTIONS: list[dict[str, Any]] = [
    {"mask_type": "A"},
    {"mask_type": "B", "dilation": 2},
    {"mask_type": "A", "in_groups": [0, 1, 2], "out_groups": [0, 1, 2, 0]},
    {"mask_type": "B", "in_groups": [0, 1, 1], "out_groups": [1, 0, 1, 0], "stride": 2},
    {"mask_type": "A", "stack": "vertical"},
    {"mask_type": "B", "stack": "vertical", "stride": 2},
    {"mask_type": "B", "center": (2, 2)},
    {"mask_type": "A", "center": (2, 0), "dilation": 2, "stride": 2},
]


def sees(target: tuple[int, int, int], source: tuple[int, int, int], options: dict[str, Any]) -> bool:
    """Whether an output (row, column, group) may see an input, from what the masks are for."""
    strict = options["mask_type"] == "A"
    if options.get("stack") == "vertical":
        return source[0] < target[0] if strict else source[0] <= target[0]
    return source < target if strict else source <= target


def by_hand(x: Tensor, weight: Tensor, bias: Tensor, options: dict[str, Any]) -> Tensor:
    """Sums over single pixels and channels."""
    n, ci, height, width = x.shape
    co, _, kh, kw = weight.shape
    stride, dilation = options.get("stride", 1), options.get("dilation", 1)
    row, column = options.get("center") or (kh // 2, kw // 2)
    in_groups = options.get("in_groups", [0] * ci)
    out_groups = options.get("out_groups", [0] * co)
    y = bias.view(1, co, 1, 1).repeat(n, 1, math.ceil(height / stride), math.ceil(width / stride))
    for o in range(co):
        for i in range(y.shape[2]):
            for j in range(y.shape[3]):
                target = (stride * i, stride * j, out_groups[o])
                for a in range(kh):
                    for b in range(kw):
                        at = (stride * i + dilation * (a - row), stride * j + dilation * (b - column))
                        if not (0 <= at[0] < height and 0 <= at[1] < width):
                            continue
                        for c in range(ci):
                            if sees(target, (*at, in_groups[c]), options):
                                y[:, o, i, j] += weight[o, c, a, b] * x[:, c, at[0], at[1]]
    return y


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_sums_written_out(options: dict[str, Any]) -> None:
    x = torch.randn(2, 3, 3, 5, dtype=torch.float64)
    weight, bias = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    wanted = by_hand(x, weight, bias, options)
    got = masked_conv2d(x, weight, bias, impl="reference", **options)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("gate", ["tanh", "linear"])
def test_epilogue(gate: str) -> None:
    x, weight = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    condition, residual = torch.randn(2, 4, dtype=torch.float64), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    plain = masked_conv2d_reference(x, weight, mask_type="B")
    got = masked_conv2d_reference(x, weight, mask_type="B", gate=gate, condition=condition, residual=residual)
    a, b = (plain[:, half] + condition[:, half, None, None] for half in (slice(0, 2), slice(2, 4)))
    squashed = (a.exp() - (-a).exp()) / (a.exp() + (-a).exp()) if gate == "tanh" else a
    torch.testing.assert_close(got, residual + squashed / (1 + (-b).exp()), rtol=0, atol=1e-12)
    spatial = condition[:, :, None, None].expand(-1, -1, 4, 4)
    same = masked_conv2d_reference(x, weight, mask_type="B", gate=gate, condition=spatial, residual=residual)
    torch.testing.assert_close(same, got, rtol=0, atol=1e-12)


def test_gradients_of_both_orders() -> None:
    x, weight = torch.randn(1, 2, 3, 3, dtype=torch.float64), torch.randn(4, 2, 3, 3, dtype=torch.float64)
    bias, condition = torch.randn(4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias, condition)]

    def f(x: Tensor, weight: Tensor, bias: Tensor, condition: Tensor) -> Tensor:
        return masked_conv2d(
            x, weight, bias, mask_type="B", groups=2, gate="tanh", condition=condition, impl="reference"
        )

    assert torch.autograd.gradcheck(f, inputs)
    assert torch.autograd.gradgradcheck(f, inputs)
