"""The registered ops. Each takes Triton where it can run on the tensors, and PyTorch elsewhere.

`dmol_log_prob_forward` keeps nothing large for its backward, which evaluates the mixture again: the fewest bytes
moved on a GPU, where they are the limit, and the least memory anywhere. `dmol_log_prob_forward_gradient` computes
the gradient along with the value: two thirds of the arithmetic, which is the limit on a CPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.kernels._common.checks import check_levels
from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.dmol.chunked import log_prob_and_gradient
from fastgen.kernels.dmol.reference import dmol_sample_reference, working_dtype

NO_SECOND = (
    "the DMOL log-probability has a first derivative only; got a request for a second one; use impl='reference', which "
    "has any."
)


def _use_triton(impl: str, tensor: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or tensor.device.type == "cuda"
    return wanted and tensor.dtype != torch.float64 and runs_triton(tensor.device)


def _empty_log_prob(x: Tensor, params: Tensor) -> Tensor:
    return params.new_empty((x.shape[0], *x.shape[2:]), dtype=working_dtype(params))


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, params, *ctx.options = inputs
    ctx.save_for_backward(x, params, output)


def _backward(ctx: Any, grad_log_prob: Tensor) -> tuple[Any, ...]:
    x, params, log_prob = ctx.saved_tensors
    gradient = dmol_log_prob_backward(grad_log_prob, x, params, log_prob, *ctx.options)
    return None, gradient, None, None, None


@register_op(
    "dmol_log_prob_backward",
    fake=lambda grad_log_prob, x, params, log_prob, bits, tails, impl: torch.empty_like(params),
    no_gradient=NO_SECOND,
)
def dmol_log_prob_backward(
    grad_log_prob: Tensor, x: Tensor, params: Tensor, log_prob: Tensor, bits: int, tails: str, impl: str
) -> Tensor:
    """grad_log_prob [N, H, W] times d log p / d params: [N, P, H, W]."""
    if _use_triton(impl, params):
        from fastgen.kernels.dmol import triton as kernels

        return kernels.dmol_log_prob_backward(grad_log_prob, x, params, log_prob, bits, tails)
    gradient = log_prob_and_gradient(x, params, bits, tails, with_gradient=True, scale=grad_log_prob)[1]
    assert gradient is not None
    return gradient


@register_op(
    "dmol_log_prob_forward",
    fake=lambda x, params, bits, tails, impl: _empty_log_prob(x, params),
    setup_context=_save_inputs,
    backward=_backward,
)
def dmol_log_prob_forward(x: Tensor, params: Tensor, bits: int, tails: str, impl: str) -> Tensor:
    """log p(x | params): [N, H, W] nats."""
    if _use_triton(impl, params):
        from fastgen.kernels.dmol import triton as kernels

        return kernels.dmol_log_prob_forward(x, params, bits, tails)
    if params.device.type == "cpu":
        check_levels("dmol_log_prob", x, 2**bits)
    return log_prob_and_gradient(x, params, bits, tails, with_gradient=False)[0]


@register_op(
    "dmol_log_prob_scale_gradient",
    fake=lambda grad_log_prob, gradient, params: torch.empty_like(gradient),
    no_gradient=NO_SECOND,
)
def dmol_log_prob_scale_gradient(grad_log_prob: Tensor, gradient: Tensor, params: Tensor) -> Tensor:
    """gradient [N, P, H, W] times grad_log_prob [N, H, W]; `params` ties the result to what it is a gradient of."""
    return torch.mul(gradient, grad_log_prob.unsqueeze(1).to(gradient.dtype), out=torch.empty_like(gradient))


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # or the backward would be handed zeros the size of params
    ctx.save_for_backward(output[1], inputs[1])


def _scale(ctx: Any, grad_log_prob: Tensor, _: Any) -> tuple[Any, ...]:
    gradient, params = ctx.saved_tensors
    return None, dmol_log_prob_scale_gradient(grad_log_prob, gradient, params), None, None, None


@register_op(
    "dmol_log_prob_forward_gradient",
    fake=lambda x, params, bits, tails, impl: (_empty_log_prob(x, params), torch.empty_like(params)),
    setup_context=_save_gradient,
    backward=_scale,
)
def dmol_log_prob_forward_gradient(
    x: Tensor, params: Tensor, bits: int, tails: str, impl: str
) -> tuple[Tensor, Tensor]:
    """log p(x | params) and its gradient by params in one pass: [N, H, W] nats, [N, P, H, W]."""
    if _use_triton(impl, params):
        from fastgen.kernels.dmol import triton as kernels

        return kernels.dmol_log_prob_forward_gradient(x, params, bits, tails)
    if params.device.type == "cpu":
        check_levels("dmol_log_prob", x, 2**bits)
    log_prob, gradient = log_prob_and_gradient(x, params, bits, tails, with_gradient=True)
    assert gradient is not None
    return log_prob, gradient


class ValueWithGradient(torch.autograd.Function):
    """`dmol_log_prob_forward_gradient` for eager mode: the first backward scales the gradient where it lies.

    That halves the memory of a training step. Whoever asks again gets the gradient from a new evaluation.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, params: Tensor, bits: int, tails: str, impl: str) -> Tensor:
        log_prob, ctx.gradient = dmol_log_prob_forward_gradient(x, params, bits, tails, impl)
        ctx.options = bits, tails, impl
        ctx.save_for_backward(x, params, log_prob)
        return log_prob

    @staticmethod
    def backward(ctx: Any, grad_log_prob: Tensor) -> tuple[Any, ...]:
        x, params, log_prob = ctx.saved_tensors
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None or torch.is_grad_enabled():  # the latter with create_graph, for an error if it is used
            gradient = dmol_log_prob_backward(grad_log_prob, x, params, log_prob, *ctx.options)
        else:
            gradient.mul_(grad_log_prob.unsqueeze(1))
        return None, gradient, None, None, None


@register_op(
    "dmol_sample",
    fake=lambda params, uniforms, channels, bits, temperature, snap, impl: params.new_empty(
        (params.shape[0], channels, *params.shape[2:])
    ),
    no_gradient="a draw has no gradient; got a backward through it; detach the parameters.",
)
def dmol_sample(
    params: Tensor,
    uniforms: Tensor,
    channels: int,
    bits: int,
    temperature: float,
    snap: bool,
    impl: str,
) -> Tensor:
    """A draw in [-1, 1] for each pixel: [N, C, *spatial]."""
    if _use_triton(impl, params):
        from fastgen.kernels.dmol import triton as kernels

        return kernels.dmol_sample(params, uniforms, channels, bits, temperature, snap)
    return dmol_sample_reference(params, uniforms, channels=channels, bits=bits, temperature=temperature, snap=snap)
