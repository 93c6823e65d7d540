"""Triton kernels of the masked convolution, and their launchers.

A convolution is one matrix product a tap: pixels x input channels times input channels x output channels. The live
taps are the first ones of the window in raster order, so the loop over them simply ends early. Images are channels
last: a pixel's channels are neighbours, whatever the tap. The weight is packed first, taps x input x output channels,
padded with zeros to whole tiles: there the group mask of the central tap is applied, once instead of in every program,
and what dead taps hold is never read.

The gradient by x is the same product with taps mirrored; with a stride, pixels are taken by their phase, and the taps
of other phases are skipped. The gradient by the weight is a product over pixels, in parts that are summed in a fixed
order when it is written back in the parameter's layout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common import tiling  # noqa: F401  before triton: it sets an option of it
from fastgen.kernels.masked_conv2d.configurations import (
    BLOCK_GATE,
    BLOCK_PACK,
    BLOCK_UNPACK,
    GATES,
    PIXELS_A_SUM,
    WARPS,
    arithmetic,
    convolution_depth,
    convolution_tile,
    gradient_depth,
    padded,
    weight_gradient_tile,
)
from fastgen.kernels.masked_conv2d.dispatch import tf32_allowed

import triton  # isort: skip
import triton.language as tl  # isort: skip

LOG2E = tl.constexpr(1.4426950408889634)
TANH = tl.constexpr(1)

# Sizes are plain integers: whether one is a multiple of 16, or 1, would change nothing but the number of compilations.
SIZES = ["images", "source_height", "source_width", "height", "width", "phase_height", "phase_width", "taps"]
SUMMED_SIZES = ["pixels", "pixels_a_part", "height", "width", "by_height", "by_width", "shift_of_height"]
SUMMED_SIZES += ["shift_of_width", "source_height", "source_width"]
STRIDES = ["stride_wo", "stride_wi"]

PARTS_A_PROCESSOR = 2  # programs of the weight's gradient for each multiprocessor
INTERPRETED_PARTS = 2


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def _tanh(x):
    """tanh, by an odd polynomial where the exponentials would cancel."""
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
    large = (1.0 - e) / (1.0 + e)
    s = x * x
    c = -0.05384227 + s * (0.02102719 + s * -0.0062074)
    c = -0.33333315 + s * (0.13332499 + s * c)
    return tl.where(tl.abs(x) < 0.55, x + x * (s * c), tl.where(x < 0, -large, large))


@triton.jit
def _offset(
    tap,
    phase_y,
    phase_x,
    KW: tl.constexpr,
    ROW: tl.constexpr,
    COLUMN: tl.constexpr,
    DILATION: tl.constexpr,
    PHASES: tl.constexpr,
    MIRRORED: tl.constexpr,
):
    """Where a tap reads, relative to the source pixel of the target, and whether it does so in this phase at all."""
    a = tap // KW
    dy = (a - ROW) * DILATION
    dx = (tap - a * KW - COLUMN) * DILATION
    if MIRRORED:
        dy = phase_y - dy
        dx = phase_x - dx
    reads = (dy % PHASES == 0) & (dx % PHASES == 0)
    return dy // PHASES, dx // PHASES, reads  # exact where it reads


@triton.jit
def _accumulate(
    acc, gate_acc, x_ptr, mask, packed_ptr, HALF: tl.constexpr, GATE: tl.constexpr, PRECISION: tl.constexpr
):
    x = tl.load(x_ptr, mask, other=0.0)
    acc = tl.dot(x, tl.load(packed_ptr), acc, input_precision=PRECISION)
    if GATE:
        gate_acc = tl.dot(x, tl.load(packed_ptr + HALF), gate_acc, input_precision=PRECISION)
    return acc, gate_acc


@triton.jit
def _add_inputs(
    acc,
    bias_ptr,
    condition_ptr,
    pixel,
    image,
    channel,
    mask,
    OUTPUTS: tl.constexpr,
    BIAS: tl.constexpr,
    CONDITION: tl.constexpr,
):
    """Bias and condition of some channels [1, BN] added to [BM, BN]."""
    if BIAS:
        acc += tl.load(bias_ptr + channel, channel < OUTPUTS, other=0.0).to(tl.float32)
    if CONDITION == 1:
        acc += tl.load(condition_ptr + image * OUTPUTS + channel, mask, other=0.0).to(tl.float32)
    if CONDITION == 2:
        acc += tl.load(condition_ptr + pixel * OUTPUTS + channel, mask, other=0.0).to(tl.float32)
    return acc


@triton.jit(do_not_specialize=SIZES)
def _masked_conv2d_kernel(
    x_ptr,
    packed_ptr,
    bias_ptr,
    condition_ptr,
    residual_ptr,
    y_ptr,
    pre_ptr,
    images,
    source_height,
    source_width,
    height,
    width,
    phase_height,
    phase_width,
    taps,
    INPUTS: tl.constexpr,
    F: tl.constexpr,
    DEPTH: tl.constexpr,
    HALF: tl.constexpr,
    KW: tl.constexpr,
    ROW: tl.constexpr,
    COLUMN: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    MIRRORED: tl.constexpr,
    GATE: tl.constexpr,
    BIAS: tl.constexpr,
    CONDITION: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SAVE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """BM pixels x BN channels of an image batch [images, height, width, F], from x [.., source_height, .., INPUTS].

    MIRRORED is the gradient by x: a source pixel lies where a tap would have written it. A program then takes pixels of
    one phase, rows phase_y, phase_y + STRIDE, ..., of which there are at most phase_height; otherwise there is one
    phase. packed is [taps, DEPTH, HALF or 2 HALF]; DEPTH = INPUTS where taps and channels are one dimension. taps is
    no constant, so that the loop is not unrolled, which would spill.
    """
    PHASES: tl.constexpr = STRIDE if MIRRORED else 1
    STEP: tl.constexpr = 1 if MIRRORED else STRIDE
    FLAT: tl.constexpr = DEPTH < BK
    N_BLOCKS: tl.constexpr = HALF // BN
    COLUMNS: tl.constexpr = 2 * HALF if GATE else HALF
    OUTPUTS: tl.constexpr = 2 * F if GATE else F
    phase_y = tl.program_id(1) // PHASES
    phase_x = tl.program_id(1) % PHASES
    m = (tl.program_id(0) // N_BLOCKS) * BM + tl.arange(0, BM)
    n = (tl.program_id(0) % N_BLOCKS) * BN + tl.arange(0, BN)[None, :]
    line = m // phase_width
    j = m - line * phase_width
    image = line // phase_height
    i = line - image * phase_height
    y = i * PHASES + phase_y
    x = j * PHASES + phase_x
    inside = (image < images) & (y < height) & (x < width)  # [BM]
    row = i * STEP
    column = j * STEP
    source = (image * source_height + row) * source_width + column
    x_ptr += (source.to(tl.int64) * INPUTS)[:, None]  # [BM, 1]
    k = tl.arange(0, BK)
    packed_ptr += (k * COLUMNS)[:, None] + n  # [BK, BN]

    acc = tl.zeros((BM, BN), tl.float32)
    gate_acc = tl.zeros((BM, BN if GATE else 1), tl.float32)
    if FLAT:
        for first in range(0, taps * INPUTS, BK):
            tap = (first + k) // INPUTS  # [BK]
            dy, dx, reads = _offset(tap, phase_y, phase_x, KW, ROW, COLUMN, DILATION, PHASES, MIRRORED)
            from_row = row[:, None] + dy[None, :]
            from_column = column[:, None] + dx[None, :]
            mask = (from_row >= 0) & (from_row < source_height) & (from_column >= 0) & (from_column < source_width)
            mask = mask & inside[:, None] & (reads & (tap < taps))[None, :]
            shift = (tl.cast(dy, tl.int64) * source_width + dx) * INPUTS + (first + k - tap * INPUTS)
            acc, gate_acc = _accumulate(
                acc, gate_acc, x_ptr + shift[None, :], mask, packed_ptr + first * COLUMNS, HALF, GATE, PRECISION
            )
    else:
        STEPS: tl.constexpr = DEPTH // BK
        for step in range(taps * STEPS):
            tap = step // STEPS
            first = (step - tap * STEPS) * BK
            dy, dx, reads = _offset(tap, phase_y, phase_x, KW, ROW, COLUMN, DILATION, PHASES, MIRRORED)
            from_row = row + dy
            from_column = column + dx
            mask = (from_row >= 0) & (from_row < source_height) & (from_column >= 0) & (from_column < source_width)
            mask = (mask & inside)[:, None]
            if INPUTS != DEPTH:
                mask = mask & (first + k < INPUTS)[None, :]
            shift = (tl.cast(dy, tl.int64) * source_width + dx) * INPUTS + first
            from_ptr = x_ptr + shift + k[None, :]
            weight_ptr = packed_ptr + step * (BK * COLUMNS)
            if PHASES == 1 or reads:
                acc, gate_acc = _accumulate(acc, gate_acc, from_ptr, mask, weight_ptr, HALF, GATE, PRECISION)

    element: tl.constexpr = y_ptr.dtype.element_ty
    mask = inside[:, None] & (n < F)
    pixel = ((image * height + y) * width + x).to(tl.int64)[:, None]  # [BM, 1]
    image = image.to(tl.int64)[:, None]
    acc = _add_inputs(acc, bias_ptr, condition_ptr, pixel, image, n, mask, OUTPUTS, BIAS, CONDITION)
    if GATE:
        gate_acc = _add_inputs(gate_acc, bias_ptr, condition_ptr, pixel, image, n + F, mask, OUTPUTS, BIAS, CONDITION)
        if SAVE:
            tl.store(pre_ptr + pixel * OUTPUTS + n, acc.to(element), mask)
            tl.store(pre_ptr + pixel * OUTPUTS + n + F, gate_acc.to(element), mask)
        if GATE == TANH:
            acc = _tanh(acc)
        acc *= _sigmoid(gate_acc)
    if RESIDUAL:
        acc += tl.load(residual_ptr + pixel * F + n, mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + pixel * F + n, acc.to(element), mask)


@triton.jit(do_not_specialize=SUMMED_SIZES)
def _masked_conv2d_weight_gradient_kernel(
    grad_ptr,
    x_ptr,
    part_ptr,
    pixels,
    pixels_a_part,
    height,
    width,
    by_height,
    by_width,
    shift_of_height,
    shift_of_width,
    source_height,
    source_width,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    TAPS: tl.constexpr,
    KW: tl.constexpr,
    ROW: tl.constexpr,
    COLUMN: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """BM rows (tap and input channel) x BN output channels of the weight's gradient, over a part of the pixels.

    part is [parts, rows, COLUMNS], rows those of `packed`. by_height, by_width: multipliers in place of divisions.
    """
    FLAT: tl.constexpr = DEPTH < BM
    N_BLOCKS: tl.constexpr = COLUMNS // BN
    ROWS: tl.constexpr = (TAPS * DEPTH + BM - 1) // BM * BM
    first = (tl.program_id(0) // N_BLOCKS) * BM
    r = first + tl.arange(0, BM)
    n = (tl.program_id(0) % N_BLOCKS) * BN + tl.arange(0, BN)[None, :]
    if FLAT:
        tap = r // DEPTH  # [BM]
        channel = r - tap * DEPTH
    else:
        tap = first // DEPTH
        channel = r - tap * DEPTH
    dy, dx, _ = _offset(tap, 0, 0, KW, ROW, COLUMN, DILATION, 1, False)
    x_ptr += ((tl.cast(dy, tl.int64) * source_width + dx) * INPUTS + channel)[None, :]  # [1, BM]
    grad_ptr += n
    live = (channel < INPUTS) & (r < TAPS * DEPTH)

    acc = tl.zeros((BM, BN), tl.float32)
    start = tl.program_id(1) * pixels_a_part
    end = tl.minimum(start + pixels_a_part, pixels)
    for begin in range(start, end, BK):
        p = begin + tl.arange(0, BK)
        line = ((p.to(tl.int64) * by_width) >> shift_of_width).to(tl.int32)  # p // width
        image = ((line.to(tl.int64) * by_height) >> shift_of_height).to(tl.int32)  # line // height
        row = (line - image * height) * STRIDE
        column = (p - line * width) * STRIDE
        source = (image * source_height + row) * source_width + column
        if FLAT:
            from_row = row[:, None] + dy[None, :]
            from_column = column[:, None] + dx[None, :]
        else:
            from_row = (row + dy)[:, None]
            from_column = (column + dx)[:, None]
        inside = (p < end)[:, None]
        mask = (from_row >= 0) & (from_row < source_height) & (from_column >= 0) & (from_column < source_width)
        mask = mask & inside
        if FLAT or INPUTS != DEPTH:
            mask = mask & live[None, :]
        x = tl.load(x_ptr + (source.to(tl.int64) * INPUTS)[:, None], mask, other=0.0)  # [BK, BM]
        grad = tl.load(grad_ptr + (p.to(tl.int64) * OUTPUTS)[:, None], inside & (n < OUTPUTS), other=0.0)  # [BK, BN]
        acc = tl.dot(tl.trans(x), grad, acc, input_precision=PRECISION)
    part_ptr += (tl.program_id(1).to(tl.int64) * ROWS + r)[:, None] * COLUMNS
    tl.store(part_ptr + n, acc)


@triton.jit
def _seen(in_groups_ptr, out_groups_ptr, i, o, mask_i, mask_o, STRICT: tl.constexpr):
    """Whether outputs o see inputs i at the central tap."""
    source = tl.load(in_groups_ptr + i, mask_i, other=0)
    target = tl.load(out_groups_ptr + o, mask_o, other=0)
    if STRICT:
        return source < target
    return source <= target


@triton.jit(do_not_specialize=STRIDES)
def _masked_conv2d_pack_kernel(
    weight_ptr,
    in_groups_ptr,
    out_groups_ptr,
    packed_ptr,
    stride_wo,
    stride_wi,
    stride_wt,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    HALF: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    MIRRORED: tl.constexpr,
    GROUPED: tl.constexpr,
    STRICT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """packed [ROWS, COLUMNS] from the weight: a row for each tap and channel summed over, zero where nothing is live.

    INPUTS and OUTPUTS are those of the product: for the gradient by x (MIRRORED), the weight's other way round. Each of
    the COLUMNS // HALF halves has HALF columns, of which the last ones may be padding.
    """
    F: tl.constexpr = OUTPUTS // (COLUMNS // HALF)
    r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)[:, None]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    tap = r // DEPTH
    k = r - tap * DEPTH
    half = c // HALF
    f = c - half * HALF
    n = half * F + f
    row_mask = (tap < TAPS) & (k < INPUTS)
    column_mask = (f < F) & (c < COLUMNS)
    mask = row_mask & column_mask
    i = n if MIRRORED else k
    o = k if MIRRORED else n
    if GROUPED:
        mask_i = column_mask if MIRRORED else row_mask
        mask_o = row_mask if MIRRORED else column_mask
        mask = mask & ((tap < TAPS - 1) | _seen(in_groups_ptr, out_groups_ptr, i, o, mask_i, mask_o, STRICT))
    value = tl.load(weight_ptr + o * stride_wo + i * stride_wi + tap * stride_wt, mask, other=0.0)
    tl.store(packed_ptr + r * COLUMNS + c, value, (r < ROWS) & (c < COLUMNS))


@triton.jit(do_not_specialize=["parts", *STRIDES])
def _masked_conv2d_unpack_kernel(
    part_ptr,
    in_groups_ptr,
    out_groups_ptr,
    gradient_ptr,
    parts,
    stride_wo,
    stride_wi,
    stride_wt,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    TAPS: tl.constexpr,
    GROUPED: tl.constexpr,
    STRICT: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """The weight's gradient at one tap of the whole window: the sum of the parts, zero where the tap is dead."""
    I_BLOCKS: tl.constexpr = (INPUTS + BLOCK_I - 1) // BLOCK_I
    tap = tl.program_id(1)
    i = (tl.program_id(0) % I_BLOCKS) * BLOCK_I + tl.arange(0, BLOCK_I)[:, None]
    o = (tl.program_id(0) // I_BLOCKS) * BLOCK_O + tl.arange(0, BLOCK_O)[None, :]
    inside = (i < INPUTS) & (o < OUTPUTS)
    live = inside & (tap < TAPS)
    if GROUPED:
        seen = _seen(in_groups_ptr, out_groups_ptr, i, o, i < INPUTS, o < OUTPUTS, STRICT)
        live = live & ((tap < TAPS - 1) | seen)
    part_ptr += (tap * DEPTH + i) * COLUMNS + o
    total = tl.zeros((BLOCK_I, BLOCK_O), tl.float32)
    for _ in range(parts):
        total += tl.load(part_ptr, live, other=0.0)
        part_ptr += ROWS * COLUMNS
    gradient_ptr += o * stride_wo + i * stride_wi + tap * stride_wt
    tl.store(gradient_ptr, total.to(gradient_ptr.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["pixels", "chunks"])
def _masked_conv2d_gate_backward_kernel(
    grad_ptr,
    pre_ptr,
    by_pre_ptr,
    sums_ptr,
    pixels,
    chunks,
    F: tl.constexpr,
    GATE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    """The gradient by the gate's two inputs, for CHUNK pixels of an image, and its sums over these pixels."""
    image = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = tl.program_id(0) % chunks
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    sum_a = tl.zeros((BLOCK_F,), tl.float32)
    sum_b = tl.zeros((BLOCK_F,), tl.float32)
    element: tl.constexpr = by_pre_ptr.dtype.element_ty
    for begin in range(0, CHUNK, BLOCK_P):
        p = chunk * CHUNK + begin + tl.arange(0, BLOCK_P)
        mask = (p < pixels)[:, None] & (f < F)[None, :]
        pixel = (image * pixels + p)[:, None]
        at = pixel * (2 * F) + f[None, :]
        grad = tl.load(grad_ptr + pixel * F + f[None, :], mask, other=0.0).to(tl.float32)
        a = tl.load(pre_ptr + at, mask, other=0.0).to(tl.float32)
        b = tl.load(pre_ptr + at + F, mask, other=0.0).to(tl.float32)
        s = _sigmoid(b)
        if GATE == TANH:
            t = _tanh(a)
            by_a = grad * s * (1.0 - t * t)
        else:
            t = a
            by_a = grad * s
        by_b = grad * t * s * (1.0 - s)
        tl.store(by_pre_ptr + at, by_a.to(element), mask)
        tl.store(by_pre_ptr + at + F, by_b.to(element), mask)
        sum_a += tl.sum(by_a, 0)
        sum_b += tl.sum(by_b, 0)
    sums_ptr += tl.program_id(0).to(tl.int64) * (2 * F) + f
    tl.store(sums_ptr, sum_a, f < F)
    tl.store(sums_ptr + F, sum_b, f < F)


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
    """Launch the convolution with its epilogue: the result, and pre-activations of a gate in training."""
    outputs = weight.shape[0]
    halves = 2 if gate else 1
    height, width = (-(-size // stride) for size in x.shape[2:])
    y = _empty(x, outputs // halves, height, width)
    save = bool(gate) and training
    pre = _empty(x, outputs, height, width) if save else x.new_empty(0)
    if not y.numel():
        return y, pre
    if condition is not None:
        condition = _channels_last(condition) if condition.ndim == 4 else condition.contiguous()
    _launch_convolution(
        _channels_last(x),
        weight,
        None if bias is None else bias.contiguous(),
        condition,
        None if residual is None else _channels_last(residual),
        y,
        pre if save else None,
        in_groups,
        out_groups,
        (taps, row, column, strict, stride, dilation),
        gate=gate,
        mirrored=False,
    )
    return y, pre


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
    """Launch the convolution with mirrored taps: the gradient by x."""
    gradient = _empty(grad, weight.shape[1], height, width)
    if gradient.numel():
        _launch_convolution(
            _channels_last(grad),
            weight,
            None,
            None,
            None,
            gradient,
            None,
            in_groups,
            out_groups,
            (taps, row, column, strict, stride, dilation),
            gate="",
            mirrored=True,
        )
    return gradient


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
    """Launch the product over pixels, and the sum of its parts: the gradient by weight, in its strides."""
    gradient = torch.empty_like(weight)
    if not grad.numel():
        return gradient.zero_()
    grad, x = _channels_last(grad), _channels_last(x)
    outputs, inputs, kh, kw = weight.shape
    kind = arithmetic(str(x.dtype).removeprefix("torch."), tf32_allowed())
    tile = weight_gradient_tile(kind, inputs, outputs)
    depth = gradient_depth(inputs, tile)
    rows, columns = padded(taps * depth, tile.rows), padded(outputs, tile.columns)
    images, _, height, width = grad.shape
    pixels = images * height * width
    programs = (rows // tile.rows) * (columns // tile.columns)
    parts = max(1, min(_wanted_programs(x) // programs, triton.cdiv(pixels, 4 * tile.depth)))
    pixels_a_part = padded(triton.cdiv(pixels, parts), tile.depth)
    parts = triton.cdiv(pixels, pixels_a_part)
    part = torch.empty((parts, rows, columns), dtype=torch.float32, device=x.device)
    by_height, shift_of_height = _multiplier(height)
    by_width, shift_of_width = _multiplier(width)
    target, strides = _by_tap(gradient)
    unused = x  # a pointer that is not followed
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _masked_conv2d_weight_gradient_kernel[(programs, parts)](
            grad,
            x,
            part,
            pixels,
            pixels_a_part,
            height,
            width,
            by_height,
            by_width,
            shift_of_height,
            shift_of_width,
            x.shape[2],
            x.shape[3],
            INPUTS=inputs,
            OUTPUTS=outputs,
            DEPTH=depth,
            COLUMNS=columns,
            TAPS=taps,
            KW=kw,
            ROW=row,
            COLUMN=column,
            STRIDE=stride,
            DILATION=dilation,
            PRECISION="tf32" if kind == "tf32" else "ieee",
            BM=tile.rows,
            BN=tile.columns,
            BK=tile.depth,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        block_i, block_o = BLOCK_UNPACK
        _masked_conv2d_unpack_kernel[(triton.cdiv(inputs, block_i) * triton.cdiv(outputs, block_o), kh * kw)](
            part,
            unused if in_groups is None else in_groups.contiguous(),
            unused if out_groups is None else out_groups.contiguous(),
            target,
            parts,
            *strides,
            INPUTS=inputs,
            OUTPUTS=outputs,
            DEPTH=depth,
            COLUMNS=columns,
            ROWS=rows,
            TAPS=taps,
            GROUPED=in_groups is not None,
            STRICT=strict,
            BLOCK_I=block_i,
            BLOCK_O=block_o,
            num_warps=WARPS,
        )
    return gradient if target is gradient else gradient.copy_(target)


def masked_conv2d_gate_backward(grad: Tensor, pre: Tensor, gate: str) -> tuple[Tensor, Tensor]:
    """Launch the way back through the gate: the gradient by its inputs, and the sums of it over each image."""
    by_pre = torch.empty_like(pre, memory_format=torch.channels_last)
    images, outputs, height, width = pre.shape
    if not pre.numel():
        return by_pre, pre.new_zeros((images, outputs), dtype=torch.float32)
    grad, pre = _channels_last(grad), _channels_last(pre)
    features = outputs // 2
    pixels = height * width
    chunks = triton.cdiv(pixels, PIXELS_A_SUM)
    block_p, block_f = BLOCK_GATE
    sums = torch.empty((images, chunks, outputs), dtype=torch.float32, device=pre.device)
    with torch.cuda.device_of(pre):
        _masked_conv2d_gate_backward_kernel[(images * chunks, triton.cdiv(features, block_f))](
            grad,
            pre,
            by_pre,
            sums,
            pixels,
            chunks,
            F=features,
            GATE=GATES[gate],
            CHUNK=PIXELS_A_SUM,
            BLOCK_P=block_p,
            BLOCK_F=block_f,
            num_warps=WARPS,
        )
    return by_pre, sums.sum(1)


def _launch_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    condition: Tensor | None,
    residual: Tensor | None,
    y: Tensor,
    pre: Tensor | None,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    geometry: tuple[int, int, int, bool, int, int],
    *,
    gate: str,
    mirrored: bool,
) -> None:
    taps, row, column, strict, stride, dilation = geometry
    halves = 2 if gate else 1
    inputs, features = x.shape[1], y.shape[1]
    kind = arithmetic(str(x.dtype).removeprefix("torch."), tf32_allowed())
    tile = convolution_tile(kind, inputs, features, halves)
    depth = convolution_depth(inputs, tile)
    half = padded(features, tile.columns)
    images, _, height, width = y.shape
    phases = stride if mirrored else 1
    phase_height, phase_width = triton.cdiv(height, phases), triton.cdiv(width, phases)
    unused = x  # a pointer that is not followed
    with torch.cuda.device_of(x):  # Triton launches on the current device
        packed = _pack(
            weight, in_groups, out_groups, taps, strict, depth, padded(taps * depth, tile.depth), half, halves, mirrored
        )
        blocks = triton.cdiv(images * phase_height * phase_width, tile.rows) * (half // tile.columns)
        _masked_conv2d_kernel[(blocks, phases * phases)](
            x,
            packed,
            unused if bias is None else bias,
            unused if condition is None else condition,
            unused if residual is None else residual,
            y,
            unused if pre is None else pre,
            images,
            x.shape[2],
            x.shape[3],
            height,
            width,
            phase_height,
            phase_width,
            taps,
            INPUTS=inputs,
            F=features,
            DEPTH=depth,
            HALF=half,
            KW=weight.shape[3],
            ROW=row,
            COLUMN=column,
            STRIDE=stride,
            DILATION=dilation,
            MIRRORED=mirrored,
            GATE=GATES[gate],
            BIAS=bias is not None,
            CONDITION=0 if condition is None else condition.ndim // 2,
            RESIDUAL=residual is not None,
            SAVE=pre is not None,
            PRECISION="tf32" if kind == "tf32" else "ieee",
            BM=tile.rows,
            BN=tile.columns,
            BK=tile.depth,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )


def _pack(
    weight: Tensor,
    in_groups: Tensor | None,
    out_groups: Tensor | None,
    taps: int,
    strict: bool,
    depth: int,
    rows: int,
    half: int,
    halves: int,
    mirrored: bool,
) -> Tensor:
    """Launch the copy of the live taps into [rows, halves * half]."""
    weight, strides = _by_tap(weight)
    columns = halves * half
    packed = torch.empty((rows, columns), dtype=weight.dtype, device=weight.device)
    inputs, outputs = weight.shape[1::-1]
    block_r, block_c = BLOCK_PACK
    unused = weight
    _masked_conv2d_pack_kernel[(triton.cdiv(rows, block_r), triton.cdiv(columns, block_c))](
        weight,
        unused if in_groups is None else in_groups.contiguous(),
        unused if out_groups is None else out_groups.contiguous(),
        packed,
        *strides,
        INPUTS=outputs if mirrored else inputs,
        OUTPUTS=inputs if mirrored else outputs,
        DEPTH=depth,
        HALF=half,
        COLUMNS=columns,
        ROWS=rows,
        TAPS=taps,
        MIRRORED=mirrored,
        GROUPED=in_groups is not None,
        STRICT=strict,
        BLOCK_R=block_r,
        BLOCK_C=block_c,
        num_warps=WARPS,
    )
    return packed


def _by_tap(weight: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """The weight and its strides of output, input and tap; a copy where the taps are not evenly spaced."""
    _, _, kh, kw = weight.shape
    if kh > 1 and kw > 1 and weight.stride(2) != kw * weight.stride(3):
        weight = weight.contiguous()
    return weight, (weight.stride(0), weight.stride(1), weight.stride(3 if kw > 1 else 2))


def _multiplier(divisor: int) -> tuple[int, int]:
    """(m, s) with n // divisor == (n * m) >> s for 0 <= n < 2^31, and n * m < 2^63."""
    shift = 31 + (divisor - 1).bit_length()
    return (1 << shift) // divisor + 1, shift


def _wanted_programs(x: Tensor) -> int:
    if x.device.type != "cuda":
        return INTERPRETED_PARTS
    return PARTS_A_PROCESSOR * torch.cuda.get_device_properties(x.device).multi_processor_count


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    shape = like.shape[0], channels, height, width
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
