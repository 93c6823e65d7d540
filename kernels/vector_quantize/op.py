"""The registered op. It takes Triton where that can run on the tensors, and chunked PyTorch elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.vector_quantize.chunked import vector_quantize_chunked


def _use_triton(impl: str, x: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or x.device.type == "cuda"
    return wanted and x.dtype != torch.float64 and runs_triton(x.device)


def _fake(x: Tensor, codebook: Tensor, tf32: bool, impl: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((x.shape[0], *x.shape[2:]), dtype=torch.int64)


def _save_nothing(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _straight_through(ctx: Any, grad_quantized: Tensor | None, _: Any) -> tuple[Any, ...]:
    # The identity, so there is nothing to register as an op of its own, and every higher derivative is right.
    return grad_quantized, None, None, None


@register_op("vector_quantize_forward", fake=_fake, setup_context=_save_nothing, backward=_straight_through)
def vector_quantize_forward(x: Tensor, codebook: Tensor, tf32: bool, impl: str) -> tuple[Tensor, Tensor]:
    """The nearest entries [N, D, *spatial] and their indices [N, *spatial]."""
    if _use_triton(impl, x):
        from fastgen.kernels.vector_quantize import triton as kernels

        return kernels.vector_quantize_forward(x, codebook, tf32)
    return vector_quantize_chunked(x, codebook)


class StraightThrough(torch.autograd.Function):
    """The chunked path for eager mode, with the identity for a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
        values, indices = vector_quantize_chunked(x, codebook)
        ctx.mark_non_differentiable(indices)
        ctx.set_materialize_grads(False)
        return values, indices

    @staticmethod
    def backward(ctx: Any, grad_quantized: Tensor | None, _: Any) -> tuple[Tensor | None, None]:
        return grad_quantized, None
