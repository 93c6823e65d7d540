"""The Triton kernel of the vector quantizer, and its launcher.

A program takes BLOCK_N vectors past the whole codebook, BLOCK_K entries at a time. For each place (vector, entry of the
tile) it keeps the least score so far and the tile that it came from; the places of a vector are compared once, at the
end. The codebook is small and stays in the L2 cache; the scores never leave the registers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastgen.kernels._common.tiling import interpreting  # before triton: it sets an option of it
from fastgen.kernels.vector_quantize.configurations import launch_options, tile_sizes

import triton  # isort: skip
import triton.language as tl  # isort: skip

NONE = tl.constexpr(2147483647)


@triton.jit
def _dot(x, entries, scores, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """scores + x @ entries in float32."""
    if UPCAST:
        x, entries = x.to(tl.float32), entries.to(tl.float32)
    return tl.dot(x, entries, scores, input_precision=PRECISION)


@triton.jit
def _vector_quantize_kernel(
    x_ptr,
    codebook_ptr,
    norms_ptr,
    quantized_ptr,
    indices_ptr,
    vectors,
    pixels,
    stride_xn,
    stride_xc,
    stride_xp,
    n_codes,
    D: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Indices and values of the nearest entries of BLOCK_N vectors."""
    vector = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    is_vector = (vector < vectors) & (vector >= 0)  # of 2^31 - 1 vectors the last block would wrap around
    offset = (vector // pixels).to(tl.int64) * stride_xn + (vector % pixels).to(tl.int64) * stride_xp
    value = tl.arange(0, BLOCK_D)
    entry = tl.arange(0, BLOCK_K)

    if WHOLE:
        x_mask = is_vector[:, None] & (value < D)[None, :]
        x = tl.load(x_ptr + offset[:, None] + (value * stride_xc)[None, :], x_mask, other=0.0)  # [BLOCK_N, BLOCK_D]

    best = tl.full((BLOCK_N, BLOCK_K), float("inf"), tl.float32)
    best_at = tl.zeros((BLOCK_N, BLOCK_K), tl.int32)
    for first in range(0, n_codes, BLOCK_K):
        is_code = first + entry < n_codes
        codes_ptr = codebook_ptr + (first + entry)[None, :] * D  # [1, BLOCK_K]
        norms = tl.load(norms_ptr + first + entry, is_code, other=float("inf"))
        products = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
        if WHOLE:
            entries = tl.load(codes_ptr + value[:, None], is_code[None, :] & (value < D)[:, None], other=0.0)
            products = _dot(x, entries, products, PRECISION, UPCAST)
        else:
            for start in range(0, D, BLOCK_D):
                inside = start + value < D
                part_ptr = x_ptr + offset[:, None] + ((start + value) * stride_xc)[None, :]
                part = tl.load(part_ptr, is_vector[:, None] & inside[None, :], other=0.0)
                entries = tl.load(codes_ptr + (start + value)[:, None], is_code[None, :] & inside[:, None], other=0.0)
                products = _dot(part, entries, products, PRECISION, UPCAST)
        scores = norms[None, :] - products
        is_less = scores < best  # false for NaN, and for an entry whose square is not finite
        best = tl.where(is_less, scores, best)
        best_at = tl.where(is_less, first, best_at)

    least = tl.min(best, 1)  # [BLOCK_N]
    nearest = tl.min(tl.where(best == least[:, None], best_at + entry[None, :], NONE), 1)
    tl.store(indices_ptr + vector, nearest.to(tl.int64), is_vector)
    for start in range(0, D, BLOCK_D):
        inside = is_vector[:, None] & (start + value < D)[None, :]
        entries = tl.load(codebook_ptr + nearest[:, None] * D + (start + value)[None, :], inside, other=0.0)
        tl.store(quantized_ptr + offset[:, None] + ((start + value) * stride_xc)[None, :], entries, inside)


def vector_quantize_forward(x: Tensor, codebook: Tensor, tf32: bool) -> tuple[Tensor, Tensor]:
    """Launch the kernel: the nearest entries in the strides of `torch.empty_like(x)`, and their indices."""
    quantized = torch.empty_like(x)
    indices = torch.empty(x.shape[0], *x.shape[2:], dtype=torch.int64, device=x.device)
    if not indices.numel():
        return quantized, indices
    dim, vectors = x.shape[1], indices.numel()
    dense, pixels, strides = _by_pixel(x)
    target = quantized if quantized.stride() == dense.stride() else torch.empty_like(dense)
    codebook = codebook.contiguous()
    half = x.dtype != torch.float32
    tiles = tile_sizes(dim, half)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _vector_quantize_kernel[(triton.cdiv(vectors, tiles["BLOCK_N"]),)](
            dense,
            codebook,
            codebook.float().square().sum(1).div_(2),
            target,
            indices,
            vectors,
            pixels,
            *strides,
            codebook.shape[0],
            D=dim,
            WHOLE=dim <= tiles["BLOCK_D"],
            PRECISION="tf32" if tf32 else "tf32x3",
            UPCAST=half and interpreting(),
            **tiles,
            **launch_options(dim, half),
        )
    if target is not quantized:
        quantized.copy_(target)
    return quantized, indices


def _by_pixel(x: Tensor) -> tuple[Tensor, int, tuple[int, int, int]]:
    """Arrange [N, D, *spatial] as images of pixels: (tensor, pixels, strides of image, channel, pixel).

    Channels first and channels last are taken as they are, anything else is copied. Channels last is one long image.
    """
    n, dim = x.shape[:2]
    last = x.movedim(1, -1)
    if last.is_contiguous():
        return x, x.numel() // dim, (0, 1, dim)
    x = x.contiguous()
    pixels = x.numel() // (n * dim)
    return x, pixels, (dim * pixels, pixels, 1)
