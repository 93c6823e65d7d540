"""The registered ops: each takes Triton where it can run on the tensors, and PyTorch elsewhere.

The forward keeps its output where that tells the derivative, else its input. The backward is an op with a derivative of
its own: linear in the gradient, so that part is the backward again, and where the output is kept the other part goes to
the output. `BiasAct` is the same for a CPU in eager mode, without the dispatcher's toll.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.bias_act.analytic import (
    bias_act_gradient,
    bias_act_in_place,
    bias_act_second_gradient,
    by_bias,
    keeps_output,
    needs_nothing,
)
from fastgen.kernels.bias_act.reference import ACTIVATIONS, bias_act_reference

NO_THIRD = (
    "the kernels have a first and a second derivative only; got a request for a third one; use impl='reference', "
    "which has any."
)


def _use_triton(impl: str, tensor: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or tensor.device.type == "cuda"
    return wanted and tensor.dtype != torch.float64 and runs_triton(tensor.device)


def _in_layout_of(value: Tensor, x: Tensor) -> Tensor:
    """value, new and in the strides of `torch.empty_like(x)`."""
    wanted = torch.empty_like(x)
    return value if value.stride() == wanted.stride() and value is not x else wanted.copy_(value)


def _fake_bias(x: Tensor, b: Tensor | None, with_bias: bool) -> Tensor:
    return x.new_empty(0) if b is None or not with_bias else b.new_empty(b.shape)


@register_op(
    "bias_act_second_backward",
    fake=lambda grad, second, saved, b, dim, act, alpha, gain, clamp, impl: torch.empty_like(saved),
    no_gradient=NO_THIRD,
)
def bias_act_second_backward(
    grad: Tensor,
    second: Tensor,
    saved: Tensor,
    b: Optional[Tensor],  # noqa: UP045  the schema is read from these words on Python 3.10 too
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: Optional[float],  # noqa: UP045
    impl: str,
) -> Tensor:
    """The derivative of sum(second * backward(grad)) by what is saved."""
    if _use_triton(impl, saved):
        from fastgen.kernels.bias_act import triton as kernels

        return kernels.bias_act_second_backward(grad, second, saved, b, dim, act, alpha, gain, clamp)
    by_saved = bias_act_second_gradient(grad, second, saved, b, dim, act, alpha, gain, clamp)
    return _in_layout_of(by_saved, saved)


def _save_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, saved, b, *ctx.options, _, ctx.impl = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, saved, b)


def _second_backward(ctx: Any, second: Tensor | None, second_by_bias: Tensor | None) -> tuple[Any, ...]:
    grad, saved, b = ctx.saved_tensors
    dim, act, alpha, _, _ = ctx.options
    if second_by_bias is not None and second_by_bias.numel():
        spread = second_by_bias.to(grad.dtype).reshape([-1 if i == dim else 1 for i in range(grad.ndim)])
        second = spread.expand(grad.shape) if second is None else second + spread
    if second is None:
        return (None,) * 10
    by_grad, by_saved, by_b = None, None, None
    if ctx.needs_input_grad[0]:
        by_grad, _ = bias_act_backward(second, saved, b, *ctx.options, False, ctx.impl)
    if ACTIVATIONS[act].curved and saved is not None and (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
        by_saved = bias_act_second_backward(grad, second, saved, b, *ctx.options, ctx.impl)
        if b is not None and not keeps_output(act, alpha):
            by_b = by_bias(by_saved, b, dim)
    return by_grad, by_saved, by_b, *(None,) * 7


@register_op(
    "bias_act_backward",
    fake=lambda grad, saved, b, dim, act, alpha, gain, clamp, with_bias, impl: (
        torch.empty_like(grad if saved is None else saved),
        _fake_bias(grad, b, with_bias),
    ),
    setup_context=_save_second,
    backward=_second_backward,
)
def bias_act_backward(
    grad: Tensor,
    saved: Optional[Tensor],  # noqa: UP045
    b: Optional[Tensor],  # noqa: UP045
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: Optional[float],  # noqa: UP045
    with_bias: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """The gradient by the input, and by the bias where it is asked for, else an empty tensor."""
    if _use_triton(impl, grad):
        from fastgen.kernels.bias_act import triton as kernels

        by_x, by_b = kernels.bias_act_backward(grad, saved, b, dim, act, alpha, gain, clamp, with_bias)
    else:
        by_x = bias_act_gradient(grad, saved, b, dim, act, alpha, gain, clamp)
        by_b = by_bias(by_x, b, dim) if with_bias and b is not None else None
    like = grad if saved is None else saved
    return _in_layout_of(by_x, like), grad.new_empty(0) if by_b is None else by_b


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, b, scale, noise, *ctx.options, ctx.impl = inputs
    _, act, alpha, _, clamp = ctx.options
    saved = None
    if not needs_nothing(act, clamp):
        saved = output if keeps_output(act, alpha) else x
    # the input beside the output only for the gradient by the scale, of which it is a factor
    factor = x if scale is not None and scale.requires_grad else None
    ctx.save_for_backward(saved, b, scale, factor)
    ctx.noise = None if noise is None else (noise.shape, noise.dtype)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    saved, b, scale, factor = ctx.saved_tensors
    need_x, need_b, need_scale, need_noise = ctx.needs_input_grad[:4]
    by_x, by_b = bias_act_backward(grad, saved, b, *ctx.options, need_b, ctx.impl)
    by_scale, by_noise = None, None
    if need_noise:
        shape, dtype = ctx.noise
        by_noise = by_x.sum(1, keepdim=True, dtype=torch.float32)
        by_noise = (by_noise if shape[0] == by_x.shape[0] else by_noise.sum(0, keepdim=True)).to(dtype)
    if scale is not None:
        if need_scale:
            product = by_x * factor
            over = tuple(range(2, product.ndim))
            by_scale = (product.sum(over, dtype=torch.float32) if over else product).to(scale.dtype)
        by_x = by_x * scale.to(by_x.dtype).reshape(*scale.shape, *(1,) * (by_x.ndim - 2)) if need_x else None
    return by_x, by_b if need_b else None, by_scale, by_noise, *(None,) * 6


@register_op(
    "bias_act_forward",
    fake=lambda x, *arguments: torch.empty_like(x),
    setup_context=_save,
    backward=_backward,
)
def bias_act_forward(
    x: Tensor,
    b: Optional[Tensor],  # noqa: UP045
    scale: Optional[Tensor],  # noqa: UP045
    noise: Optional[Tensor],  # noqa: UP045
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: Optional[float],  # noqa: UP045
    impl: str,
) -> Tensor:
    """clamp(gain act(x scale + noise + b)), in the layout of x."""
    if _use_triton(impl, x):
        from fastgen.kernels.bias_act import triton as kernels

        return kernels.bias_act_forward(x, b, scale, noise, dim, act, alpha, gain, clamp)
    value = bias_act_reference(x, b, dim, act, alpha, gain, clamp, scale=scale, noise=noise)
    return _in_layout_of(value, x)


class BiasAct(torch.autograd.Function):
    """The reference with one tensor kept, where plain autograd would keep one for every operation."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        b: Tensor | None,
        dim: int,
        act: str,
        alpha: float,
        gain: float,
        clamp: float | None,
    ) -> Tensor:
        y = bias_act_in_place(x, b, dim, act, alpha, gain, clamp)
        saved = None
        if not needs_nothing(act, clamp):
            saved = y if keeps_output(act, alpha) else x
        ctx.save_for_backward(saved, b)
        ctx.options = (dim, act, alpha, gain, clamp)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        saved, b = ctx.saved_tensors
        by_x = bias_act_gradient(grad, saved, b, *ctx.options)
        by_b = by_bias(by_x, b, ctx.options[0]) if ctx.needs_input_grad[1] else None
        return by_x, by_b, *(None,) * 5
