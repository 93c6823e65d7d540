"""The registered ops: each takes Triton where it can run on the tensors, and PyTorch elsewhere.

None keeps anything for its backward but its arguments. `NativeGate` and `NativeElu` are the same for a CPU in eager
mode, in compiled C. Where no compiler is, or the dtype or the arguments are not theirs, `RecomputedGate`,
`RecomputedElu` and `EluOfBoth` serve: PyTorch's operations without the dispatcher's toll.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.gated_activation import native
from fastgen.kernels.gated_activation.analytic import (
    elu_backward,
    elu_of_both,
    elu_of_both_backward,
    gate_backward,
    slopes_of_both,
)
from fastgen.kernels.gated_activation.layout import empty_output, in_layout_of
from fastgen.kernels.gated_activation.reference import (
    concat_elu_reference,
    gated_activation_reference,
    keep_threshold,
)

NO_SECOND = (
    "the kernels have a first derivative only; got a request for a second one; use impl='reference', which has any."
)


def _use_triton(impl: str, tensor: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or tensor.device.type == "cuda"
    return wanted and tensor.dtype != torch.float64 and runs_triton(tensor.device)


def _drop_arguments(dropout: float, seed: int) -> tuple[int, float, int]:
    """What the launchers take: threshold of the words, factor of what stays, seed."""
    return (keep_threshold(dropout), 1 / (1 - dropout), seed) if dropout else (0, 1.0, 0)


def _fresh(gradient: Tensor | None, like: Tensor) -> Tensor:
    """A registered op cannot return None."""
    return like.new_empty(0) if gradient is None else gradient


def _fake_bias(x: Tensor, bias: Tensor | None, with_bias: bool) -> Tensor:
    return (
        torch.empty_like(bias, memory_format=torch.contiguous_format)
        if with_bias and bias is not None
        else x.new_empty(0)
    )


@register_op(
    "gated_activation_backward",
    fake=lambda grad, x, bias, kind, dropout, seed, with_bias, impl: (
        empty_output(x, x.shape[1]),
        _fake_bias(x, bias, with_bias),
    ),
    no_gradient=NO_SECOND,
)
def gated_activation_backward(
    grad: Tensor,
    x: Tensor,
    bias: Optional[Tensor],  # noqa: UP045  the schema is read from these words on Python 3.10 too
    kind: str,
    dropout: float,
    seed: int,
    with_bias: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """The gradient by x, and by the bias where it is asked for, else an empty tensor."""
    if _use_triton(impl, x):
        from fastgen.kernels.gated_activation import triton as kernels

        arguments = _drop_arguments(dropout, seed)
        by_x, by_bias = kernels.gated_activation_backward(grad, x, bias, kind, *arguments, with_bias)
    else:
        by_x, by_bias = gate_backward(grad, x, bias, kind, dropout, seed % 2**64)
    return in_layout_of(by_x, x), _fresh(by_bias if with_bias else None, x)


def _save_gate(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, bias, _, *ctx.options = inputs  # the residual's derivative is one
    ctx.save_for_backward(x, bias)


def _gate_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, bias = ctx.saved_tensors
    kind, dropout, seed, impl = ctx.options
    with_x, with_bias, with_residual = ctx.needs_input_grad[:3]
    by_x, by_bias = None, None
    if with_x or with_bias:
        by_x, by_bias = gated_activation_backward(grad, x, bias, kind, dropout, seed, with_bias, impl)
    return by_x, by_bias if with_bias else None, grad if with_residual else None, None, None, None, None


@register_op(
    "gated_activation_forward",
    fake=lambda x, bias, residual, kind, dropout, seed, impl: empty_output(x, x.shape[1] // 2),
    setup_context=_save_gate,
    backward=_gate_backward,
)
def gated_activation_forward(
    x: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    residual: Optional[Tensor],  # noqa: UP045
    kind: str,
    dropout: float,
    seed: int,
    impl: str,
) -> Tensor:
    """x [N, 2C, *spatial] -> [N, C, *spatial] in its layout."""
    if _use_triton(impl, x):
        from fastgen.kernels.gated_activation import triton as kernels

        value = kernels.gated_activation_forward(x, bias, residual, kind, *_drop_arguments(dropout, seed))
    else:
        value = gated_activation_reference(
            x, kind=kind, bias=bias, residual=residual, dropout=dropout, seed=seed % 2**64
        )
    return in_layout_of(value, x)


@register_op(
    "concat_elu_backward",
    fake=lambda grad, x, bias, dropout, seed, with_bias, impl: (
        empty_output(x, x.shape[1]),
        _fake_bias(x, bias, with_bias),
    ),
    no_gradient=NO_SECOND,
)
def concat_elu_backward(
    grad: Tensor,
    x: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    dropout: float,
    seed: int,
    with_bias: bool,
    impl: str,
) -> tuple[Tensor, Tensor]:
    """The gradient by x, and by the bias where it is asked for, else an empty tensor."""
    if _use_triton(impl, x):
        from fastgen.kernels.gated_activation import triton as kernels

        by_x, by_bias = kernels.concat_elu_backward(grad, x, bias, *_drop_arguments(dropout, seed), with_bias)
    else:
        by_x, by_bias = elu_backward(grad, x, bias, dropout, seed % 2**64)
    return in_layout_of(by_x, x), _fresh(by_bias if with_bias else None, x)


def _save_elu(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, bias, *ctx.options = inputs
    ctx.save_for_backward(x, bias)


def _elu_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, bias = ctx.saved_tensors
    with_bias = ctx.needs_input_grad[1]
    dropout, seed, impl = ctx.options
    by_x, by_bias = concat_elu_backward(grad, x, bias, dropout, seed, with_bias, impl)
    return by_x, by_bias if with_bias else None, None, None, None


@register_op(
    "concat_elu_forward",
    fake=lambda x, bias, dropout, seed, impl: empty_output(x, 2 * x.shape[1]),
    setup_context=_save_elu,
    backward=_elu_backward,
)
def concat_elu_forward(
    x: Tensor,
    bias: Optional[Tensor],  # noqa: UP045
    dropout: float,
    seed: int,
    impl: str,
) -> Tensor:
    """x [N, C, *spatial] -> [N, 2C, *spatial] in its layout."""
    if _use_triton(impl, x):
        from fastgen.kernels.gated_activation import triton as kernels

        value = kernels.concat_elu_forward(x, bias, *_drop_arguments(dropout, seed))
    else:
        value = concat_elu_reference(x, bias=bias, dropout=dropout, seed=seed % 2**64)
    return in_layout_of(value, x)


class RecomputedGate(torch.autograd.Function):
    """The reference with only its arguments kept, where plain autograd would keep masks and factors."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor | None, residual: Tensor | None, kind: str, dropout: float, seed: int
    ) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.options = {"kind": kind, "dropout": dropout, "seed": seed}
        return gated_activation_reference(x, bias=bias, residual=residual, **ctx.options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        by_x, by_bias = _gradients(ctx, grad, gated_activation_reference, gate_backward)
        return by_x, by_bias, grad if ctx.needs_input_grad[2] else None, None, None, None


class RecomputedElu(torch.autograd.Function):
    """The reference with only its arguments kept, where plain autograd would keep 2C channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, dropout: float, seed: int) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.options = {"dropout": dropout, "seed": seed}
        return concat_elu_reference(x, bias=bias, **ctx.options)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return *_gradients(ctx, grad, concat_elu_reference, elu_backward), None, None


class EluOfBoth(torch.autograd.Function):
    """elu([x, -x]) in float32 or float64, with its result kept, from which the gradient costs no exponential.

    The result is what the convolution after it keeps anyway.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = elu_of_both(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors  # a function of x, where there is a graph of this backward
        return elu_of_both_backward(grad, y)


class NativeGate(torch.autograd.Function):
    """The gate without dropout in C, with only its arguments kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, residual: Tensor | None, kind: str) -> Tensor:
        ctx.save_for_backward(x, bias)
        ctx.options = {"kind": kind}
        return native.gate(x, bias, residual, kind)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        by_x, by_bias = _gradients(ctx, grad, gated_activation_reference, native.gate_backward)
        return by_x, by_bias, grad if ctx.needs_input_grad[2] else None, None


class NativeElu(torch.autograd.Function):
    """concat_elu without bias in C, with its result kept, which the convolution after it keeps anyway."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dropout: float, seed: int, padding: native.Padding) -> Tensor:
        y, ctx.elu = native.concat_elu(x, dropout, seed, padding)
        ctx.spatial = x.shape[2:]
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (y,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return native.concat_elu_backward(grad, y, ctx.elu, ctx.spatial), None, None, None
        left, top = ctx.elu.left, ctx.elu.top  # with create_graph: y is a function of x
        if len(ctx.spatial) == 2:
            height, width = ctx.spatial
            grad, y = (t[:, :, top : top + height, left : left + width] for t in (grad, y))
        return slopes_of_both(grad, y, ctx.elu.scale), None, None, None


def _gradients(ctx: Any, grad: Tensor, reference: Any, formula: Any) -> tuple[Tensor | None, Tensor | None]:
    """Those by x and bias: by the formula, or through the reference with create_graph."""
    x, bias = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _through(reference, grad, x, bias, ctx)
    return formula(grad, x, bias, **ctx.options)


def _through(reference: Any, grad: Tensor, x: Tensor, bias: Tensor | None, ctx: Any) -> tuple[Any, Any]:
    """Gradients by those of x and bias that need one, differentiable in their turn."""
    wanted = [t if need else None for t, need in zip((x, bias), ctx.needs_input_grad)]
    value = reference(x, bias=bias, **ctx.options)
    found = iter(torch.autograd.grad(value, [t for t in wanted if t is not None], grad, create_graph=True))
    by_x, by_bias = (None if t is None else next(found) for t in wanted)
    return by_x, by_bias
