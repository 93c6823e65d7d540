"""Triton kernels of gated activation and concatenated ELU, and their launchers.

A program takes a tile of one image. Channels first, that is BLOCK pixels of four channels, one channel after the other;
channels last, BLOCK pixels of WIDTH channels at once. Four channels of a pixel share a counter of Philox, so that its
four words fall to the four channels in turn in the one case and are interleaved in the other. The backward evaluates
the activation again from x. Everything is float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.kernels._common import tiling  # noqa: F401  before triton: it sets an option of it
from fastgen.kernels._common.checks import LIMIT, shape_of
from fastgen.kernels.gated_activation.configurations import NUM_WARPS, block_sizes
from fastgen.kernels.gated_activation.layout import as_layout, dense, like

import triton  # isort: skip
import triton.language as tl  # isort: skip

LOG2E = tl.constexpr(1.4426950408889634)
NOT_SPECIALIZED = ["seed", "threshold", "scale", "blocks", "bias_stride"]


@triton.jit
def _one_minus_exp_of_minus(v, e):
    """1 - e^-v for v >= 0, given e = e^-v: by its series where the difference would cancel."""
    w = tl.minimum(v, 0.5)
    s = 1.0 / 720.0 - w * (1.0 / 5040.0)
    s = 1.0 / 120.0 - w * s
    s = 1.0 / 24.0 - w * s
    s = 1.0 / 6.0 - w * s
    s = 1.0 / 2.0 - w * s
    s = 1.0 - w * s
    return tl.where(v < 0.5, w * s, 1.0 - e)


@triton.jit
def _tanh_and_slope(x):
    """tanh(x) and 1 - tanh(x)^2, neither by a difference that cancels."""
    v = tl.abs(x) * 2.0
    e = tl.exp2(v * (-LOG2E))
    r = 1.0 / (1.0 + e)
    size = _one_minus_exp_of_minus(v, e) * r
    return tl.where(x < 0, -size, size), 4.0 * e * r * r


@triton.jit
def _sigmoid_and_rest(x):
    """s(x) and s(-x) = 1 - s(x)."""
    e = tl.exp2(tl.abs(x) * (-LOG2E))
    r = 1.0 / (1.0 + e)
    return tl.where(x < 0, e * r, r), tl.where(x < 0, r, e * r)


@triton.jit
def _words(seed, pixel, group, image, half):
    """The four words of Philox of the counters (pixel, group, image, half)."""
    return tl.philox(seed, pixel.to(tl.uint32), group.to(tl.uint32), image.to(tl.uint32), half)


@triton.jit
def _interleaved(words):
    """Four tensors [BLOCK, WIDTH / 4] to one [BLOCK, WIDTH] that takes them in turn."""
    return tl.interleave(tl.interleave(words[0], words[2]), tl.interleave(words[1], words[3]))


@triton.jit
def _kept(words, threshold):
    """True where a word is not below the threshold; both are read as 32 bits without a sign."""
    return words.to(tl.uint32, bitcast=True) >= threshold.to(tl.uint32, bitcast=True)


@triton.jit
def _tile(pixels, blocks, CHANNELS: tl.constexpr, LAST: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(image, first channel, number of the block of pixels, pixel) of this program."""
    image = tl.program_id(0) // blocks
    place = tl.program_id(0) % blocks
    TILES: tl.constexpr = (CHANNELS + WIDTH - 1) // WIDTH
    if LAST:  # neighbours in memory are done by neighbours in time
        block = place // TILES
        channel = (place % TILES) * WIDTH
    else:
        per_tile = blocks // TILES
        block = place % per_tile
        channel = (place // per_tile) * WIDTH
    return image, channel, block, block * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _keep_last(seed, threshold, pixel, first, image, half, WIDTH: tl.constexpr):
    """Channels last: True where an element of the tile [BLOCK, WIDTH] stays."""
    group = first // 4 + tl.arange(0, WIDTH // 4)
    zero = tl.zeros((pixel.shape[0], WIDTH // 4), tl.int32)
    words = _words(seed, pixel[:, None] + zero, group[None, :] + zero, image + zero, half)
    return _kept(_interleaved(words), threshold)


@triton.jit
def _gate_forward(x_ptr, bias_ptr, residual_ptr, out_ptr, at_x, at_out, half, channel, mask, keep, scale,
                  CHANNELS: tl.constexpr, TANH: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
                  DROPOUT: tl.constexpr):  # fmt: skip
    """The tile at at_x of x, whose second half is `half` further, to at_out of out."""
    a = tl.load(x_ptr + at_x, mask, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + at_x + half, mask, other=0.0).to(tl.float32)
    if BIAS:
        a += tl.load(bias_ptr + channel, channel < CHANNELS, other=0.0).to(tl.float32)
        b += tl.load(bias_ptr + channel + CHANNELS, channel < CHANNELS, other=0.0).to(tl.float32)
    value, _ = _sigmoid_and_rest(b)
    if TANH:
        t, _ = _tanh_and_slope(a)
        value *= t
    else:
        value *= a
    if DROPOUT:
        value = tl.where(keep, value * scale, 0.0)
    if RESIDUAL:
        value += tl.load(residual_ptr + at_out, mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + at_out, value.to(out_ptr.dtype.element_ty), mask)


@triton.jit
def _gate_backward(x_ptr, bias_ptr, grad_ptr, grad_x_ptr, at_x, at_out, half, channel, mask, keep, scale,
                   CHANNELS: tl.constexpr, TANH: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr):  # fmt: skip
    """The gradient by the two halves of the tile, stored and returned."""
    element: tl.constexpr = grad_x_ptr.dtype.element_ty
    a = tl.load(x_ptr + at_x, mask, other=0.0).to(tl.float32)
    b = tl.load(x_ptr + at_x + half, mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at_out, mask, other=0.0).to(tl.float32)
    if BIAS:
        a += tl.load(bias_ptr + channel, channel < CHANNELS, other=0.0).to(tl.float32)
        b += tl.load(bias_ptr + channel + CHANNELS, channel < CHANNELS, other=0.0).to(tl.float32)
    if DROPOUT:
        grad = tl.where(keep, grad * scale, 0.0)
    s, rest = _sigmoid_and_rest(b)
    by_a = grad * s
    if TANH:
        a, slope = _tanh_and_slope(a)
        by_b = by_a * a * rest
        by_a *= slope
    else:
        by_b = by_a * a * rest
    tl.store(grad_x_ptr + at_x, by_a.to(element), mask)
    tl.store(grad_x_ptr + at_x + half, by_b.to(element), mask)
    return by_a, by_b


@triton.jit
def _elu_forward(x_ptr, bias_ptr, out_ptr, at_x, at_out, half, channel, mask, keep, keep_negative, scale,
                 CHANNELS: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr):  # fmt: skip
    """The tile at at_x of x to at_out of out and `half` further: one exponential serves both."""
    element: tl.constexpr = out_ptr.dtype.element_ty
    x = tl.load(x_ptr + at_x, mask, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + channel, channel < CHANNELS, other=0.0).to(tl.float32)
    v = tl.abs(x)
    below = -_one_minus_exp_of_minus(v, tl.exp2(v * (-LOG2E)))
    positive = tl.where(x > 0, x, below)
    negative = tl.where(x < 0, -x, below)
    if DROPOUT:
        positive = tl.where(keep, positive * scale, 0.0)
        negative = tl.where(keep_negative, negative * scale, 0.0)
    tl.store(out_ptr + at_out, positive.to(element), mask)
    tl.store(out_ptr + at_out + half, negative.to(element), mask)


@triton.jit
def _elu_backward(x_ptr, bias_ptr, grad_ptr, grad_x_ptr, at_x, at_out, half, channel, mask, keep, keep_negative, scale,
                  CHANNELS: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr):  # fmt: skip
    """The gradient by the tile, stored and returned."""
    x = tl.load(x_ptr + at_x, mask, other=0.0).to(tl.float32)
    positive = tl.load(grad_ptr + at_out, mask, other=0.0).to(tl.float32)
    negative = tl.load(grad_ptr + at_out + half, mask, other=0.0).to(tl.float32)
    if BIAS:
        x += tl.load(bias_ptr + channel, channel < CHANNELS, other=0.0).to(tl.float32)
    if DROPOUT:
        positive = tl.where(keep, positive * scale, 0.0)
        negative = tl.where(keep_negative, negative * scale, 0.0)
    e = tl.exp2(tl.abs(x) * (-LOG2E))
    by_x = tl.where(x > 0, positive, positive * e) - tl.where(x < 0, negative, negative * e)
    tl.store(grad_x_ptr + at_x, by_x.to(grad_x_ptr.dtype.element_ty), mask)
    return by_x


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _gated_activation_forward_kernel(
    x_ptr, bias_ptr, residual_ptr, out_ptr, seed, threshold, scale, pixels, blocks, bias_stride,
    CHANNELS: tl.constexpr, LAST: tl.constexpr, TANH: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    DROPOUT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    image, first, _, pixel = _tile(pixels, blocks, CHANNELS, LAST, WIDTH, BLOCK)
    bias_ptr += image.to(tl.int64) * bias_stride
    start = image.to(tl.int64) * CHANNELS * pixels
    x_ptr += 2 * start
    residual_ptr += start
    out_ptr += start
    if LAST:
        channel = (first + tl.arange(0, WIDTH))[None, :]
        keep = channel
        if DROPOUT:
            keep = _keep_last(seed, threshold, pixel, first, image, 0, WIDTH)
        _gate_forward(
            x_ptr, bias_ptr, residual_ptr, out_ptr, pixel[:, None] * (2 * CHANNELS) + channel,
            pixel[:, None] * CHANNELS + channel, CHANNELS, channel, (pixel < pixels)[:, None] & (channel < CHANNELS),
            keep, scale, CHANNELS, TANH, BIAS, RESIDUAL, DROPOUT,
        )  # fmt: skip
    else:
        words = (pixel, pixel, pixel, pixel)
        if DROPOUT:
            words = _words(seed, pixel, first // 4, image, 0)
        for i in tl.static_range(WIDTH):
            channel = first + i
            at = channel * pixels + pixel
            _gate_forward(
                x_ptr, bias_ptr, residual_ptr, out_ptr, at, at, CHANNELS * pixels, channel,
                (pixel < pixels) & (channel < CHANNELS), _kept(words[i], threshold), scale,
                CHANNELS, TANH, BIAS, RESIDUAL, DROPOUT,
            )  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _gated_activation_backward_kernel(
    x_ptr, bias_ptr, grad_ptr, grad_x_ptr, partial_ptr, seed, threshold, scale, pixels, blocks, bias_stride,
    CHANNELS: tl.constexpr, LAST: tl.constexpr, TANH: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr,
    SUM: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """SUM also writes what the block of pixels adds to the gradient by the bias, [images, blocks of pixels, 2C]."""
    image, first, block, pixel = _tile(pixels, blocks, CHANNELS, LAST, WIDTH, BLOCK)
    bias_ptr += image.to(tl.int64) * bias_stride
    start = image.to(tl.int64) * CHANNELS * pixels
    x_ptr += 2 * start
    grad_x_ptr += 2 * start
    grad_ptr += start
    partial_ptr += (image.to(tl.int64) * tl.cdiv(pixels, BLOCK) + block) * (2 * CHANNELS)
    if LAST:
        channel = (first + tl.arange(0, WIDTH))[None, :]
        keep = channel
        if DROPOUT:
            keep = _keep_last(seed, threshold, pixel, first, image, 0, WIDTH)
        by_a, by_b = _gate_backward(
            x_ptr, bias_ptr, grad_ptr, grad_x_ptr, pixel[:, None] * (2 * CHANNELS) + channel,
            pixel[:, None] * CHANNELS + channel, CHANNELS, channel, (pixel < pixels)[:, None] & (channel < CHANNELS),
            keep, scale, CHANNELS, TANH, BIAS, DROPOUT,
        )  # fmt: skip
        if SUM:
            channel = first + tl.arange(0, WIDTH)
            tl.store(partial_ptr + channel, tl.sum(by_a, 0), channel < CHANNELS)
            tl.store(partial_ptr + channel + CHANNELS, tl.sum(by_b, 0), channel < CHANNELS)
    else:
        words = (pixel, pixel, pixel, pixel)
        if DROPOUT:
            words = _words(seed, pixel, first // 4, image, 0)
        for i in tl.static_range(WIDTH):
            channel = first + i
            at = channel * pixels + pixel
            by_a, by_b = _gate_backward(
                x_ptr, bias_ptr, grad_ptr, grad_x_ptr, at, at, CHANNELS * pixels, channel,
                (pixel < pixels) & (channel < CHANNELS), _kept(words[i], threshold), scale,
                CHANNELS, TANH, BIAS, DROPOUT,
            )  # fmt: skip
            if SUM:
                tl.store(partial_ptr + channel, tl.sum(by_a, 0), channel < CHANNELS)
                tl.store(partial_ptr + channel + CHANNELS, tl.sum(by_b, 0), channel < CHANNELS)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _concat_elu_forward_kernel(
    x_ptr, bias_ptr, out_ptr, seed, threshold, scale, pixels, blocks, bias_stride,
    CHANNELS: tl.constexpr, LAST: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    image, first, _, pixel = _tile(pixels, blocks, CHANNELS, LAST, WIDTH, BLOCK)
    bias_ptr += image.to(tl.int64) * bias_stride
    start = image.to(tl.int64) * CHANNELS * pixels
    x_ptr += start
    out_ptr += 2 * start
    if LAST:
        channel = (first + tl.arange(0, WIDTH))[None, :]
        keep = channel
        keep_negative = channel
        if DROPOUT:
            keep = _keep_last(seed, threshold, pixel, first, image, 0, WIDTH)
            keep_negative = _keep_last(seed, threshold, pixel, first, image, 1, WIDTH)
        _elu_forward(
            x_ptr, bias_ptr, out_ptr, pixel[:, None] * CHANNELS + channel, pixel[:, None] * (2 * CHANNELS) + channel,
            CHANNELS, channel, (pixel < pixels)[:, None] & (channel < CHANNELS), keep, keep_negative, scale,
            CHANNELS, BIAS, DROPOUT,
        )  # fmt: skip
    else:
        words = (pixel, pixel, pixel, pixel)
        words_negative = words
        if DROPOUT:
            words = _words(seed, pixel, first // 4, image, 0)
            words_negative = _words(seed, pixel, first // 4, image, 1)
        for i in tl.static_range(WIDTH):
            channel = first + i
            at = channel * pixels + pixel
            _elu_forward(
                x_ptr, bias_ptr, out_ptr, at, at, CHANNELS * pixels, channel,
                (pixel < pixels) & (channel < CHANNELS), _kept(words[i], threshold),
                _kept(words_negative[i], threshold), scale, CHANNELS, BIAS, DROPOUT,
            )  # fmt: skip


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _concat_elu_backward_kernel(
    x_ptr, bias_ptr, grad_ptr, grad_x_ptr, partial_ptr, seed, threshold, scale, pixels, blocks, bias_stride,
    CHANNELS: tl.constexpr, LAST: tl.constexpr, BIAS: tl.constexpr, DROPOUT: tl.constexpr, SUM: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """SUM also writes what the block of pixels adds to the gradient by the bias, [images, blocks of pixels, C]."""
    image, first, block, pixel = _tile(pixels, blocks, CHANNELS, LAST, WIDTH, BLOCK)
    bias_ptr += image.to(tl.int64) * bias_stride
    start = image.to(tl.int64) * CHANNELS * pixels
    x_ptr += start
    grad_x_ptr += start
    grad_ptr += 2 * start
    partial_ptr += (image.to(tl.int64) * tl.cdiv(pixels, BLOCK) + block) * CHANNELS
    if LAST:
        channel = (first + tl.arange(0, WIDTH))[None, :]
        keep = channel
        keep_negative = channel
        if DROPOUT:
            keep = _keep_last(seed, threshold, pixel, first, image, 0, WIDTH)
            keep_negative = _keep_last(seed, threshold, pixel, first, image, 1, WIDTH)
        by_x = _elu_backward(
            x_ptr, bias_ptr, grad_ptr, grad_x_ptr, pixel[:, None] * CHANNELS + channel,
            pixel[:, None] * (2 * CHANNELS) + channel, CHANNELS, channel,
            (pixel < pixels)[:, None] & (channel < CHANNELS), keep, keep_negative, scale, CHANNELS, BIAS, DROPOUT,
        )  # fmt: skip
        if SUM:
            channel = first + tl.arange(0, WIDTH)
            tl.store(partial_ptr + channel, tl.sum(by_x, 0), channel < CHANNELS)
    else:
        words = (pixel, pixel, pixel, pixel)
        words_negative = words
        if DROPOUT:
            words = _words(seed, pixel, first // 4, image, 0)
            words_negative = _words(seed, pixel, first // 4, image, 1)
        for i in tl.static_range(WIDTH):
            channel = first + i
            at = channel * pixels + pixel
            by_x = _elu_backward(
                x_ptr, bias_ptr, grad_ptr, grad_x_ptr, at, at, CHANNELS * pixels, channel,
                (pixel < pixels) & (channel < CHANNELS), _kept(words[i], threshold),
                _kept(words_negative[i], threshold), scale, CHANNELS, BIAS, DROPOUT,
            )  # fmt: skip
            if SUM:
                tl.store(partial_ptr + channel, tl.sum(by_x, 0), channel < CHANNELS)


def gated_activation_forward(
    x: Tensor, bias: Tensor | None, residual: Tensor | None, kind: str, threshold: int, scale: float, seed: int
) -> Tensor:
    """Launch the kernel: x [N, 2C, *spatial] -> [N, C, *spatial] in its dtype and layout."""
    x, last = dense(x)
    channels = x.shape[1] // 2
    out = like(x, channels, last)
    if out.numel():
        grid, numbers, constants = _launch(x, bias, channels, last, threshold, scale, seed)
        residual_or_out = out if residual is None else as_layout(residual, last)  # not followed where there is none
        with torch.cuda.device_of(x):  # Triton launches on the current device
            _gated_activation_forward_kernel[grid](
                x, _bias(bias, x), residual_or_out, out, *numbers,
                TANH=kind == "tanh", RESIDUAL=residual is not None, **constants,
            )  # fmt: skip
    return out


def gated_activation_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, kind: str, threshold: int, scale: float, seed: int, with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Launch the kernel: the gradient by x, and by the bias where it is asked for."""
    x, last = dense(x)
    channels = x.shape[1] // 2
    grad_x = like(x, 2 * channels, last)
    partial = _partial(x, bias, threshold, 2 * channels, channels, last) if with_bias else grad_x
    if grad_x.numel():
        grid, numbers, constants = _launch(x, bias, channels, last, threshold, scale, seed)
        with torch.cuda.device_of(x):
            _gated_activation_backward_kernel[grid](
                x, _bias(bias, x), as_layout(grad, last), grad_x, partial, *numbers,
                TANH=kind == "tanh", SUM=with_bias, **constants,
            )  # fmt: skip
    return grad_x, _by_bias(partial, bias) if with_bias else None


def concat_elu_forward(x: Tensor, bias: Tensor | None, threshold: int, scale: float, seed: int) -> Tensor:
    """Launch the kernel: x [N, C, *spatial] -> [N, 2C, *spatial] in its dtype and layout."""
    x, last = dense(x)
    channels = x.shape[1]
    out = like(x, 2 * channels, last)
    if out.numel():
        grid, numbers, constants = _launch(x, bias, channels, last, threshold, scale, seed)
        with torch.cuda.device_of(x):
            _concat_elu_forward_kernel[grid](x, _bias(bias, x), out, *numbers, **constants)
    return out


def concat_elu_backward(
    grad: Tensor, x: Tensor, bias: Tensor | None, threshold: int, scale: float, seed: int, with_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Launch the kernel: the gradient by x, and by the bias where it is asked for."""
    x, last = dense(x)
    channels = x.shape[1]
    grad_x = like(x, channels, last)
    partial = _partial(x, bias, threshold, channels, channels, last) if with_bias else grad_x
    if grad_x.numel():
        grid, numbers, constants = _launch(x, bias, channels, last, threshold, scale, seed)
        with torch.cuda.device_of(x):
            _concat_elu_backward_kernel[grid](
                x, _bias(bias, x), as_layout(grad, last), grad_x, partial, *numbers, SUM=with_bias, **constants
            )
    return grad_x, _by_bias(partial, bias) if with_bias else None


def _launch(
    x: Tensor, bias: Tensor | None, channels: int, last: bool, threshold: int, scale: float, seed: int
) -> tuple[tuple[int], tuple[int | float, ...], dict[str, int | bool]]:
    """(grid, numbers after the pointers, constants) that the kernels have in common."""
    images, pixels = _images(x, bias, threshold)
    width, block = block_sizes(channels, pixels, last, x.element_size())
    blocks = triton.cdiv(channels, width) * triton.cdiv(pixels, block)
    if images * blocks >= LIMIT:
        raise ValueError(
            f"gated_activation, concat_elu: less than 2^31 programs can be started; got {images * blocks} for x of "
            f"{shape_of(x)}; split the batch."
        )
    # the threshold's 32 bits are passed as a number with a sign
    signed = threshold - 2**32 if threshold >= 2**31 else threshold
    stride = bias.shape[1] if bias is not None and bias.ndim == 2 else 0
    return (
        (images * blocks,),
        (seed, signed, scale, pixels, blocks, stride),
        {
            "CHANNELS": channels,
            "LAST": last,
            "BIAS": bias is not None,
            "DROPOUT": threshold > 0,
            "WIDTH": width,
            "BLOCK": block,
            "num_warps": NUM_WARPS,
        },
    )


def _images(x: Tensor, bias: Tensor | None, threshold: int) -> tuple[int, int]:
    """(images, pixels of an image). Where an image is one pixel and its number does not matter, images are pixels."""
    n, pixels = x.shape[0], math.prod(x.shape[2:])
    alike = threshold == 0 and (bias is None or bias.ndim == 1)
    if pixels == 1 and alike and x.numel() < LIMIT // 2:  # offsets within an image have 32 bits
        return 1, n
    return n, pixels


def _bias(bias: Tensor | None, x: Tensor) -> Tensor:
    """A pointer that is not followed where there is no bias."""
    return x if bias is None else bias.contiguous()


def _partial(x: Tensor, bias: Tensor | None, threshold: int, width: int, channels: int, last: bool) -> Tensor:
    """Room for what each block of pixels adds to the gradient by the bias."""
    images, pixels = _images(x, bias, threshold)
    _, block = block_sizes(channels, pixels, last, x.element_size())
    return torch.empty((images, triton.cdiv(pixels, block), width), dtype=torch.float32, device=x.device)


def _by_bias(partial: Tensor, bias: Tensor) -> Tensor:
    return partial.sum(1 if bias.ndim == 2 else (0, 1)).to(bias.dtype)
