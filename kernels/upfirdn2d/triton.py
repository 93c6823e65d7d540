"""The Triton kernel of resampling, and its launcher.

Of a result's column m = up q + r the phase r decides which taps of the filter meet a pixel: k = s + up j for
j = 0, 1, ..., s = (before - r down) mod up, at the pixels q down + b + j. No inserted zero is ever loaded. Channels
first, a program takes BLOCK_R rows of one phase and BLOCK_C times all phases of the columns of one channel; channels
last, BLOCK_R columns of each phase in one row and BLOCK_C channels. Everything is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common import tiling  # noqa: F401  before triton: it sets an option of it
from fastgen.kernels._common.checks import LIMIT, shape_of
from fastgen.kernels.upfirdn2d.configurations import NUM_WARPS, block_sizes
from fastgen.kernels.upfirdn2d.geometry import Geometry
from fastgen.kernels.upfirdn2d.strided import keeps_channels_last

import triton  # isort: skip
import triton.language as tl  # isort: skip

NOT_SPECIALIZED = ["gain", "height", "width", "out_height", "out_width", "shift_y", "shift_x"]


@triton.jit
def _row(acc, x_ptr, f_ptr, iy, ky, x0, at, mask, height, width, stride_xh, stride_xw, S: tl.constexpr,
         UP: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr,
         INSIDE: tl.constexpr):  # fmt: skip
    """Add what one row of the filter sees; INSIDE says that there is a pixel wherever it looks."""
    live = ky < FH
    inside = mask & (iy >= 0) & (iy < height) & live
    fy = ky
    if not FLIP:
        fy = FH - 1 - ky
    for j in tl.static_range((FW - S + UP - 1) // UP):
        fx = S + UP * j
        if not FLIP:
            fx = FW - 1 - (S + UP * j)
        ix = x0 + j
        tap = tl.load(f_ptr + fy * FW + fx, live, other=0.0).to(tl.float32)
        at_pixel = iy * stride_xh + ix * stride_xw + at
        if INSIDE:
            pixel = tl.load(x_ptr + at_pixel)
        else:
            pixel = tl.load(x_ptr + at_pixel, inside & (ix >= 0) & (ix < width), other=0.0)
        acc += tap * pixel.to(tl.float32)
    return acc


@triton.jit
def _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, R: tl.constexpr,
           UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, RHO_X: tl.constexpr, FH: tl.constexpr,
           FW: tl.constexpr, FLIP: tl.constexpr, INSIDE: tl.constexpr, BLOCK_R: tl.constexpr,
           BLOCK_C: tl.constexpr):  # fmt: skip
    """The results of one phase of the columns, [BLOCK_R, BLOCK_C]."""
    S: tl.constexpr = (RHO_X + R * DOWN_X * (UP_X - 1)) % UP_X
    BASE: tl.constexpr = (R * DOWN_X + S - RHO_X) // UP_X
    ROWS: tl.constexpr = (FH + UP_Y - 1) // UP_Y
    acc = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    x0 = qx * DOWN_X + BASE - shift_x
    if INSIDE and (FH <= 8):  # unrolled; at the borders a loop, or masks fill the registers
        for i in tl.static_range(ROWS):
            acc = _row(acc, x_ptr, f_ptr, y0 + i, s_y + UP_Y * i, x0, at, mask, height, width, stride_xh, stride_xw,
                       S, UP_X, FH, FW, FLIP, INSIDE)  # fmt: skip
    else:
        for i in range(ROWS):
            acc = _row(acc, x_ptr, f_ptr, y0 + i, s_y + UP_Y * i, x0, at, mask, height, width, stride_xh, stride_xw,
                       S, UP_X, FH, FW, FLIP, INSIDE)  # fmt: skip
    return acc


@triton.jit
def _inside(place, tiles_x, tiles_y, phase, s_y, height, width, shift_y, shift_x, UP_X: tl.constexpr,
            UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, RHO_Y: tl.constexpr, FH: tl.constexpr,
            FW: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):  # fmt: skip
    """Channels first: whether all pixels that the tile looks at are there."""
    left = place % tiles_x * BLOCK_C * DOWN_X - shift_x
    right = left + (BLOCK_C - 1) * DOWN_X + ((UP_X - 1) * DOWN_X + FW - 1) // UP_X
    top = place // tiles_x // UP_Y % tiles_y * BLOCK_R * DOWN_Y + (phase * DOWN_Y + s_y - RHO_Y) // UP_Y - shift_y
    bottom = top + (BLOCK_R - 1) * DOWN_Y + (FH + UP_Y - 1) // UP_Y - 1
    return (left >= 0) & (right < width) & (top >= 0) & (bottom < height)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _upfirdn2d_kernel(
    x_ptr, f_ptr, out_ptr, gain, channels, height, width, out_height, out_width, shift_y, shift_x,
    stride_xn, stride_xc, stride_xh, stride_xw,
    UP_X: tl.constexpr, UP_Y: tl.constexpr, DOWN_X: tl.constexpr, DOWN_Y: tl.constexpr, RHO_X: tl.constexpr,
    RHO_Y: tl.constexpr, FH: tl.constexpr, FW: tl.constexpr, FLIP: tl.constexpr, LAST: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """UP_X phases a program. The padding before is UP * shift + RHO."""
    columns = tl.cdiv(out_width, UP_X)  # of a phase
    place = tl.program_id(0)
    if LAST:
        tiles_c = tl.cdiv(channels, BLOCK_C)
        tiles_x = tl.cdiv(columns, BLOCK_R)
        channel = place % tiles_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        qx = place // tiles_c % tiles_x * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        place = place // tiles_c // tiles_x
        image = place // out_height
        my = place % out_height
        phase = my % UP_Y
        qy = my // UP_Y
        x_ptr += image.to(tl.int64) * stride_xn
        out_ptr += image.to(tl.int64) * out_height * out_width * channels
        at = channel * stride_xc
        mask = (channel < channels) & (qx < columns)
    else:
        tiles_x = tl.cdiv(columns, BLOCK_C)
        tiles_y = tl.cdiv(tl.cdiv(out_height, UP_Y), BLOCK_R)
        qx = place % tiles_x * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        phase = place // tiles_x % UP_Y
        qy = place // tiles_x // UP_Y % tiles_y * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
        plane = place // tiles_x // UP_Y // tiles_y
        my = qy * UP_Y + phase
        x_ptr += (plane // channels).to(tl.int64) * stride_xn + (plane % channels).to(tl.int64) * stride_xc
        out_ptr += plane.to(tl.int64) * out_height * out_width
        at = 0
        mask = (my < out_height) & (qx < columns)
    s_y = (RHO_Y + phase * DOWN_Y * (UP_Y - 1)) % UP_Y
    y0 = qy * DOWN_Y + (phase * DOWN_Y + s_y - RHO_Y) // UP_Y - shift_y
    if (UP_X == 2) and (not LAST):  # two phases lie side by side
        inside = _inside(place, tiles_x, tiles_y, phase, s_y, height, width, shift_y, shift_x, UP_X, UP_Y, DOWN_X,
                         DOWN_Y, RHO_Y, FH, FW, BLOCK_R, BLOCK_C)  # fmt: skip
        if inside:
            even = _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, 0,
                          UP_X, UP_Y, DOWN_X, RHO_X, FH, FW, FLIP, True, BLOCK_R, BLOCK_C)  # fmt: skip
            odd = _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, 1,
                         UP_X, UP_Y, DOWN_X, RHO_X, FH, FW, FLIP, True, BLOCK_R, BLOCK_C)  # fmt: skip
        else:
            even = _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, 0,
                          UP_X, UP_Y, DOWN_X, RHO_X, FH, FW, FLIP, False, BLOCK_R, BLOCK_C)  # fmt: skip
            odd = _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, 1,
                         UP_X, UP_Y, DOWN_X, RHO_X, FH, FW, FLIP, False, BLOCK_R, BLOCK_C)  # fmt: skip
        value = (tl.interleave(even, odd) * gain).to(out_ptr.dtype.element_ty)
        mx = place % tiles_x * (2 * BLOCK_C) + tl.arange(0, 2 * BLOCK_C)[None, :]
        tl.store(out_ptr + my * out_width + mx, value, (my < out_height) & (mx < out_width))
    else:
        inside = False
        if not LAST:
            inside = _inside(place, tiles_x, tiles_y, phase, s_y, height, width, shift_y, shift_x, UP_X, UP_Y, DOWN_X,
                             DOWN_Y, RHO_Y, FH, FW, BLOCK_R, BLOCK_C)  # fmt: skip
        for r in tl.static_range(UP_X):
            if inside:
                value = _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, r,
                               UP_X, UP_Y, DOWN_X, RHO_X, FH, FW, FLIP, True, BLOCK_R, BLOCK_C)  # fmt: skip
            else:
                value = _phase(x_ptr, f_ptr, qx, y0, s_y, at, mask, height, width, shift_x, stride_xh, stride_xw, r,
                               UP_X, UP_Y, DOWN_X, RHO_X, FH, FW, FLIP, False, BLOCK_R, BLOCK_C)  # fmt: skip
            mx = qx * UP_X + r
            if LAST:
                at_out = (my * out_width + mx) * channels + channel
            else:
                at_out = my * out_width + mx
            tl.store(out_ptr + at_out, (value * gain).to(out_ptr.dtype.element_ty), mask & (mx < out_width))


def upfirdn2d_forward(x: Tensor, f: Tensor, geometry: Geometry, flip: bool, gain: float) -> Tensor:
    """Launch the kernel: x [N, C, H, W] in any strides, f [Kh, Kw] -> [N, C, H', W'], channels last if x is so."""
    n, channels, height, width = x.shape
    taps_y, taps_x = f.shape
    out_height, out_width = geometry.output_size(height, width, taps_y, taps_x)
    last = keeps_channels_last(x)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (n, channels, out_height, out_width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    if not out.numel():
        return out
    columns = triton.cdiv(out_width, geometry.up_x)
    rows = triton.cdiv(out_height, geometry.up_y)
    block_r, block_c = block_sizes(rows, columns, channels, last)
    if last:
        programs = n * out_height * triton.cdiv(columns, block_r) * triton.cdiv(channels, block_c)
    else:
        programs = n * channels * geometry.up_y * triton.cdiv(rows, block_r) * triton.cdiv(columns, block_c)
    if programs >= LIMIT:
        raise ValueError(
            f"upfirdn2d: less than 2^31 programs can be started; got {programs} for x of {shape_of(x)}; "
            "split the batch."
        )
    shift_y, rho_y = divmod(geometry.top, geometry.up_y)
    shift_x, rho_x = divmod(geometry.left, geometry.up_x)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _upfirdn2d_kernel[(programs,)](
            x, f.contiguous(), out, gain, channels, height, width, out_height, out_width, shift_y, shift_x,
            *x.stride(),
            UP_X=geometry.up_x, UP_Y=geometry.up_y, DOWN_X=geometry.down_x, DOWN_Y=geometry.down_y, RHO_X=rho_x,
            RHO_Y=rho_y, FH=taps_y, FW=taps_x, FLIP=flip, LAST=last, BLOCK_R=block_r, BLOCK_C=block_c,
            num_warps=NUM_WARPS,
        )  # fmt: skip
    return out
