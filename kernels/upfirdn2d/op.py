"""The registered op: Triton where it can run on the tensors, and PyTorch elsewhere. Its gradient is the op itself.

Nothing but the filter is kept. `Resampled` is the same for a CPU in eager mode, without the dispatcher's toll.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastgen.kernels._common.registration import register_op
from fastgen.kernels._common.tiling import runs_triton
from fastgen.kernels.upfirdn2d.geometry import Geometry
from fastgen.kernels.upfirdn2d.strided import keeps_channels_last, upfirdn2d_strided


def _use_triton(impl: str, tensor: Tensor) -> bool:
    """On CUDA always where possible; on the CPU (in the interpreter) only when asked for; never in float64."""
    wanted = impl == "triton" or tensor.device.type == "cuda"
    return wanted and tensor.dtype != torch.float64 and runs_triton(tensor.device)


def _fake(
    x: Tensor,
    f: Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    left: int,
    right: int,
    top: int,
    bottom: int,
    flip: bool,
    gain: float,
    impl: str,
) -> Tensor:
    geometry = Geometry(up_x, up_y, down_x, down_y, left, right, top, bottom)
    shape = (*x.shape[:2], *geometry.output_size(x.shape[2], x.shape[3], f.shape[0], f.shape[1]))
    layout = torch.channels_last if keeps_channels_last(x) else torch.contiguous_format
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *numbers, ctx.flip, ctx.gain, ctx.impl = inputs
    ctx.save_for_backward(f)
    ctx.adjoint = Geometry(*numbers).adjoint(x.shape[2], x.shape[3], f.shape[0], f.shape[1])


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (f,) = ctx.saved_tensors
    by_x = upfirdn2d_forward(grad, f, *ctx.adjoint, not ctx.flip, ctx.gain, ctx.impl)
    return by_x, *(None,) * 12


@register_op("upfirdn2d", fake=_fake, setup_context=_save, backward=_backward)
def upfirdn2d_forward(
    x: Tensor,
    f: Tensor,
    up_x: int,
    up_y: int,
    down_x: int,
    down_y: int,
    left: int,
    right: int,
    top: int,
    bottom: int,
    flip: bool,
    gain: float,
    impl: str,
) -> Tensor:
    """x [N, C, H, W], f [Kh, Kw] -> [N, C, H', W'], in the layout of x."""
    geometry = Geometry(up_x, up_y, down_x, down_y, left, right, top, bottom)
    if _use_triton(impl, x):
        from fastgen.kernels.upfirdn2d import triton as kernels

        return kernels.upfirdn2d_forward(x, f, geometry, flip, gain)
    y = upfirdn2d_strided(x, f, geometry, flip, gain)
    return y.clone() if y.data_ptr() == x.data_ptr() else y


class Resampled(torch.autograd.Function):
    """Strided convolutions of which the gradient is another one: plain autograd would keep x, padded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, f: Tensor, geometry: Geometry, flip: bool, gain: float) -> Tensor:
        ctx.save_for_backward(f)
        ctx.adjoint = geometry.adjoint(x.shape[2], x.shape[3], f.shape[0], f.shape[1])
        ctx.options = (not flip, gain)
        return upfirdn2d_strided(x, f, geometry, flip, gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (f,) = ctx.saved_tensors
        return Resampled.apply(grad, f, ctx.adjoint, *ctx.options), None, None, None, None
