"""Attention over earlier pixels, against its definition written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastgen.nn import CausalAttention, ChannelNorm, causal_attention


def written_out(q: Tensor, k: Tensor, v: Tensor, heads: int, strict: bool) -> Tensor:
    n, channels = v.shape[:2]
    size = q.shape[2] * q.shape[3]
    out = v.new_zeros(n, channels, size)
    d, e = k.shape[1] // heads, channels // heads
    q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
    for p in range(size):
        count = p if strict else p + 1
        for h in range(heads):
            if count:
                scores = torch.einsum("nd,ndp->np", q[:, h * d : h * d + d, p], k[:, h * d : h * d + d, :count])
                weights = torch.softmax(scores / math.sqrt(d), 1)
                values = v[:, h * e : h * e + e, :count]
                out[:, h * e : h * e + e, p] = torch.einsum("np,nep->ne", weights, values)
    return out


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("size", [(3, 4), (1, 5), (1, 1)])
def test_equals_the_definition(heads: int, strict: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, c, *size, dtype=torch.float64, requires_grad=True) for c in (4, 4, 6))
    got = causal_attention(q, k, v, heads=heads, strict=strict)
    expected = written_out(q, k, v, heads, strict).view_as(got)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(y.square().sum(), (q, k, v), materialize_grads=True, allow_unused=True)
             if y.requires_grad else [torch.zeros_like(t) for t in (q, k, v)] for y in (got, expected)]  # fmt: skip
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_module_attends_to_its_context() -> None:
    torch.manual_seed(0)
    layer = CausalAttention(4, 2, context_channels=3, key_channels=6, value_channels=8, out_channels=5, strict=True)
    x, context = torch.randn(2, 4, 3, 3), torch.randn(2, 3, 3, 3)
    got = layer(x, context)
    expected = layer.out(
        written_out(layer.query(x), layer.key(context), layer.value(context), 2, True).view(2, 8, 3, 3)
    )
    torch.testing.assert_close(got, expected)
    assert "heads=2, strict=True" in repr(layer)


def test_channel_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 3, 4) * 3 + 1
    y = ChannelNorm(6)(x)
    assert y.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 3, 4), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: causal_attention(*(torch.zeros(1, 4, 2, 2),) * 2, torch.zeros(1, 4, 2, 3)), r"value \[N, V, H, W\]"),
        (lambda: causal_attention(*(torch.zeros(1, 4, 2, 2),) * 3, heads=3), "heads must divide"),
        (lambda: CausalAttention(4, 3), "heads must divide"),
    ],
)
def test_misuse(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
