"""The registered ops, all of them Triton's: where it cannot run, the public function takes plain operations.

The forward keeps the gate's pre-activations for the backward, but only where a gradient will be asked for. The backward
goes back through the gate, and its result into two convolutions: with the taps mirrored for x, and over the pixels for
the weight. Each is an op of its own, so that only those that are needed run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op

NO_SECOND = (
    "the kernels of masked_conv2d have a first derivative only; got a request for a second one; use impl='reference', "
    "which has any."
)
N_ARGUMENTS = 15  # of the forward


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """An image batch, channels last."""
    shape = like.shape[0], channels, height, width
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _forward_results(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    condition: Tensor | None,
    residual: Tensor | None,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    taps: int,
    row: int,
    column: int,
    strict: bool,
    stride: int,
    dilation: int,
    gate: str,
    training: bool,
) -> tuple[Tensor, Tensor]:
    height, width = ((size + stride - 1) // stride for size in x.shape[2:])
    outputs = weight.shape[0]
    y = _empty(x, outputs // 2 if gate else outputs, height, width)
    return y, _empty(x, outputs, height, width) if gate and training else x.new_empty(0)


@register_op(
    "masked_conv2d_gate_backward",
    fake=lambda grad, pre, gate: (
        torch.empty_like(pre, memory_format=torch.channels_last),
        pre.new_empty(pre.shape[:2], dtype=torch.float32),
    ),
    no_gradient=NO_SECOND,
)
def masked_conv2d_gate_backward(grad: Tensor, pre: Tensor, gate: str) -> tuple[Tensor, Tensor]:
    """The gradient by the pre-activations [N, 2F, H, W], and its sums over each image [N, 2F] in float32."""
    from fastgen.kernels.masked_conv2d import triton as kernels

    return kernels.masked_conv2d_gate_backward(grad, pre, gate)


@register_op(
    "masked_conv2d_input_gradient",
    fake=lambda grad, weight, in_groups, out_groups, height, width, *options: _empty(
        grad, weight.shape[1], height, width
    ),
    no_gradient=NO_SECOND,
)
def masked_conv2d_input_gradient(
    grad: Tensor,
    weight: Tensor,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    height: int,
    width: int,
    taps: int,
    row: int,
    column: int,
    strict: bool,
    stride: int,
    dilation: int,
) -> Tensor:
    """The gradient by x [N, Ci, height, width]."""
    from fastgen.kernels.masked_conv2d import triton as kernels

    return kernels.masked_conv2d_input_gradient(
        grad, weight, in_groups, out_groups, height, width, taps, row, column, strict, stride, dilation
    )


@register_op(
    "masked_conv2d_weight_gradient",
    fake=lambda grad, x, weight, *options: torch.empty_like(weight),
    no_gradient=NO_SECOND,
)
def masked_conv2d_weight_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    taps: int,
    row: int,
    column: int,
    strict: bool,
    stride: int,
    dilation: int,
) -> Tensor:
    """The gradient by weight, zero at its dead taps; of `weight` only shape and strides are used."""
    from fastgen.kernels.masked_conv2d import triton as kernels

    return kernels.masked_conv2d_weight_gradient(
        grad, x, weight, in_groups, out_groups, taps, row, column, strict, stride, dilation
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, bias, condition, _, in_groups, out_groups, *geometry, gate, _ = inputs
    ctx.set_materialize_grads(False)  # or the backward would be handed zeros the size of the pre-activations
    # these stay a differentiable result, so that a second derivative does not lose them but is refused
    ctx.save_for_backward(x, weight, in_groups, out_groups, output[1])
    ctx.geometry, ctx.gate = geometry, gate
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.condition_ndim = None if condition is None else condition.ndim


def _backward(ctx: Any, grad: Tensor | None, by_pre: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * N_ARGUMENTS
    x, weight, in_groups, out_groups, pre = ctx.saved_tensors
    by_x, by_weight, by_bias, by_condition, by_residual = ctx.needs_input_grad[:5]
    by_residual = grad if by_residual else None
    sums = None
    if ctx.gate:
        if grad.numel() and not pre.numel():
            raise RuntimeError("masked_conv2d: a backward needs a forward with training=True; got one without.")
        grad, sums = masked_conv2d_gate_backward(grad, pre, ctx.gate)
        if by_pre is not None:
            grad, sums = grad + by_pre, sums + by_pre.sum((2, 3), dtype=torch.float32)
    elif by_bias or (by_condition and ctx.condition_ndim == 2):
        sums = grad.sum((2, 3), dtype=torch.float32)
    options = ctx.geometry
    return (
        masked_conv2d_input_gradient(grad, weight, in_groups, out_groups, x.shape[2], x.shape[3], *options)
        if by_x
        else None,
        masked_conv2d_weight_gradient(grad, x, weight, in_groups, out_groups, *options) if by_weight else None,
        sums.sum(0).to(ctx.bias_dtype) if by_bias and sums is not None else None,
        _by_condition(grad, sums, ctx.condition_ndim) if by_condition else None,
        by_residual,
        *(None,) * (N_ARGUMENTS - 5),
    )


def _by_condition(grad: Tensor, sums: Tensor | None, ndim: int) -> Tensor:
    return grad if ndim == 4 or sums is None else sums.to(grad.dtype)


@register_op("masked_conv2d_forward", fake=_forward_results, setup_context=_save, backward=_backward)
def masked_conv2d_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    condition: Tensor | None,
    residual: Tensor | None,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    taps: int,
    row: int,
    column: int,
    strict: bool,
    stride: int,
    dilation: int,
    gate: str,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """The result [N, F, H', W'], and the gate's pre-activations [N, Co, H', W'] where training, else nothing."""
    from fastgen.kernels.masked_conv2d import triton as kernels

    return kernels.masked_conv2d_forward(
        x,
        weight,
        bias,
        condition,
        residual,
        in_groups,
        out_groups,
        taps,
        row,
        column,
        strict,
        stride,
        dilation,
        gate,
        training,
    )
