"""The Triton kernel of the categorical head, and its launchers.

A program takes BLOCK pixels of an image past its channels. All logits of a channel are in registers at once, so that a
chunk is read once, and its gradient takes the place of the logits. Everything is float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

# before triton: its module of tilings sets an option of triton
import fastgen.kernels._common.tiling  # noqa: F401
from fastgen.kernels.output_head.configurations import NUM_WARPS, tile_sizes

import triton  # isort: skip
import triton.language as tl  # isort: skip

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _categorical_kernel(
    x_ptr,
    logits_ptr,
    log_prob_ptr,
    grad_ptr,
    pixels,
    blocks_per_image,
    stride_xn,
    stride_xc,
    stride_xp,
    stride_gn,
    stride_gp,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
    FORWARD: tl.constexpr,
    GRADIENT: tl.constexpr,
    SCALED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """FORWARD: log p of BLOCK pixels. GRADIENT: its gradient, SCALED by grad or not, written over the logits."""
    image = (tl.program_id(0) // blocks_per_image).to(tl.int64)
    pixel = (tl.program_id(0) % blocks_per_image) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    mask = pixel < pixels
    level = tl.arange(0, WIDTH)  # [WIDTH]
    inside = (level < LEVELS)[:, None] & mask[None, :]
    logits_ptr += image * (CHANNELS * LEVELS) * pixels
    place = level[:, None] * pixels + pixel[None, :]  # [WIDTH, BLOCK]
    x_ptr += image * stride_xn + pixel.to(tl.int64) * stride_xp
    if SCALED:
        grad = tl.load(grad_ptr + image * stride_gn + pixel.to(tl.int64) * stride_gp, mask, other=0.0).to(tl.float32)
    else:
        grad = tl.full((BLOCK,), 1.0, tl.float32)

    log_prob = tl.zeros((BLOCK,), tl.float32)
    for _ in range(CHANNELS):
        # past the last pixel 0 and not -inf, which would be subtracted from itself
        logits = tl.load(logits_ptr + place, inside, other=0.0).to(tl.float32)
        logits = tl.where((level < LEVELS)[:, None], logits, float("-inf"))
        found = tl.load(x_ptr, mask, other=0).to(tl.int32)
        is_found = level[:, None] == found[None, :]
        logits -= tl.max(logits, 0)[None, :]
        exponentials = tl.exp2(logits * LOG2E)
        total = tl.sum(exponentials, 0)
        if FORWARD:
            at = tl.sum(tl.where(is_found, logits, 0.0), 0)
            log_prob += tl.where(found < LEVELS, at - tl.log2(total) * LN2, float("nan"))
        if GRADIENT:
            factor = tl.where(found < LEVELS, grad, float("nan"))
            share = exponentials * (factor / total)[None, :]
            gradient = tl.where(is_found, factor[None, :], 0.0) - share
            tl.store(logits_ptr + place, gradient.to(logits_ptr.dtype.element_ty), inside)
        logits_ptr += LEVELS * pixels
        x_ptr += stride_xc
    if FORWARD:
        tl.store(log_prob_ptr + image * pixels + pixel, log_prob, mask)


def categorical_log_prob(x: Tensor, logits: Tensor, levels: int) -> Tensor:
    """Launch the kernel for log p [n, L] float32 of x [n, C, L] (any strides) under logits [n, P, L], contiguous and
    less than 2^31 in an image.
    """
    log_prob = _empty_log_prob(logits)
    _launch(x, logits, levels, log_prob, None, gradient=False)
    return log_prob


def categorical_log_prob_gradient_(x: Tensor, logits: Tensor, levels: int) -> Tensor:
    """Launch the kernel for log p that overwrites the logits with the gradient of its sum."""
    log_prob = _empty_log_prob(logits)
    _launch(x, logits, levels, log_prob, None, gradient=True)
    return log_prob


def categorical_gradient_(grad: Tensor, x: Tensor, logits: Tensor, levels: int) -> None:
    """Launch the kernel that overwrites the logits with the gradient of sum(grad * log p), grad [n, L], any strides."""
    _launch(x, logits, levels, None, grad, gradient=True)


def _empty_log_prob(logits: Tensor) -> Tensor:
    return torch.empty(logits.shape[0], logits.shape[2], dtype=torch.float32, device=logits.device)


def _launch(
    x: Tensor, logits: Tensor, levels: int, log_prob: Tensor | None, grad: Tensor | None, *, gradient: bool
) -> None:
    n, _, pixels = logits.shape
    tiles = tile_sizes(levels, gradient and log_prob is not None)
    blocks = triton.cdiv(pixels, tiles["BLOCK"])
    if not n * blocks:
        return
    unused = logits  # a pointer that is not followed
    with torch.cuda.device_of(logits):  # Triton launches on the current device
        _categorical_kernel[(n * blocks,)](
            x,
            logits,
            unused if log_prob is None else log_prob,
            unused if grad is None else grad,
            pixels,
            blocks,
            *x.stride(),
            *((0, 0) if grad is None else grad.stride()),
            CHANNELS=x.shape[1],
            LEVELS=levels,
            FORWARD=log_prob is not None,
            GRADIENT=gradient,
            SCALED=grad is not None,
            num_warps=NUM_WARPS,
            **tiles,
        )
