"""Triton kernels of the discretized logistic mixture, and their launchers.

A program takes BLOCK pixels and goes over the mixtures in tiles [BLOCK, W] with W a power of two, once for the
log-probability and once for the gradient. The second time it needs no other tile: a mixture's responsibility follows
from its own joint and log p. So a backward that is given log p reads the parameters once, and registers do not grow
with the number of mixtures. Everything is float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# before triton: its module of tilings sets an option of triton
from fastgen.kernels.dmol.configurations import BLOCK_DRAWS, NUM_WARPS, min_log_scale, tile_constants, tile_sizes

import triton  # isort: skip
import triton.language as tl  # isort: skip

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LN2_HIGH = tl.constexpr(0.693145751953125)  # 16 bits: times a small integer it is exact
LN2_LOW = tl.constexpr(1.42860677e-06)
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer
RANGE = tl.constexpr(1.0001)
FAR = tl.constexpr(1e32)  # an edge at infinity: finite in any scale, and far in any scale up to e^60
MAX_LOG_SCALE = tl.constexpr(60.0)  # of what places the bins; beyond it all of them lie at the centre anyway
# A logarithm costs 26 instructions, so the masses of three channels are multiplied before one is taken. The product
# could underflow for log-scales above WIDE: there a mass is proportional to e^-log_scale, which is taken out.
WIDE = tl.constexpr(16.0)
EXP_OF_MINUS_WIDE = tl.constexpr(1.1253517471925912e-07)


@triton.jit
def _exp_of_minus(x):
    """e^-x, with the argument reduced so that its rounding is not multiplied by its size."""
    n = (x * LOG2E + ROUND) - ROUND
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return tl.exp2(-n) * tl.exp2(r * (-LOG2E))


@triton.jit
def _one_minus(exp_of_minus_w, w):
    """1 - e^-w for w > 0, by its series where the difference would cancel."""
    v = tl.minimum(w, 0.5)
    s = 1.0 / 5040.0 - v * (1.0 / 40320.0)
    s = 1.0 / 720.0 - v * s
    s = 1.0 / 120.0 - v * s
    s = 1.0 / 24.0 - v * s
    s = 1.0 / 6.0 - v * s
    s = 1.0 / 2.0 - v * s
    s = 1.0 - v * s
    return tl.where(w < 0.5, v * s, 1.0 - exp_of_minus_w)


@triton.jit
def _reciprocal(x):
    """1/x for normal x > 0 in two instructions, where a division takes eight."""
    r = tl.rsqrt(x)
    return r * r


@triton.jit
def _tanh(x):
    """tanh within 1.5e-7: an odd polynomial where the exponentials would cancel."""
    e = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))
    large = 1.0 - 2.0 * e * _reciprocal(1.0 + e)
    s = x * x
    c = -0.05384227 + s * (0.02102719 + s * -0.0062074)
    c = -0.33333315 + s * (0.13332499 + s * c)
    return tl.where(tl.abs(x) < 0.55, x + x * (s * c), tl.where(x < 0, -large, large))


@triton.jit
def _log(x):
    return tl.log2(x) * LN2


@triton.jit
def _exact(x, to_upper, to_lower, width, mean, raw_log_scale, MIN_LOG_SCALE: tl.constexpr, GRADIENT: tl.constexpr):
    """s(p) - s(q) = mass / divisor * e^linear without cancellation, and its log's derivatives by mean, log-scale.

    Mass and divisor are bounded away from zero. to_upper, to_lower, width: from x to its bin's edges, and between them.
    """
    log_scale = tl.maximum(raw_log_scale, MIN_LOG_SCALE)
    inverse = _exp_of_minus(tl.minimum(log_scale, MAX_LOG_SCALE))
    centered = x - mean
    p = inverse * (centered + to_upper)
    q = inverse * (centered - to_lower)
    w = tl.maximum(inverse, EXP_OF_MINUS_WIDE) * width
    exp_p = tl.exp2(tl.abs(p) * (-LOG2E))
    exp_q = tl.exp2(tl.abs(q) * (-LOG2E))
    exp_w = tl.exp2(w * (-LOG2E))
    mass = _one_minus(exp_w, w)
    divisor = (1.0 + exp_p) * (1.0 + exp_q)
    excess = tl.where(width < FAR, tl.maximum(log_scale - WIDE, 0.0), 0.0)
    linear = tl.minimum(p, 0.0) - tl.maximum(q, 0.0) - excess
    if GRADIENT:
        r = _reciprocal(divisor * mass)
        of_divisor = r * mass
        sigmoid_p = of_divisor * (1.0 + exp_q)  # of |p|
        sigmoid_q = of_divisor * (1.0 + exp_p)
        a = tl.where(p >= 0, exp_p * sigmoid_p, sigmoid_p)  # s(-p)
        b = tl.where(q >= 0, sigmoid_q, exp_q * sigmoid_q)  # s(q)
        by_mean = (b - a) * inverse
        by_log_scale = q * b - p * a - w * exp_w * (r * divisor)
        by_log_scale = tl.where(raw_log_scale >= MIN_LOG_SCALE, by_log_scale, 0.0)
    else:
        by_mean = mass
        by_log_scale = mass
    return mass, divisor, linear, by_mean, by_log_scale


@triton.jit
def _published(
    x,
    low,
    high,
    mean,
    raw_log_scale,
    HALF_BIN: tl.constexpr,
    LOG_BIN: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """log of the bin's mass as published, the density times the bin where it holds less than 1e-5; its derivatives."""
    log_scale = tl.maximum(raw_log_scale, MIN_LOG_SCALE)
    inverse = _exp_of_minus(log_scale)
    centered = x - mean
    middle = inverse * centered
    p = inverse * (centered + HALF_BIN)
    q = inverse * (centered - HALF_BIN)
    exp_p = tl.exp2(tl.abs(p) * (-LOG2E))
    exp_q = tl.exp2(tl.abs(q) * (-LOG2E))
    exp_m = tl.exp2(tl.abs(middle) * (-LOG2E))
    p_of_size = 1.0 / (1.0 + exp_p)
    q_of_size = 1.0 / (1.0 + exp_q)
    m_of_size = 1.0 / (1.0 + exp_m)
    sigmoid_p = tl.where(p >= 0, p_of_size, exp_p * p_of_size)
    sigmoid_q = tl.where(q >= 0, q_of_size, exp_q * q_of_size)
    sigmoid_m = tl.where(middle >= 0, m_of_size, exp_m * m_of_size)
    difference = sigmoid_p - sigmoid_q
    sharp = difference > 1e-5
    divisor = tl.where(sharp, difference, 1.0)
    log_of = _log(tl.where(low, p_of_size, tl.where(high, q_of_size, tl.where(sharp, divisor, m_of_size))))
    density = 2.0 * log_of - tl.abs(middle) - log_scale + LOG_BIN
    log_prob = tl.where(
        low,
        tl.minimum(p, 0.0) + log_of,
        tl.where(high, log_of - tl.maximum(q, 0.0), tl.where(sharp, log_of, density)),
    )
    if GRADIENT:
        # d log(s(p) - s(q)) / d middle = 1 - s(p) - s(q), without the cancellation of the quotient
        by_middle = tl.where(sharp, 1.0 - sigmoid_p - sigmoid_q, 1.0 - 2.0 * sigmoid_m)
        slopes = sigmoid_p * (1.0 - sigmoid_p) + sigmoid_q * (1.0 - sigmoid_q)
        spread = tl.where(sharp, slopes * (inverse * HALF_BIN) / divisor, 1.0)
        by_mean = -inverse * tl.where(low, 1.0 - sigmoid_p, tl.where(high, -sigmoid_q, by_middle))
        by_log_scale = tl.where(
            low,
            -p * (1.0 - sigmoid_p),
            tl.where(high, q * sigmoid_q, -middle * by_middle - spread),
        )
        by_log_scale = tl.where(raw_log_scale >= MIN_LOG_SCALE, by_log_scale, 0.0)
    else:
        by_mean = log_prob
        by_log_scale = log_prob
    return log_prob, by_mean, by_log_scale


@triton.jit
def _load_signal(x_ptr, mask, HALF: tl.constexpr):
    """A channel in [-1, 1]; what is out of range becomes NaN, which every result of the pixel then is."""
    value = tl.load(x_ptr, mask, other=0)
    if x_ptr.dtype.element_ty == tl.uint8:
        x = tl.div_rn(value.to(tl.float32) - HALF, tl.full(value.shape, HALF, tl.float32))
    else:
        x = value.to(tl.float32)
    return tl.where(tl.abs(x) <= RANGE, x, float("nan"))


@triton.jit
def _load_block(ptr, stride_pc, mask, BLOCK_INDEX: tl.constexpr, M: tl.constexpr):
    return tl.load(ptr + BLOCK_INDEX * M * stride_pc, mask, other=0.0).to(tl.float32)


@triton.jit
def _coefficient_block(CHANNEL: tl.constexpr, EARLIER: tl.constexpr, CHANNELS: tl.constexpr):
    """Which of the K blocks holds the coefficients of a pair of channels."""
    PAIR: tl.constexpr = CHANNEL * (CHANNEL - 1) // 2 + EARLIER
    return 3 + 3 * PAIR if CHANNELS == 3 else 1 + 2 * CHANNELS + PAIR


@triton.jit
def _load_coefficient(
    ptr,
    stride_pc,
    mask,
    CHANNEL: tl.constexpr,
    EARLIER: tl.constexpr,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
):
    block = _coefficient_block(CHANNEL, EARLIER, CHANNELS)
    return _tanh(tl.load(ptr + block * M * stride_pc, mask, other=0.0).to(tl.float32))


@triton.jit
def _mixtures(
    signal,
    params_ptr,
    prior_top,
    mask,
    stride_pc,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    LOG_BIN: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    EXACT: tl.constexpr,
    GRADIENT: tl.constexpr,
):
    """Log-joint of pixel and mixture for a tile [BLOCK, W]; by channel its derivatives, and the coefficients."""
    STEP: tl.constexpr = 3 if CHANNELS == 3 else 2
    HALF_BIN: tl.constexpr = 0.5 / HALF
    EDGE: tl.constexpr = 1.0 - 0.255 * HALF_BIN
    # relative to the largest logit, before anything is added
    joint = _load_block(params_ptr, stride_pc, mask, 0, M) - prior_top[:, None]
    masses = tl.full(joint.shape, 1.0, tl.float32)
    divisors = tl.full(joint.shape, 1.0, tl.float32)
    by_means = ()
    by_log_scales = ()
    coefficients = ()
    for channel in tl.static_range(CHANNELS):
        x = signal[channel][:, None]
        mean = _load_block(params_ptr, stride_pc, mask, 1 + STEP * channel, M)
        log_scale = _load_block(params_ptr, stride_pc, mask, 2 + STEP * channel, M)
        for earlier in tl.static_range(channel):
            t = _load_coefficient(params_ptr, stride_pc, mask, channel, earlier, CHANNELS, M)
            mean += t * signal[earlier][:, None]
            if GRADIENT:
                coefficients = coefficients + (t,)
        low = x < -EDGE
        high = x > EDGE
        if EXACT:
            to_upper = tl.where(high, FAR, HALF_BIN)
            to_lower = tl.where(low, FAR, HALF_BIN)
            width = tl.where(low | high, FAR, 2.0 * HALF_BIN)
            mass, divisor, linear, by_mean, by_log_scale = _exact(
                x, to_upper, to_lower, width, mean, log_scale, MIN_LOG_SCALE, GRADIENT
            )
            masses *= mass
            divisors *= divisor
            joint += linear
            if channel % 3 == 2 or channel == CHANNELS - 1:
                joint += _log(masses / divisors)
                masses = tl.full(joint.shape, 1.0, tl.float32)
                divisors = tl.full(joint.shape, 1.0, tl.float32)
        else:
            log_prob, by_mean, by_log_scale = _published(
                x, low, high, mean, log_scale, HALF_BIN, LOG_BIN, MIN_LOG_SCALE, GRADIENT
            )
            joint += log_prob
        if GRADIENT:
            by_means = by_means + (by_mean,)
            by_log_scales = by_log_scales + (by_log_scale,)
    return joint, by_means, by_log_scales, coefficients


@triton.jit
def _prior_tile(params_ptr, prior_top, prior_sum, mask, stride_pc, START, WIDTH: tl.constexpr):
    """Take a tile of logits into the running maximum and the sum of exponentials relative to it."""
    k = START + tl.arange(0, WIDTH)
    logits = tl.load(params_ptr + (k * stride_pc)[None, :], mask, other=0.0).to(tl.float32)
    top = tl.maximum(prior_top, tl.max(logits, 1))
    prior_sum *= tl.exp2((prior_top - top) * LOG2E)
    return top, prior_sum + tl.sum(tl.exp2((logits - top[:, None]) * LOG2E), 1)


@triton.jit
def _forward_tile(
    signal,
    params_ptr,
    prior_top,
    joint_top,
    joint_sum,
    mask,
    stride_pc,
    START,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    LOG_BIN: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Take a tile of mixtures into the running maximum and sum of the joint."""
    k = START + tl.arange(0, WIDTH)
    params_ptr += (k * stride_pc)[None, :]
    joint, _, _, _ = _mixtures(
        signal, params_ptr, prior_top, mask, stride_pc, CHANNELS, M, HALF, LOG_BIN, MIN_LOG_SCALE, EXACT, False
    )
    top = tl.maximum(joint_top, tl.max(joint, 1))
    joint_sum *= tl.exp2((joint_top - top) * LOG2E)
    return top, joint_sum + tl.sum(tl.exp2((joint - top[:, None]) * LOG2E), 1)


@triton.jit
def _gradient_tile(
    signal,
    params_ptr,
    gradient_ptr,
    prior_top,
    prior_scale,
    joint_top,
    joint_scale,
    mask,
    stride_pc,
    START,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    LOG_BIN: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    EXACT: tl.constexpr,
):
    """Write the gradient of a tile of mixtures."""
    STEP: tl.constexpr = 3 if CHANNELS == 3 else 2
    element: tl.constexpr = gradient_ptr.dtype.element_ty
    k = START + tl.arange(0, WIDTH)
    params_ptr += (k * stride_pc)[None, :]
    gradient_ptr += (k * stride_pc)[None, :]
    joint, by_means, by_log_scales, coefficients = _mixtures(
        signal, params_ptr, prior_top, mask, stride_pc, CHANNELS, M, HALF, LOG_BIN, MIN_LOG_SCALE, EXACT, True
    )
    weight = tl.exp2((joint - joint_top[:, None]) * LOG2E) * joint_scale[:, None]
    logits = _load_block(params_ptr, stride_pc, mask, 0, M) - prior_top[:, None]
    prior = tl.exp2(logits * LOG2E) * prior_scale[:, None]
    tl.store(gradient_ptr, (weight - prior).to(element), mask)
    for channel in tl.static_range(CHANNELS):
        by_mean = by_means[channel] * weight
        by_log_scale = by_log_scales[channel] * weight
        tl.store(gradient_ptr + (1 + STEP * channel) * M * stride_pc, by_mean.to(element), mask)
        tl.store(gradient_ptr + (2 + STEP * channel) * M * stride_pc, by_log_scale.to(element), mask)
        for earlier in tl.static_range(channel):
            t = coefficients[channel * (channel - 1) // 2 + earlier]
            by_coefficient = by_mean * signal[earlier][:, None] * (1.0 - t * t)
            block = _coefficient_block(channel, earlier, CHANNELS)
            tl.store(gradient_ptr + block * M * stride_pc, by_coefficient.to(element), mask)


@triton.jit
def _dmol_log_prob_kernel(
    x_ptr,
    params_ptr,
    log_prob_ptr,
    grad_ptr,
    gradient_ptr,
    pixels,
    blocks_per_image,
    stride_xn,
    stride_xc,
    stride_xp,
    stride_pn,
    stride_pc,
    stride_pp,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    LOOPED: tl.constexpr,
    TILE: tl.constexpr,
    TILES: tl.constexpr,
    HALF: tl.constexpr,
    LOG_BIN: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    EXACT: tl.constexpr,
    FORWARD: tl.constexpr,
    GRADIENT: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK pixels of an image: FORWARD writes log p, else it is read; GRADIENT writes the gradient, SCALED by grad.

    The mixtures come in LOOPED tiles of width TILE, then in the (start, width) of TILES.
    """
    image = (tl.program_id(0) // blocks_per_image).to(tl.int64)
    first = (tl.program_id(0) % blocks_per_image) * BLOCK
    lane = tl.arange(0, BLOCK)
    pixel_mask = first + lane < pixels
    mask = pixel_mask[:, None]
    out = image * pixels + first + lane
    x_ptr += image * stride_xn + first.to(tl.int64) * stride_xp + lane * stride_xp  # [BLOCK]
    base = image * stride_pn + first.to(tl.int64) * stride_pp
    params_ptr = params_ptr + base + (lane * stride_pp)[:, None]  # [BLOCK, 1]
    gradient_ptr = gradient_ptr + base + (lane * stride_pp)[:, None]

    signal = ()
    for channel in tl.static_range(CHANNELS):
        signal = signal + (_load_signal(x_ptr + channel * stride_xc, pixel_mask, HALF),)

    prior_top = tl.full((BLOCK,), float("-inf"), tl.float32)
    prior_sum = tl.zeros((BLOCK,), tl.float32)
    for i in range(LOOPED):
        prior_top, prior_sum = _prior_tile(params_ptr, prior_top, prior_sum, mask, stride_pc, i * TILE, TILE)
    for i in tl.static_range(len(TILES)):
        prior_top, prior_sum = _prior_tile(params_ptr, prior_top, prior_sum, mask, stride_pc, TILES[i][0], TILES[i][1])

    if FORWARD:
        joint_top = tl.full((BLOCK,), float("-inf"), tl.float32)
        joint_sum = tl.zeros((BLOCK,), tl.float32)
        for i in range(LOOPED):
            joint_top, joint_sum = _forward_tile(
                signal, params_ptr, prior_top, joint_top, joint_sum, mask, stride_pc,
                i * TILE, TILE, CHANNELS, M, HALF, LOG_BIN, MIN_LOG_SCALE, EXACT,
            )  # fmt: skip
        for i in tl.static_range(len(TILES)):
            joint_top, joint_sum = _forward_tile(
                signal, params_ptr, prior_top, joint_top, joint_sum, mask, stride_pc,
                TILES[i][0], TILES[i][1], CHANNELS, M, HALF, LOG_BIN, MIN_LOG_SCALE, EXACT,
            )  # fmt: skip
        tl.store(log_prob_ptr + out, joint_top + _log(joint_sum / prior_sum), pixel_mask)
    else:  # a mixture's share is e^(joint - log p) / prior_sum
        joint_top = tl.load(log_prob_ptr + out, pixel_mask, other=0.0)
        joint_sum = prior_sum

    if GRADIENT:
        joint_scale = 1.0 / joint_sum
        prior_scale = 1.0 / prior_sum
        if SCALED:
            scale = tl.load(grad_ptr + out, pixel_mask, other=0.0).to(tl.float32)
            joint_scale *= scale
            prior_scale *= scale
        for i in range(LOOPED):
            _gradient_tile(
                signal, params_ptr, gradient_ptr, prior_top, prior_scale, joint_top, joint_scale, mask, stride_pc,
                i * TILE, TILE, CHANNELS, M, HALF, LOG_BIN, MIN_LOG_SCALE, EXACT,
            )  # fmt: skip
        for i in tl.static_range(len(TILES)):
            _gradient_tile(
                signal, params_ptr, gradient_ptr, prior_top, prior_scale, joint_top, joint_scale, mask, stride_pc,
                TILES[i][0], TILES[i][1], CHANNELS, M, HALF, LOG_BIN, MIN_LOG_SCALE, EXACT,
            )  # fmt: skip


@triton.jit
def _dmol_sample_kernel(
    params_ptr,
    uniforms_ptr,
    drawn_ptr,
    pixels,
    blocks_per_image,
    temperature,
    inverse_temperature,
    stride_pn,
    stride_pc,
    stride_pp,
    stride_un,
    stride_uc,
    stride_up,
    stride_dn,
    stride_dc,
    stride_dp,
    CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    MODE: tl.constexpr,
    SNAP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Draw BLOCK pixels: a mixture by inverse CDF, then the channels by their quantile functions."""
    image = (tl.program_id(0) // blocks_per_image).to(tl.int64)
    first = (tl.program_id(0) % blocks_per_image) * BLOCK
    lane = tl.arange(0, BLOCK)
    mask = first + lane < pixels
    first = first.to(tl.int64)
    params_ptr += image * stride_pn + first * stride_pp + lane * stride_pp  # [BLOCK]
    uniforms_ptr += image * stride_un + first * stride_up + lane * stride_up
    drawn_ptr += image * stride_dn + first * stride_dp + lane * stride_dp

    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    chosen = tl.zeros((BLOCK,), tl.int32)
    for m in range(M):
        logit = tl.load(params_ptr + m * stride_pc, mask, other=0.0).to(tl.float32)
        chosen = tl.where(logit > top, m, chosen)
        top = tl.maximum(top, logit)
    if not MODE:
        total = tl.zeros((BLOCK,), tl.float32)
        for m in range(M):
            logit = tl.load(params_ptr + m * stride_pc, mask, other=0.0).to(tl.float32)
            total += tl.exp2((logit - top) * inverse_temperature * LOG2E)
        threshold = tl.load(uniforms_ptr, mask, other=0.0).to(tl.float32) * total
        chosen = tl.zeros((BLOCK,), tl.int32)
        below = tl.zeros((BLOCK,), tl.float32)
        for m in range(M - 1):
            logit = tl.load(params_ptr + m * stride_pc, mask, other=0.0).to(tl.float32)
            below += tl.exp2((logit - top) * inverse_temperature * LOG2E)
            chosen += (below <= threshold).to(tl.int32)

    picked_ptr = params_ptr + chosen * stride_pc
    STEP: tl.constexpr = 3 if CHANNELS == 3 else 2
    drawn = ()  # centred and counted in levels
    for channel in tl.static_range(CHANNELS):
        y = _load_block(picked_ptr, stride_pc, mask, 1 + STEP * channel, M)
        if not MODE:
            log_scale = _load_block(picked_ptr, stride_pc, mask, 2 + STEP * channel, M)
            placed = tl.minimum(tl.maximum(log_scale, MIN_LOG_SCALE), MAX_LOG_SCALE)
            u = tl.load(uniforms_ptr + (1 + channel) * stride_uc, mask, other=0.0).to(tl.float32)
            u = u * (1.0 - 2e-5) + 1e-5
            y += _exp_of_minus(-placed) * (_log(u) - _log(1.0 - u)) * temperature
        y *= HALF
        for earlier in tl.static_range(channel):
            y += _load_coefficient(picked_ptr, stride_pc, mask, channel, earlier, CHANNELS, M) * drawn[earlier]
        y = tl.minimum(tl.maximum(y, -HALF), HALF)
        if SNAP:  # the levels lie halfway between integers
            y = tl.floor(y) + 0.5
        drawn = drawn + (y,)
        x = tl.div_rn(y, tl.full((BLOCK,), HALF, tl.float32))
        tl.store(drawn_ptr + channel * stride_dc, x.to(drawn_ptr.dtype.element_ty), mask)


def dmol_log_prob_forward(x: Tensor, params: Tensor, bits: int, tails: str) -> Tensor:
    """Launch the kernel for log p: [N, H, W] float32."""
    log_prob = _empty_log_prob(x)
    _launch_log_prob(x, params, bits, tails, log_prob, None, None, forward=True)
    return log_prob


def dmol_log_prob_backward(
    grad_log_prob: Tensor, x: Tensor, params: Tensor, log_prob: Tensor, bits: int, tails: str
) -> Tensor:
    """Launch the kernel for the gradient, from log p: [N, P, H, W] in the dtype and strides of params."""
    gradient = torch.empty_like(params)
    grad_log_prob, log_prob = grad_log_prob.contiguous(), log_prob.contiguous()
    _launch_log_prob(x, params, bits, tails, log_prob, gradient, grad_log_prob, forward=False)
    return gradient


def dmol_log_prob_forward_gradient(x: Tensor, params: Tensor, bits: int, tails: str) -> tuple[Tensor, Tensor]:
    """Launch the kernel for both."""
    log_prob, gradient = _empty_log_prob(x), torch.empty_like(params)
    _launch_log_prob(x, params, bits, tails, log_prob, gradient, None, forward=True)
    return log_prob, gradient


def dmol_sample(params: Tensor, uniforms: Tensor, channels: int, bits: int, temperature: float, snap: bool) -> Tensor:
    """Launch the kernel for draws: [N, C, *spatial]."""
    drawn = params.new_empty((params.shape[0], channels, *params.shape[2:]))
    if not drawn.numel():
        return drawn
    params, images, pixels, params_strides = _by_pixel(params)
    uniforms, _, _, uniforms_strides = _by_pixel(uniforms)
    _, _, _, drawn_strides = _by_pixel(drawn)
    blocks = triton.cdiv(pixels, BLOCK_DRAWS)
    with torch.cuda.device_of(params):  # Triton launches on the current device
        _dmol_sample_kernel[(images * blocks,)](
            params,
            uniforms,
            drawn,
            pixels,
            blocks,
            temperature,
            1 / temperature if temperature else 0.0,
            *params_strides,
            *uniforms_strides,
            *drawn_strides,
            CHANNELS=channels,
            M=_n_mix(params, channels),
            HALF=(2**bits - 1) / 2,
            MIN_LOG_SCALE=min_log_scale(bits),
            MODE=temperature == 0,
            SNAP=snap,
            BLOCK=BLOCK_DRAWS,
            num_warps=NUM_WARPS,
        )
    return drawn


def _launch_log_prob(
    x: Tensor,
    params: Tensor,
    bits: int,
    tails: str,
    log_prob: Tensor,
    gradient: Tensor | None,
    grad_log_prob: Tensor | None,
    *,
    forward: bool,
) -> None:
    if not params.numel():
        return
    channels = x.shape[1]
    dense, images, pixels, params_strides = _by_pixel(params)
    x, _, _, x_strides = _by_pixel(x)
    target = gradient
    if gradient is not None and gradient.stride() != dense.stride():
        target = torch.empty_like(dense)
    block, tile = tile_sizes(channels, params_strides[1] == 1, gradient is not None)
    blocks = triton.cdiv(pixels, block)
    unused = log_prob  # a pointer that is not followed
    with torch.cuda.device_of(params):
        _dmol_log_prob_kernel[(images * blocks,)](
            x,
            dense,
            log_prob,
            unused if grad_log_prob is None else grad_log_prob,
            unused if target is None else target,
            pixels,
            blocks,
            *x_strides,
            *params_strides,
            CHANNELS=channels,
            M=_n_mix(params, channels),
            **tile_constants(_n_mix(params, channels), tile),
            HALF=(2**bits - 1) / 2,
            LOG_BIN=math.log(2 / (2**bits - 1)),
            MIN_LOG_SCALE=min_log_scale(bits),
            EXACT=tails == "exact",
            FORWARD=forward,
            GRADIENT=gradient is not None,
            SCALED=grad_log_prob is not None,
            BLOCK=block,
            num_warps=NUM_WARPS,
        )
    if gradient is not None and target is not gradient:
        gradient.copy_(target)


def _by_pixel(tensor: Tensor) -> tuple[Tensor, int, int, tuple[int, int, int]]:
    """Arrange [N, C, *spatial] as images of pixels: (tensor, images, pixels, strides of image, channel, pixel).

    Channels first and channels last are taken as they are, anything else is copied. Where an image is one pixel, the
    images are the pixels.
    """
    n, channels, *spatial = tensor.shape
    pixels = math.prod(spatial)
    if pixels == 1:
        return tensor.contiguous(), 1, n, (0, 1, channels)
    if not tensor.is_contiguous() and tensor.movedim(1, -1).is_contiguous():
        return tensor, n, pixels, (channels * pixels, 1, channels)
    return tensor.contiguous(), n, pixels, (channels * pixels, pixels, 1)


def _n_mix(params: Tensor, channels: int) -> int:
    return params.shape[1] // (1 + 2 * channels + channels * (channels - 1) // 2)


def _empty_log_prob(x: Tensor) -> Tensor:
    return torch.empty((x.shape[0], *x.shape[2:]), dtype=torch.float32, device=x.device)
