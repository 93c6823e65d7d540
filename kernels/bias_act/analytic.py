"""Value in place and gradient in plain PyTorch, from what `bias_act` keeps: for a CPU, and for float64.

The gradient is a differentiable function of its arguments. Where the output is kept, a second derivative goes to the
output, and from there by the first one to the input.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgen.kernels.bias_act.reference import ACTIVATIONS, add_bias, widen

aten = torch.ops.aten
SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


def keeps_output(act: str, alpha: float) -> bool:
    """Tell whether the output tells the derivative: not for swish, nor where lrelu's negative side turns positive."""
    return ACTIVATIONS[act].by_output and not (act == "lrelu" and alpha < 0)


def needs_nothing(act: str, clamp: float | None) -> bool:
    """Tell whether the derivative is a constant."""
    return act == "linear" and clamp is None


def rounded(clamp: float, dtype: torch.dtype) -> float:
    """A bound as an output of a dtype holds it."""
    return float(torch.tensor(clamp, dtype=dtype))


def bias_act_in_place(
    x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> Tensor:
    """The value in one new tensor. Only without a gradient."""
    value = add_bias(x, b, dim)
    if value is x:
        value = x.clone()
    if act == "relu":
        value.relu_()
    elif act == "lrelu":
        F.leaky_relu_(value, alpha)
    elif act == "tanh":
        value.tanh_()
    elif act == "sigmoid":
        value.sigmoid_()
    elif act == "elu":
        F.elu_(value)
    elif act == "selu":
        torch.selu_(value)
    elif act == "swish":
        F.silu(value, inplace=True)
    else:
        value = ACTIVATIONS[act].function(value, alpha)
    if gain != 1:
        value.mul_(gain)
    if clamp is not None:
        value.clamp_(-clamp, clamp)
    return value.to(x.dtype)


def bias_act_gradient(
    grad: Tensor,
    saved: Tensor | None,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Gradient by the input, of which `saved` is the output, or itself where `keeps_output` says no."""
    dtype = grad.dtype
    grad = widen(grad)
    if saved is None:
        return (grad * gain).to(dtype)
    u, y, bound = _argument(saved, b, dim, act, alpha, gain, clamp)
    if bound is not None:
        grad = aten.hardtanh_backward(grad, y, -bound, bound)
    by_x = _times_slope(grad, u, act, alpha)
    if gain != 1:
        by_x = by_x * gain if torch.is_grad_enabled() or by_x is grad else by_x.mul_(gain)
    return by_x.to(dtype)


def bias_act_second_gradient(
    grad: Tensor,
    second: Tensor,
    saved: Tensor,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """The derivative of sum(second * bias_act_gradient(grad, saved)) by what is saved. Without a gradient."""
    u, y, bound = _argument(saved, b, dim, act, alpha, gain, clamp)
    by_saved = widen(grad) * widen(second) * _curvature(u, act)
    if not keeps_output(act, alpha):  # by an output gain act, the gain before act' and that within u cancel
        by_saved = by_saved * gain
    if bound is not None:
        by_saved = aten.hardtanh_backward(by_saved, y, -bound, bound)
    return by_saved.to(saved.dtype)


def _argument(
    saved: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None
) -> tuple[Tensor, Tensor, float | None]:
    """(Value or argument of the activation, of which act' is taken; what the clamp bounds; the bound as held there)."""
    if not keeps_output(act, alpha):
        v = add_bias(saved, b, dim)
        return v, v if clamp is None else ACTIVATIONS[act].function(v, alpha).detach() * gain, clamp
    y = widen(saved)
    sign_suffices = gain > 0 and act in ("relu", "lrelu")
    u = y if gain == 1 or sign_suffices else y * (1 / gain if gain else 0.0)
    return u, y, None if clamp is None else rounded(clamp, saved.dtype)


def _times_slope(grad: Tensor, u: Tensor, act: str, alpha: float) -> Tensor:
    """grad act'; u is the activation's value, or its argument where that is kept."""
    if act == "relu":
        return aten.threshold_backward(grad, u, 0)
    if act == "lrelu":
        return aten.leaky_relu_backward(grad, u, alpha, alpha >= 0)
    if act == "tanh":
        return aten.tanh_backward(grad, u)
    if act == "sigmoid":
        return aten.sigmoid_backward(grad, u)
    if act == "elu":
        return aten.elu_backward(grad, 1.0, 1.0, 1.0, True, u)
    if act == "selu":
        return aten.elu_backward(grad, SELU_ALPHA, SELU_SCALE, 1.0, True, u)
    if act == "softplus":
        return grad * -torch.expm1(-u)
    if act == "swish":
        s = torch.sigmoid(u)
        return grad * (s + u * s * (1 - s))
    return grad


def _curvature(u: Tensor, act: str) -> Tensor:
    """The derivative of act' as `_times_slope` has it, by u."""
    if act == "tanh":
        return -2 * u
    if act == "sigmoid":
        return 1 - 2 * u
    if act in ("elu", "selu"):
        return (u <= 0).to(u.dtype)
    if act == "softplus":
        return torch.exp(-u)
    if act == "swish":
        s = torch.sigmoid(u)
        return s * (1 - s) * (2 + u * (1 - 2 * s))
    return torch.zeros_like(u)


def by_bias(by_x: Tensor, b: Tensor, dim: int) -> Tensor:
    """The sum over all dimensions but one, in the dtype of b."""
    over = [i for i in range(by_x.ndim) if i != dim]
    return (widen(by_x).sum(over) if over else by_x).to(b.dtype)
