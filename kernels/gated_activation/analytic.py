"""Gradients in plain PyTorch that need only the arguments: for a CPU, where plain autograd would keep more."""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels.gated_activation.reference import add_bias, drop, widen

aten = torch.ops.aten


def gate_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, kind: str, dropout: float, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(grad [N, C, *spatial] times the derivative by x [N, 2C, *spatial], the same by the bias if there is one)."""
    wide = add_bias(x, bias)
    grad = drop(widen(grad), dropout, seed)
    if kind == "linear":
        by_x = aten.glu_backward(grad, wide, 1)
    else:
        a, b = wide.chunk(2, dim=1)
        t, s = torch.tanh(a), torch.sigmoid(b)
        by_x = torch.cat((aten.tanh_backward(grad * s, t), aten.sigmoid_backward(grad * t, s)), dim=1)
    return by_x.to(x.dtype), _by_bias(by_x, bias)


def elu_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, dropout: float, seed: int
) -> tuple[Tensor, Tensor | None]:
    """(grad [N, 2C, *spatial] times the derivative by x [N, C, *spatial], the same by the bias if there is one)."""
    wide = add_bias(x, bias)
    positive, negative = (drop(part, dropout, seed, half) for half, part in enumerate(widen(grad).chunk(2, dim=1)))
    by_x = aten.elu_backward(positive, 1.0, 1.0, 1.0, False, wide)
    by_x -= aten.elu_backward(negative, 1.0, 1.0, 1.0, False, -wide)
    return by_x.to(x.dtype), _by_bias(by_x, bias)


def _by_bias(by_x: Tensor, bias: Tensor | None) -> Tensor | None:
    if bias is None:
        return None
    over = [*range(2 - bias.ndim), *range(2, by_x.ndim)]
    return (by_x.sum(over) if over else by_x).to(bias.dtype)
