"""Triton kernels of the reparameterised Gaussian, and their launchers.

A program takes BLOCK counters of Philox of one image, which are 4 BLOCK elements: a thread has the four words of a
counter and the four elements that they are for, so nothing moves between threads. What a program adds to the
divergence is stored by itself and summed in a fixed order. Everything is float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.kernels._common import tiling  # noqa: F401  before triton: it sets an option of it
from fastgen.kernels._common.checks import LIMIT, shape_of
from fastgen.kernels.reparameterize.configurations import GROUP, NUM_WARPS, block_size

import triton  # isort: skip
import triton.language as tl  # isort: skip

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LN2_HIGH = tl.constexpr(0.693145751953125)  # 16 bits: times a small integer it is exact
LN2_LOW = tl.constexpr(1.42860677e-06)
ROUND = tl.constexpr(12582912.0)  # 1.5 * 2^23: adding it rounds to an integer
TWO_PI = tl.constexpr(6.283185307179586)
SMALLEST = tl.constexpr(2.3283063671e-10)  # half the smallest step of a uniform
DRAW = tl.constexpr(2)  # last word of the counter; dropout has 0 and 1 there
NOT_SPECIALIZED = ["seed", "first_image", "blocks"]


@triton.jit
def _exp(x):
    """e^x, with the argument reduced so that its rounding is not multiplied by its size."""
    x = tl.where(x < -200.0, -200.0, tl.where(x > 200.0, 200.0, x))  # NaN stays
    n = tl.minimum((x * LOG2E + ROUND) - ROUND, 127.0)  # 2^128 is infinite, e^88.7 is not
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    return tl.exp2(n) * tl.exp2(r * LOG2E)


@triton.jit
def _exp_less_one(x):
    """e^x - 1 and e^x - 1 - x: by their series where the differences would cancel."""
    small = tl.abs(x) < 0.5
    w = tl.where(small, x, 0.0)
    s = 1.0 / 5040.0 + w * (1.0 / 40320.0)
    s = 1.0 / 720.0 + w * s
    s = 1.0 / 120.0 + w * s
    s = 1.0 / 24.0 + w * s
    s = 1.0 / 6.0 + w * s
    s = (1.0 / 2.0 + w * s) * w * w
    e = _exp(x) - 1.0
    return tl.where(small, w + s, e), tl.where(small, s, e - x)


@triton.jit
def _two_normals(word_u, word_v):
    """Box and Muller; the angle is reduced to an eighth of a turn, which is exact, before it meets pi."""
    u = tl.maximum(tl.uint_to_uniform_float(word_u), SMALLEST)
    v = tl.uint_to_uniform_float(word_v)
    radius = tl.sqrt(tl.maximum(tl.log2(u) * (-2.0 * LN2), 0.0))
    quarter = tl.floor(v * 4.0 + 0.5)
    x = (v - quarter * 0.25) * TWO_PI
    s = x * x
    sine = x + x * (s * (-1.0 / 6.0 + s * (1.0 / 120.0 + s * (-1.0 / 5040.0 + s * (1.0 / 362880.0)))))
    cosine = 1.0 - s * (
        0.5 - s * (1.0 / 24.0 - s * (1.0 / 720.0 - s * (1.0 / 40320.0 - s * (1.0 / 3628800.0))))
    )  # fmt: skip
    turned = quarter.to(tl.int32)
    odd = (turned & 1) != 0
    a = tl.where(odd, sine, cosine)
    b = tl.where(odd, cosine, sine)
    a = tl.where(((turned + 1) & 2) != 0, -a, a)
    b = tl.where((turned & 2) != 0, -b, b)
    return radius * a, radius * b


@triton.jit
def _noise(seed, counter, image):
    """[BLOCK, 4] normals of the counters (counter, image, 0, DRAW)."""
    a, b, c, d = tl.philox(seed, counter.to(tl.uint32), image.to(tl.uint32), 0, DRAW)
    n0, n1 = _two_normals(a, b)
    n2, n3 = _two_normals(c, d)
    return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (counter.shape[0], 4))


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _reparameterize_forward_kernel(
    mean_ptr, log_var_ptr, noise_ptr, z_ptr, partial_ptr, seed, first_image, size, blocks, mean_stride, log_var_stride,
    GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """z of 4 BLOCK elements, and what they add to the divergence: [images, blocks]."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    counter = block * BLOCK + tl.arange(0, BLOCK)
    at = counter[:, None] * 4 + tl.arange(0, 4)[None, :]  # [BLOCK, 4]
    mask = at < size
    mean = tl.load(mean_ptr + image * mean_stride + at, mask, other=0.0).to(tl.float32)
    log_var = tl.load(log_var_ptr + image * log_var_stride + at, mask, other=0.0).to(tl.float32)
    if GIVEN:
        noise = tl.load(noise_ptr + image * size + at, mask, other=0.0).to(tl.float32)
    else:
        noise = _noise(seed, counter, image + first_image)
    z = mean + _exp(log_var * 0.5) * noise
    tl.store(z_ptr + image * size + at, z.to(z_ptr.dtype.element_ty), mask)
    _, beyond = _exp_less_one(log_var)
    kl = mean * mean + beyond  # zero outside
    tl.store(partial_ptr + image * blocks + block, tl.sum(tl.sum(kl, 1), 0) * 0.5)


@triton.jit(do_not_specialize=NOT_SPECIALIZED)
def _reparameterize_backward_kernel(
    mean_ptr, log_var_ptr, noise_ptr, grad_z_ptr, by_mean_ptr, by_log_var_ptr, grad_kl_ptr, seed, first_image, size,
    blocks, mean_stride, log_var_stride,
    WITH_Z: tl.constexpr, WITH_KL: tl.constexpr, GIVEN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of 4 BLOCK elements; what there is no gradient by, z or kl, is not read."""
    element: tl.constexpr = by_mean_ptr.dtype.element_ty
    image = (tl.program_id(0) // blocks).to(tl.int64)
    counter = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = counter[:, None] * 4 + tl.arange(0, 4)[None, :]  # [BLOCK, 4]
    mask = at < size
    log_var = tl.load(log_var_ptr + image * log_var_stride + at, mask, other=0.0).to(tl.float32)
    by_mean = tl.zeros((BLOCK, 4), tl.float32)
    by_log_var = tl.zeros((BLOCK, 4), tl.float32)
    if WITH_Z:
        by_mean = tl.load(grad_z_ptr + image * size + at, mask, other=0.0).to(tl.float32)
        if GIVEN:
            noise = tl.load(noise_ptr + image * size + at, mask, other=0.0).to(tl.float32)
        else:
            noise = _noise(seed, counter, image + first_image)
        by_log_var = by_mean * _exp(log_var * 0.5) * noise
    if WITH_KL:
        grad_kl = tl.load(grad_kl_ptr + image).to(tl.float32)
        mean = tl.load(mean_ptr + image * mean_stride + at, mask, other=0.0).to(tl.float32)
        by_mean += mean * grad_kl
        less_one, _ = _exp_less_one(log_var)
        by_log_var += less_one * grad_kl
    tl.store(by_mean_ptr + image * size + at, by_mean.to(element), mask)
    tl.store(by_log_var_ptr + image * size + at, (by_log_var * 0.5).to(element), mask)


def reparameterize_forward(
    mean: Tensor, log_var: Tensor, noise: Tensor | None, seed: int, first_image: int
) -> tuple[Tensor, Tensor]:
    """Launch the kernel: z like mean, contiguous, and kl [N] float32."""
    z = torch.empty(mean.shape, dtype=mean.dtype, device=mean.device)
    images, size, block, blocks = _grid(mean)
    partial = torch.empty((images, blocks), dtype=torch.float32, device=z.device)
    if z.numel():
        mean, log_var = _by_image(mean), _by_image(log_var)
        with torch.cuda.device_of(z):  # Triton launches on the current device
            _reparameterize_forward_kernel[(images * blocks,)](
                mean, log_var, _pointer(noise, z), z, partial,
                seed, first_image, size, blocks, mean.stride(0), log_var.stride(0),
                GIVEN=noise is not None, BLOCK=block, num_warps=NUM_WARPS,
            )  # fmt: skip
    return z, partial[:, 0] if blocks == 1 else partial.sum(1)


def reparameterize_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    log_var: Tensor,
    noise: Tensor | None,
    seed: int,
    first_image: int,
) -> tuple[Tensor, Tensor]:
    """Launch the kernel: gradients by mean and log_var, contiguous."""
    by_mean = torch.empty(mean.shape, dtype=mean.dtype, device=mean.device)
    by_log_var = torch.empty_like(by_mean)
    images, size, block, blocks = _grid(mean)
    if by_mean.numel():
        mean, log_var = _by_image(mean), _by_image(log_var)
        with torch.cuda.device_of(by_mean):
            _reparameterize_backward_kernel[(images * blocks,)](
                mean, log_var, _pointer(noise, by_mean), _pointer(grad_z, by_mean), by_mean, by_log_var,
                _pointer(grad_kl, by_mean), seed, first_image, size, blocks, mean.stride(0), log_var.stride(0),
                WITH_Z=grad_z is not None, WITH_KL=grad_kl is not None, GIVEN=noise is not None,
                BLOCK=block, num_warps=NUM_WARPS,
            )  # fmt: skip
    return by_mean, by_log_var


def _grid(mean: Tensor) -> tuple[int, int, int, int]:
    """(images, elements of an image, counters of a program, programs of an image)."""
    images, size = mean.shape[0], math.prod(mean.shape[1:])
    block = block_size(size)
    blocks = triton.cdiv(size, GROUP * block)
    if images * blocks >= LIMIT:
        raise ValueError(
            f"reparameterize: less than 2^31 programs can be started; got {images * blocks} for {shape_of(mean)}; "
            "split the batch."
        )
    return images, size, block, blocks


def _pointer(tensor: Tensor | None, other: Tensor) -> Tensor:
    """The tensor, densely; without one a pointer that is not followed."""
    return other if tensor is None else tensor.contiguous()


def _by_image(x: Tensor) -> Tensor:
    """x if each image lies densely in row-major order, as the halves of a larger tensor do, else a copy."""
    whole = math.prod(x.shape[1:])
    if x.stride(0) >= whole and x[0].is_contiguous():
        return x
    return x.contiguous()
