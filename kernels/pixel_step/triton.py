"""Triton kernels of a pixel's layer step and of its draw, and their launchers.

A program of a step takes BLOCK_N images and BLOCK_C channels of the result: it gathers the windows where they lie in
the caches, sums products, what was summed at the start of the row, bias and skips in registers, and stores the result
in every form that a reader wants. Few images and channels a program put the weights of a layer on many multiprocessors
at once: what limits a step is how long its longest chain of loads is, not how much they bring. Everything is summed in
float32; products of float32 are three of tensor cores (tf32x3), which keeps the precision of float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastgen.kernels._common.tiling import interpreting  # before triton: it sets an option of it
from fastgen.kernels.dmol.configurations import min_log_scale
from fastgen.kernels.dmol.triton import (
    LOG2E,
    MAX_LOG_SCALE,
    _coefficient_block,
    _exp_of_minus,
    _log,
)
from fastgen.kernels.gated_activation.triton import _one_minus_exp_of_minus, _sigmoid_and_rest, _tanh_and_slope
from fastgen.kernels.pixel_step.configurations import (
    MOST,
    Store,
    draw_options,
    step_options,
    step_tiles,
    store_constants,
)

import triton  # isort: skip
import triton.language as tl  # isort: skip


@triton.jit
def _elu(y):
    """y for y > 0, else e^y - 1."""
    size = tl.abs(y)
    return tl.where(y > 0, y, -_one_minus_exp_of_minus(size, tl.exp2(size * (-LOG2E))))


@triton.jit
def _softplus(y):
    """log(1 + e^y); the sum's own rounding is divided out where e^y is small."""
    e = tl.exp2(tl.abs(y) * (-LOG2E))
    u = 1.0 + e
    rounded = u - 1.0
    log1p = tl.where(rounded == 0.0, e, _log(u) * e / tl.where(rounded == 0.0, 1.0, rounded))
    return tl.maximum(y, 0.0) + log1p


@triton.jit
def _activate(y, FUNCTION: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr):
    """A function of the result by its name, with the parameters that PyTorch's has."""
    sigmoid, _ = _sigmoid_and_rest(y)
    if FUNCTION == "neg":
        y = -y
    elif FUNCTION == "relu":
        y = tl.maximum(y, 0.0)
    elif FUNCTION == "leaky_relu":
        y = tl.where(y > 0, y, y * P0)
    elif FUNCTION == "elu":
        y = tl.where(y > 0, y * P1, _elu(tl.minimum(y, 0.0) * P2) * (P0 * P1))
    elif FUNCTION == "exp":
        y = _exp_of_minus(-y)
    elif FUNCTION == "sigmoid":
        y = sigmoid
    elif FUNCTION == "silu":
        y = y * sigmoid
    elif FUNCTION == "tanh":
        y, _ = _tanh_and_slope(y)
    elif FUNCTION == "softplus":
        y = tl.where(y * P0 > P1, y, _softplus(y * P0) / P0)
    elif FUNCTION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif FUNCTION == "gelu_tanh":
        t, _ = _tanh_and_slope(0.7978845608028654 * (y + 0.044715 * y * y * y))
        y = 0.5 * y * (1.0 + t)
    return y


@triton.jit
def _product(
    a,
    b,
    x_ptr,
    w_ptr,
    stride_xn,
    image,
    is_image,
    channel,
    is_channel,
    K: tl.constexpr,
    C: tl.constexpr,
    GATED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """a + x @ w of these channels; b + that of the channels C further, for a gate."""
    Z: tl.constexpr = 2 * C if GATED else C
    WHOLE: tl.constexpr = K % BLOCK_K == 0
    k = tl.arange(0, BLOCK_K)
    x_ptr += image[:, None] * stride_xn + k[None, :]  # [BLOCK_N, BLOCK_K]
    w_ptr += k[:, None] * Z + channel[None, :]  # [BLOCK_K, BLOCK_C]
    for start in range(0, K, BLOCK_K):
        x_mask = is_image[:, None]
        w_mask = is_channel[None, :]
        if not WHOLE:
            x_mask = x_mask & (start + k < K)[None, :]
            w_mask = w_mask & (start + k < K)[:, None]
        w = tl.load(w_ptr + start * Z, w_mask, other=0.0)
        x = tl.load(x_ptr + start, x_mask, other=0.0).to(w.dtype)
        if UPCAST:
            x = x.to(tl.float32)
            w = w.to(tl.float32)
        a = tl.dot(x, w, a, input_precision=PRECISION)
        if GATED:
            w = tl.load(w_ptr + start * Z + C, w_mask, other=0.0)
            if UPCAST:
                w = w.to(tl.float32)
            b = tl.dot(x, w, b, input_precision=PRECISION)
    return a, b


@triton.jit
def _added(a, b, ptr, stride, image, channel, mask, C: tl.constexpr, GATED: tl.constexpr):
    """a + what is added, and b + that of the channels C further, for a gate."""
    ptr += image[:, None] * stride + channel[None, :]
    a += tl.load(ptr, mask, other=0.0)
    if GATED:
        b += tl.load(ptr + C, mask, other=0.0)
    return a, b


@triton.jit
def _store(
    y,
    ptr,
    stride,
    image,
    channel,
    mask,
    FUNCTION: tl.constexpr,
    P0: tl.constexpr,
    P1: tl.constexpr,
    P2: tl.constexpr,
    C: tl.constexpr,
):
    """f(y) where it belongs; of concat_elu the channels P1:P2 of elu([y, -y])."""
    ptr += image[:, None] * stride + channel[None, :]
    if FUNCTION == "concat_elu":
        if P1 < C:
            tl.store(ptr - P1, _elu(y), mask & (channel >= P1)[None, :] & (channel < P2)[None, :])
        if P2 > C:
            tl.store(ptr + (C - P1), _elu(-y), mask & (channel >= P1 - C)[None, :] & (channel < P2 - C)[None, :])
    else:
        tl.store(ptr, _activate(y, FUNCTION, P0, P1, P2), mask)


@triton.jit
def _pixel_step_kernel(
    x0_ptr, x1_ptr, x2_ptr, x3_ptr, w0_ptr, w1_ptr, w2_ptr, w3_ptr, added0_ptr, added1_ptr, added2_ptr,
    factor0_ptr, factor1_ptr, residual0_ptr, residual1_ptr, out0_ptr, out1_ptr, out2_ptr,
    images,
    stride_x0n, stride_x1n, stride_x2n, stride_x3n, stride_added0n, stride_added1n, stride_added2n,
    stride_factor0n, stride_factor1n, stride_residual0n, stride_residual1n, stride_out0n, stride_out1n, stride_out2n,
    C: tl.constexpr,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, K3: tl.constexpr,
    ADDED: tl.constexpr, FACTORS: tl.constexpr, GATE: tl.constexpr, RESIDUALS: tl.constexpr,
    FUNCTION0: tl.constexpr, FUNCTION1: tl.constexpr, FUNCTION2: tl.constexpr, NUMBERS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """BLOCK_N images and BLOCK_C channels of a step. A K of 0 is no product; a function has three NUMBERS."""
    GATED: tl.constexpr = GATE != ""
    image = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_image = image < images
    is_channel = channel < C
    mask = is_image[:, None] & is_channel[None, :]
    image = image.to(tl.int64)
    a = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    b = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
    if K0 > 0:
        a, b = _product(a, b, x0_ptr, w0_ptr, stride_x0n, image, is_image, channel, is_channel,
                        K0, C, GATED, PRECISION, UPCAST, BLOCK_K)  # fmt: skip
    if K1 > 0:
        a, b = _product(a, b, x1_ptr, w1_ptr, stride_x1n, image, is_image, channel, is_channel,
                        K1, C, GATED, PRECISION, UPCAST, BLOCK_K)  # fmt: skip
    if K2 > 0:
        a, b = _product(a, b, x2_ptr, w2_ptr, stride_x2n, image, is_image, channel, is_channel,
                        K2, C, GATED, PRECISION, UPCAST, BLOCK_K)  # fmt: skip
    if K3 > 0:
        a, b = _product(a, b, x3_ptr, w3_ptr, stride_x3n, image, is_image, channel, is_channel,
                        K3, C, GATED, PRECISION, UPCAST, BLOCK_K)  # fmt: skip
    if ADDED > 0:
        a, b = _added(a, b, added0_ptr, stride_added0n, image, channel, mask, C, GATED)
    if ADDED > 1:
        a, b = _added(a, b, added1_ptr, stride_added1n, image, channel, mask, C, GATED)
    if ADDED > 2:
        a, b = _added(a, b, added2_ptr, stride_added2n, image, channel, mask, C, GATED)
    if FACTORS > 0:
        zero = tl.zeros((BLOCK_N, BLOCK_C), tl.float32)
        f, f_gate = _added(zero, zero, factor0_ptr, stride_factor0n, image, channel, mask, C, GATED)
        g, g_gate = _added(zero, zero, factor1_ptr, stride_factor1n, image, channel, mask, C, GATED)
        a += f * g
        b += f_gate * g_gate
    y = a
    if GATED:
        sigmoid, _ = _sigmoid_and_rest(b)
        if GATE == "tanh":
            y, _ = _tanh_and_slope(a)
        y *= sigmoid
    if RESIDUALS > 0:
        y, b = _added(y, b, residual0_ptr, stride_residual0n, image, channel, mask, C, False)
    if RESIDUALS > 1:
        y, b = _added(y, b, residual1_ptr, stride_residual1n, image, channel, mask, C, False)
    _store(y, out0_ptr, stride_out0n, image, channel, mask, FUNCTION0, NUMBERS[0], NUMBERS[1], NUMBERS[2], C)
    if FUNCTION1 != "":
        _store(y, out1_ptr, stride_out1n, image, channel, mask, FUNCTION1, NUMBERS[3], NUMBERS[4], NUMBERS[5], C)
    if FUNCTION2 != "":
        _store(y, out2_ptr, stride_out2n, image, channel, mask, FUNCTION2, NUMBERS[6], NUMBERS[7], NUMBERS[8], C)


@triton.jit
def _pick(params_ptr, uniform, temperature, image_mask, FIRST: tl.constexpr, M: tl.constexpr, BLOCK_M: tl.constexpr):
    """The index whose interval of the cumulative weights of M logits holds the uniform; the heaviest at 0."""
    m = tl.arange(0, BLOCK_M)
    logits = tl.load(params_ptr[:, None] + (FIRST + m)[None, :], image_mask[:, None] & (m < M)[None, :], other=0.0)
    logits = tl.where((m < M)[None, :], logits, float("-inf"))
    top = tl.max(logits, 1)
    heaviest = tl.argmax(logits, 1)
    sharpness = tl.where(temperature == 0.0, 1.0, 1.0 / tl.where(temperature == 0.0, 1.0, temperature))
    weights = tl.exp2((logits - top[:, None]) * sharpness * LOG2E)
    cumulative = tl.cumsum(weights, 1)
    total = tl.sum(tl.where((m == M - 1)[None, :], cumulative, 0.0), 1)
    below = (cumulative <= (uniform * total)[:, None]) & (m < M - 1)[None, :]
    return tl.where(temperature == 0.0, heaviest, tl.sum(below.to(tl.int32), 1))


@triton.jit
def _draw(
    params_ptr,
    uniforms_ptr,
    kept_ptr,
    temperature_ptr,
    out_ptr,
    mask,
    first,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Draw a pixel of the images that the pointers [BLOCK_N] go to, or keep what is given. M: mixtures, or levels."""
    half = tl.full(mask.shape, HALF, tl.float32)
    picked_ptr = params_ptr
    if KIND == "mixture":
        joint = tl.load(temperature_ptr).to(tl.float32)
        u = tl.load(uniforms_ptr, mask, other=0.0)
        picked_ptr += _pick(params_ptr, u, joint, mask, 0, M, BLOCK_M)
    STEP: tl.constexpr = 3 if CHANNELS == 3 else 2
    drawn = ()  # centred and counted in levels
    for channel in tl.static_range(CHANNELS):
        temperature = tl.load(temperature_ptr + 1 + first + channel).to(tl.float32)
        if KIND == "mixture":
            u = tl.load(uniforms_ptr + 1 + channel, mask, other=0.5) * (1.0 - 2e-5) + 1e-5
            y = tl.load(picked_ptr + (1 + STEP * channel) * M, mask, other=0.0)
            log_scale = tl.load(picked_ptr + (2 + STEP * channel) * M, mask, other=0.0)
            placed = tl.minimum(tl.maximum(log_scale, MIN_LOG_SCALE), MAX_LOG_SCALE)
            y += tl.where(temperature == 0.0, 0.0, _exp_of_minus(-placed) * (_log(u) - _log(1.0 - u)) * temperature)
            y *= HALF
            for earlier in tl.static_range(channel):
                block = _coefficient_block(channel, earlier, CHANNELS)
                t, _ = _tanh_and_slope(tl.load(picked_ptr + block * M, mask, other=0.0))
                y += t * drawn[earlier]
            y = tl.floor(tl.minimum(tl.maximum(y, -HALF), HALF)) + 0.5  # levels lie halfway between integers
        else:
            u = tl.load(uniforms_ptr + channel, mask, other=0.5)
            if KIND == "categorical":
                y = _pick(params_ptr, u, temperature, mask, channel * M, M, BLOCK_M).to(tl.float32) - HALF
            else:
                logit = tl.load(params_ptr + channel, mask, other=0.0)
                p, _ = _sigmoid_and_rest(logit / tl.where(temperature == 0.0, 1.0, temperature))
                y = tl.where(tl.where(temperature == 0.0, logit > 0, u < p), HALF, -HALF)
        drawn = drawn + (y,)
        kept = tl.load(kept_ptr + channel, mask, other=0.0)
        tl.store(out_ptr + channel, tl.where(kept == kept, kept, tl.div_rn(y, half)), mask)


@triton.jit
def _pixel_draw_kernel(
    params_ptr,
    uniforms_ptr,
    kept_ptr,
    temperature_ptr,
    out_ptr,
    images,
    stride_pn,
    stride_un,
    stride_kn,
    stride_on,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    FIRST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Draw a pixel of BLOCK_N images."""
    image = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = image < images
    image = image.to(tl.int64)
    params_ptr += image * stride_pn  # [BLOCK_N]
    uniforms_ptr += image * stride_un
    kept_ptr += image * stride_kn
    out_ptr += image * stride_on
    _draw(params_ptr, uniforms_ptr, kept_ptr, temperature_ptr, out_ptr, mask, FIRST,
          KIND, CHANNELS, M, HALF, MIN_LOG_SCALE, BLOCK_M)  # fmt: skip


def pixel_step(
    products: Sequence[tuple[Tensor, Tensor]],
    added: Sequence[Tensor],
    factors: Sequence[tuple[Tensor, Tensor]],
    gate: str,
    residuals: Sequence[Tensor],
    stores: Sequence[Store],
) -> None:
    """Launch the kernel of a step; see `fastgen.functional.pixel_step`."""
    out, function, params = stores[0]
    images, channels = out.shape[0], int(params[0]) if function == "concat_elu" else out.shape[1]
    if not images:
        return
    half = any(weight.dtype in (torch.float16, torch.bfloat16) for _, weight in products)
    groups = [
        ([x for x, _ in products], MOST["products"]), ([w for _, w in products], MOST["products"]),
        (added, MOST["added"]), ([f for pair in factors for f in pair], 2 * MOST["factors"]),
        (residuals, MOST["residuals"]), ([store[0] for store in stores], MOST["stores"]),
    ]  # fmt: skip
    # a pointer that is not followed stands for what is missing
    pointers = [[*group, *(out,) * (most - len(group))] for group, most in groups]
    strides = [
        [*(t.stride(0) if t.shape[0] > 1 else 0 for t in group), *(0,) * (most - len(group))]
        for place, (group, most) in enumerate(groups)
        if place != 1
    ]
    depths = [*(weight.shape[0] for _, weight in products), *(0,) * (MOST["products"] - len(products))]
    tiles = step_tiles(images, channels, bool(products), half)
    grid = (triton.cdiv(channels, tiles["BLOCK_C"]), triton.cdiv(images, tiles["BLOCK_N"]))
    with torch.cuda.device_of(out):  # Triton launches on the current device
        _pixel_step_kernel[grid](
            *(pointer for group in pointers for pointer in group),
            images,
            *(stride for group in strides for stride in group),
            C=channels,
            **{f"K{k}": depth for k, depth in enumerate(depths)},
            ADDED=len(added),
            FACTORS=len(factors),
            GATE=gate,
            RESIDUALS=len(residuals),
            **store_constants([(name, numbers) for _, name, numbers in stores]),
            PRECISION="tf32x3",
            UPCAST=half and interpreting(),
            **tiles,
            **step_options(),
        )


def pixel_draw(
    params: Tensor, uniforms: Tensor, kept: Tensor, temperature: Tensor, out: Tensor, kind: str, levels: int, first: int
) -> None:
    """Launch the kernel of a draw; see `fastgen.functional.pixel_draw`."""
    images, channels = out.shape
    if not images:
        return
    count = _choices(kind, params.shape[1], channels, levels)
    options = draw_options(images, count)
    with torch.cuda.device_of(out):
        _pixel_draw_kernel[(triton.cdiv(images, options["BLOCK_N"]),)](
            params,
            uniforms,
            kept,
            temperature,
            out,
            images,
            *(t.stride(0) if images > 1 else 0 for t in (params, uniforms, kept, out)),
            KIND=kind,
            CHANNELS=channels,
            M=count,
            HALF=(levels - 1) / 2,
            MIN_LOG_SCALE=min_log_scale((levels - 1).bit_length()),
            FIRST=first,
            **options,
        )


def _choices(kind: str, n_params: int, channels: int, levels: int) -> int:
    """Mixtures or levels."""
    if kind == "mixture":
        return n_params // (1 + 2 * channels + channels * (channels - 1) // 2)
    return levels
