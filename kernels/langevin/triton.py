"""The Triton kernel of the Langevin step, and its launcher.

A program takes BLOCK counters of Philox of one image, which are 4 BLOCK elements: a thread has the four words of a
counter and the four elements that they are for, so nothing moves between threads. Everything is float32, and no
product is fused with a sum: each operation rounds by itself, as in PyTorch, and the bits are those of the reference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastgen.kernels._common import tiling  # noqa: F401  before triton: it sets an option of it
from fastgen.kernels._common.checks import LIMIT, shape_of
from fastgen.kernels.langevin.configurations import GROUP, OPTIONS, block_size

import triton  # isort: skip
import triton.language as tl  # isort: skip

LN2_HIGH = tl.constexpr(0.693145751953125)
LN2_LOW = tl.constexpr(1.42860677e-06)
TWO_THIRDS = tl.constexpr(0x3F2AAAAB)
TWO_PI = tl.constexpr(6.283185307179586)
SMALLEST = tl.constexpr(2.3283063671e-10)  # half the smallest step of a uniform
DRAW = tl.constexpr(3)  # last word of the counter; dropout has 0 and 1 there, the reparameterised Gaussian 2


@triton.jit
def _two_normals(word_u, word_v):
    """Box and Muller, operation by operation that of the reference."""
    u = tl.maximum(tl.uint_to_uniform_float(word_u), SMALLEST)
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - TWO_THIRDS) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    p = f * -0.12429866194725037 + 0.13433773815631866
    p = p * f + -0.12287236750125885
    p = p * f + 0.14116978645324707
    p = p * f + -0.166733980178833
    p = p * f + 0.2000383585691452
    p = p * f + -0.24999943375587463
    p = p * f + 0.33333319425582886
    log = f - square * 0.5 + (square * f) * p
    scale = exponent.to(tl.float32)
    log = scale * LN2_HIGH + (log + scale * LN2_LOW)
    radius = tl.sqrt_rn(tl.maximum(log * -2.0, 0.0))

    v = tl.uint_to_uniform_float(word_v)
    quarter = tl.floor(v * 4.0 + 0.5)
    x = (v - quarter * 0.25) * TWO_PI
    s = x * x
    sine = x + (x * s) * (((s * (1.0 / 362880.0) + (-1.0 / 5040.0)) * s + 1.0 / 120.0) * s + (-1.0 / 6.0))
    cosine = s * (-1.0 / 3628800.0) + 1.0 / 40320.0
    cosine = cosine * s + (-1.0 / 720.0)
    cosine = cosine * s + 1.0 / 24.0
    cosine = s * (cosine * s + (-1.0 / 2.0)) + 1.0
    turned = quarter.to(tl.int32)
    odd = (turned & 1) != 0
    a = tl.where(odd, sine, cosine)
    b = tl.where(odd, cosine, sine)
    a = tl.where(((turned + 1) & 2) != 0, -a, a)
    b = tl.where((turned & 2) != 0, -b, b)
    return radius * a, radius * b


@triton.jit(do_not_specialize=["seed", "step", "first_image", "blocks"])
def _langevin_step_kernel(
    x_ptr, gradient_ptr, y_ptr, drift, spread, low, high, seed, step, first_image, size, blocks, x_stride,
    gradient_stride,
    NOISY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """4 BLOCK elements of an image after the step."""
    image = (tl.program_id(0) // blocks).to(tl.int64)
    counter = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    at = counter[:, None] * 4 + tl.arange(0, 4)[None, :]  # [BLOCK, 4]
    mask = at < size
    x = tl.load(x_ptr + image * x_stride + at, mask, other=0.0).to(tl.float32)
    gradient = tl.load(gradient_ptr + image * gradient_stride + at, mask, other=0.0).to(tl.float32)
    y = x - gradient * drift
    if NOISY:
        number = (image + first_image).to(tl.uint32)
        a, b, c, d = tl.philox(seed, counter.to(tl.uint32), number, step.to(tl.uint32), DRAW)
        n0, n1 = _two_normals(a, b)
        n2, n3 = _two_normals(c, d)
        noise = tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (BLOCK, 4))
        y = y + noise * spread
    y = tl.where(y < low, low, y)  # NaN stays
    y = tl.where(y > high, high, y)
    tl.store(y_ptr + image * size + at, y.to(y_ptr.dtype.element_ty), mask)


def langevin_step(
    x: Tensor,
    gradient: Tensor,
    drift: float,
    spread: float,
    seed: int,
    step: int,
    first_image: int,
    low: float,
    high: float,
) -> Tensor:
    """Launch the kernel: what the step makes of x, contiguous."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not y.numel():
        return y
    images, size = x.shape[0], math.prod(x.shape[1:])
    block = block_size(size)
    blocks = triton.cdiv(size, GROUP * block)
    if images * blocks >= LIMIT:
        raise ValueError(
            f"langevin_step: less than 2^31 programs can be started; got {images * blocks} for {shape_of(x)}; "
            "split the batch."
        )
    x, gradient = _by_image(x), _by_image(gradient)
    with torch.cuda.device_of(y):  # Triton launches on the current device
        _langevin_step_kernel[(images * blocks,)](
            x, gradient, y, drift, spread, low, high, seed, step, first_image, size, blocks, x.stride(0),
            gradient.stride(0),
            NOISY=spread != 0, BLOCK=block, **OPTIONS,
        )  # fmt: skip
    return y


def _by_image(x: Tensor) -> Tensor:
    """x if each image lies densely in row-major order, else a copy."""
    whole = math.prod(x.shape[1:])
    if x.stride(0) >= whole and x[0].is_contiguous():
        return x
    return x.contiguous()
