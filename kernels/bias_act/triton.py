"""Triton kernels of bias and activation, and their launchers.

Whatever the order of its dimensions in memory, a dense tensor is rows x columns with the channel either along the rows
(row % channels; the columns are what lies inside the channel's dimension) or along the columns (channels last). A
program takes a tile of it; a gradient's tile is summed over the columns or the rows for the gradient by the bias.
Everything is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common import tiling  # noqa: F401  before triton: it sets an option of it
from fastgen.kernels._common.checks import LIMIT, shape_of
from fastgen.kernels.bias_act.analytic import keeps_output, needs_nothing, rounded
from fastgen.kernels.bias_act.configurations import NUM_WARPS, block_sizes

import triton  # isort: skip
import triton.language as tl  # isort: skip

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LN2_HIGH = tl.constexpr(0.693359375)  # so few bits that its product with an exponent is exact
LN2_LOW = tl.constexpr(-2.12194440054690583e-4)
SELU_ALPHA = tl.constexpr(1.6732632423543772)
SELU_SCALE = tl.constexpr(1.0507009873554805)
NOT_SPECIALIZED = ["rows", "channels", "pixels", "noise_stride"]


@triton.jit
def _exp(v):
    """e^v for v <= 0, with an argument of exp2 that is small, whose rounding e^v would magnify; NaN stays."""
    v = tl.where(v < -110.0, -110.0, v)
    n = tl.floor(v * LOG2E + 0.5)
    r = v - n * LN2_HIGH - n * LN2_LOW
    return tl.exp2(r * LOG2E) * tl.exp2(n)


@triton.jit
def _expm1(v):
    """e^v - 1 for v <= 0: by its series where the difference would cancel."""
    w = tl.where(v < -0.5, -0.5, v)
    s = 1.0 / 720.0 + w * (1.0 / 5040.0)
    s = 1.0 / 120.0 + w * s
    s = 1.0 / 24.0 + w * s
    s = 1.0 / 6.0 + w * s
    s = 1.0 / 2.0 + w * s
    s = 1.0 + w * s
    return tl.where(v > -0.5, w * s, _exp(v) - 1.0)


@triton.jit
def _sigmoid_and_rest(v):
    """s(v) and s(-v) = 1 - s(v)."""
    e = _exp(-tl.abs(v))
    r = 1.0 / (1.0 + e)
    return tl.where(v < 0, e * r, r), tl.where(v < 0, r, e * r)


@triton.jit
def _log1p(t):
    """ln(1 + t) for t in [0, 1]: the rounding of 1 + t is divided out."""
    u = 1.0 + t
    d = u - 1.0
    return tl.where(d == 0.0, t, tl.log2(u) * LN2 * (t / tl.where(d == 0.0, 1.0, d)))


@triton.jit
def _activation(v, alpha, ACT: tl.constexpr):
    if ACT == "relu":
        v = tl.where(v <= 0, 0.0, v)
    elif ACT == "lrelu":
        v = tl.where(v > 0, v, v * alpha)
    elif ACT == "tanh":
        m = _expm1(tl.abs(v) * -2.0)
        size = tl.where(m > -0.5, -m / (2.0 + m), 1.0 - 2.0 * (1.0 + m) / (2.0 + m))  # near 1 by what is missing
        v = tl.where(v < 0, -size, size)
    elif ACT == "sigmoid":
        s, _ = _sigmoid_and_rest(v)
        v = s
    elif ACT == "elu":
        v = tl.where(v > 0, v, _expm1(tl.where(v > 0, 0.0, v)))
    elif ACT == "selu":
        v = SELU_SCALE * tl.where(v > 0, v, SELU_ALPHA * _expm1(tl.where(v > 0, 0.0, v)))
    elif ACT == "softplus":
        v = tl.where(v > 0, v, 0.0) + _log1p(_exp(-tl.abs(v)))
    elif ACT == "swish":
        s, _ = _sigmoid_and_rest(v)
        v = v * s
    return v


@triton.jit
def _slope(u, alpha, ACT: tl.constexpr):
    """act' from the value u of the activation; for swish from its argument."""
    if ACT == "relu":
        slope = tl.where(u > 0, 1.0, 0.0)
    elif ACT == "lrelu":
        slope = tl.where(u > 0, 1.0, alpha)
    elif ACT == "tanh":
        slope = 1.0 - u * u
    elif ACT == "sigmoid":
        slope = u * (1.0 - u)
    elif ACT == "elu":
        slope = tl.where(u > 0, 1.0, u + 1.0)
    elif ACT == "selu":
        slope = tl.where(u > 0, SELU_SCALE, u + SELU_SCALE * SELU_ALPHA)
    elif ACT == "softplus":
        slope = -_expm1(-u)
    elif ACT == "swish":
        s, rest = _sigmoid_and_rest(u)
        slope = s + u * s * rest
    else:
        slope = u * 0.0 + 1.0
    return slope


@triton.jit
def _curvature(u, ACT: tl.constexpr):
    """The derivative of `_slope`."""
    if ACT == "tanh":
        curvature = -2.0 * u
    elif ACT == "sigmoid":
        curvature = 1.0 - 2.0 * u
    elif (ACT == "elu") or (ACT == "selu"):
        curvature = tl.where(u > 0, 0.0, 1.0)
    elif ACT == "softplus":
        curvature = _exp(-u)
    elif ACT == "swish":
        s, rest = _sigmoid_and_rest(u)
        curvature = s * rest * (2.0 + u * (rest - s))
    else:
        curvature = u * 0.0
    return curvature


@triton.jit
def _tile(rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """(number of the block of rows, of columns, row [BLOCK_R, 1], column [1, BLOCK_C], offset of the first row,
    offset from there, mask).
    """
    blocks = tl.cdiv(columns, BLOCK_C)
    block_r = tl.program_id(0) // blocks
    block_c = tl.program_id(0) % blocks
    local = tl.arange(0, BLOCK_R)[:, None]
    row = block_r * BLOCK_R + local
    column = block_c * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    start = block_r.to(tl.int64) * BLOCK_R * columns
    return block_r, block_c, row, column, start, local * columns + column, (row < rows) & (column < columns)


@triton.jit
def _bias(bias_ptr, row, column, rows, columns, channels, LAST: tl.constexpr):
    """[1, BLOCK_C] or [BLOCK_R, 1]."""
    if LAST:
        bias = tl.load(bias_ptr + column, column < columns, other=0.0)
    else:
        bias = tl.load(bias_ptr + row % channels, row < rows, other=0.0)
    return bias.to(tl.float32)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _bias_act_forward_kernel(
    x_ptr, bias_ptr, scale_ptr, noise_ptr, out_ptr, alpha, gain, clamp, rows, columns, channels, pixels, noise_stride,
    ACT: tl.constexpr, LAST: tl.constexpr, BIAS: tl.constexpr, SCALE: tl.constexpr, NOISE: tl.constexpr,
    CLAMP: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    _, _, row, column, start, at, mask = _tile(rows, columns, BLOCK_R, BLOCK_C)
    v = tl.load(x_ptr + start + at, mask, other=0.0).to(tl.float32)
    if SCALE:
        if LAST:
            v *= tl.load(scale_ptr + row // pixels * channels + column, mask, other=0.0).to(tl.float32)
        else:
            v *= tl.load(scale_ptr + row, row < rows, other=0.0).to(tl.float32)
    if NOISE:
        if LAST:
            at_noise = (row // pixels).to(tl.int64) * noise_stride + row % pixels
            v += tl.load(noise_ptr + at_noise, row < rows, other=0.0).to(tl.float32)
        else:
            at_noise = (row // channels).to(tl.int64) * noise_stride + column
            v += tl.load(noise_ptr + at_noise, mask, other=0.0).to(tl.float32)
    if BIAS:
        v += _bias(bias_ptr, row, column, rows, columns, channels, LAST)
    v = _activation(v, alpha, ACT) * gain
    if CLAMP:
        v = tl.where(v > clamp, clamp, tl.where(v < -clamp, -clamp, v))  # NaN stays
    tl.store(out_ptr + start + at, v.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def _activation_of_saved(saved, bias_ptr, row, column, rows, columns, channels, inverse_gain, BIAS: tl.constexpr,
                         BY_INPUT: tl.constexpr, LAST: tl.constexpr):  # fmt: skip
    """What the slope is a function of: the activation's value, or its argument where the input is kept."""
    if BY_INPUT:
        if BIAS:
            saved += _bias(bias_ptr, row, column, rows, columns, channels, LAST)
        u = saved
    else:
        u = saved * inverse_gain
    return u


@triton.jit
def _free(u, saved, alpha, gain, clamp, ACT: tl.constexpr, BY_INPUT: tl.constexpr):
    """True where the clamp does not hold."""
    y = saved
    if BY_INPUT:
        y = _activation(u, alpha, ACT) * gain
    return tl.abs(y) < clamp


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _bias_act_backward_kernel(
    grad_ptr, saved_ptr, bias_ptr, by_x_ptr, partial_ptr, alpha, gain, clamp, inverse_gain, rows, columns, channels,
    ACT: tl.constexpr, LAST: tl.constexpr, BIAS: tl.constexpr, BY_INPUT: tl.constexpr, SAVED: tl.constexpr,
    CLAMP: tl.constexpr, SUM: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """SUM also writes what the tile adds to the gradient by the bias: [blocks of rows, columns] with channels last,
    else [rows, blocks of columns].
    """
    block_r, block_c, row, column, start, at, mask = _tile(rows, columns, BLOCK_R, BLOCK_C)
    grad = tl.load(grad_ptr + start + at, mask, other=0.0).to(tl.float32)
    by_x = grad * gain
    if SAVED:
        saved = tl.load(saved_ptr + start + at, mask, other=0.0).to(tl.float32)
        u = _activation_of_saved(
            saved, bias_ptr, row, column, rows, columns, channels, inverse_gain, BIAS, BY_INPUT, LAST
        )
        by_x *= _slope(u, alpha, ACT)
        if CLAMP:
            by_x = tl.where(_free(u, saved, alpha, gain, clamp, ACT, BY_INPUT), by_x, 0.0)
    tl.store(by_x_ptr + start + at, by_x.to(by_x_ptr.dtype.element_ty), mask)
    if SUM:
        by_x = tl.where(mask, by_x, 0.0)
        if LAST:
            column = block_c * BLOCK_C + tl.arange(0, BLOCK_C)
            at_partial = block_r.to(tl.int64) * columns + column
            tl.store(partial_ptr + at_partial, tl.sum(by_x, 0), column < columns)
        else:
            row = block_r * BLOCK_R + tl.arange(0, BLOCK_R)
            at_partial = row.to(tl.int64) * tl.cdiv(columns, BLOCK_C) + block_c
            tl.store(partial_ptr + at_partial, tl.sum(by_x, 1), row < rows)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _bias_act_second_backward_kernel(
    grad_ptr, second_ptr, saved_ptr, bias_ptr, by_saved_ptr, alpha, gain, clamp, inverse_gain, rows, columns, channels,
    ACT: tl.constexpr, LAST: tl.constexpr, BIAS: tl.constexpr, BY_INPUT: tl.constexpr, CLAMP: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    _, _, row, column, start, at, mask = _tile(rows, columns, BLOCK_R, BLOCK_C)
    grad = tl.load(grad_ptr + start + at, mask, other=0.0).to(tl.float32)
    second = tl.load(second_ptr + start + at, mask, other=0.0).to(tl.float32)
    saved = tl.load(saved_ptr + start + at, mask, other=0.0).to(tl.float32)
    u = _activation_of_saved(saved, bias_ptr, row, column, rows, columns, channels, inverse_gain, BIAS, BY_INPUT, LAST)
    by_saved = grad * second * _curvature(u, ACT)
    if BY_INPUT:  # by an output y = gain act, the gains of the slope and of act'(y / gain) cancel
        by_saved *= gain
    if CLAMP:
        by_saved = tl.where(_free(u, saved, alpha, gain, clamp, ACT, BY_INPUT), by_saved, 0.0)
    tl.store(by_saved_ptr + start + at, by_saved.to(by_saved_ptr.dtype.element_ty), mask)


def bias_act_forward(
    x: Tensor,
    b: Tensor | None,
    scale: Tensor | None,
    noise: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """Launch the kernel: clamp(gain act(x scale + noise + b)) in the layout of x."""
    out = torch.empty_like(x)
    if not out.numel():
        return out
    channelled = not (b is None and scale is None and noise is None)
    if (scale is not None or noise is not None) and not _images_outermost(out):
        x = x.contiguous()
        result = bias_act_forward(x, b, scale, noise, dim, act, alpha, gain, clamp)
        return out.copy_(result)
    rows, columns, channels, last = _matrix(out, dim, channelled)
    pixels = out[0, 0].numel() if scale is not None or noise is not None else 1
    grid, blocks = _launch(out, rows, columns, last)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _bias_act_forward_kernel[grid](
            _like(x, out), _or(b, x), _or(scale, x), _or(noise, x), out, alpha, gain, clamp or 0.0,
            rows, columns, channels, pixels, pixels if noise is not None and noise.shape[0] > 1 else 0,
            ACT=act, LAST=last, BIAS=b is not None, SCALE=scale is not None, NOISE=noise is not None,
            CLAMP=clamp is not None, **blocks,
        )  # fmt: skip
    return out


def bias_act_backward(
    grad: Tensor,
    saved: Tensor | None,
    b: Tensor | None,
    dim: int,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    with_bias: bool,
) -> tuple[Tensor, Tensor | None]:
    """Launch the kernel: the gradient by the input, and by the bias where it is asked for."""
    by_x = torch.empty_like(grad if saved is None else saved)
    with_bias = with_bias and b is not None
    if not by_x.numel():
        return by_x, b.new_zeros(b.shape) if with_bias else None
    rows, columns, channels, last = _matrix(by_x, dim, b is not None)
    grid, blocks = _launch(by_x, rows, columns, last)
    partial = by_x
    if with_bias:
        shape = (triton.cdiv(rows, blocks["BLOCK_R"]), columns)
        if not last:
            shape = (rows // channels, channels, triton.cdiv(columns, blocks["BLOCK_C"]))
        partial = torch.empty(shape, dtype=torch.float32, device=grad.device)
    numbers, flags = _saved_options(b, act, alpha, gain, clamp, by_x.dtype)
    with torch.cuda.device_of(grad):
        _bias_act_backward_kernel[grid](
            _like(grad, by_x), by_x if saved is None else _like(saved, by_x), _or(b, grad), by_x, partial, *numbers,
            rows, columns, channels, ACT=act, LAST=last, SAVED=not needs_nothing(act, clamp), SUM=with_bias,
            **flags, **blocks,
        )  # fmt: skip
    return by_x, partial.sum(0 if last else (0, 2)).to(b.dtype) if with_bias else None


def bias_act_second_backward(
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
    """Launch the kernel: the derivative of sum(second * backward(grad)) by what is saved."""
    by_saved = torch.empty_like(saved)
    if not by_saved.numel():
        return by_saved
    rows, columns, channels, last = _matrix(by_saved, dim, b is not None)
    grid, blocks = _launch(by_saved, rows, columns, last)
    numbers, flags = _saved_options(b, act, alpha, gain, clamp, saved.dtype)
    with torch.cuda.device_of(grad):
        _bias_act_second_backward_kernel[grid](
            _like(grad, by_saved), _like(second, by_saved), _like(saved, by_saved), _or(b, grad), by_saved, *numbers,
            rows, columns, channels, ACT=act, LAST=last, **flags, **blocks,
        )  # fmt: skip
    return by_saved


def _saved_options(
    b: Tensor | None, act: str, alpha: float, gain: float, clamp: float | None, dtype: torch.dtype
) -> tuple[tuple[float, ...], dict[str, bool]]:
    """(alpha, gain, clamp, 1 / gain) and the flags that the backward kernels have in common."""
    by_input = not keeps_output(act, alpha)
    bound = 0.0 if clamp is None else clamp if by_input else rounded(clamp, dtype)
    return (
        (alpha, gain, bound, 1 / gain if gain else 0.0),
        {"BIAS": by_input and b is not None, "BY_INPUT": by_input, "CLAMP": clamp is not None},
    )


def _matrix(x: Tensor, dim: int, channelled: bool) -> tuple[int, int, int, bool]:
    """(rows, columns, channels, whether channels are columns) of a dense tensor, as it lies in memory."""
    if not channelled:  # any cut will do
        inner = max((x.stride(i) for i in range(x.ndim) if x.shape[i] > 1), default=1)
        return x.numel() // inner, inner, 1, False
    channels, inner = x.shape[dim], x.stride(dim)
    if channels == 1:  # its stride may be anything
        inner = x.numel() // (x.shape[0] if dim else 1)
        return x.numel() // inner, inner, 1, False
    if inner == 1:
        return x.numel() // channels, channels, channels, True
    return x.numel() // inner, inner, channels, False


def _images_outermost(x: Tensor) -> bool:
    """Tell whether [N, C, *spatial] lies as images of channels, or of pixels of channels, in order."""
    return x.is_contiguous() or x.movedim(1, -1).is_contiguous()


def _launch(x: Tensor, rows: int, columns: int, last: bool) -> tuple[tuple[int], dict[str, int]]:
    block_r, block_c = block_sizes(rows, columns, last, x.element_size())
    programs = triton.cdiv(rows, block_r) * triton.cdiv(columns, block_c)
    if programs >= LIMIT or rows >= LIMIT:
        raise ValueError(
            f"bias_act: less than 2^31 programs can be started; got {programs} for x of {shape_of(x)}; split the batch."
        )
    return (programs,), {"BLOCK_R": block_r, "BLOCK_C": block_c, "num_warps": NUM_WARPS}


def _like(x: Tensor, wanted: Tensor) -> Tensor:
    """x in the strides of another tensor, copied only if it is not so."""
    return x if x.stride() == wanted.stride() else torch.empty_like(wanted, dtype=x.dtype).copy_(x)


def _or(value: Tensor | None, x: Tensor) -> Tensor:
    """A pointer that is not followed where there is nothing."""
    return x if value is None else value.contiguous()
