"""Gradients in plain PyTorch that need only the arguments: for a CPU, where plain autograd would keep more."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels.gated_activation.layout import empty_output
from fastgen.kernels.gated_activation.reference import add_bias, drop, widen

aten = torch.ops.aten


def elu_of_both(x: Tensor) -> Tensor:
    """elu([x, -x]) by one exponential for both: elu(v) = max(v, e^-|v| - 1). Shapes: [N, C, ...] -> [N, 2C, ...]."""
    y = empty_output(x, 2 * x.shape[1])
    positive, negative = y.chunk(2, dim=1)
    below = x.abs().neg_().expm1_()
    torch.maximum(x, below, out=positive)
    torch.maximum(x.neg(), below, out=negative)
    return y


def elu_of_both_backward(grad: Tensor, y: Tensor) -> Tensor:
    """grad [N, 2C, *spatial] times the derivative of y = elu([x, -x]) by x: 1 where y > 0, else y + 1."""
    (positive, negative), (above, below) = grad.chunk(2, dim=1), y.chunk(2, dim=1)
    by_x: Tensor = aten.elu_backward(positive, 1.0, 1.0, 1.0, True, above)
    by_x -= aten.elu_backward(negative, 1.0, 1.0, 1.0, True, below)
    return by_x


def slopes_of_both(grad: Tensor, y: Tensor, scale: float) -> Tensor:
    """grad [N, 2C, *spatial] times the derivative of y = drop(elu([x, -x])) by x, where -0 is what was dropped."""
    dropped = (y == 0) & y.signbit()
    kept = torch.where(y > 0, scale, y + scale)
    positive, negative = (grad * kept.masked_fill(dropped, 0.0)).chunk(2, dim=1)
    return positive - negative


def glu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """grad [N, C, *spatial] times the derivative of a s(b) by [a, b] = x, in its layout."""
    if x.is_contiguous():
        by_x: Tensor = aten.glu_backward(grad, x, 1)
        return by_x
    a, b = x.chunk(2, dim=1)  # aten's reads channels that come last one by one
    by_x = empty_output(x, x.shape[1])
    by_a, by_b = by_x.chunk(2, dim=1)
    s = torch.sigmoid(b)
    torch.mul(grad, s, out=by_a)
    aten.sigmoid_backward.grad_input(grad * a, s, grad_input=by_b)
    return by_x


def gate_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, kind: str, dropout: float, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(grad [N, C, *spatial] times the derivative by x [N, 2C, *spatial], the same by the bias if there is one)."""
    wide = add_bias(x, bias)
    grad = drop(widen(grad), dropout, seed)
    if kind == "linear":
        by_x = glu_backward(grad, wide)
    else:
        a, b = wide.chunk(2, dim=1)
        t, s = torch.tanh(a), torch.sigmoid(b)
        by_x = torch.cat((aten.tanh_backward(grad * s, t), aten.sigmoid_backward(grad * t, s)), dim=1)
    return by_x.to(x.dtype), sum_to_bias(by_x, bias)


def elu_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, dropout: float, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(grad [N, 2C, *spatial] times the derivative by x [N, C, *spatial], the same by the bias if there is one)."""
    wide = add_bias(x, bias)
    positive, negative = (drop(part, dropout, seed, half) for half, part in enumerate(widen(grad).chunk(2, dim=1)))
    by_x = aten.elu_backward(positive, 1.0, 1.0, 1.0, False, wide)
    by_x -= aten.elu_backward(negative, 1.0, 1.0, 1.0, False, -wide)
    return by_x.to(x.dtype), sum_to_bias(by_x, bias)


def sum_to_bias(by_x: Tensor, bias: Tensor | None) -> Tensor | None:
    """The gradient by the bias [C] or [N, C] from that by x, if there is one."""
    if bias is None:
        return None
    over = [*range(2 - bias.ndim), *range(2, by_x.ndim)]
    return (by_x.sum(over) if over else by_x).to(bias.dtype)
