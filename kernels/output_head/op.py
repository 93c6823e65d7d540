"""The registered ops, and the same for eager mode where arithmetic is the limit.

The registered ones keep nothing but their arguments and log p: their backward evaluates the parameters again, which
costs one matrix product more, and takes any gradient by pixel. `ValueWithGradient` has the gradient of the sum over
all pixels ready when the value is, and only has to scale it if, as in nearly every loss, all pixels weigh the same;
else it evaluates again too. That saves one of four matrix products, on a CPU and in float32 on a GPU. In half
precision a GPU waits for memory, and passing over the features' gradient to scale it would cost what is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastgen.kernels._common.checks import check_levels
from fastgen.kernels._common.registration import register_op
from fastgen.kernels.output_head.chunked import Head, Needs
from fastgen.kernels.output_head.likelihoods import Categorical, Likelihood, Mixture
from fastgen.kernels.output_head.reference import working_dtype

NO_SECOND = (
    "the fused output head has a first derivative only; got a request for a second one; use impl='reference', which "
    "has any."
)
Parts = tuple[Tensor, Tensor, Tensor]


def _empty_log_prob(features: Tensor) -> Tensor:
    return features.new_empty((features.shape[0], *features.shape[2:]), dtype=working_dtype(features))


def _wanted(gradients: list[Tensor | None], like: Tensor) -> Parts:
    """Ops return tensors: an empty one stands for none."""
    features, weight, bias = (like.new_empty(0) if gradient is None else gradient for gradient in gradients)
    return features, weight, bias


def _fake_backward(needs: list[bool], features: Tensor, weight: Tensor, bias: Tensor) -> Parts:
    return _wanted([torch.empty_like(t) if need else None for need, t in zip(needs, (features, weight, bias))], bias)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, weight, bias, x, *ctx.options = inputs
    ctx.save_for_backward(features, weight, bias, x, output)


def _backward_by(op: Callable[..., Parts], ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    features, weight, bias, x, log_prob = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    gradients = op(grad, features, weight, bias, x, log_prob, needs, *ctx.options)
    kept = [gradient if need else None for gradient, need in zip(gradients, needs)]
    return (*kept, None, *(None for _ in ctx.options))


@register_op(
    "dmol_head_log_prob_backward",
    fake=lambda grad, features, weight, bias, x, log_prob, needs, bits, tails, impl: _fake_backward(
        needs, features, weight, bias
    ),
    no_gradient=NO_SECOND,
)
def dmol_head_log_prob_backward(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    log_prob: Tensor,
    needs: list[bool],
    bits: int,
    tails: str,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad [N, H, W] times d log p, by features, weight and bias."""
    return _backward(grad, features, weight, bias, x, log_prob, needs, Mixture(bits, tails, impl))


@register_op(
    "dmol_head_log_prob_forward",
    fake=lambda features, weight, bias, x, bits, tails, impl: _empty_log_prob(features),
    setup_context=_save,
    backward=lambda ctx, grad: _backward_by(dmol_head_log_prob_backward, ctx, grad),
)
def dmol_head_log_prob_forward(
    features: Tensor, weight: Tensor, bias: Tensor, x: Tensor, bits: int, tails: str, impl: str
) -> Tensor:
    """log p(x | W features + b): [N, H, W] nats."""
    return _log_prob("dmol_head_log_prob", 2**bits, features, weight, bias, x, Mixture(bits, tails, impl))


@register_op(
    "categorical_head_log_prob_backward",
    fake=lambda grad, features, weight, bias, x, log_prob, needs, levels, impl: _fake_backward(
        needs, features, weight, bias
    ),
    no_gradient=NO_SECOND,
)
def categorical_head_log_prob_backward(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    log_prob: Tensor,
    needs: list[bool],
    levels: int,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """grad [N, H, W] times d log p, by features, weight and bias."""
    return _backward(grad, features, weight, bias, x, log_prob, needs, Categorical(levels, impl))


@register_op(
    "categorical_head_log_prob_forward",
    fake=lambda features, weight, bias, x, levels, impl: _empty_log_prob(features),
    setup_context=_save,
    backward=lambda ctx, grad: _backward_by(categorical_head_log_prob_backward, ctx, grad),
)
def categorical_head_log_prob_forward(
    features: Tensor, weight: Tensor, bias: Tensor, x: Tensor, levels: int, impl: str
) -> Tensor:
    """sum_c log softmax(W features + b)[x_c]: [N, H, W] nats."""
    return _log_prob("categorical_head_log_prob", levels, features, weight, bias, x, Categorical(levels, impl))


def _log_prob(
    name: str, levels: int, features: Tensor, weight: Tensor, bias: Tensor, x: Tensor, likelihood: Likelihood
) -> Tensor:
    if features.device.type == "cpu":  # a compiled caller has not looked at x
        check_levels(name, x, levels)
    return Head(features, weight, bias, x, likelihood).log_prob()


def _backward(
    grad: Tensor,
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    log_prob: Tensor,
    needs: list[bool],
    likelihood: Likelihood,
) -> Parts:
    head = Head(features, weight, bias, x, likelihood)
    return _wanted(head.gradient(grad, log_prob, (needs[0], needs[1], needs[2])), bias)


def takes_gradient_early(features: Tensor) -> bool:
    """Tell whether `ValueWithGradient` pays: not where what is not scaled yet may overflow, nor in a CUDA graph, which
    cannot look at a gradient to see whether it is uniform.
    """
    if features.dtype not in (torch.float32, torch.float64):
        return False
    return features.device.type != "cuda" or not torch.cuda.is_current_stream_capturing()


class ValueWithGradient(torch.autograd.Function):
    """log p with the gradient of its sum, for eager mode; the first backward scales it where it lies.

    `backward_op` is the registered op that evaluates again, `options` its last arguments.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        x: Tensor,
        likelihood: Likelihood,
        backward_op: Callable[..., Parts],
        options: tuple[Any, ...],
    ) -> Tensor:
        head = Head(features, weight, bias, x, likelihood)
        ctx.backward_op, ctx.options = backward_op, options
        needs: Needs = ctx.needs_input_grad[:3]
        log_prob, ctx.gradients = head.log_prob_and_gradient(needs)
        ctx.save_for_backward(features, weight, bias, x, log_prob)
        return log_prob

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None or torch.is_grad_enabled() or not _is_uniform(grad):
            # grad is enabled with create_graph, for an error if a second derivative is taken
            return (*_backward_by(ctx.backward_op, ctx, grad)[:4], None, None, None)
        if grad.numel():
            factor = grad[0, 0, 0]
            gradients = [None if gradient is None else gradient.mul_(factor) for gradient in gradients]
        return (*gradients, None, None, None, None)


def _is_uniform(grad: Tensor) -> bool:
    """Tell whether all values are the same. Looks at them, for which a GPU has to catch up, only if it has to."""
    if not grad.numel() or not any(grad.stride()):
        return True
    low, high = grad.aminmax()
    return bool(low == high)
