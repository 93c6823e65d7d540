"""The persistent kernel: one launch that walks a table of a row's layers, for all pixels and with their draws.

A program of the kernel takes COLUMNS columns of a layer's product and BLOCK_N images. Layers follow one another as
phases, between which all programs meet at a barrier: a counter to which each adds one when it has stored its part, and
which it polls until all have. What a phase reads that is older than the phase before is summed in the meantime, and
the weights of the rest wait in registers.

The order of memory: a program stores, its warps meet (`debug_barrier`, as a release speaks for one thread alone), it
adds with `release`; it polls with `acquire`, its warps meet, and they read what all others stored. A program that has
passed the barrier of a phase may read what was written up to then, and write what was read up to then.
"""

from __future__ import annotations

import torch

from fastgen.kernels._common.tiling import interpreting  # before triton: it sets an option of it
from fastgen.kernels.gated_activation.triton import _sigmoid_and_rest, _tanh_and_slope
from fastgen.kernels.pixel_program import configurations as words
from fastgen.kernels.pixel_program.configurations import draw_constants, options, program_constants, tiles
from fastgen.kernels.pixel_program.table import Table
from fastgen.kernels.pixel_step.triton import _activate, _draw, _elu

import triton  # isort: skip
import triton.language as tl  # isort: skip

COLUMNS = tl.constexpr(words.COLUMNS)
KIND, WAITS, TILES, CHANNELS = (tl.constexpr(word) for word in (words.KIND, words.WAITS, words.TILES, words.CHANNELS))
OLD_SEGMENTS, SEGMENTS = tl.constexpr(words.OLD_SEGMENTS), tl.constexpr(words.SEGMENTS)
OLD_ADDED, ADDED = tl.constexpr(words.OLD_ADDED), tl.constexpr(words.ADDED)
OLD_FACTORS, FACTORS = tl.constexpr(words.OLD_FACTORS), tl.constexpr(words.FACTORS)
OLD_RESIDUALS, RESIDUALS = tl.constexpr(words.OLD_RESIDUALS), tl.constexpr(words.RESIDUALS)
STORE_WORDS, ADDED_WORDS = tl.constexpr(words.STORE_WORDS), tl.constexpr(words.ADDED_WORDS)
FACTOR_WORDS, RESIDUAL_WORDS = tl.constexpr(words.FACTOR_WORDS), tl.constexpr(words.RESIDUAL_WORDS)
SEGMENT_WORDS, WORDS_A_SEGMENT = tl.constexpr(words.SEGMENT_WORDS), tl.constexpr(words.WORDS_A_SEGMENT)
PARAMS_WORD, UNIFORMS_WORD = tl.constexpr(words.PARAMS_WORD), tl.constexpr(words.UNIFORMS_WORD)
KEPT_WORD, OUT_WORD = tl.constexpr(words.KEPT_WORD), tl.constexpr(words.OUT_WORD)
TEMPERATURE_WORD, FIRST_WORD = tl.constexpr(words.TEMPERATURE_WORD), tl.constexpr(words.FIRST_WORD)
WORDS, DRAW = tl.constexpr(words.WORDS), tl.constexpr(words.DRAW)
FAILED = tl.constexpr(32)  # where the barrier notes that a program gave up: in a line of its own


@triton.jit
def _arrive(barrier_ptr):
    """Say that this program has stored its part of a phase."""
    tl.debug_barrier()
    tl.atomic_add(barrier_ptr, 1, sem="release", scope="gpu")


@triton.jit
def _wait(barrier_ptr, target, most_polls):
    """Wait until `target` programs have arrived, all phases together; 0 if they do not, which is noted, else 1."""
    arrived = tl.atomic_add(barrier_ptr, 0, sem="acquire", scope="gpu")
    polls = 0
    while (arrived < target) & (polls < most_polls):
        arrived = tl.atomic_add(barrier_ptr, 0, sem="acquire", scope="gpu")
        polls += 1
    tl.debug_barrier()
    met = (arrived >= target).to(tl.int32)
    tl.atomic_max(barrier_ptr + FAILED, 1 - met, mask=met == 0, sem="relaxed", scope="gpu")
    return met


@triton.jit
def _load_inputs(x_ptr, stride, image, is_image, start, depth, SPLIT: tl.constexpr, BLOCK_K: tl.constexpr):
    """Inputs from `start` on, in SPLIT parts: [SPLIT, BLOCK_N, BLOCK_K / SPLIT]."""
    PART: tl.constexpr = BLOCK_K // SPLIT
    k = start + (tl.arange(0, SPLIT) * PART)[:, None, None] + tl.arange(0, PART)[None, None, :]
    offset = image[None, :, None] * stride + k
    return tl.load(x_ptr + offset, is_image[None, :, None] & (k < depth), other=0.0)


@triton.jit
def _load_weight(w_ptr, start, depth, SPLIT: tl.constexpr, BLOCK_K: tl.constexpr):
    """Weights of the inputs from `start` on: [SPLIT, BLOCK_K / SPLIT, COLUMNS]."""
    PART: tl.constexpr = BLOCK_K // SPLIT
    k = start + (tl.arange(0, SPLIT) * PART)[:, None, None] + tl.arange(0, PART)[None, :, None]
    return tl.load(w_ptr + (k * COLUMNS + tl.arange(0, COLUMNS)[None, None, :]), k < depth, other=0.0)


@triton.jit
def _multiply(x, w, total, UPCAST: tl.constexpr):
    x = x.to(w.dtype)
    if UPCAST:
        x = x.to(tl.float32)
        w = w.to(tl.float32)
    return tl.dot(x, w, total, input_precision="tf32x3")


@triton.jit
def _sum_segment(
    total,
    segment_ptr,
    tile,
    data_ptr,
    weight_ptr,
    image,
    is_image,
    WIDE: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """total + x @ w of a run of inputs."""
    x_ptr, stride, depth, w_ptr = _segment(segment_ptr, tile, data_ptr, weight_ptr, WIDE)
    for start in range(0, depth, BLOCK_K):
        x = _load_inputs(x_ptr, stride, image, is_image, start, depth, SPLIT, BLOCK_K)
        w = _load_weight(w_ptr, start, depth, SPLIT, BLOCK_K)
        total = _multiply(x, w, total, UPCAST)
    return total


@triton.jit
def _segment(segment_ptr, tile, data_ptr, weight_ptr, WIDE: tl.constexpr):
    """Where a run of inputs and its weights lie. Of a wide one all is a multiple of 16 bytes, which this tells."""
    x_offset = tl.load(segment_ptr)
    stride = tl.load(segment_ptr + 1).to(tl.int32)
    depth = tl.load(segment_ptr + 2).to(tl.int32)
    w_offset = tl.load(segment_ptr + 3) + tile * tl.load(segment_ptr + 4)
    if WIDE:
        x_offset = x_offset // 4 * 4
        stride = stride // 4 * 4
        depth = depth // 4 * 4
    return data_ptr + x_offset, stride, depth, weight_ptr + w_offset // COLUMNS * COLUMNS


@triton.jit
def _sum_segments(
    total,
    unit_ptr,
    first,
    last,
    tile,
    data_ptr,
    weight_ptr,
    image,
    is_image,
    SPLIT: tl.constexpr,
    BLOCK_K: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """total + the products of some runs of inputs."""
    for segment in range(first, last):
        segment_ptr = unit_ptr + SEGMENT_WORDS + segment * WORDS_A_SEGMENT
        if tl.load(segment_ptr + 5) != 0:
            total = _sum_segment(
                total, segment_ptr, tile, data_ptr, weight_ptr, image, is_image, True, SPLIT, BLOCK_K, UPCAST
            )
        else:
            total = _sum_segment(
                total, segment_ptr, tile, data_ptr, weight_ptr, image, is_image, False, SPLIT, BLOCK_K, UPCAST
            )
    return total


@triton.jit
def _load_term(data_ptr, words_ptr, image, column, mask):
    """A term [BLOCK_N, COLUMNS] of a sum."""
    stride = tl.load(words_ptr + 1).to(tl.int32)
    return tl.load(data_ptr + tl.load(words_ptr) + (image[:, None] * stride + column[None, :]), mask, other=0.0)


@triton.jit
def _terms(z, residual, data_ptr, unit_ptr, old, image, column, channel, mask, residual_mask):
    """z + what is added + products of factors, and the residuals; those that are old, or those that are not."""
    end = tl.load(unit_ptr + (OLD_ADDED if old else ADDED)).to(tl.int32)
    for k in range(0 if old else tl.load(unit_ptr + OLD_ADDED).to(tl.int32), end):
        z += _load_term(data_ptr, unit_ptr + ADDED_WORDS + 2 * k, image, column, mask)
    end = tl.load(unit_ptr + (OLD_FACTORS if old else FACTORS)).to(tl.int32)
    for k in range(0 if old else tl.load(unit_ptr + OLD_FACTORS).to(tl.int32), end):
        a = _load_term(data_ptr, unit_ptr + FACTOR_WORDS + 4 * k, image, column, mask)
        z += a * _load_term(data_ptr, unit_ptr + FACTOR_WORDS + 4 * k + 2, image, column, mask)
    end = tl.load(unit_ptr + (OLD_RESIDUALS if old else RESIDUALS)).to(tl.int32)
    for k in range(0 if old else tl.load(unit_ptr + OLD_RESIDUALS).to(tl.int32), end):
        residual += _load_term(data_ptr, unit_ptr + RESIDUAL_WORDS + 2 * k, image, channel, residual_mask)
    return z, residual


@triton.jit
def _store_all(
    y,
    data_ptr,
    outs,
    strides,
    variants,
    image,
    channel,
    mask,
    FUNCTIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    STORES: tl.constexpr,
):
    """f(y) for each store."""
    for store in tl.static_range(STORES):
        out_ptr = data_ptr + outs[store] + (image[:, None] * strides[store] + channel[None, :])
        for variant in tl.static_range(len(FUNCTIONS)):
            if variants[store] == variant:
                P0: tl.constexpr = NUMBERS[3 * variant]
                P1: tl.constexpr = NUMBERS[3 * variant + 1]
                P2: tl.constexpr = NUMBERS[3 * variant + 2]
                if FUNCTIONS[variant] == "concat_elu":
                    C: tl.constexpr = int(P0)
                    C0: tl.constexpr = int(P1)
                    C1: tl.constexpr = int(P2)
                    if C0 < C:
                        tl.store(out_ptr - C0, _elu(y), mask & ((channel >= C0) & (channel < C1))[None, :])
                    if C1 > C:
                        inside = (channel >= C0 - C) & (channel < C1 - C)
                        tl.store(out_ptr + (C - C0), _elu(-y), mask & inside[None, :])
                else:
                    tl.store(out_ptr, _activate(y, FUNCTIONS[variant], P0, P1, P2), mask)


@triton.jit(do_not_specialize=["units", "images", "programs", "most_polls"])
def _pixel_program_kernel(
    table_ptr,
    barrier_ptr,
    data_ptr,
    weight_ptr,
    units,
    images,
    programs,
    most_polls,
    GATES: tl.constexpr,
    FUNCTIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    STORES: tl.constexpr,
    PREFETCHED: tl.constexpr,
    DRAW_KIND: tl.constexpr,
    DRAW_CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLIT: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """All units of a table, whose addresses count from the two pointers; `programs` arrive at each barrier."""
    UNGATED: tl.constexpr = GATES % 2 == 1
    GATED: tl.constexpr = GATES > 1
    TANH: tl.constexpr = GATES > 3
    first_tile = tl.program_id(0)
    stride_tile = tl.num_programs(0)
    lane = tl.arange(0, COLUMNS)
    target = 0
    unit = 0
    if tl.load(barrier_ptr + FAILED) != 0:
        unit = units
    while unit < units:
        unit_ptr = table_ptr + unit * WORDS
        pending = tl.load(unit_ptr + WAITS).to(tl.int32)
        kind = tl.load(unit_ptr + KIND).to(tl.int32)
        column_tiles = tl.load(unit_ptr + TILES).to(tl.int32)
        met = 1
        if pending != 0:
            _arrive(barrier_ptr)
            target += programs
        if kind == DRAW:
            if pending != 0:
                met = _wait(barrier_ptr, target, most_polls)
            if DRAW_KIND != "":
                for block in range(first_tile, tl.cdiv(images, BLOCK_D), stride_tile):
                    _draw_block(
                        data_ptr,
                        unit_ptr,
                        block,
                        images,
                        DRAW_KIND,
                        DRAW_CHANNELS,
                        M,
                        HALF,
                        MIN_LOG_SCALE,
                        BLOCK_M,
                        BLOCK_D,
                    )
        else:
            gated = (kind != 0).to(tl.int32)
            channels = tl.load(unit_ptr + CHANNELS).to(tl.int32)
            old_segments = tl.load(unit_ptr + OLD_SEGMENTS).to(tl.int32)
            last_segment = tl.load(unit_ptr + SEGMENTS).to(tl.int32) - 1
            segment_ptr = unit_ptr + SEGMENT_WORDS + last_segment * WORDS_A_SEGMENT
            outs = ()
            strides = ()
            variants = ()
            for store in tl.static_range(STORES):
                outs = outs + (tl.load(unit_ptr + STORE_WORDS + 3 * store),)
                strides = strides + (tl.load(unit_ptr + STORE_WORDS + 3 * store + 1).to(tl.int32),)
                variants = variants + (tl.load(unit_ptr + STORE_WORDS + 3 * store + 2).to(tl.int32),)
            for both in range(first_tile, column_tiles * tl.cdiv(images, BLOCK_N), stride_tile):
                tile = both % column_tiles
                image = (both // column_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
                is_image = image < images
                # of a gate, channel and gate take turns
                channel = tile * (COLUMNS >> gated) + (lane >> gated)
                column = channel + (lane & gated) * channels
                mask = is_image[:, None] & (channel < channels)[None, :]
                residual_mask = mask & ((lane & gated) == 0)[None, :]
                # before the wait
                total = tl.zeros((SPLIT, BLOCK_N, COLUMNS), tl.float32)
                total = _sum_segments(
                    total,
                    unit_ptr,
                    0,
                    old_segments,
                    tile,
                    data_ptr,
                    weight_ptr,
                    image,
                    is_image,
                    SPLIT,
                    BLOCK_K,
                    UPCAST,
                )
                z = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
                residual = tl.zeros((BLOCK_N, COLUMNS), tl.float32)
                z, residual = _terms(z, residual, data_ptr, unit_ptr, True, image, column, channel, mask, residual_mask)
                x_ptr, stride, depth, w_ptr = _segment(segment_ptr, tile, data_ptr, weight_ptr, True)
                prefetched = ()
                for block in tl.static_range(PREFETCHED):
                    prefetched = prefetched + (_load_weight(w_ptr, block * BLOCK_K, depth, SPLIT, BLOCK_K),)
                if pending != 0:
                    met = _wait(barrier_ptr, target, most_polls)
                    pending = 0
                # after it
                inputs = ()
                for block in tl.static_range(PREFETCHED):
                    x = _load_inputs(x_ptr, stride, image, is_image, block * BLOCK_K, depth, SPLIT, BLOCK_K)
                    inputs = inputs + (x,)
                for block in tl.static_range(PREFETCHED):
                    total = _multiply(inputs[block], prefetched[block], total, UPCAST)
                total = _sum_segments(
                    total, unit_ptr, old_segments, last_segment, tile, data_ptr, weight_ptr, image, is_image, SPLIT,
                    BLOCK_K, UPCAST,
                )  # fmt: skip
                z, residual = _terms(
                    z, residual, data_ptr, unit_ptr, False, image, column, channel, mask, residual_mask
                )
                z += tl.sum(total, 0)
                if GATED:  # noqa: SIM102  known when it is compiled
                    if gated != 0:
                        a, b = tl.split(tl.reshape(z, (BLOCK_N, COLUMNS // 2, 2)))
                        extra, _ = tl.split(tl.reshape(residual, (BLOCK_N, COLUMNS // 2, 2)))
                        sigmoid, _ = _sigmoid_and_rest(b)
                        if TANH:
                            t, _ = _tanh_and_slope(a)
                            a = tl.where(kind == 2, t, a)
                        own = tile * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
                        own_mask = is_image[:, None] & (own < channels)[None, :]
                        y = a * sigmoid + extra
                        _store_all(
                            y, data_ptr, outs, strides, variants, image, own, own_mask, FUNCTIONS, NUMBERS, STORES
                        )
                if UNGATED:  # noqa: SIM102
                    if gated == 0:
                        y = z + residual
                        _store_all(
                            y, data_ptr, outs, strides, variants, image, channel, mask, FUNCTIONS, NUMBERS, STORES
                        )
            if pending != 0:
                met = _wait(barrier_ptr, target, most_polls)
        unit += 1
        if met == 0:
            unit = units


@triton.jit
def _draw_block(
    data_ptr,
    unit_ptr,
    block,
    images,
    DRAW_KIND: tl.constexpr,
    DRAW_CHANNELS: tl.constexpr,
    M: tl.constexpr,
    HALF: tl.constexpr,
    MIN_LOG_SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Draw a pixel of BLOCK_D images."""
    image = block * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = image < images
    image = image.to(tl.int64)
    _draw(
        data_ptr + tl.load(unit_ptr + PARAMS_WORD) + image * tl.load(unit_ptr + PARAMS_WORD + 1),
        data_ptr + tl.load(unit_ptr + UNIFORMS_WORD) + image * tl.load(unit_ptr + UNIFORMS_WORD + 1),
        data_ptr + tl.load(unit_ptr + KEPT_WORD) + image * tl.load(unit_ptr + KEPT_WORD + 1),
        tl.load(unit_ptr + TEMPERATURE_WORD).to(tl.pointer_type(tl.float64)),
        data_ptr + tl.load(unit_ptr + OUT_WORD) + image * tl.load(unit_ptr + OUT_WORD + 1),
        mask,
        tl.load(unit_ptr + FIRST_WORD).to(tl.int32),
        DRAW_KIND,
        DRAW_CHANNELS,
        M,
        HALF,
        MIN_LOG_SCALE,
        BLOCK_M,
    )


def pixel_program(table: Table, barrier: torch.Tensor, *, programs: int, expected: int, most_polls: int) -> None:
    """Launch a table on `programs` programs of which `expected` arrive at each barrier.

    Shapes: barrier int32 [BARRIER_WORDS], zero but for the note that an earlier launch failed.
    """
    blocks = tiles(table.images, table.half)
    draw = ("", 1, 1, 2) if table.draw is None else table.draw
    with torch.cuda.device_of(barrier):  # Triton launches on the current device
        _pixel_program_kernel[(programs,)](
            table.words,
            barrier,
            torch.empty(0, device=barrier.device),  # their address is 0, from which the words of the table count
            torch.empty(0, dtype=table.weight_dtype, device=barrier.device),
            len(table.words),
            table.images,
            expected,
            most_polls,
            **program_constants(table.gates, table.variants, table.stores, table.prefetched, table.images, table.half),
            **draw_constants(*draw, table.images),
            **blocks,
            UPCAST=table.half and interpreting(),
            **options(),
            launch_cooperative_grid=True,
        )
